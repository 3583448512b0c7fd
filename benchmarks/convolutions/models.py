"""Rows of blocks of convolutional networks: as they are, converted, and with their convolutions captured."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import einfx
from einfx import conv, passes

from ..contests.row import OURS, AtLeast, Call, Contest, Row, with_gradients

__all__ = ["MODELS"]

EAGER = "eager"
CAPTURED = "captured"
KINKS = 2e-2
"""By how much gradients may deviate: that of a ReLU jumps where a number near zero rounds beyond it."""

NO_SLOWER = 0.95
"""The least speed beside eager: what the other benchmarks of whole programs allow for noise."""


class BasicBlock(nn.Module):
    """Of ResNet-18: two 3x3 convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width), in and out."""
        hidden = torch.relu(self.first_norm(self.first(x)))
        result: Tensor = self.second_norm(self.second(hidden)) + x
        return torch.relu(result)


class InvertedResidual(nn.Module):
    """Of MobileNetV2: 1x1 to six times the channels, depthwise 3x3, and 1x1 back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 6 * channels
        self.layers = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width), in and out."""
        hidden: Tensor = self.layers(x)
        return x + hidden


class ConvNeXtBlock(nn.Module):
    """Of ConvNeXt: depthwise 7x7, then two linear layers of channels last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.widen = nn.Linear(channels, 4 * channels)
        self.narrow = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 1e-1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width), in and out."""
        hidden = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        hidden = self.narrow(nn.functional.gelu(self.widen(hidden)))
        scaled: Tensor = self.scale * hidden
        return x + scaled.permute(0, 3, 1, 2)


def _captured(model: nn.Module, x: Tensor) -> nn.Module | None:
    """The model optimised with the pass that captures convolutions, where there is one."""
    capture = getattr(passes, "CaptureConvolutions", None)
    if capture is None:
        return None
    result: nn.Module = einfx.optimize(model, (x,), passes=(capture(), *passes.DEFAULT))
    return result


def _call(model: nn.Module, x: Tensor, gradients: bool) -> Call:
    if gradients:
        return with_gradients(lambda x, *parameters: model(x), (x, *model.parameters()))

    def call() -> Tensor:
        with torch.no_grad():
            result: Tensor = model(x)
        return result

    return call


def _contest(
    batch: int, block: Callable[[int], nn.Module], channels: int, size: int, gradients: bool
) -> Contest:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = block(channels).train(gradients)
        x = torch.randn(batch, channels, size, size)
    captured = _captured(copy.deepcopy(model), x)
    calls: dict[str, Call | None] = {
        OURS: _call(conv.convert(copy.deepcopy(model)), x, gradients),
        CAPTURED: None if captured is None else _call(captured, x, gradients),
        EAGER: _call(model, x, gradients),
    }
    return Contest(calls, _call(copy.deepcopy(model).double(), x.double(), gradients), {})


_BLOCKS: tuple[tuple[str, Callable[[int], nn.Module], int, int, int], ...] = (
    ("resnet18 block", BasicBlock, 64, 56, 2),
    ("mobilenetv2 block", InvertedResidual, 24, 56, 4),
    ("convnext block", ConvNeXtBlock, 96, 56, 2),
)

MODELS = tuple(
    Row(
        name + ", gradients" * gradients,
        f"{batch}x{channels}x{size}x{size}"
        + (", training, forward and backward" if gradients else ", inference"),
        partial(_contest, block=block, channels=channels, size=size, gradients=gradients),
        batch,
        1,
        tuple(AtLeast(NO_SLOWER, EAGER, who) for who in (OURS, CAPTURED)),
        tolerance=KINKS if gradients else 2e-5,
        exact=True,
    )
    for name, block, channels, size, batch in _BLOCKS
    for gradients in (False, True)
)
