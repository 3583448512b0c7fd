"""Convolutions and the operations around them on tensors, each lowered to what is fastest.

They are what the expressions of :mod:`einfx.conv.expressions` say, computed directly: unfolding is a window
view and one copy, patches averaged over positions are sums of slices, Kronecker factors are those and one
matrix product, and convolutions of up to three dimensions are torch's own. All of them are differentiable,
take inputs with or without a batch, and any floating or complex dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OperandError
from ..kernels.batching import tracked
from ..kernels.windows_native import adds
from ..padding import positive
from ..pattern import IndexPattern
from .checks import check_blocks, check_groups, check_tensors
from .native import conv_transposeNd, convNd
from .operators import captured, capturing, composing, operator
from .parameters import Numbers, Paddings, conv_patterns, per_dimension, spatial_dimensions, spatial_sizes
from .windows.copies import add_windows, copy_windows
from .windows.second_moment import sum_moments
from .windows.sums import sum_windows

__all__ = ["convNd", "conv_transposeNd", "foldNd", "kfac_reduceNd", "kfcNd", "unfoldNd"]

# Fewer elements than this are folded faster by torch, whose kernel goes element by element: where windows are
# added up by torch as well, and where C code does it.
_FOLD_ELEMENTS, _FOLD_ELEMENTS_OF_C = 2**17, 2**12

# Patches of so many bytes are built at a time for a second moment: the rest of the batch waits.
_PATCH_BYTES = 32 * 2**20

# So many inputs, at least, or so many bytes of their averaged patches, are multiplied at a time.
_AVERAGED = 128
_AVERAGED_BYTES = 4 * 2**20


@operator("unfold_nd")
def unfoldNd(
    x: Tensor,
    kernel_size: Numbers,
    dilation: Numbers = 1,
    padding: Paddings = 0,
    stride: Numbers = 1,
    groups: int = 1,
    reduce: str | None = None,
) -> Tensor:
    """The patches that a convolution sees, as ``torch.nn.functional.unfold``, for any number of dimensions.

    Args:
        x: the input, shape: (batch, channels, *input_sizes); without the batch where ``kernel_size`` says so
            by its length.
        kernel_size: elements of the kernel: a number, or one for each dimension.
        dilation: inputs between neighbouring elements of the kernel.
        padding: zeros on either side; also ``"same"``, ``"valid"``, or a pair (left, right) for each
            dimension.
        stride: inputs between neighbouring outputs.
        groups: in how many groups reduced patches are split.
        reduce: ``"mean"`` or ``"sum"`` for patches averaged or summed over output positions; these are never
            built, and come for little more than reading ``x``.

    Returns:
        Patches, shape: (batch, channels * kernel elements, output elements); reduced ones, shape: (batch,
        groups, channels / groups * kernel elements). Always a new tensor.

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> x = torch.randn(2, 4, 8, 8)
        >>> torch.equal(unfoldNd(x, 3, padding=1), torch.nn.functional.unfold(x, 3, padding=1))
        True
        >>> mean = unfoldNd(x, 3, padding=1, groups=2, reduce="mean")
        >>> mean.shape, torch.allclose(mean.flatten(1), unfoldNd(x, 3, padding=1).mean(-1), atol=1e-6)
        (torch.Size([2, 2, 18]), True)
    """
    if capturing():
        return captured("unfold_nd", (x,), kernel_size, dilation, padding, stride, groups, reduce)
    if reduce not in (None, "mean", "sum"):
        raise OperandError(f"reduce is None, 'mean' or 'sum', not {reduce!r}")
    batches, patterns, batched = _read(x, kernel_size, stride, padding, dilation)
    group = check_groups("channels", batches.shape[1], groups)
    if reduce is None:
        patches = copy_windows(batches, patterns)
        out = patches.view(batches.shape[0], batches.shape[1] * _kernel(patterns), _positions(patterns))
    else:
        if not (x.is_floating_point() or x.is_complex()):
            raise OperandError(f"patches of {x.dtype} can't be reduced: convert x to a floating dtype")
        sums = sum_windows(batches, patterns, _positions(patterns) if reduce == "mean" else 1)
        out = sums.view(batches.shape[0], groups, group * _kernel(patterns))
    return out if batched else out[0]


@operator("fold_nd")
def foldNd(
    x: Tensor,
    output_size: Numbers,
    kernel_size: Numbers,
    dilation: Numbers = 1,
    padding: Paddings = 0,
    stride: Numbers = 1,
) -> Tensor:
    """Patches added up where they came from, as ``torch.nn.functional.fold``, for any number of dimensions.

    Args:
        x: patches, shape: (batch, channels * kernel elements, output elements), or without the batch.
        output_size: the sizes of the result: one for each dimension; where this and ``kernel_size`` are
            single numbers there are two dimensions, as in torch.
        kernel_size: elements of the kernel: a number, or one for each dimension.
        dilation: inputs between neighbouring elements of the kernel.
        padding: zeros on either side of what was unfolded.
        stride: inputs between neighbouring outputs.

    Returns:
        A tensor, shape: (batch, channels, *output_size).

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> patches = torch.randn(2, 4 * 9, 64)
        >>> expected = torch.nn.functional.fold(patches, 8, 3, padding=1)
        >>> torch.allclose(foldNd(patches, 8, 3, padding=1), expected, atol=1e-5)
        True
    """
    if capturing():
        return captured("fold_nd", (x,), output_size, kernel_size, dilation, padding, stride)
    check_tensors(("input", x))
    lengths = [len(value) for value in (output_size, kernel_size) if isinstance(value, Sequence)]
    n = lengths[0] if lengths else 2
    kernel = per_dimension("kernel_size", kernel_size, n)
    sizes = tuple([positive("output_size", size) for size in per_dimension("output_size", output_size, n)])
    patterns = conv_patterns(sizes, kernel, stride, padding, dilation)
    outputs = [pattern.output_size for pattern in patterns]
    check_blocks(x.shape, prod(kernel), outputs)
    # Not while composing: what is compiled there is for a batch of any size.
    even = n == 2 and all(pattern.left == pattern.right >= 0 for pattern in patterns) and not composing()
    least = _FOLD_ELEMENTS_OF_C if adds(x, patterns) else _FOLD_ELEMENTS
    if even and x.dtype in (torch.float32, torch.float64) and x.numel() < least:
        return F.fold(
            x,
            sizes,
            kernel,
            dilation=tuple([pattern.dilation for pattern in patterns]),
            padding=tuple([pattern.left for pattern in patterns]),
            stride=tuple([pattern.stride for pattern in patterns]),
        )
    batches = x if x.ndim == 3 else x[None]
    windows = batches.reshape(batches.shape[0], x.shape[-2] // prod(kernel), *kernel, *outputs)
    out = add_windows(windows, patterns)
    return out if x.ndim == 3 else out[0]


@operator("kfac_reduce_nd")
def kfac_reduceNd(
    x: Tensor,
    kernel_size: Numbers,
    stride: Numbers = 1,
    padding: Paddings = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> Tensor:
    """The input-based Kronecker factor of KFAC-reduce: see :mod:`.expressions.convNd_kfac_reduce`.

    Args:
        x: the input, shape: (batch, channels, *input_sizes); without the batch where ``kernel_size`` says so
            by its length.
        kernel_size: elements of the kernel: a number, or one for each dimension.
        stride: inputs between neighbouring outputs.
        padding: zeros on either side; also ``"same"``, ``"valid"``, or a pair (left, right) for each
            dimension.
        dilation: inputs between neighbouring elements of the kernel.
        groups: in how many groups the channels are split.

    Returns:
        The second moment of averaged patches, shape: (groups, side, side) with side = channels / groups *
        kernel elements.

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> x = torch.randn(4, 3, 8, 8)
        >>> mean = torch.nn.functional.unfold(x, 3).mean(-1)
        >>> torch.allclose(kfac_reduceNd(x, 3)[0], mean.T @ mean / 4, atol=1e-6)
        True
    """
    if capturing():
        return captured("kfac_reduce_nd", (x,), kernel_size, stride, padding, dilation, groups)
    batches, patterns, _ = _read(x, kernel_size, stride, padding, dilation)
    group = check_groups("channels", batches.shape[1], groups)
    batch, side = batches.shape[0], group * _kernel(patterns)
    parts: Sequence[Tensor] = (batches,)
    if not composing() and not tracked(batches):
        each = max(groups * side * batches.element_size(), 1)
        parts = batches.split(max(_AVERAGED, _AVERAGED_BYTES // each))
    shape, positions = (groups, side), _positions(patterns)
    return sum_moments(
        (
            sum_windows(part, patterns, positions).view(part.shape[0], *shape).permute(1, 2, 0)
            for part in parts
        ),
        _inverse(batch),
    )


@operator("kfc_nd")
def kfcNd(
    x: Tensor,
    kernel_size: Numbers,
    stride: Numbers = 1,
    padding: Paddings = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> Tensor:
    """The input-based Kronecker factor of KFC: see :mod:`.expressions.convNd_kfc`.

    Args:
        x: the input, shape: (batch, channels, *input_sizes); without the batch where ``kernel_size`` says so
            by its length.
        kernel_size: elements of the kernel: a number, or one for each dimension.
        stride: inputs between neighbouring outputs.
        padding: zeros on either side; also ``"same"``, ``"valid"``, or a pair (left, right) for each
            dimension.
        dilation: inputs between neighbouring elements of the kernel.
        groups: in how many groups the channels are split.

    Returns:
        The second moment of patches, summed over positions, shape: (groups, side, side) with side = channels
        / groups * kernel elements. Patches are built for a part of the batch at a time.

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> x = torch.randn(4, 3, 8, 8)
        >>> patches = torch.nn.functional.unfold(x, 3)
        >>> expected = torch.einsum("npo,nqo->pq", patches, patches) / 4
        >>> torch.allclose(kfcNd(x, 3)[0], expected, atol=1e-3)
        True
    """
    if capturing():
        return captured("kfc_nd", (x,), kernel_size, stride, padding, dilation, groups)
    batches, patterns, _ = _read(x, kernel_size, stride, padding, dilation)
    side = check_groups("channels", batches.shape[1], groups) * _kernel(patterns)
    each = max(1, groups * side * _positions(patterns) * batches.element_size())
    parts = (batches,) if composing() else batches.split(max(1, _PATCH_BYTES // each))
    return sum_moments(
        (copy_windows(part, patterns, channels_first=True).view(groups, side, -1) for part in parts),
        _inverse(batches.shape[0]),
    )


def _read(
    x: Tensor, kernel_size: Numbers, stride: Numbers, padding: Paddings, dilation: Numbers
) -> tuple[Tensor, tuple[IndexPattern, ...], bool]:
    """The input with a batch, the pattern of each of its dimensions, and whether it came with a batch."""
    check_tensors(("input", x))
    n = spatial_dimensions("input", x.shape, kernel_size)
    batched = x.ndim == n + 2
    kernel = per_dimension("kernel_size", kernel_size, n)
    patterns = conv_patterns(spatial_sizes(x, n), kernel, stride, padding, dilation)
    return (x if batched else x[None]), patterns, batched


def _inverse(batch: int) -> float:
    """What a sum over a batch is multiplied by; a batch of no number, as a compiler has it, isn't read."""
    return 1 / (max(batch, 1) if isinstance(batch, int) else batch)


def _kernel(patterns: tuple[IndexPattern, ...]) -> int:
    return prod([pattern.kernel_size for pattern in patterns])


def _positions(patterns: tuple[IndexPattern, ...]) -> int:
    return prod([pattern.output_size for pattern in patterns])
