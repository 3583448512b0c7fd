"""Windows summed over all their positions, without ever building them.

Along one dimension, ``sum_o x[dilation * k + stride * o - padding]`` for every k. Windows that start at the
same remainder of the stride overlap but for a few elements at the ends, so their common core is summed once,
and the ends are added one by one: every element is read once, nothing is subtracted, and what a window
doesn't hold never reaches its sum, be it infinite.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...kernel_slices import KernelSlice
from ...kernels.batching import tracked
from ...pattern import IndexPattern
from ..operators import composing
from .copies import window_view

__all__ = ["spread_sums", "sum_along", "sum_windows"]

Patterns = tuple[IndexPattern, ...]

PART_BYTES = 2 << 20
"""So many bytes of an input are summed at a time: sums along its first dimension, which may be several times
as large, stay in the cache, and take little memory beside what is summed."""


class _Class(NamedTuple):
    """Kernel positions whose windows start at the same remainder of the stride, and what all of them hold."""

    parts: tuple[KernelSlice, ...]
    start: int
    stop: int
    step: int


def sum_windows(x: Tensor, patterns: Patterns, divisor: int = 1) -> Tensor:
    """The sum of every window over its positions.

    Args:
        x: shape: (batch, channels, *input_sizes), any floating or complex dtype.
        patterns: the pattern of each spatial dimension.
        divisor: what the sums are divided by, before they are rounded to the dtype of ``x``.

    Returns:
        A new tensor, shape: (batch, channels, *kernel_sizes).

    Example:
        >>> x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
        >>> sum_windows(x, (IndexPattern(4, 3, padding=1),)).tolist()
        [[[6.0, 10.0, 9.0]]]
    """
    if composing() or not tracked(x):
        return _all_summed(x, patterns, divisor)
    summed: Tensor = _Sum.apply(x, patterns, divisor)  # type: ignore[no-untyped-call]
    return summed


def sum_along(x: Tensor, dim: int, pattern: IndexPattern) -> Tensor:
    """Windows along one dimension of many, summed over their positions.

    Args:
        x: any tensor.
        dim: the dimension.
        pattern: its pattern.

    Returns:
        A tensor with the kernel in the place of the dimension.

    Example:
        >>> sum_along(torch.ones(4, 5), 0, IndexPattern(4, 3)).shape
        torch.Size([3, 5])
    """
    if not tracked(x):
        return _summed(x.float() if _low(x.dtype) else x, dim, pattern).to(x.dtype)
    rows = x.movedim(dim, -1)
    summed = sum_windows(rows.reshape(1, -1, pattern.input_size), (pattern,))
    return summed.reshape(*rows.shape[:-1], pattern.kernel_size).movedim(-1, dim)


def spread_sums(sums: Tensor, patterns: Patterns) -> Tensor:
    """For every input, the sum over kernel positions that ever meet it: the adjoint of :func:`sum_windows`.

    Args:
        sums: shape: (batch, channels, *kernel_sizes).
        patterns: the pattern of each spatial dimension.

    Returns:
        A new tensor, shape: (batch, channels, *input_sizes).

    Example:
        >>> spread_sums(torch.tensor([[[1.0, 2.0, 4.0]]]), (IndexPattern(4, 3, padding=1),)).tolist()
        [[[3.0, 7.0, 7.0, 6.0]]]
    """
    if not tracked(sums):
        return _all_spread(sums, patterns)
    spread: Tensor = _Spread.apply(sums, patterns)  # type: ignore[no-untyped-call]
    return spread


def _classes(pattern: IndexPattern) -> tuple[_Class, ...]:
    """Kernel positions by the remainder of their start, each class with the core of its windows."""
    return _classes_of(pattern)


@lru_cache(maxsize=4096)
def _classes_of(pattern: IndexPattern) -> tuple[_Class, ...]:
    found: dict[int, list[KernelSlice]] = {}
    for part in pattern.slices():
        if part.length:
            found.setdefault(part.input_start % pattern.stride, []).append(part)
    classes = []
    for parts in found.values():
        start, stop = max(part.input_start for part in parts), min(part.input_stop for part in parts)
        if start < stop:
            classes.append(_Class(tuple(parts), start, stop, pattern.stride))
        else:
            # Windows too far apart for a common core: each by itself.
            classes += [_Class((p,), p.input_start, p.input_stop, pattern.stride) for p in parts]
    return tuple(classes)


def _ends(one: _Class) -> tuple[list[int], list[int]]:
    """The inputs to the left and to the right of the core that some window holds, from the core outwards."""
    first = min(part.input_start for part in one.parts)
    last = max(part.input_stop for part in one.parts)
    left = list(range(one.start - one.step, first - 1, -one.step))
    behind = one.start + one.step * ((one.stop - 1 - one.start) // one.step + 1)
    return left, list(range(behind, last, one.step))


def _all_summed(x: Tensor, patterns: Patterns, divisor: int) -> Tensor:
    """Windows summed along every dimension, a part of the batch or of the channels at a time."""
    if composing():
        out = _part_summed(x.float() if _low(x.dtype) else x, patterns)
        return (out if divisor == 1 else out / divisor).to(x.dtype)
    each = prod(x.shape[1:]) * x.element_size()
    dim = 0 if each <= PART_BYTES else 1
    together = max(1, PART_BYTES * x.shape[dim] // max(x.shape[0] * each, 1))
    if together >= x.shape[dim]:
        return _divided(x, patterns, divisor)
    made = x.new_empty((*x.shape[:2], *[pattern.kernel_size for pattern in patterns]))
    for part, summed in zip(x.split(together, dim), made.split(together, dim), strict=True):
        summed.copy_(_divided(part, patterns, divisor))
    return made


def _divided(x: Tensor, patterns: Patterns, divisor: int) -> Tensor:
    """Windows summed along every dimension, and divided in place: what was summed is a new tensor."""
    out = _part_summed(x.float() if _low(x.dtype) else x, patterns)
    return (out if divisor == 1 else out.div_(divisor)).to(x.dtype)


def _part_summed(x: Tensor, patterns: Patterns) -> Tensor:
    """Windows summed along every dimension, in the dtype in which they are added."""
    if not composing() and all(pattern.injective and pattern.unpadded for pattern in patterns):
        # Windows that share nothing are a view, and its sum reads every element once.
        windows = window_view(x, patterns)
        first = 2 + len(patterns)
        if all(pattern.kernel_size == 1 for pattern in patterns):
            return windows.sum(list(range(first, windows.ndim)))
        for _ in patterns:
            windows = windows.sum(first)
        return windows
    # The outermost dimension first: its sums run over whole rows, and leave little for the others.
    for dim, pattern in enumerate(patterns):
        x = _summed(x, 2 + dim, pattern)
    return x


def _summed(x: Tensor, dim: int, pattern: IndexPattern) -> Tensor:
    """Windows along one dimension, summed: the dimension becomes that of the kernel."""
    if pattern.kernel_size > pattern.output_size:
        return _summed_by_output(x, dim, pattern)
    before = (slice(None),) * dim
    sums: list[Tensor | None] = [None] * pattern.kernel_size
    for one in _classes(pattern):
        core = x[(*before, slice(one.start, one.stop, one.step))].sum(dim)
        left, right = _ends(one)
        lefts, rights = _running(x, dim, left), _running(x, dim, right)
        for part in one.parts:
            total = core
            added = (one.start - part.input_start) // one.step
            if added:
                total = total + lefts[added - 1]
            added = part.length - added - ((one.stop - 1 - one.start) // one.step + 1)
            if added:
                total = total + rights[added - 1]
            sums[part.kernel] = total
    if len(sums) == 1 and sums[0] is not None:
        return sums[0].unsqueeze(dim)
    if any(total is None for total in sums):
        zero = x.new_zeros((*x.shape[:dim], *x.shape[dim + 1 :]))
        return torch.stack([zero if total is None else total for total in sums], dim)
    return torch.stack([total for total in sums if total is not None], dim)


def _running(x: Tensor, dim: int, places: list[int]) -> list[Tensor]:
    """The sums of the first, the first two, … of some elements of a dimension."""
    totals: list[Tensor] = []
    for place in places:
        element = x.select(dim, place)
        totals.append(totals[-1] + element if totals else element)
    return totals


def _summed_by_output(x: Tensor, dim: int, pattern: IndexPattern) -> Tensor:
    """The same where there are fewer outputs than kernel positions: one slice for each output."""
    out = x.new_zeros((*x.shape[:dim], pattern.kernel_size, *x.shape[dim + 1 :]))
    before = (slice(None),) * dim
    for outputs, inputs in _by_output(pattern):
        out[(*before, outputs)] += x[(*before, inputs)]
    return out


def _by_output(pattern: IndexPattern) -> list[tuple[slice, slice]]:
    """For every output that meets an input, the kernel positions and the inputs that do."""
    return [(part.outputs, part.inputs) for part in pattern.swapped().slices() if part.length]


def _all_spread(sums: Tensor, patterns: Patterns) -> Tensor:
    """The adjoint along every dimension."""
    out = sums.float() if _low(sums.dtype) else sums
    for dim, pattern in reversed(list(enumerate(patterns))):
        out = _spread(out, 2 + dim, pattern)
    return out.to(sums.dtype)


def _spread(sums: Tensor, dim: int, pattern: IndexPattern) -> Tensor:
    """The adjoint along one dimension: the dimension of the kernel becomes that of the input."""
    out = sums.new_zeros((*sums.shape[:dim], pattern.input_size, *sums.shape[dim + 1 :]))
    before = (slice(None),) * dim
    if pattern.kernel_size > pattern.output_size:
        for outputs, inputs in _by_output(pattern):
            out[(*before, inputs)] += sums[(*before, outputs)]
        return out
    for one in _classes(pattern):
        slices = [sums.select(dim, part.kernel) for part in one.parts]
        total = slices[0] if len(slices) == 1 else torch.stack(slices).sum(0)
        out[(*before, slice(one.start, one.stop, one.step))] += total.unsqueeze(dim)
        for place, held in _held(one):
            for part in held:
                out.select(dim, place).add_(sums.select(dim, part.kernel))
    return out


def _held(one: _Class) -> Iterator[tuple[int, list[KernelSlice]]]:
    """The inputs beside a core, each with the kernel positions that hold it."""
    left, right = _ends(one)
    for place in (*left, *right):
        yield place, [part for part in one.parts if part.input_start <= place < part.input_stop]


def _low(dtype: torch.dtype) -> bool:
    """Whether sums are kept in float32 until the end."""
    return dtype in (torch.float16, torch.bfloat16)


class _Sum(torch.autograd.Function):
    """Summing windows, with spreading as its gradient."""

    @staticmethod
    def forward(x: Tensor, patterns: Patterns, divisor: int) -> Tensor:
        return _all_summed(x, patterns, divisor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.patterns, ctx.divisor = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        shared = gradient if ctx.divisor == 1 else gradient / ctx.divisor
        return spread_sums(shared, ctx.patterns), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return sum_windows(tangent, ctx.patterns, ctx.divisor)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, None, None], x: Tensor, patterns: Patterns, divisor: int
    ) -> tuple[Tensor, int]:
        batches = x.movedim(in_dims[0], 0)
        return sum_windows(batches.flatten(0, 1), patterns, divisor).unflatten(0, batches.shape[:2]), 0


class _Spread(torch.autograd.Function):
    """Spreading sums, with summing windows as its gradient."""

    @staticmethod
    def forward(sums: Tensor, patterns: Patterns) -> Tensor:
        return _all_spread(sums, patterns)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.patterns = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return sum_windows(gradient, ctx.patterns), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return spread_sums(tangent, ctx.patterns)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], sums: Tensor, patterns: Patterns) -> tuple[Tensor, int]:
        batches = sums.movedim(in_dims[0], 0)
        return spread_sums(batches.flatten(0, 1), patterns).unflatten(0, batches.shape[:2]), 0
