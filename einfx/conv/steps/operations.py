"""What a contraction with patterns does to tensors, one operation after another, as data.

A step of a plan that is no native convolution is a short list of these: windows of a tensor, as a view or
as a copy; windows that are summed and never built; a plain contraction of what is left; windows of its result
added up. Each reads registers and makes one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ...dispatch import contract
from ...equation import Equation
from ...kernels import windows_native
from ...pattern import IndexPattern
from ..operators import composing
from ..windows.copies import add_windows, copy_windows, reach
from ..windows.margins import with_margins
from ..windows.second_moment import second_moment, sum_moments
from ..windows.sums import sum_along, sum_windows

__all__ = [
    "FOLDED_BY_TORCH",
    "Contract",
    "Dense",
    "Fold",
    "Form",
    "Moment",
    "Number",
    "Ones",
    "Operation",
    "Pool",
    "Scale",
    "SumWindows",
    "WindowMoment",
    "Windows",
]

Form = Literal["view", "copy", "channels first"]
"""How windows lie: as a view of the tensor, as a copy with batch, channels, kernels, outputs, or with the
batch behind the kernels."""

FOLDED_BY_TORCH = 2**17
"""Fewer elements than this are folded faster by torch, whose kernel goes element by element."""

FOLDED_BY_TORCH_BESIDE_C = 2**12
"""The same where there is C code for it."""

PATCH_BYTES = 32 << 20
"""Patches of so many bytes are built at a time for a second moment: the rest of the batch waits."""


class Operation(ABC):
    """One operation on registers."""

    @abstractmethod
    def run(self, registers: Sequence[Tensor], like: Tensor) -> Tensor:
        """The register that it makes, of the dtype and on the device of ``like`` where it reads none."""


@dataclass(frozen=True)
class Number(Operation):
    """A number."""

    value: float

    def run(self, registers: Sequence[Tensor], like: Tensor) -> Tensor:
        """The register that it makes."""
        return like.new_full((), self.value)


@dataclass(frozen=True)
class Ones(Operation):
    """A vector of ones."""

    size: int

    def run(self, registers: Sequence[Tensor], like: Tensor) -> Tensor:
        """The register that it makes."""
        return like.new_ones(self.size)


@dataclass(frozen=True)
class Dense(Operation):
    """A pattern as a tensor."""

    pattern: IndexPattern

    def run(self, registers: Sequence[Tensor], like: Tensor) -> Tensor:
        """The register that it makes."""
        return self.pattern.tensor(like.dtype, like.device)


@dataclass(frozen=True)
class Scale(Operation):
    """A register times another one, of one element."""

    source: int
    factor: int

    def run(self, registers: Sequence[Tensor], like: Tensor) -> Tensor:
        """The register that it makes."""
        return registers[self.source] * registers[self.factor].reshape(())


@dataclass(frozen=True)
class Windows(Operation):
    """Every window of a register along some of its dimensions.

    Args:
        source: the register.
        batch: its dimensions that come first.
        channels: its dimensions that come next.
        spatial: its dimensions through which windows slide.
        patterns: the pattern of each of these.
        form: how they lie; the shape is (*batch, *channels, *kernels, *outputs), or (*channels, *kernels,
            *batch, *outputs) for ``"channels first"``.
    """

    source: int
    batch: tuple[int, ...]
    channels: tuple[int, ...]
    spatial: tuple[int, ...]
    patterns: tuple[IndexPattern, ...]
    form: Form

    def run(self, registers: Sequence[Tensor], like: Tensor) -> Tensor:
        """The register that it makes."""
        x = registers[self.source].permute(*self.batch, *self.channels, *self.spatial)
        n = len(self.batch) + len(self.channels)
        if self.form == "view":
            x = with_margins(x, n, [reach(pattern) for pattern in self.patterns])
            for dim, pattern in enumerate(self.patterns):
                x = x.unfold(n + dim, pattern.kernel_span, pattern.stride)
                if pattern.dilation > 1:
                    x = x[..., :: pattern.dilation]
            count = len(self.patterns)
            leading, outputs = range(n), range(n, n + count)
            return x.permute(*leading, *range(n + count, n + 2 * count), *outputs)
        batch, channels = x.shape[: len(self.batch)], x.shape[len(self.batch) : n]
        first = self.form == "channels first"
        rows = x.reshape(prod(batch), prod(channels), *x.shape[n:])
        windows = copy_windows(rows, self.patterns, channels_first=first)
        kernels = [pattern.kernel_size for pattern in self.patterns]
        outputs_ = [pattern.output_size for pattern in self.patterns]
        if first:
            return windows.view(*channels, *kernels, *batch, *outputs_)
        return windows.view(*batch, *channels, *kernels, *outputs_)


@dataclass(frozen=True)
class SumWindows(Operation):
    """Windows summed over their positions; the kernel takes the place of the dimension.

    Args:
        source: the register.
        dims: the dimensions through which windows slide.
        patterns: the pattern of each of these.
    """

    source: int
    dims: tuple[int, ...]
    patterns: tuple[IndexPattern, ...]

    def run(self, registers: Sequence[Tensor], like: Tensor) -> Tensor:
        """The register that it makes."""
        x = registers[self.source]
        if len(self.dims) == 1:
            return sum_along(x, self.dims[0], self.patterns[0])
        rest = [dim for dim in range(x.ndim) if dim not in self.dims]
        rows = x.permute(*rest, *self.dims)
        lead = rows.shape[: len(rest)]
        flat = rows.reshape(prod(lead[:1]), prod(lead[1:]), *rows.shape[len(rest) :])
        summed = sum_windows(flat, self.patterns).reshape(*lead, *[p.kernel_size for p in self.patterns])
        order = [*rest, *self.dims]
        return summed.permute([order.index(dim) for dim in range(x.ndim)])


@dataclass(frozen=True)
class Pool(Operation):
    """Windows summed over their kernel; the outputs take the place of the dimension.

    Args:
        source: the register.
        dims: the dimensions through which windows slide.
        patterns: the pattern of each of these.
    """

    source: int
    dims: tuple[int, ...]
    patterns: tuple[IndexPattern, ...]

    def run(self, registers: Sequence[Tensor], like: Tensor) -> Tensor:
        """The register that it makes."""
        x = registers[self.source]
        for dim, pattern in zip(self.dims, self.patterns, strict=True):
            parts = [part for part in pattern.slices() if part.length]
            # Few long slices are added; of many short ones the sum is that of windows over their positions.
            if (
                all(part.length == pattern.output_size for part in parts)
                and 0 < len(parts) <= pattern.output_size
            ):
                before = (slice(None),) * dim
                total = x[(*before, parts[0].inputs)]
                for part in parts[1:]:
                    total = total + x[(*before, part.inputs)]
                x = total
            else:
                x = sum_along(x, dim, pattern.swapped())
        return x


@dataclass(frozen=True)
class Contract(Operation):
    """A contraction without patterns.

    Args:
        equation: what is contracted.
        sources: the registers.
    """

    equation: Equation
    sources: tuple[int, ...]

    def run(self, registers: Sequence[Tensor], like: Tensor) -> Tensor:
        """The register that it makes."""
        return contract(self.equation, [registers[source] for source in self.sources], "auto")


@dataclass(frozen=True)
class Moment(Operation):
    """A register contracted with itself: one copy and one matrix product.

    Args:
        source: the register.
        equation: two equal operands.
        factors: registers of one element with which the smaller of factor and product is multiplied.
        scale: what the product is multiplied by as well.
    """

    source: int
    equation: Equation
    factors: tuple[int, ...] = ()
    scale: float = 1.0

    def run(self, registers: Sequence[Tensor], like: Tensor) -> Tensor:
        """The register that it makes."""
        x = registers[self.source]
        numbers = [registers[factor].reshape(()) for factor in self.factors]
        inputs = [*self.equation.inputs, *([()] * len(numbers))]
        made = second_moment([x, x, *numbers], inputs, self.equation.output, self.scale)
        if made is not None:
            return made
        contracted = contract(Equation(tuple(inputs), self.equation.output), [x, x, *numbers], "auto")
        return contracted if self.scale == 1.0 else contracted * self.scale


@dataclass(frozen=True)
class WindowMoment(Operation):
    """The second moment of windows, summed over batch and outputs; windows are built for a part of the batch.

    Args:
        source: the register.
        batch: its dimensions that are summed.
        groups: its dimensions that both factors share.
        channels: its dimensions that each factor has for itself.
        spatial: its dimensions through which windows slide.
        patterns: the pattern of each of these.
        order: in which order of (*groups, *channels, *kernels, *channels, *kernels) the result comes.
        scale: what it is multiplied by.
        patch_bytes: how many bytes of windows are built at a time.
    """

    source: int
    batch: tuple[int, ...]
    groups: tuple[int, ...]
    channels: tuple[int, ...]
    spatial: tuple[int, ...]
    patterns: tuple[IndexPattern, ...]
    order: tuple[int, ...]
    scale: float = 1.0
    patch_bytes: int = PATCH_BYTES

    def run(self, registers: Sequence[Tensor], like: Tensor) -> Tensor:
        """The register that it makes."""
        x = registers[self.source].permute(*self.batch, *self.groups, *self.channels, *self.spatial)
        sizes = iter(x.shape)
        batch, groups, channels = (
            [next(sizes) for _ in dims] for dims in (self.batch, self.groups, self.channels)
        )
        kernels = [pattern.kernel_size for pattern in self.patterns]
        rows = x.reshape(prod(batch), prod(groups) * prod(channels), *sizes)
        side = prod(channels) * prod(kernels)
        each = prod(groups) * side * prod(p.output_size for p in self.patterns) * x.element_size()
        parts = (rows,) if composing() else rows.split(max(1, self.patch_bytes // max(each, 1)))
        total = sum_moments(
            (
                copy_windows(part, self.patterns, channels_first=True).view(prod(groups), side, -1)
                for part in parts
            ),
            self.scale,
        )
        made: Tensor = total.view(*groups, *channels, *kernels, *channels, *kernels).permute(self.order)
        return made


@dataclass(frozen=True)
class Fold(Operation):
    """Windows added up where they came from.

    Args:
        source: the register.
        leading: its dimensions that stay.
        kernels: its dimensions of kernel positions.
        outputs: its dimensions of outputs.
        patterns: the pattern of each pair of these.
        order: in which order of (*leading, *inputs) the result comes.
    """

    source: int
    leading: tuple[int, ...]
    kernels: tuple[int, ...]
    outputs: tuple[int, ...]
    patterns: tuple[IndexPattern, ...]
    order: tuple[int, ...]

    def run(self, registers: Sequence[Tensor], like: Tensor) -> Tensor:
        """The register that it makes."""
        windows = registers[self.source].permute(*self.leading, *self.kernels, *self.outputs)
        n = len(self.leading)
        lead = windows.shape[:n]
        batch, channels = prod(lead[:1]), prod(lead[1:])
        inputs = [pattern.input_size for pattern in self.patterns]
        small = windows.dtype in (torch.float32, torch.float64) and windows.numel() < (
            FOLDED_BY_TORCH_BESIDE_C if windows_native.adds(windows, self.patterns) else FOLDED_BY_TORCH
        )
        even = len(inputs) == 2 and all(p.left == p.right >= 0 for p in self.patterns)
        if small and even and 0 not in windows.shape and not composing():
            kernels = [pattern.kernel_size for pattern in self.patterns]
            folded = F.fold(
                windows.reshape(batch, channels * prod(kernels), -1),
                tuple(inputs),
                tuple(kernels),
                dilation=tuple([pattern.dilation for pattern in self.patterns]),
                padding=tuple([pattern.left for pattern in self.patterns]),
                stride=tuple([pattern.stride for pattern in self.patterns]),
            )
        else:
            folded = add_windows(windows.reshape(batch, channels, *windows.shape[n:]), self.patterns)
        return folded.reshape(*lead, *inputs).permute(self.order)
