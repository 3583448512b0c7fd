"""Windows of a tensor in one copy, and their adjoint, windows added up where they came from.

C code makes both where there is some (:mod:`einfx.kernels.windows_native`), else torch: a copy of a view of
the tensor with its padding, and sums of slices. Both are linear, each the gradient of the other, so they
differentiate as often as anybody likes, under ``torch.func`` too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels import windows_native
from ...kernels.batching import tracked
from ...pattern import IndexPattern
from ..operators import composing
from .margins import with_margins

__all__ = ["add_along", "add_windows", "copy_windows", "reach", "view_along", "window_view"]

Patterns = tuple[IndexPattern, ...]


def copy_windows(x: Tensor, patterns: Patterns, channels_first: bool = False) -> Tensor:
    """Every window of a tensor.

    Args:
        x: shape: (batch, channels, *input_sizes), any dtype.
        patterns: the pattern of each spatial dimension.
        channels_first: whether the batch goes behind the kernel.

    Returns:
        A new tensor, contiguous, shape: (batch, channels, *kernel_sizes, *output_sizes), or (channels,
        *kernel_sizes, batch, *output_sizes).

    Example:
        >>> x = torch.arange(4.0).reshape(1, 1, 4)
        >>> copy_windows(x, (IndexPattern(4, 2),)).tolist()
        [[[[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]]]]
    """
    if composing():
        return _composed(x, patterns, channels_first)
    if not tracked(x):
        return _copied(x, patterns, channels_first)
    windows: Tensor = _Copy.apply(x, patterns, channels_first)  # type: ignore[no-untyped-call]
    return windows


def add_windows(windows: Tensor, patterns: Patterns, channels_first: bool = False) -> Tensor:
    """The sum of windows, each where it came from: the adjoint of :func:`copy_windows`.

    Args:
        windows: shape: as :func:`copy_windows` returns it.
        patterns: the pattern of each spatial dimension.
        channels_first: whether the batch is behind the kernel.

    Returns:
        A new tensor, shape: (batch, channels, *input_sizes).

    Example:
        >>> add_windows(torch.ones(1, 1, 2, 3), (IndexPattern(4, 2),)).tolist()
        [[[1.0, 2.0, 2.0, 1.0]]]
    """
    if composing() or not tracked(windows):
        return _added(windows, patterns, channels_first)
    summed: Tensor = _Add.apply(windows, patterns, channels_first)  # type: ignore[no-untyped-call]
    return summed


def add_along(windows: Tensor, dim: int, pattern: IndexPattern) -> Tensor:
    """Windows along one dimension of many, added up.

    Args:
        windows: kernel positions in dimension ``dim``, outputs in the next one.
        dim: the dimension.
        pattern: its pattern.

    Returns:
        A tensor with one dimension less: that of the inputs.

    Example:
        >>> add_along(torch.ones(2, 3, 5), 0, IndexPattern(4, 2)).shape
        torch.Size([4, 5])
    """
    last = windows.movedim((dim, dim + 1), (-2, -1))
    summed = add_windows(last.reshape(1, -1, *last.shape[-2:]), (pattern,))
    return summed.reshape(*last.shape[:-2], pattern.input_size).movedim(-1, dim)


def view_along(x: Tensor, dim: int, pattern: IndexPattern) -> Tensor:
    """Windows along one dimension of many, as a view, or as one of a padded copy.

    Args:
        x: any tensor.
        dim: the dimension.
        pattern: its pattern.

    Returns:
        A tensor with outputs and kernel positions in the place of the dimension.

    Example:
        >>> view_along(torch.arange(4), 0, IndexPattern(4, 2)).tolist()
        [[0, 1], [1, 2], [2, 3]]
    """
    windows = with_margins(x, dim, [reach(pattern)]).unfold(dim, pattern.kernel_span, pattern.stride)
    if pattern.dilation > 1:
        windows = windows[..., :: pattern.dilation]
    return windows.movedim(-1, dim + 1)


def window_view(x: Tensor, patterns: Sequence[IndexPattern]) -> Tensor:
    """Windows as a view of a tensor, or of a padded copy where they reach over its ends.

    Args:
        x: shape: (*leading, *input_sizes).
        patterns: the pattern of each spatial dimension.

    Returns:
        A view whose elements may share memory: read only. Shape: (*leading, *kernel_sizes, *output_sizes).

    Example:
        >>> x = torch.arange(4)
        >>> view = window_view(x, [IndexPattern(4, 2)])
        >>> view.tolist(), view.data_ptr() == x.data_ptr()
        ([[0, 1, 2], [1, 2, 3]], True)
    """
    sides = [reach(pattern) for pattern in patterns]
    if any(side > 0 for pair in sides for side in pair):
        x = F.pad(x, [max(side, 0) for pair in reversed(sides) for side in pair])
    x = x.resolve_conj().resolve_neg()
    lead = x.ndim - len(patterns)
    strides = x.stride()
    offset = x.storage_offset()
    for (left, _right), stride in zip(sides, strides[lead:], strict=True):
        offset += max(-left, 0) * stride
    sizes = [pattern.kernel_size for pattern in patterns] + [pattern.output_size for pattern in patterns]
    steps = [
        step * stride
        for attribute in ("dilation", "stride")
        for step, stride in zip(
            (getattr(pattern, attribute) for pattern in patterns), strides[lead:], strict=True
        )
    ]
    return x.as_strided((*x.shape[:lead], *sizes), (*strides[:lead], *steps), offset)


def reach(pattern: IndexPattern) -> tuple[int, int]:
    """How far windows reach over the left and over the right end; negative where they stay within."""
    last = pattern.dilation * (pattern.kernel_size - 1) + pattern.stride * (pattern.output_size - 1)
    return pattern.left, last - pattern.left - (pattern.input_size - 1)


def _composed(x: Tensor, patterns: Patterns, channels_first: bool) -> Tensor:
    """The same by torch's own operations, for a compiler to differentiate and to fuse."""
    n = len(patterns)
    x = with_margins(x, 2, [reach(pattern) for pattern in patterns])
    for dim, pattern in enumerate(patterns):
        x = x.unfold(2 + dim, pattern.kernel_span, pattern.stride)[..., :: pattern.dilation]
    kernels, outputs = list(range(2 + n, 2 + 2 * n)), list(range(2, 2 + n))
    order = [1, *kernels, 0, *outputs] if channels_first else [0, 1, *kernels, *outputs]
    return x.permute(order).clone(memory_format=torch.contiguous_format)


