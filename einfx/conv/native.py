"""Convolutions of any number of dimensions over torch's own, which has at most three.

A convolution of four or more dimensions is a sum over the elements of the kernel along the first of them:
each slides a convolution of one dimension less over a range of the input, with positions along that first
dimension in the place of a batch. Where windows share no element it is one matrix product of them.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernel_slices import KernelSlice
from ..padding import paddings
from ..pattern import IndexPattern
from .checks import check_bias, check_channels, check_groups, check_rank, check_tensors, check_weight
from .operators import captured, capturing, operator
from .parameters import (
    Numbers,
    Paddings,
    conv_patterns,
    per_dimension,
    per_dimension_padding,
    spatial_sizes,
    transposed_patterns,
)
from .windows.copies import copy_windows
from .windows.margins import with_margins

__all__ = ["convNd", "conv_transposeNd", "convolve", "convolve_transposed", "plainly_laid_out"]

_NATIVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
Transposed = tuple[int, tuple[int, int], int, int]
"""Stride, padding, output padding and dilation of a transposed convolution along one dimension."""

_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@operator("conv_nd", "Tensor x, Tensor weight, Tensor? bias")
def convNd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Paddings = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> Tensor:
    """A convolution of any number of dimensions.

    Args:
        x: the input, shape: (batch, in_channels, *input_sizes), or without the batch.
        weight: the kernel, shape: (out_channels, in_channels / groups, *kernel_sizes); its rank says how many
            dimensions there are.
        bias: what to add to each output channel, shape: (out_channels,).
        stride: inputs between neighbouring outputs: a number, or one for each dimension.
        padding: zeros on either side; also ``"same"``, ``"valid"``, or a pair (left, right) for each
            dimension.
        dilation: inputs between neighbouring elements of the kernel.
        groups: in how many groups the channels are split.

    Returns:
        A tensor, shape: (batch, out_channels, *output_sizes).

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> convNd(torch.randn(1, 2, 6, 6, 6, 6), torch.randn(4, 2, 3, 3, 3, 3), padding=1).shape
        torch.Size([1, 4, 6, 6, 6, 6])
    """
    if capturing():
        return captured(
            "conv_nd",
            (
                x,
                weight,
                bias,
            ),
            stride,
            padding,
            dilation,
            groups,
        )
    check_tensors(("input", x), ("weight", weight), ("bias", bias))
    n = check_weight(weight.shape, groups)
    batched = check_rank("input", x.shape, n)
    check_groups("out_channels", weight.shape[0], groups)
    check_channels("input", x.shape[-n - 1], weight.shape[1] * groups, groups, weight.shape)
    if bias is not None:
        check_bias(bias, weight.shape[0], weight.shape)
    patterns = conv_patterns(spatial_sizes(x, n), spatial_sizes(weight, n), stride, padding, dilation)
    if n in _NATIVE:
        return _native(x, weight, bias, patterns, groups)
    out = convolve(x if batched else x[None], weight, patterns, groups)
    out = _plus(out, bias, n)
    return out if batched else out[0]


@operator("conv_transpose_nd", "Tensor x, Tensor weight, Tensor? bias")
def conv_transposeNd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Paddings = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
) -> Tensor:
    """A transposed convolution of any number of dimensions.

    Args:
        x: the input, shape: (batch, in_channels, *input_sizes), or without the batch.
        weight: the kernel, shape: (in_channels, out_channels / groups, *kernel_sizes); its rank says how many
            dimensions there are.
        bias: what to add to each output channel, shape: (out_channels,).
        stride: that of the convolution which is transposed, as are padding and dilation.
        padding: elements cut from either side of the output; also pairs (left, right).
        output_padding: elements added on the right of the output.
        groups: in how many groups the channels are split.
        dilation: outputs between neighbouring elements of the kernel.

    Returns:
        A tensor, shape: (batch, out_channels, *output_sizes).

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> conv_transposeNd(torch.randn(1, 4, 3, 3, 3, 3), torch.randn(4, 2, 2, 2, 2, 2), stride=2).shape
        torch.Size([1, 2, 6, 6, 6, 6])
    """
    if capturing():
        return captured(
            "conv_transpose_nd",
            (
                x,
                weight,
                bias,
            ),
            stride,
            padding,
            output_padding,
            groups,
            dilation,
        )
    check_tensors(("input", x), ("weight", weight), ("bias", bias))
    n = check_weight(weight.shape, groups)
    batched = check_rank("input", x.shape, n, "conv_transpose")
    check_groups("in_channels", weight.shape[0], groups)
    check_channels("input", x.shape[-n - 1], weight.shape[0], groups, weight.shape)
    if bias is not None:
        check_bias(bias, weight.shape[1] * groups, weight.shape)
    extra = per_dimension("output_padding", output_padding, n)
    patterns = transposed_patterns(
        spatial_sizes(x, n),
        spatial_sizes(weight, n),
        stride,
        padding,
        extra,
        dilation,
    )
    strides, dilations = per_dimension("stride", stride, n), per_dimension("dilation", dilation, n)
    sides = [
        paddings(k, s, p, d)
        for k, s, p, d in zip(
            weight.shape[2:], strides, per_dimension_padding(padding, n), dilations, strict=True
        )
    ]
    numbers = list(zip(strides, sides, extra, dilations, strict=True))
    if n in _TRANSPOSED:
        return _native_transposed(x, weight, bias, numbers, groups)
    out = _sum_of_transposed(x if batched else x[None], weight, patterns, numbers, groups)
    out = _plus(out, bias, n)
    return out if batched else out[0]


def plainly_laid_out(x: Tensor, dimensions: int) -> Tensor:
    """A tensor whose strides say one layout.

    Where all spatial sizes are 1 strides may be those of a tensor with channels last as well, and torch's
    backward pass takes one for the other.

    Args:
        x: shape: (batch, channels, *sizes), or without the batch.
        dimensions: how many are spatial.

    Example:
        >>> import torch
        >>> plainly_laid_out(torch.ones(12).as_strided((1, 12, 1), (12, 1, 3)), 1).stride()
        (12, 1, 1)
    """
    if x.stride(-1) != 1 and x.stride(-dimensions - 1) == 1 and x.is_contiguous():
        return x.flatten().view(x.shape)
    return x


def _plus(out: Tensor, bias: Tensor | None, dimensions: int) -> Tensor:
    """A bias added to each channel, in the dtype of the result: autocast casts it as it casts a kernel."""
    return out if bias is None else out + bias.to(out.dtype).reshape(-1, *(1,) * dimensions)


def _native_transposed(
    x: Tensor, weight: Tensor, bias: Tensor | None, numbers: list[Transposed], groups: int
) -> Tensor:
    """Torch's own transposed convolution; sides that differ, or add, are cut or added behind it."""
    strides, sides, extra, dilations = (list(column) for column in zip(*numbers, strict=True))
    x = plainly_laid_out(x, len(numbers))
    transposed = _TRANSPOSED[len(numbers)]
    if all(left == right >= 0 for left, right in sides):
        return transposed(x, weight, bias, strides, [left for left, _ in sides], extra, groups, dilations)
    out = transposed(x, weight, None, strides, 0, extra, groups, dilations)
    out = with_margins(out, out.ndim - len(sides), [(-left, -right) for left, right in sides])
    return _plus(out, bias, len(numbers))


