"""The vector-Jacobian product of a transposed convolution with respect to its input: a convolution."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from ..checks import check_channels, check_groups, check_sizes, check_weight
from ..parameters import Numbers, Paddings, per_dimension, transposed_patterns
from ..symbolic.network import network
from ..symbolic.views import Split, View
from .common import Expression, Grouped, Symbolic, batch_names, expression, finish, pattern_names, spatial

__all__ = ["einsum_expression", "symbolic"]


def einsum_expression(
    weight: Tensor,
    v: Tensor,
    input_size: Numbers,
    stride: Numbers = 1,
    padding: Paddings = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
    simplify: bool = True,
) -> Expression:
    """The expression of a transposed convolution's input VJP.

    Args:
        weight: the kernel, shape: (in_channels, out_channels / groups, *kernel_sizes).
        v: the vector, in the shape of the output: (batch, out_channels, *output_sizes), or without the
            batch.
        input_size: the sizes of the input: a number, or one for each dimension.
        stride: that of the convolution which is transposed, as are padding and dilation.
        padding: elements cut from either side of the output: a number, or one for each dimension.
        output_padding: elements added on the right of the output.
        groups: in how many groups the channels are split.
        dilation: outputs between neighbouring elements of the kernel.
        simplify: whether to simplify by the structure of the patterns.

    Returns:
        The equation; its operands: ungrouped vector, patterns, ungrouped kernel; and the shape (batch,
        in_channels, *input_sizes).

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> weight, v = torch.ones(4, 2, 3), torch.ones(1, 2, 9)
        >>> equation, operands, shape = einsum_expression(weight, v, 7, simplify=False)
        >>> equation, shape
        ('abcd,efd,bgce->abgf', (1, 4, 7))
    """
    return expression(
        symbolic,
        {"weight": weight, "v": v},
        input_size,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        simplify,
    )


@lru_cache(maxsize=4096)
def symbolic(
    weight: tuple[int, ...],
    v: tuple[int, ...],
    input_size: Numbers,
    stride: Numbers = 1,
    padding: Paddings = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
    simplify: bool = True,
) -> Symbolic:
    """The network of :func:`einsum_expression` for shapes, and the shape of its result."""
    n = check_weight(weight, groups)
    sizes = per_dimension("input_size", input_size, n)
    data = Grouped("v", 1, v, n, groups, "conv_transpose")
    check_channels("v", data.channels, weight[1] * groups, groups, weight)
    in_channels = check_groups("in_channels", weight[0], groups)
    patterns = transposed_patterns(sizes, weight[2:], stride, padding, output_padding, dilation)
    check_sizes("v", data.sizes, [p.input_size for p in patterns])
    batch = batch_names(data.batched)
    made = network(
        [
            [*batch, "g", "d", *spatial("i", n)],
            *pattern_names(n),
            ["g", "c", "d", *spatial("k", n)],
        ],
        [*batch, "g", "c", *spatial("o", n)],
        data.view,
        *patterns,
        View(0, weight, (Split(0, (groups, in_channels)),)),
    )
    return finish(made, (*data.batch, weight[0], *sizes), simplify)
