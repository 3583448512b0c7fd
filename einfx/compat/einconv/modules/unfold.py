"""Unfolding as a module."""

from __future__ import annotations

from ....conv import modules

__all__ = ["UnfoldNd"]


class UnfoldNd(modules.UnfoldNd):
    """Patches of an input of any number of dimensions; see :class:`einfx.conv.modules.UnfoldNd`.

    Args:
        kernel_size: elements of a patch: a number, or one for each dimension.
        dilation: inputs between neighbouring elements of a patch.
        padding: zeros on either side: a number, one for each dimension, ``"same"`` or ``"valid"``.
        stride: inputs between neighbouring patches.
        simplify: einconv's; the result is the same either way.

    Raises:
        OperandError: numbers that aren't positive, an unknown padding, or different numbers of dimensions.

    Example:
        >>> import torch
        >>> UnfoldNd(2)(torch.ones(1, 1, 3, 4)).shape
        torch.Size([1, 4, 6])
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        dilation: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        stride: int | tuple[int, ...] = 1,
        simplify: bool = True,
    ) -> None:
        super().__init__(kernel_size, dilation, padding, stride)
        self.simplify = simplify
