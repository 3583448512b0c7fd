"""The vector-Jacobian product of a transposed convolution with respect to its kernel."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from ..checks import check_batch, check_sizes
from ..parameters import Numbers, Paddings, per_dimension, spatial_dimensions, transposed_patterns
from ..symbolic.network import network
from .common import Expression, Grouped, Symbolic, batch_names, expression, finish, pattern_names, spatial

__all__ = ["einsum_expression", "symbolic"]


def einsum_expression(
    x: Tensor,
    v: Tensor,
    kernel_size: Numbers,
    dilation: Numbers = 1,
    padding: Paddings = 0,
    stride: Numbers = 1,
    output_padding: Numbers = 0,
    groups: int = 1,
    simplify: bool = True,
) -> Expression:
    """The expression of a transposed convolution's weight VJP.

    Args:
        x: the input, shape: (batch, in_channels, *input_sizes), or without the batch.
        v: the vector, in the shape of the output: (batch, out_channels, *output_sizes), or without the
            batch.
        kernel_size: elements of the kernel: a number, or one for each dimension.
        dilation: outputs between neighbouring elements of the kernel.
        padding: elements cut from either side of the output: a number, or one for each dimension.
        stride: that of the convolution which is transposed, as are padding and dilation.
        output_padding: elements added on the right of the output.
        groups: in how many groups the channels are split.
        simplify: whether to simplify by the structure of the patterns.

    Returns:
        The equation; its operands: ungrouped input, patterns, ungrouped vector; and the shape (in_channels,
        out_channels / groups, *kernel_sizes).

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> x, v = torch.ones(1, 4, 7), torch.ones(1, 2, 9)
        >>> equation, operands, shape = einsum_expression(x, v, 3, simplify=False)
        >>> equation, shape
        ('abcd,edf,abgf->bcge', (4, 2, 3))
    """
    return expression(
        symbolic,
        {"input": x, "v": v},
        kernel_size,
        dilation,
        padding,
        stride,
        output_padding,
        groups,
        simplify,
    )


@lru_cache(maxsize=4096)
def symbolic(
    x: tuple[int, ...],
    v: tuple[int, ...],
    kernel_size: Numbers,
    dilation: Numbers = 1,
    padding: Paddings = 0,
    stride: Numbers = 1,
    output_padding: Numbers = 0,
    groups: int = 1,
    simplify: bool = True,
) -> Symbolic:
    """The network of :func:`einsum_expression` for shapes, and the shape of its result."""
    n = spatial_dimensions("input", x, kernel_size)
    kernel = per_dimension("kernel_size", kernel_size, n)
    data, vector = (
        Grouped("input", 0, x, n, groups, "conv_transpose"),
        Grouped("v", 1, v, n, groups, "conv_transpose"),
    )
    check_batch("v", vector.batch, "input", data.batch)
    patterns = transposed_patterns(data.sizes, kernel, stride, padding, output_padding, dilation)
    check_sizes("v", vector.sizes, [p.input_size for p in patterns])
    batch = batch_names(data.batched)
    made = network(
        [
            [*batch, "g", "c", *spatial("o", n)],
            *pattern_names(n),
            [*batch, "g", "d", *spatial("i", n)],
        ],
        ["g", "c", "d", *spatial("k", n)],
        data.view,
        *patterns,
        vector.view,
    )
    return finish(made, (data.channels, vector.channels // groups, *kernel), simplify)