def _sum_of_transposed(
    x: Tensor, weight: Tensor, patterns: tuple[IndexPattern, ...], numbers: list[Transposed], groups: int
) -> Tensor:
    """One transposed convolution of a dimension less for each element of the kernel along the first.

    Args:
        x: shape: (batch, in_channels, *input_sizes).
        weight: shape: (in_channels, out_channels / groups, *kernel_sizes).
        patterns: of the convolution that is transposed, one for each dimension, at least four.
        numbers: stride, padding, output padding and dilation of each dimension.
        groups: in how many groups the channels are split.
    """
    first = patterns[0]
    rows = x.movedim(2, 0).contiguous()
    out: Tensor | None = None
    for part in _in_order(first):
        # A slice of no length is computed for one output: the result takes its shape from there.
        count = max(part.length, 1)
        picked = rows[part.output_start : part.output_start + count].flatten(0, 1)
        kernel = weight.select(2, part.kernel)
        if len(numbers) - 1 in _TRANSPOSED:
            made = _native_transposed(picked, kernel, None, numbers[1:], groups)
        else:
            made = _sum_of_transposed(picked, kernel, patterns[1:], numbers[1:], groups)
        made = made.unflatten(0, (count, x.shape[0]))
        if out is None:
            out = made.new_zeros((first.input_size, *made.shape[1:]))
        out[part.inputs] += made[: part.length]
    assert out is not None
    return out.movedim(0, 2)


def convolve(x: Tensor, weight: Tensor, patterns: tuple[IndexPattern, ...], groups: int = 1) -> Tensor:
    """A convolution that is given by its patterns.

    Args:
        x: the input, shape: (batch, in_channels, *input_sizes).
        weight: the kernel, shape: (out_channels, in_channels / groups, *kernel_sizes).
        patterns: one for each dimension.
        groups: in how many groups the channels are split.

    Returns:
        A tensor, shape: (batch, out_channels, *output_sizes).
    """
    if len(patterns) in _NATIVE:
        return _native(x, weight, None, patterns, groups)
    if all(pattern.injective for pattern in patterns):
        return _product_of_windows(x, weight, patterns, groups)
    return _sum_of_slices(x, weight, patterns, groups)


