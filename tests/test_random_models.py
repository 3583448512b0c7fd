"""Random models of layers and contractions: optimised, they do what they did, stored and loaded too."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import einfx
from tests.equivalence import assert_same_effects, check_optimised, observe

CHANNELS, SIZE = 4, 6


class _Contracted(nn.Module):
    """An einsum between two others, with a parameter that layers may share."""

    def __init__(self, weight: nn.Parameter, equation: str, scale: float) -> None:
        super().__init__()
        self.weight, self.equation, self.scale = weight, equation, scale

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.einsum(self.equation, x * self.scale, self.weight)
        return result


class _Attention(nn.Module):
    """Products of a tensor with itself, and sizes that come from it."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        scores = torch.bmm(flat, flat.mT) / flat.shape[-1] ** 0.5
        return (scores.softmax(-1) @ flat).view(x.shape).add_(1.0)


@st.composite
def models(draw: st.DrawFn) -> nn.Sequential:
    """Layers whose results all have the shape (batch, CHANNELS, SIZE, SIZE)."""
    torch.manual_seed(draw(st.integers(0, 1 << 16)))
    shared = nn.Parameter(torch.rand(CHANNELS, CHANNELS))
    bias, groups = draw(st.booleans()), draw(st.sampled_from((1, 2, CHANNELS)))
    channels: tuple[int, int] = (CHANNELS, CHANNELS)
    layers: list[Any] = [
        lambda: nn.Conv2d(*channels, 3, padding=1, groups=groups, bias=bias),
        lambda: nn.Conv2d(*channels, 1, bias=bias),
        lambda: nn.Conv2d(*channels, 2, padding="same", dilation=2, groups=groups),
        lambda: nn.ConvTranspose2d(*channels, 3, padding=1, groups=groups, bias=bias),
        lambda: nn.Linear(SIZE, SIZE, bias=bias),
        lambda: nn.MaxPool2d(3, stride=1, padding=1),
        lambda: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=bias),
        lambda: nn.Sequential(nn.AvgPool2d(2), nn.ConvTranspose2d(*channels, 2, stride=2)),
        lambda: nn.BatchNorm2d(CHANNELS),
        lambda: nn.Dropout(0.0),
        nn.ReLU,
        lambda: _Contracted(shared, "nchw,cd->ndhw", 0.5),
        lambda: _Contracted(shared, "nchw,dc->ndwh", 2.0),
        _Attention,
    ]
    chosen = draw(st.lists(st.sampled_from(layers), min_size=1, max_size=5))
    model = nn.Sequential(nn.Identity(), *(make() for make in chosen)).double()
    return model.train(draw(st.booleans()))


CHEAP = settings(max_examples=20, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("passes", ["DEFAULT", "WITH_CONVOLUTIONS"])
def test_optimised_models_do_what_they_did(passes: str) -> None:
    @CHEAP
    @given(models(), st.sampled_from((1, 3, 7)))
    def run(model: nn.Sequential, batch: int) -> None:
        example = torch.rand(3, CHANNELS, SIZE, SIZE, dtype=torch.float64)
        chosen = getattr(einfx.passes, passes)
        optimised = check_optimised(model, example, gradients=True, passes=chosen)
        others = torch.rand(batch, CHANNELS, SIZE, SIZE, dtype=torch.float64)
        expected = observe(copy.deepcopy(model), [others.clone()], measure=True)
        loaded = pickle.loads(pickle.dumps(optimised))
        assert_same_effects(observe(loaded, [others.clone()]), expected, strides=False)

    run()
