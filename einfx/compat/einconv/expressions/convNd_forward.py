"""The expression of a convolution."""

from __future__ import annotations

from torch import Tensor

from ....conv.expressions import convNd_forward as symbolic
from ..simplifications import as_tensors

__all__ = ["einsum_expression"]


def einsum_expression(
    x: Tensor,
    weight: Tensor,
    stride: int | tuple[int, ...] = 1,
    padding: int | str | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    simplify: bool = True,
) -> tuple[str, list[Tensor], tuple[int, ...]]:
    """The expression of a convolution.

    Args:
        x: the input, shape: (batch, in_channels, *sizes).
        weight: the kernel, shape: (out_channels, in_channels / groups, *kernel_sizes).
        stride: inputs between neighbouring outputs: a number, or one for each dimension.
        padding: zeros on either side: a number, one for each dimension, ``"same"`` or ``"valid"``.
        dilation: inputs between neighbouring elements of the kernel.
        groups: in how many groups the channels are split.
        simplify: whether to simplify by the structure of the patterns.

    Returns:
        The equation; its operands: ungrouped input, patterns, ungrouped kernel; and the shape (batch,
        out_channels, *output_sizes) to which the result is reshaped.

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> arguments = torch.ones(1, 2, 5), torch.ones(4, 2, 3)
        >>> equation, operands, shape = einsum_expression(*arguments, simplify=False)
        >>> equation, [tuple(operand.shape) for operand in operands], shape
        ('abcd,efd,bgce->abgf', [(1, 1, 2, 5), (3, 3, 5), (1, 4, 2, 3)], (1, 4, 3))
    """
    equation, operands, shape = symbolic.einsum_expression(
        x, weight, stride, padding, dilation, groups, simplify
    )
    return equation, as_tensors(operands, x.dtype, x.device), shape
