"""The input of a convolution unfolded into a matrix: a column of patches for each output position."""

from __future__ import annotations

from functools import lru_cache
from math import prod

from torch import Tensor

from ..parameters import Numbers, Paddings, conv_patterns, per_dimension, spatial_dimensions
from ..symbolic.network import network
from ..symbolic.views import View
from .common import Expression, Grouped, Symbolic, batch_names, expression, finish, pattern_names, spatial

__all__ = ["einsum_expression", "symbolic"]


def einsum_expression(
    x: Tensor,
    kernel_size: Numbers,
    stride: Numbers = 1,
    padding: Paddings = 0,
    dilation: Numbers = 1,
    simplify: bool = True,
) -> Expression:
    """The expression of the unfolded input of a convolution.

    Args:
        x: the input, shape: (batch, channels, *input_sizes); without the batch where ``kernel_size`` says
            so by its length.
        kernel_size: elements of the kernel: a number, or one for each dimension.
        stride: inputs between neighbouring outputs: a number, or one for each dimension.
        padding: zeros on either side; also ``"same"``, ``"valid"``, or a pair (left, right) for each
            dimension.
        dilation: inputs between neighbouring elements of the kernel.
        simplify: whether to simplify by the structure of the patterns.

    Returns:
        The equation; its operands: input, patterns; and the shape (batch, channels * kernel elements, output
        elements).

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> equation, operands, shape = einsum_expression(torch.ones(1, 2, 9), 3, simplify=False)
        >>> equation, shape
        ('abc,dec->abde', (1, 6, 7))
    """
    return expression(symbolic, {"input": x}, kernel_size, stride, padding, dilation, simplify)


@lru_cache(maxsize=4096)
def symbolic(
    x: tuple[int, ...],
    kernel_size: Numbers,
    stride: Numbers = 1,
    padding: Paddings = 0,
    dilation: Numbers = 1,
    simplify: bool = True,
) -> Symbolic:
    """The network of :func:`einsum_expression` for shapes, and the shape of its result."""
    n = spatial_dimensions("input", x, kernel_size)
    kernel = per_dimension("kernel_size", kernel_size, n)
    data = Grouped("input", 0, x, n, 1)
    patterns = conv_patterns(data.sizes, kernel, stride, padding, dilation)
    batch = batch_names(data.batched)
    made = network(
        [[*batch, "c", *spatial("i", n)], *pattern_names(n)],
        [*batch, "c", *spatial("k", n), *spatial("o", n)],
        View(0, x),
        *patterns,
    )
    columns = prod(p.output_size for p in patterns)
    return finish(made, (*data.batch, data.channels * prod(kernel), columns), simplify)