def convolve_transposed(
    x: Tensor, weight: Tensor, patterns: tuple[IndexPattern, ...], groups: int = 1
) -> Tensor:
    """The convolution of these patterns, transposed: its gradient with respect to the input.

    Args:
        x: shape: (batch, channels, *output_sizes of the patterns).
        weight: the kernel, shape: (channels, other channels / groups, *kernel_sizes).
        patterns: one for each dimension.
        groups: in how many groups the channels are split.

    Returns:
        A tensor, shape: (batch, other channels, *input_sizes of the patterns).
    """
    numbers: list[Transposed] = []
    for pattern in patterns:
        whole = pattern.stride * (pattern.output_size - 1) + pattern.kernel_span
        extra = pattern.input_size - (whole - 2 * pattern.left)
        if pattern.left >= 0 and 0 <= extra < max(pattern.stride, pattern.dilation):
            sides = (pattern.left, pattern.left)
        else:
            sides, extra = (pattern.left, whole - pattern.left - pattern.input_size), 0
        numbers.append((pattern.stride, sides, extra, pattern.dilation))
    if len(patterns) in _TRANSPOSED:
        return _native_transposed(x, weight, None, numbers, groups)
    return _sum_of_transposed(x, weight, patterns, numbers, groups)


def _native(
    x: Tensor, weight: Tensor, bias: Tensor | None, patterns: tuple[IndexPattern, ...], groups: int
) -> Tensor:
    """Torch's own convolution; what it knows no padding for is padded or cropped before."""
    x = plainly_laid_out(x, len(patterns))
    strides, sides, dilations, margins = _native_numbers(patterns)
    if margins is not None:
        x = with_margins(x, x.ndim - len(patterns), margins)
    return _NATIVE[len(patterns)](x, weight, bias, strides, sides, dilations, groups)


@lru_cache(maxsize=4096)
def _native_numbers(
    patterns: tuple[IndexPattern, ...],
) -> tuple[list[int], list[int], list[int], list[tuple[int, int]] | None]:
    """Strides, paddings and dilations as torch takes them, and margins that it can't add by itself."""
    strides = [pattern.stride for pattern in patterns]
    dilations = [pattern.dilation for pattern in patterns]
    if any(pattern.left != pattern.right or pattern.left < 0 for pattern in patterns):
        return strides, [0] * len(patterns), dilations, [(p.left, p.right) for p in patterns]
    return strides, [pattern.left for pattern in patterns], dilations, None


def _by_length(pattern: IndexPattern) -> list[KernelSlice]:
    """The slices of a pattern, the longest first: the middle of a kernel, which meets the most inputs."""
    return sorted((part for part in pattern.slices() if part.length), key=lambda part: -part.length)


def _in_order(pattern: IndexPattern) -> list[KernelSlice]:
    """The slices of a pattern that are any, or one of no length where there are none."""
    return [part for part in pattern.slices() if part.length] or [pattern.slices()[0]]


def _product_of_windows(x: Tensor, weight: Tensor, patterns: tuple[IndexPattern, ...], groups: int) -> Tensor:
    """Windows that share no element, no more than the input, times the kernel; so are both gradients.

    Args:
        x: shape: (batch, in_channels, *input_sizes).
        weight: shape: (out_channels, in_channels / groups, *kernel_sizes).
        patterns: one for each dimension.
        groups: in how many groups the channels are split.
    """
    batch, elements = x.shape[0], weight[0].numel()
    outputs = [pattern.output_size for pattern in patterns]
    columns = copy_windows(x, patterns).view(batch, groups, elements, prod(outputs))
    kernels = weight.reshape(groups, weight.shape[0] // groups, elements)
    out = torch.matmul(kernels.expand(batch, *kernels.shape), columns)
    return out.view(batch, weight.shape[0], *outputs)


def _sum_of_slices(x: Tensor, weight: Tensor, patterns: tuple[IndexPattern, ...], groups: int) -> Tensor:
    """One convolution of a dimension less for each element of the kernel along the first dimension.

    Args:
        x: shape: (batch, in_channels, *input_sizes).
        weight: shape: (out_channels, in_channels / groups, *kernel_sizes).
        patterns: one for each dimension, at least four.
        groups: in how many groups the channels are split.
    """
    first, rest = patterns[0], patterns[1:]
    batch = x.shape[0]
    if not _by_length(first):
        # Padding alone is read, by a stride that steps over the input: zeros, of which everything is a part.
        x = with_margins(x, 2, [(first.left, first.right)])
        first = IndexPattern(x.shape[2], first.kernel_size, first.stride, 0, first.dilation)
    # Positions along the first dimension in front: a range of them is a view, and a batch like any other.
    rows = x.movedim(2, 0).contiguous()
    out: Tensor | None = None
    for part in _by_length(first):
        picked = rows[part.inputs].flatten(0, 1)
        kernel = weight.select(2, part.kernel)
        if len(rest) in _NATIVE:
            made = _native(picked, kernel, None, rest, groups)
        else:
            made = _sum_of_slices(picked, kernel, rest, groups)
        made = made.unflatten(0, (part.length, batch))
        if part.length == first.output_size:
            out = made if out is None else out + made
        else:
            if out is None:
                out = made.new_zeros((first.output_size, *made.shape[1:]))
            out[part.outputs] += made
    assert out is not None
    return out.movedim(0, 2)
