"""Random convolutions, and what torch or nested loops say of them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from einfx.pattern import IndexPattern

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True)
class Draw:
    """The hyper-parameters of one random convolution."""

    batch: tuple[int, ...]
    groups: int
    in_channels: int
    out_channels: int
    input_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: Any
    padding: Any
    dilation: Any

    @property
    def n(self) -> int:
        """The number of spatial dimensions."""
        return len(self.kernel_size)

    @property
    def hyper(self) -> dict[str, Any]:
        """Stride, padding and dilation, as keywords."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}

    def x(self) -> Tensor:
        """A random input, shape: (*batch, in_channels, *input_size), float64."""
        return torch.randn(*self.batch, self.in_channels, *self.input_size, dtype=torch.float64)

    def weight(self) -> Tensor:
        """A random kernel, shape: (out_channels, in_channels / groups, *kernel_size), float64."""
        group = self.in_channels // self.groups
        return torch.randn(self.out_channels, group, *self.kernel_size, dtype=torch.float64)


def draws(n: int, count: int, largest: int = 8, seed: int = 0) -> Iterator[Draw]:
    """Random convolutions of ``n`` dimensions, of every kind of hyper-parameter that torch knows."""
    source = random.Random(f"{n} {seed}")
    made = 0
    while made < count:
        groups = source.choice([1, 1, 2, 3])
        input_size = tuple(source.randint(1, largest) for _ in range(n))
        kernel_size = tuple(source.choice([1, 2, 3, 4] if n < 4 else [1, 2, 2, 3]) for _ in range(n))
        stride = _number(source, n, 1, 4)
        dilation = _number(source, n, 1, 3)
        padding: Any = _number(source, n, 0, 3)
        if stride == 1 and source.random() < 0.3:
            padding = "same"
        if source.random() < 0.1:
            padding = "valid"
        try:
            met = patterns(input_size, kernel_size, stride, padding, dilation)
        except ValueError:
            continue
        # Loops visit every patch by itself.
        if n > 3 and prod(pattern.kernel_size * pattern.output_size for pattern in met) > 2000:
            continue
        made += 1
        torch.manual_seed(made)
        yield Draw(
            batch=source.choice([(1,), (2,), (3,), ()]),
            groups=groups,
            in_channels=groups * source.randint(1, 3),
            out_channels=groups * source.randint(1, 2),
            input_size=input_size,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
        )


def _number(source: random.Random, n: int, least: int, most: int) -> int | tuple[int, ...]:
    if source.random() < 0.5:
        return source.randint(least, most)
    return tuple(source.randint(least, most) for _ in range(n))


def each(value: Any, n: int) -> tuple[Any, ...]:
    """A hyper-parameter for every dimension."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * n


def patterns(
    input_size: Sequence[int], kernel_size: Sequence[int], stride: Any, padding: Any, dilation: Any
) -> list[IndexPattern]:
    """The pattern of every dimension."""
    n = len(input_size)
    columns = (input_size, kernel_size, each(stride, n), each(padding, n), each(dilation, n))
    return [IndexPattern(*numbers) for numbers in zip(*columns, strict=True)]


def unfolded_by_loops(x: Tensor, draw: Draw) -> Tensor:
    """Every patch by its definition, shape: (*batch, channels, *kernel_size, *output_size)."""
    n = draw.n
    made = patterns(draw.input_size, draw.kernel_size, **draw.hyper)
    pads = [side for pattern in reversed(made) for side in (pattern.left, pattern.right)]
    padded = F.pad(x, pads)
    outputs = [pattern.output_size for pattern in made]
    lead = (slice(None),) * (x.ndim - n)
    entries = [
        padded[lead + tuple(made[d].dilation * k[d] + made[d].stride * o[d] for d in range(n))]
        for k in itertools.product(*map(range, draw.kernel_size))
        for o in itertools.product(*map(range, outputs))
    ]
    return torch.stack(entries, -1).reshape(*x.shape[: x.ndim - n], *draw.kernel_size, *outputs)


def conv_by_loops(x: Tensor, weight: Tensor, draw: Draw) -> Tensor:
    """A convolution as patches times kernel, group by group."""
    patches = unfolded_by_loops(x, draw)
    lead = len(draw.batch)
    outputs = patches.shape[lead + 1 + draw.n :]
    patches = patches.reshape(*draw.batch, draw.groups, -1, prod(outputs))
    kernel = weight.reshape(draw.groups, draw.out_channels // draw.groups, -1)
    return torch.einsum("...gpo,gdp->...gdo", patches, kernel).reshape(
        *draw.batch, draw.out_channels, *outputs
    )


def conv(x: Tensor, weight: Tensor, draw: Draw) -> Tensor:
    """A convolution: torch's own up to three dimensions, by loops beyond."""
    if draw.n not in CONV:
        return conv_by_loops(x, weight, draw)
    return CONV[draw.n](x, weight, groups=draw.groups, **draw.hyper)


def contract(expression: tuple[str, list[Tensor | IndexPattern], tuple[int, ...]]) -> Tensor:
    """The result of an expression with every pattern as a tensor."""
    equation, operands, shape = expression
    first = next(operand for operand in operands if isinstance(operand, Tensor))
    dense = [x.tensor(first.dtype) if isinstance(x, IndexPattern) else x for x in operands]
    return torch.einsum(equation, *dense).reshape(shape)


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-12) -> bool:
    """Whether two tensors have one shape and the same values but for rounding."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    scale = 1.0 + float(expected.detach().abs().max()) if expected.numel() else 1.0
    return got.numel() == 0 or float((got - expected).detach().abs().max()) <= tolerance * scale