def _copied(x: Tensor, patterns: Patterns, channels_first: bool) -> Tensor:
    x = x.resolve_conj().resolve_neg()
    # Windows of one element each in their order are the tensor itself, which torch copies in one piece.
    whole = not channels_first and all(pattern.identity for pattern in patterns)
    if not whole and windows_native.takes(x, patterns):
        return windows_native.copy_windows(x, patterns, channels_first)
    view = window_view(x, patterns)
    if channels_first:
        view = view.movedim(0, 1 + len(patterns))
    return view.clone(memory_format=torch.contiguous_format)


def _added(windows: Tensor, patterns: Patterns, channels_first: bool) -> Tensor:
    n = len(patterns)
    if not composing() and windows_native.adds(windows, patterns):
        return windows_native.add_windows(windows, patterns, channels_first)
    if channels_first:
        windows = windows.movedim(1 + n, 0)
    lead = windows.shape[:2]
    inputs = [pattern.input_size for pattern in patterns]
    if not composing() and all(pattern.injective for pattern in patterns):
        return _placed(windows, patterns)
    # Sums of many numbers of few digits: add in float32.
    low = windows.dtype in (torch.float16, torch.bfloat16)
    out = windows.new_zeros((*lead, *inputs), dtype=torch.float32 if low else windows.dtype)
    # A kernel position and its outputs beside one another, for each dimension, to be indexed in one go.
    order = [x for d in range(n) for x in (2 + d, 2 + n + d)]
    paired = windows.permute(0, 1, *order)
    for parts in _products(patterns):
        source: list[Any] = [slice(None), slice(None)]
        target: list[Any] = [slice(None), slice(None)]
        for kernel, output, inputs_read in parts:
            source += [kernel, output]
            target.append(inputs_read)
        out[tuple(target)] += paired[tuple(source)]
    return out.to(windows.dtype) if low else out


