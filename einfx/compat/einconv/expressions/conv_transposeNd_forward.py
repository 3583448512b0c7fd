"""The expression of a transposed convolution."""

from __future__ import annotations

from torch import Tensor

from ....conv.expressions import conv_transposeNd_forward as symbolic
from ..simplifications import as_tensors

__all__ = ["einsum_expression"]


def einsum_expression(
    x: Tensor,
    weight: Tensor,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    output_padding: int | tuple[int, ...] = 0,
    groups: int = 1,
    dilation: int | tuple[int, ...] = 1,
    simplify: bool = True,
) -> tuple[str, list[Tensor], tuple[int, ...]]:
    """The expression of a transposed convolution.

    Args:
        x: the input, shape: (batch, in_channels, *sizes).
        weight: the kernel, shape: (in_channels, out_channels / groups, *kernel_sizes).
        stride: that of the convolution which is transposed, as are padding and dilation.
        padding: elements cut from either side of the output: a number, or one for each dimension.
        output_padding: elements added on the right of the transposed convolution's output.
        groups: in how many groups the channels are split.
        dilation: outputs between neighbouring elements of the kernel.
        simplify: whether to simplify by the structure of the patterns.

    Returns:
        The equation; its operands: ungrouped input, patterns, ungrouped kernel; and the shape (batch,
        out_channels, *output_sizes) to which the result is reshaped.

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> arguments = torch.ones(1, 4, 3), torch.ones(4, 2, 3)
        >>> equation, operands, shape = einsum_expression(*arguments, simplify=False)
        >>> equation, [tuple(operand.shape) for operand in operands], shape
        ('abcd,edf,bcge->abgf', [(1, 1, 4, 3), (3, 3, 5), (1, 4, 2, 3)], (1, 2, 5))
    """
    equation, operands, shape = symbolic.einsum_expression(
        x, weight, stride, padding, output_padding, groups, dilation, simplify
    )
    return equation, as_tensors(operands, weight.dtype, weight.device), shape
