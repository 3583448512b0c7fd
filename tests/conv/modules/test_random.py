"""Random modules of every padding mode, and their gradients, against those of torch.nn."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from einfx.conv import ConvNd, ConvTransposeNd, FoldNd, UnfoldNd
from tests.conv.draws import Convolution, convolutions, transposed_convolutions

COUNTS = {1: 120, 2: 120, 3: 120}
MODES = ["zeros", "reflect", "replicate", "circular"]
CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def known(padding: Any) -> bool:
    """Whether torch.nn takes a padding: a name, a number, or a number for each dimension."""
    return not isinstance(padding, tuple) or all(isinstance(side, int) for side in padding)


def fits(draw: Convolution, mode: str) -> bool:
    """Whether an input has the elements that a padding mode repeats."""
    sides = zip(draw.input_size, draw.margins, strict=True)
    if mode == "reflect":
        return all(max(pair) < size for size, pair in sides)
    return mode != "circular" or all(max(pair) <= size for size, pair in sides)


def compare(mine: nn.Module, native: nn.Module, x: Tensor, what: object) -> None:
    """Assert that two modules with the same state do the same, and so do their gradients."""
    native.load_state_dict(mine.state_dict())
    results = []
    for module in (mine, native):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        v = torch.linspace(-1, 1, y.numel(), dtype=y.real.dtype).reshape(y.shape).to(y.dtype)
        results.append([y.detach(), *torch.autograd.grad(y, [leaf, *module.parameters()], v)])
    for got, expected in zip(*results, strict=True):
        assert got.shape == expected.shape, what
        scale = 1 + float(expected.abs().max())
        assert float((got - expected).abs().max()) <= 1e-12 * scale, what


@pytest.mark.parametrize("n", COUNTS)
def test_convolutions_in_every_padding_mode_are_those_of_torch(n: int) -> None:
    tested = dict.fromkeys(MODES, 0)
    for draw in convolutions(n, COUNTS[n], 8 if n < 3 else 5):
        mode = random.Random(draw.seed).choice(MODES)
        if not known(draw.padding) or not fits(draw, mode):
            continue
        arguments = draw.in_channels, draw.out_channels, draw.kernel_size
        options: dict[str, Any] = {
            **draw.hyper,
            "groups": draw.groups,
            "bias": draw.bias,
            "padding_mode": mode,
            "dtype": torch.float64,
        }
        x = draw.x().real.contiguous()
        compare(ConvNd(n, *arguments, **options), CONV[n](*arguments, **options), x, (draw, mode))
        tested[mode] += 1
    assert min(tested.values()) >= 4


@pytest.mark.parametrize("n", COUNTS)
def test_transposed_convolutions_are_those_of_torch(n: int) -> None:
    tested = 0
    for draw in transposed_convolutions(n, COUNTS[n] // 2, 6 if n < 3 else 4):
        if not known(draw.padding):
            continue
        arguments = draw.in_channels, draw.out_channels, draw.kernel_size
        options: dict[str, Any] = {
            **draw.hyper,
            "groups": draw.groups,
            "bias": draw.bias,
            "dtype": torch.float64,
        }
        x = draw.x().real.contiguous()
        compare(ConvTransposeNd(n, *arguments, **options), TRANSPOSED[n](*arguments, **options), x, draw)
        tested += 1
    assert tested > COUNTS[n] // 4


def test_unfolding_and_folding_are_those_of_torch() -> None:
    tested = 0
    for draw in convolutions(2, COUNTS[2]):
        if not known(draw.padding) or isinstance(draw.padding, str):
            continue
        x = draw.x().real.contiguous()
        compare(UnfoldNd(draw.kernel_size, **draw.hyper), nn.Unfold(draw.kernel_size, **draw.hyper), x, draw)
        patches = nn.Unfold(draw.kernel_size, **draw.hyper)(x)
        sizes = draw.input_size, draw.kernel_size
        compare(FoldNd(*sizes, **draw.hyper), nn.Fold(*sizes, **draw.hyper), patches, draw)
        tested += 1
    assert tested > COUNTS[2] // 3
