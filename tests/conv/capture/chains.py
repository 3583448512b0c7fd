"""Random chains of linear operations around convolutions, for tests of what captures them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Chain", "chain"]

Step = Callable[[Any, Any], Any]
"""An operation on its module, or on None, and a tensor."""


class Chain(nn.Module):
    """Operations one after another, each on the module of its place."""

    def __init__(self, steps: list[tuple[Step, nn.Module | None]]) -> None:
        super().__init__()
        self.steps = [step for step, _ in steps]
        self.parts = nn.ModuleList([nn.Identity() if part is None else part for _, part in steps])

    def forward(self, x: Tensor) -> Any:
        for step, part in zip(self.steps, self.parts, strict=True):
            x = step(part, x)
        return x


def chain(seed: int) -> tuple[Chain, Tensor]:
    """A chain of two to five operations in float64, and an input for it.

    Args:
        seed: equal seeds give equal chains.
    """
    draw = Random(seed)
    torch.manual_seed(seed)
    x = torch.randn(draw.choice([1, 2, 3]), draw.choice([2, 4, 6]), draw.choice([6, 7, 9]), 8).double()
    steps: list[tuple[Step, nn.Module | None]] = []
    y, kind = x, "image"
    for _ in range(draw.randint(2, 5)):
        step, part, becomes = _drawn(draw, kind, y.shape[1] if y.ndim > 1 else 1)
        part = None if part is None else part.double()
        try:
            with torch.no_grad():
                made = step(part, y)
        except RuntimeError:  # windows that are larger than what is left
            continue
        if made.numel() and made.ndim:
            y, kind = made, becomes
            steps.append((step, part))
    return Chain(steps or [(_scale(2), None)]), x


def _drawn(draw: Random, kind: str, channels: int) -> tuple[Step, nn.Module | None, str]:
    choices = {"image": _image, "patches": _patches, "any": _any}
    return choices[kind](draw, channels)


def _call(part: Any, x: Any) -> Any:
    return part(x)


def _scale(factor: float) -> Step:
    return lambda part, x: x * factor


def _image(draw: Random, channels: int) -> tuple[Step, nn.Module | None, str]:
    groups = draw.choice([1, 1, 2]) if channels % 2 == 0 else 1
    outs, bias = draw.choice([2, 4, 6]), draw.random() < 0.25
    sizes: list[tuple[int, int]] = [(1, 1), (2, 2), (3, 3), (3, 1), (1, 3)]
    kernel, padding = draw.choice(sizes), draw.choice([0, 1])
    stride, dilation = draw.choice([1, 1, 2, 3]), draw.choice([1, 1, 2])
    windows: list[tuple[int, int]] = [(1, 1), (2, 2), (3, 3), (2, 1)]
    window, wide = draw.choice(windows), draw.choice([None, 1, 2])
    divisor, dims = draw.choice([None, None, 3]), draw.choice([(2, 3), (3,), (2,)])
    boundary: Any = draw.choice(["zeros", "zeros", "reflect"])
    extra = draw.choice([0, max(stride, dilation) - 1])
    pooled = 0 if 1 in window else draw.choice([0, 0, 1])
    choices: list[tuple[Step, nn.Module | None, str]] = [
        (
            _call,
            nn.Conv2d(channels, outs, kernel, stride, padding, dilation, groups, bias, padding_mode=boundary),
            "image",
        ),
        (_call, nn.Conv2d(channels, outs, 1, bias=bias), "image"),
        (_call, nn.Conv2d(channels, 2 * channels, 3, padding=2, groups=channels, bias=False), "image"),
        (_call, nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=bias), "image"),
        (
            _call,
            nn.ConvTranspose2d(channels, 2 * groups, 2, stride, padding, extra, groups, bias, dilation),
            "image",
        ),
        (lambda part, x: F.avg_pool2d(x, window, wide, pooled, divisor_override=divisor), None, "image"),
        (lambda part, x: x.mean(dims, keepdim=True), None, "image"),
        (lambda part, x: F.adaptive_avg_pool2d(x, 1).flatten(1), None, "any"),
        (
            lambda part, x: F.unfold(x, kernel, dilation, padding if kernel != (1, 1) else 0, stride),
            None,
            "patches",
        ),
        (_scale(draw.choice([2, -1, 0.5])), None, "image"),
        (lambda part, x: x.flatten(2), None, "patches"),
        (
            lambda part, x: part(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
            nn.Linear(channels, 3, bias),
            "image",
        ),
        (
            lambda part, x: torch.einsum("nchw,dc->nhwd", x, part[0]),
            nn.ParameterList([torch.randn(3, channels)]),
            "any",
        ),
        (lambda part, x: x.relu(), None, "image"),
    ]
    return draw.choice(choices)


def _patches(draw: Random, rows: int) -> tuple[Step, nn.Module | None, str]:
    choices: list[tuple[Step, nn.Module | None, str]] = [
        (lambda part, x: part[0] @ x, nn.ParameterList([torch.randn(4, rows)]), "patches"),
        (lambda part, x: part(x.transpose(1, 2)), nn.Linear(rows, 4, draw.random() < 0.3), "any"),
        (lambda part, x: x.mean(-1), None, "any"),
        (lambda part, x: x.sum((0, 2)), None, "any"),
        (lambda part, x: torch.einsum("nql,nrl->qr", x, x), None, "any"),
        (lambda part, x: torch.bmm(x, x.permute(0, 2, 1)).mean(0), None, "any"),
        (_scale(1 / 3), None, "patches"),
        (lambda part, x: x.flatten(1), None, "any"),
    ]
    return draw.choice(choices)


def _any(draw: Random, _: int) -> tuple[Step, nn.Module | None, str]:
    return draw.choice([(_scale(2), None, "any"), (lambda part, x: x.sum(0, keepdim=True), None, "any")])
