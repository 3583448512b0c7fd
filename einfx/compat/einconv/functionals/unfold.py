"""Unfolding as a function."""

from __future__ import annotations

from torch import Tensor

from ....conv import functional

__all__ = ["unfoldNd"]


def unfoldNd(
    x: Tensor,
    kernel_size: int | tuple[int, ...],
    dilation: int | tuple[int, ...] = 1,
    padding: int | str | tuple[int, ...] = 0,
    stride: int | tuple[int, ...] = 1,
    simplify: bool = True,
) -> Tensor:
    """The patches that a convolution sees.

    Args:
        x: the input, shape: (batch, in_channels, *sizes).
        kernel_size: elements of the kernel: a number, or one for each dimension.
        dilation: inputs between neighbouring elements of the kernel.
        padding: zeros on either side: a number, one for each dimension, ``"same"`` or ``"valid"``.
        stride: inputs between neighbouring outputs.
        simplify: einconv's; the result is the same either way.

    Returns:
        A tensor, shape: (batch, in_channels * kernel elements, output elements).

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> unfoldNd(torch.arange(4.0).view(1, 1, 4), 2)
        tensor([[[0., 1., 2.],
                 [1., 2., 3.]]])
    """
    return functional.unfoldNd(x, kernel_size, dilation, padding, stride)
