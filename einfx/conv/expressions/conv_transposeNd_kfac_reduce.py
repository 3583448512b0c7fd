"""The input-based Kronecker factor of KFAC-reduce for a transposed convolution.

Eschenhagen et al. 2023, "Kronecker-factored approximate curvature for modern neural network architectures",
with the patches of the transposed convolution: see :mod:`.conv_transposeNd_unfold`.
"""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from ..parameters import (
    Numbers,
    Paddings,
    output_paddings,
    per_dimension,
    spatial_dimensions,
    transposed_patterns,
)
from .common import Expression, Grouped, Symbolic, expression
from .factors import input_factor

__all__ = ["einsum_expression", "symbolic"]


def einsum_expression(
    x: Tensor,
    kernel_size: Numbers,
    stride: Numbers = 1,
    padding: Paddings = 0,
    output_padding: Numbers = 0,
    output_size: Numbers | None = None,
    dilation: Numbers = 1,
    groups: int = 1,
    simplify: bool = True,
) -> Expression:
    """The expression of the input-based KFAC-reduce factor of a transposed convolution.

    Args:
        x: the input, shape: (batch, in_channels, *input_sizes); without the batch where ``kernel_size``
            says so by its length.
        kernel_size: elements of the kernel: a number, or one for each dimension.
        stride: that of the convolution which is transposed, as are padding and dilation.
        padding: elements cut from either side of the output: a number, or one for each dimension.
        output_padding: elements added on the right of the output.
        output_size: the sizes of the output, in the place of ``output_padding``: a number, or one for
            each dimension.
        dilation: outputs between neighbouring elements of the kernel.
        groups: in how many groups the channels are split.
        simplify: whether to simplify by the structure of the patterns.

    Returns:
        The equation; its operands: ungrouped input, patterns, the same patterns, ungrouped input, and the
        scale as a tensor of one element; and the shape (groups, side, side), where a side is in_channels /
        groups * kernel elements.

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> equation, operands, shape = einsum_expression(torch.ones(2, 3, 7), 3, simplify=False)
        >>> equation, shape
        ('abcd,edf,ghi,abjh,k->bcejg', (1, 9, 9))
    """
    return expression(
        symbolic,
        {"input": x},
        kernel_size,
        stride,
        padding,
        output_padding,
        output_size,
        dilation,
        groups,
        simplify,
    )


@lru_cache(maxsize=4096)
def symbolic(
    x: tuple[int, ...],
    kernel_size: Numbers,
    stride: Numbers = 1,
    padding: Paddings = 0,
    output_padding: Numbers = 0,
    output_size: Numbers | None = None,
    dilation: Numbers = 1,
    groups: int = 1,
    simplify: bool = True,
) -> Symbolic:
    """The network of :func:`einsum_expression` for shapes, and the shape of its result."""
    n = spatial_dimensions("input", x, kernel_size)
    kernel = per_dimension("kernel_size", kernel_size, n)
    data = Grouped("input", 0, x, n, groups, "conv_transpose")
    extra = output_paddings(data.sizes, kernel, stride, padding, output_padding, output_size, dilation)
    patterns = transposed_patterns(data.sizes, kernel, stride, padding, extra, dilation)
    return input_factor(data, patterns, transposed=True, averaged=True, simplify=simplify)
