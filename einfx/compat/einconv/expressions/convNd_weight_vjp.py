"""The expression of the vector-Jacobian product of a convolution with its kernel."""

from __future__ import annotations

from torch import Tensor

from ....conv.expressions import convNd_weight_vjp as symbolic
from ..simplifications import as_tensors

__all__ = ["einsum_expression"]


def einsum_expression(
    x: Tensor,
    v: Tensor,
    kernel_size: int | tuple[int, ...],
    dilation: int | tuple[int, ...] = 1,
    padding: int | str | tuple[int, ...] = 0,
    stride: int | tuple[int, ...] = 1,
    groups: int = 1,
    simplify: bool = True,
) -> tuple[str, list[Tensor], tuple[int, ...]]:
    """The expression of the vector-Jacobian product of a convolution with its kernel.

    Args:
        x: the input, shape: (batch, in_channels, *sizes).
        v: the vector, of the shape of the convolution's output.
        kernel_size: elements of the kernel: a number, or one for each dimension.
        dilation: inputs between neighbouring elements of the kernel.
        padding: zeros on either side: a number, one for each dimension, ``"same"`` or ``"valid"``.
        stride: inputs between neighbouring outputs: a number, or one for each dimension.
        groups: in how many groups the channels are split.
        simplify: whether to simplify by the structure of the patterns.

    Returns:
        The equation; its operands: ungrouped input, patterns, ungrouped vector; and the shape (out_channels,
        in_channels / groups, *kernel_size) to which the result is reshaped.

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> arguments = torch.ones(1, 2, 5), torch.ones(1, 4, 3), 3
        >>> equation, operands, shape = einsum_expression(*arguments, simplify=False)
        >>> equation, [tuple(operand.shape) for operand in operands], shape
        ('abcd,efd,abgf->bgce', [(1, 1, 2, 5), (3, 3, 5), (1, 1, 4, 3)], (4, 2, 3))
    """
    equation, operands, shape = symbolic.einsum_expression(
        x, v, kernel_size, dilation, padding, stride, groups, simplify
    )
    return equation, as_tensors(operands, x.dtype, x.device), shape
