"""Convolutions of any number of dimensions over torch's own, which has at most three.

A convolution of four or more dimensions is a sum over the elements of the kernel along the first of them:
each slides a convolution of one dimension less over a range of the input, with positions along that first
dimension in the place of a batch.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..pattern import IndexPattern
from .parameters import (
    Numbers,
    Paddings,
    check_channels,
    check_groups,
    check_rank,
    conv_patterns,
    hashable,
)

__all__ = ["convNd"]

_NATIVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


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
    n = weight.ndim - 2
    batched = check_rank("input", x.shape, n)
    check_channels("input", x.shape[-n - 1], weight.shape[1] * groups, groups, weight.shape)
    check_groups("out_channels", weight.shape[0], groups)
    patterns = conv_patterns(
        tuple(x.shape[-n:]), tuple(weight.shape[2:]), hashable(stride), hashable(padding), hashable(dilation)
    )
    if n in _NATIVE:
        return _native(x, weight, bias, patterns, groups)
    out = _sum_of_slices(x if batched else x[None], weight, patterns, groups)
    if bias is not None:
        out = out + bias.reshape(-1, *(1,) * n)
    return out if batched else out[0]


def _native(
    x: Tensor, weight: Tensor, bias: Tensor | None, patterns: tuple[IndexPattern, ...], groups: int
) -> Tensor:
    """Torch's own convolution; what it knows no padding for is padded or cropped before."""
    if any(pattern.left != pattern.right or pattern.left < 0 for pattern in patterns):
        x = F.pad(x, [side for pattern in reversed(patterns) for side in (pattern.left, pattern.right)])
        sides = [0] * len(patterns)
    else:
        sides = [pattern.left for pattern in patterns]
    strides = [pattern.stride for pattern in patterns]
    dilations = [pattern.dilation for pattern in patterns]
    return _NATIVE[len(patterns)](x, weight, bias, strides, sides, dilations, groups)


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
    if not first.ones:
        # Padding alone is read, by a stride that steps over the input: zeros, of which everything is a part.
        x = F.pad(x, [*(0, 0) * len(rest), first.left, first.right])
        first = IndexPattern(x.shape[2], first.kernel_size, first.stride, 0, first.dilation)
    # Positions along the first dimension in front: a range of them is a view, and a batch like any other.
    rows = x.movedim(2, 0).contiguous()
    out: Tensor | None = None
    # The middle of the kernel first: it meets an input for the most outputs, mostly for all.
    for part in sorted(first.slices(), key=lambda part: -part.length):
        if not part.length:
            break
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
