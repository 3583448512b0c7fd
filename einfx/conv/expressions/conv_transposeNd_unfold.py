"""The input of a transposed convolution unfolded into a matrix: a column for each output position.

The kernel as a matrix times this one is the transposed convolution.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod

from torch import Tensor

from ..parameters import Numbers, Paddings, per_dimension, spatial_dimensions, transposed_patterns
from ..symbolic.network import network
from ..symbolic.views import View
from .common import Expression, Grouped, Symbolic, batch_names, expression, finish, pattern_names, spatial

__all__ = ["einsum_expression", "symbolic"]


def einsum_expression(
    x: Tensor,
    kernel_size: Numbers,
    stride: Numbers = 1,
    padding: Paddings = 0,
    output_padding: Numbers = 0,
    dilation: Numbers = 1,
    simplify: bool = True,
) -> Expression:
    """The expression of the unfolded input of a transposed convolution.

    Args:
        x: the input, shape: (batch, in_channels, *input_sizes); without the batch where ``kernel_size``
            says so by its length.
        kernel_size: elements of the kernel: a number, or one for each dimension.
        stride: that of the convolution which is transposed, as are padding and dilation.
        padding: elements cut from either side of the output: a number, or one for each dimension.
        output_padding: elements added on the right of the output.
        dilation: outputs between neighbouring elements of the kernel.
        simplify: whether to simplify by the structure of the patterns.

    Returns:
        The equation; its operands: input, patterns; and the shape (batch, channels * kernel elements, output
        elements).

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> equation, operands, shape = einsum_expression(torch.ones(1, 2, 7), 3, simplify=False)
        >>> equation, shape
        ('abc,dce->abde', (1, 6, 9))
    """
    return expression(
        symbolic, {"input": x}, kernel_size, stride, padding, output_padding, dilation, simplify
    )


@lru_cache(maxsize=4096)
def symbolic(
    x: tuple[int, ...],
    kernel_size: Numbers,
    stride: Numbers = 1,
    padding: Paddings = 0,
    output_padding: Numbers = 0,
    dilation: Numbers = 1,
    simplify: bool = True,
) -> Symbolic:
    """The network of :func:`einsum_expression` for shapes, and the shape of its result."""
    n = spatial_dimensions("input", x, kernel_size)
    kernel = per_dimension("kernel_size", kernel_size, n)
    data = Grouped("input", 0, x, n, 1, "conv_transpose")
    patterns = transposed_patterns(data.sizes, kernel, stride, padding, output_padding, dilation)
    batch = batch_names(data.batched)
    made = network(
        [[*batch, "c", *spatial("o", n)], *pattern_names(n)],
        [*batch, "c", *spatial("k", n), *spatial("i", n)],
        View(0, x),
        *patterns,
    )
    columns = prod(p.input_size for p in patterns)
    return finish(made, (*data.batch, data.channels * prod(kernel), columns), simplify)
