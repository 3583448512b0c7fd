"""The expression of the vector-Jacobian product of a convolution with its input."""

from __future__ import annotations

from torch import Tensor

from ....conv.expressions import convNd_input_vjp as symbolic
from ..simplifications import as_tensors

__all__ = ["einsum_expression"]


def einsum_expression(
    weight: Tensor,
    v: Tensor,
    input_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] = 1,
    padding: int | str | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    simplify: bool = True,
) -> tuple[str, list[Tensor], tuple[int, ...]]:
    """The expression of the vector-Jacobian product of a convolution with its input.

    Args:
        weight: the kernel, shape: (out_channels, in_channels / groups, *kernel_sizes).
        v: the vector, of the shape of the convolution's output.
        input_size: the sizes of the convolution's input: a number, or one for each dimension.
        stride: inputs between neighbouring outputs: a number, or one for each dimension.
        padding: zeros on either side: a number, one for each dimension, ``"same"`` or ``"valid"``.
        dilation: inputs between neighbouring elements of the kernel.
        groups: in how many groups the channels are split.
        simplify: whether to simplify by the structure of the patterns.

    Returns:
        The equation; its operands: ungrouped vector, patterns, ungrouped kernel; and the shape (batch,
        in_channels, *input_size) to which the result is reshaped.

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> arguments = torch.ones(4, 2, 3), torch.ones(1, 4, 3), 5
        >>> equation, operands, shape = einsum_expression(*arguments, simplify=False)
        >>> equation, [tuple(operand.shape) for operand in operands], shape
        ('abcd,edf,bcge->abgf', [(1, 1, 4, 3), (3, 3, 5), (1, 4, 2, 3)], (1, 2, 5))
    """
    equation, operands, shape = symbolic.einsum_expression(
        weight, v, input_size, stride, padding, dilation, groups, simplify
    )
    return equation, as_tensors(operands, weight.dtype, weight.device), shape
