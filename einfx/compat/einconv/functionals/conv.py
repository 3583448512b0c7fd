"""Convolution as a function."""

from __future__ import annotations

from torch import Tensor

from ....conv import functional

__all__ = ["convNd"]


def convNd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | str | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    simplify: bool = True,
) -> Tensor:
    """A convolution of any number of dimensions.

    Args:
        x: the input, shape: (batch, in_channels, *sizes).
        weight: the kernel, shape: (out_channels, in_channels / groups, *kernel_sizes).
        bias: shape: (out_channels,).
        stride: inputs between neighbouring outputs: a number, or one for each dimension.
        padding: zeros on either side: a number, one for each dimension, ``"same"`` or ``"valid"``.
        dilation: inputs between neighbouring elements of the kernel.
        groups: in how many groups the channels are split.
        simplify: einconv's; the result is the same either way, and comes from the fastest kernel.

    Returns:
        A tensor, shape: (batch, out_channels, *output_sizes).

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> convNd(torch.ones(1, 2, 5), torch.ones(1, 2, 3))
        tensor([[[6., 6., 6.]]])
    """
    return functional.convNd(x, weight, bias, stride, padding, dilation, groups)
