"""The input-based Kronecker factor of KFC: the second moment of patches, summed over output positions.

Grosse and Martens 2016, "A Kronecker-factored approximate Fisher matrix for convolution layers".
"""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from ..parameters import Numbers, Paddings, conv_patterns, per_dimension, spatial_dimensions
from .common import Expression, Grouped, Symbolic, expression
from .factors import input_factor

__all__ = ["einsum_expression", "symbolic"]


def einsum_expression(
    x: Tensor,
    kernel_size: Numbers,
    stride: Numbers = 1,
    padding: Paddings = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    simplify: bool = True,
) -> Expression:
    """The expression of the input-based KFC factor of a convolution.

    Args:
        x: the input, shape: (batch, in_channels, *input_sizes); without the batch where ``kernel_size``
            says so by its length.
        kernel_size: elements of the kernel: a number, or one for each dimension.
        stride: inputs between neighbouring outputs: a number, or one for each dimension.
        padding: zeros on either side; also ``"same"``, ``"valid"``, or a pair (left, right) for each
            dimension.
        dilation: inputs between neighbouring elements of the kernel.
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
        >>> equation, operands, shape = einsum_expression(torch.ones(2, 3, 9), 3, simplify=False)
        >>> equation, shape
        ('abcd,efd,gfh,abih,j->bceig', (1, 9, 9))
    """
    return expression(symbolic, {"input": x}, kernel_size, stride, padding, dilation, groups, simplify)


@lru_cache(maxsize=4096)
def symbolic(
    x: tuple[int, ...],
    kernel_size: Numbers,
    stride: Numbers = 1,
    padding: Paddings = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    simplify: bool = True,
) -> Symbolic:
    """The network of :func:`einsum_expression` for shapes, and the shape of its result."""
    n = spatial_dimensions("input", x, kernel_size)
    kernel = per_dimension("kernel_size", kernel_size, n)
    data = Grouped("input", 0, x, n, groups)
    patterns = conv_patterns(data.sizes, kernel, stride, padding, dilation)
    return input_factor(data, patterns, transposed=False, averaged=False, simplify=simplify)
