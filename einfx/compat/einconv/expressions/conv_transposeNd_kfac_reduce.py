"""The expression of the input-based KFAC-reduce factor of a transposed convolution."""

from __future__ import annotations

from torch import Tensor

from ....conv.expressions import conv_transposeNd_kfac_reduce as symbolic
from ..simplifications import as_tensors

__all__ = ["einsum_expression"]


def einsum_expression(
    x: Tensor,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    output_padding: int | tuple[int, ...] = 0,
    output_size: int | tuple[int, ...] | None = None,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    simplify: bool = True,
) -> tuple[str, list[Tensor], tuple[int, ...]]:
    """The expression of the input-based KFAC-reduce factor of a transposed convolution.

    Args:
        x: the input, shape: (batch, in_channels, *sizes).
        kernel_size: elements of the kernel: a number, or one for each dimension.
        stride: that of the convolution which is transposed, as are padding and dilation.
        padding: elements cut from either side of the output: a number, or one for each dimension.
        output_padding: elements added on the right of the transposed convolution's output.
        output_size: the sizes of the transposed convolution's output, in the place of ``output_padding``.
        dilation: outputs between neighbouring elements of the kernel.
        groups: in how many groups the channels are split.
        simplify: whether to simplify by the structure of the patterns.

    Returns:
        The equation; its operands: ungrouped input, patterns, the same patterns, ungrouped input, and the
        scale as a tensor of one element; and the shape (groups, side, side), with side = in_channels / groups
        * kernel elements to which the result is reshaped.

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> equation, operands, shape = einsum_expression(torch.ones(1, 2, 5), 3, simplify=False)
        >>> equation, [tuple(operand.shape) for operand in operands], shape
        ('abcd,edf,ghi,abjh,k->bcejg', [(1, 1, 2, 5), (3, 5, 7), (3, 5, 7), (1, 1, 2, 5), (1,)], (1, 6, 6))
    """
    equation, operands, shape = symbolic.einsum_expression(
        x, kernel_size, stride, padding, output_padding, output_size, dilation, groups, simplify
    )
    return equation, as_tensors(operands, x.dtype, x.device), shape
