"""Random convolutions of every kind that torch and the expressions know, from numbered seeds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Convolution", "Transposed", "convolutions", "spread", "transposed_convolutions"]


@dataclass(frozen=True)
class Convolution:
    """The sizes and hyper-parameters of a convolution, or of a transposed one.

    ``margins`` are the elements of padding on the left and on the right of each dimension, which is what
    ``padding``, as a caller writes it, comes to.
    """

    seed: str
    batch: tuple[int, ...]
    groups: int
    in_channels: int
    out_channels: int
    input_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: Any
    padding: Any
    dilation: Any
    margins: tuple[tuple[int, int], ...]
    bias: bool
    dtype: torch.dtype

    @property
    def n(self) -> int:
        """The number of spatial dimensions."""
        return len(self.kernel_size)

    @property
    def hyper(self) -> dict[str, Any]:
        """Stride, padding and dilation, as keywords."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of every dimension."""
        return spread(self.stride, self.n)

    @property
    def dilations(self) -> tuple[int, ...]:
        """The dilation of every dimension."""
        return spread(self.dilation, self.n)

    @property
    def output_size(self) -> tuple[int, ...]:
        """The outputs along every dimension."""
        return tuple(
            (size + left + right - d * (k - 1) - 1) // s + 1
            for size, (left, right), s, d, k in zip(
                self.input_size, self.margins, self.strides, self.dilations, self.kernel_size, strict=True
            )
        )

    def x(self) -> Tensor:
        """A random input, shape: (*batch, in_channels, *input_size)."""
        return self.random("x", *self.batch, self.in_channels, *self.input_size)

    def weight(self) -> Tensor:
        """A random kernel, shape: (out_channels, in_channels / groups, *kernel_size)."""
        return self.random("weight", self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def bias_vector(self) -> Tensor | None:
        """A random bias, shape: (out_channels,), where the convolution has one."""
        return self.random("bias", self.out_channels) if self.bias else None

    def random(self, name: str, *shape: int) -> Tensor:
        """The random tensor of a name, always the same one."""
        generator = torch.Generator().manual_seed(random.Random(f"{self.seed} {name}").getrandbits(62))
        return torch.randn(shape, dtype=self.dtype, generator=generator)


@dataclass(frozen=True)
class Transposed(Convolution):
    """A transposed convolution: its input has the sizes of the outputs of the convolution it transposes."""

    output_padding: Any = 0

    @property
    def hyper(self) -> dict[str, Any]:
        """Stride, padding, output padding and dilation, as keywords."""
        return {**super().hyper, "output_padding": self.output_padding}

    @property
    def output_size(self) -> tuple[int, ...]:
        """The outputs along every dimension."""
        return tuple(
            (size - 1) * s - left - right + d * (k - 1) + 1 + extra
            for size, (left, right), s, d, k, extra in zip(
                self.input_size,
                self.margins,
                self.strides,
                self.dilations,
                self.kernel_size,
                spread(self.output_padding, self.n),
                strict=True,
            )
        )

    def weight(self) -> Tensor:
        """A random kernel, shape: (in_channels, out_channels / groups, *kernel_size)."""
        return self.random("weight", self.in_channels, self.out_channels // self.groups, *self.kernel_size)


def spread(value: Any, n: int) -> tuple[Any, ...]:
    """A hyper-parameter for every dimension."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * n


def convolutions(n: int, count: int, largest: int = 8) -> Iterator[Convolution]:
    """Random convolutions of ``n`` dimensions, of at most ``largest`` inputs along each."""
    seed = made = 0
    while made < count:
        seed += 1
        draw = _convolution(f"convolution {n} {seed}", n, largest)
        if min(draw.output_size) > 0:
            made += 1
            yield draw


def transposed_convolutions(n: int, count: int, largest: int = 6) -> Iterator[Transposed]:
    """Random transposed convolutions of ``n`` dimensions, of at most ``largest`` inputs along each."""
    seed = made = 0
    while made < count:
        seed += 1
        draw = _transposed(f"transposed {n} {seed}", n, largest)
        if min(draw.output_size) > 0:
            made += 1
            yield draw


def _convolution(seed: str, n: int, largest: int) -> Convolution:
    source = random.Random(seed)
    numbers = _numbers(source, n, largest)
    padding = _padding(source, n, numbers["stride"] == 1)
    if padding == "same":
        reach = [
            d * (k - 1) for d, k in zip(spread(numbers["dilation"], n), numbers["kernel_size"], strict=True)
        ]
        margins = tuple((each // 2, each - each // 2) for each in reach)
    else:
        margins = _sides(0 if padding == "valid" else padding, n)
    return Convolution(seed=seed, padding=padding, margins=margins, **numbers)


def _transposed(seed: str, n: int, largest: int) -> Transposed:
    source = random.Random(seed)
    numbers = _numbers(source, n, largest)
    padding = _padding(source, n, same=False)
    if padding == "valid":
        padding = 0
    margins = _sides(padding, n)
    pairs = zip(spread(numbers["stride"], n), spread(numbers["dilation"], n), strict=True)
    extra: Any = tuple(source.randrange(max(pair)) for pair in pairs)
    if n == 1 and source.random() < 0.5:
        extra = extra[0]
    return Transposed(seed=seed, padding=padding, margins=margins, output_padding=extra, **numbers)


def _numbers(source: random.Random, n: int, largest: int) -> dict[str, Any]:
    groups = source.choice([1, 1, 2, 3])
    per_group = source.choice([(1, 1), (1, 2), (2, 1), (3, 2), (2, 2)])  # (1, _) is depthwise
    return {
        "batch": source.choice([(1,), (2,), (3,), ()]),
        "groups": groups,
        "in_channels": groups * per_group[0],
        "out_channels": groups * per_group[1],
        "input_size": tuple(source.randint(1, largest) for _ in range(n)),
        "kernel_size": tuple(source.choice([1, 2, 3, 4] if n < 3 else [1, 2, 2, 3]) for _ in range(n)),
        "stride": _number(source, n, [1, 1, 2, 3, 4]),
        "dilation": _number(source, n, [1, 1, 2, 3]),
        "bias": source.random() < 0.5,
        "dtype": source.choice([torch.float64, torch.float64, torch.complex128]),
    }


def _number(source: random.Random, n: int, values: list[int]) -> Any:
    if source.random() < 0.5:
        return source.choice(values)
    return tuple(source.choice(values) for _ in range(n))


def _padding(source: random.Random, n: int, same: bool) -> Any:
    kind = source.random()
    if kind < 0.15:
        return "same" if same else "valid"
    if kind < 0.2:
        return "valid"
    if kind < 0.4:
        # Pairs, of which negative numbers crop.
        return tuple((source.randint(-1, 3), source.randint(-1, 3)) for _ in range(n))
    return _number(source, n, [0, 0, 1, 2, 3])


def _sides(padding: Any, n: int) -> tuple[tuple[int, int], ...]:
    return tuple(side if isinstance(side, tuple) else (side, side) for side in spread(padding, n))
