"""Unfolding of a transposed convolution's input as a function."""

from __future__ import annotations

import itertools
from math import prod
from typing import Any

from torch import Tensor

from ....conv.parameters import hashable, per_dimension, spatial_dimensions, transposed_patterns

__all__ = ["unfoldNd_transpose"]


def unfoldNd_transpose(
    x: Tensor,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    output_padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    simplify: bool = True,
) -> Tensor:
    """What each output of a transposed convolution sees of its input, as a column: zeros where it sees none.

    The kernel as a matrix times this one is the transposed convolution.

    Args:
        x: the input, shape: (batch, in_channels, *sizes).
        kernel_size: elements of the kernel: a number, or one for each dimension.
        stride: that of the convolution which is transposed, as are padding and dilation.
        padding: elements cut from either side of the output: a number, or one for each dimension.
        output_padding: elements added on the right of the output.
        dilation: outputs between neighbouring elements of the kernel.
        simplify: einconv's; the result is the same either way.

    Returns:
        A tensor, shape: (batch, in_channels * kernel elements, output elements).

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> unfoldNd_transpose(torch.tensor([[[1.0, 2.0]]]), 2)
        tensor([[[1., 2., 0.],
                 [0., 1., 2.]]])
    """
    n = spatial_dimensions("x", x.shape, kernel_size)
    kernel = per_dimension("kernel_size", kernel_size, n)
    hyper = (hashable(value) for value in (stride, padding, output_padding, dilation))
    patterns = transposed_patterns(tuple(x.shape[-n:]), kernel, *hyper)
    lead = x.shape[:-n]
    sizes = [pattern.input_size for pattern in patterns]
    out = x.new_zeros((*lead, *kernel, *sizes))
    for parts in itertools.product(*(pattern.slices() for pattern in patterns)):
        source: Any = (..., *(part.outputs for part in parts))
        target: Any = (..., *(part.kernel for part in parts), *(part.inputs for part in parts))
        out[target] = x[source]
    return out.reshape(*lead[:-1], lead[-1] * prod(kernel), prod(sizes))