def _products(patterns: Patterns) -> list[tuple[tuple[Any, Any, slice], ...]]:
    """The slices of all dimensions, each with each."""
    return list(itertools.product(*(_parts(pattern) for pattern in patterns)))


def _parts(pattern: IndexPattern) -> list[tuple[Any, Any, slice]]:
    """Kernel, output and inputs of slices that cover a pattern: one for each kernel position or output."""
    if pattern.kernel_size <= pattern.output_size:
        return [(part.kernel, part.outputs, part.inputs) for part in pattern.slices() if part.length]
    return [(part.outputs, part.kernel, part.inputs) for part in pattern.swapped().slices() if part.length]


def _placed(windows: Tensor, patterns: Patterns) -> Tensor:
    """Windows that share no element, written to where they came from."""
    sides = [tuple(max(side, 0) for side in reach(pattern)) for pattern in patterns]
    padded = [pattern.input_size + sum(pair) for pattern, pair in zip(patterns, sides, strict=True)]
    whole = tuple(
        IndexPattern(size, p.kernel_size, p.stride, (p.left - left, p.right - right), p.dilation)
        for p, size, (left, right) in zip(patterns, padded, sides, strict=True)
    )
    everywhere = windows[0, 0].numel() == prod(padded) if windows.shape[0] * windows.shape[1] else True
    make = windows.new_empty if everywhere else windows.new_zeros
    out = make((*windows.shape[:2], *padded))
    window_view(out, whole).copy_(windows)
    for dim, (pattern, (left, _right)) in enumerate(zip(patterns, sides, strict=True)):
        out = out.narrow(2 + dim, left, pattern.input_size)
    return out.contiguous()


class _Copy(torch.autograd.Function):
    """Copying windows, with adding them as its gradient."""

    @staticmethod
    def forward(x: Tensor, patterns: Patterns, channels_first: bool) -> Tensor:
        return _copied(x, patterns, channels_first)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.patterns, ctx.channels_first = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return add_windows(gradient, ctx.patterns, ctx.channels_first), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return copy_windows(tangent, ctx.patterns, ctx.channels_first)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, None, None], x: Tensor, patterns: Patterns, channels_first: bool
    ) -> tuple[Tensor, int]:
        batches = x.movedim(in_dims[0], 0)
        out = copy_windows(batches.flatten(0, 1), patterns, channels_first)
        batch = 1 + len(patterns) if channels_first else 0
        return out.unflatten(batch, batches.shape[:2]), batch


class _Add(torch.autograd.Function):
    """Adding windows, with copying them as its gradient."""

    @staticmethod
    def forward(windows: Tensor, patterns: Patterns, channels_first: bool) -> Tensor:
        return _added(windows, patterns, channels_first)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.patterns, ctx.channels_first = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return copy_windows(gradient, ctx.patterns, ctx.channels_first), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return add_windows(tangent, ctx.patterns, ctx.channels_first)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, None, None], windows: Tensor, patterns: Patterns, channels_first: bool
    ) -> tuple[Tensor, int]:
        batch = 1 + len(patterns) if channels_first else 0
        batches = windows.movedim(in_dims[0], batch)
        out = add_windows(batches.flatten(batch, batch + 1), patterns, channels_first)
        return out.unflatten(0, batches.shape[batch : batch + 2]), 0
