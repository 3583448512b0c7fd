"""The expression of a convolution's unfolded input."""

from __future__ import annotations

from torch import Tensor

from ....conv.expressions import convNd_unfold as symbolic
from ..simplifications import as_tensors

__all__ = ["einsum_expression"]


def einsum_expression(
    x: Tensor,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] = 1,
    padding: int | str | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    simplify: bool = True,
) -> tuple[str, list[Tensor], tuple[int, ...]]:
    """The expression of a convolution's unfolded input.

    Args:
        x: the input, shape: (batch, in_channels, *sizes).
        kernel_size: elements of the kernel: a number, or one for each dimension.
        stride: inputs between neighbouring outputs: a number, or one for each dimension.
        padding: zeros on either side: a number, one for each dimension, ``"same"`` or ``"valid"``.
        dilation: inputs between neighbouring elements of the kernel.
        simplify: whether to simplify by the structure of the patterns.

    Returns:
        The equation; its operands: input, patterns; and the shape (batch, in_channels * kernel elements,
        output elements) to which the result is reshaped.

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> equation, operands, shape = einsum_expression(torch.ones(1, 2, 5), 3, simplify=False)
        >>> equation, [tuple(operand.shape) for operand in operands], shape
        ('abc,dec->abde', [(1, 2, 5), (3, 3, 5)], (1, 6, 3))
    """
    equation, operands, shape = symbolic.einsum_expression(
        x, kernel_size, stride, padding, dilation, simplify
    )
    return equation, as_tensors(operands, x.dtype, x.device), shape
