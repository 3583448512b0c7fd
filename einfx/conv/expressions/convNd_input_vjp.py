"""The vector-Jacobian product of a convolution with respect to its input: what backpropagation sends down."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from ..checks import check_channels, check_groups, check_sizes, check_weight
from ..parameters import Numbers, Paddings, conv_patterns, per_dimension
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
    dilation: Numbers = 1,
    groups: int = 1,
    simplify: bool = True,
) -> Expression:
    """The expression of a convolution's input VJP.

    Args:
        weight: the kernel, shape: (out_channels, in_channels / groups, *kernel_sizes).
        v: the vector, in the shape of the convolution's output: (batch, out_channels, *output_sizes), or
            without the batch.
        input_size: the sizes of the input: a number, or one for each dimension.
        stride: inputs between neighbouring outputs: a number, or one for each dimension.
        padding: zeros on either side; also ``"same"``, ``"valid"``, or a pair (left, right) for each
            dimension.
        dilation: inputs between neighbouring elements of the kernel.
        groups: in how many groups the channels are split.
        simplify: whether to simplify by the structure of the patterns.

    Returns:
        The equation; its operands: ungrouped vector, patterns, ungrouped kernel; and the shape (batch,
        in_channels, *input_sizes).

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> weight, v = torch.ones(4, 2, 3), torch.ones(1, 4, 7)
        >>> equation, operands, shape = einsum_expression(weight, v, 9, simplify=False)
        >>> equation, shape
        ('abcd,edf,bcge->abgf', (1, 2, 9))
    """
    return expression(
        symbolic, {"weight": weight, "v": v}, input_size, stride, padding, dilation, groups, simplify
    )


@lru_cache(maxsize=4096)
def symbolic(
    weight: tuple[int, ...],
    v: tuple[int, ...],
    input_size: Numbers,
    stride: Numbers = 1,
    padding: Paddings = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    simplify: bool = True,
) -> Symbolic:
    """The network of :func:`einsum_expression` for shapes, and the shape of its result."""
    n = check_weight(weight, groups)
    sizes = per_dimension("input_size", input_size, n)
    data = Grouped("v", 1, v, n, groups)
    out_channels = check_groups("out_channels", weight[0], groups)
    check_channels("v", data.channels, weight[0], groups, weight)
    patterns = conv_patterns(sizes, weight[2:], stride, padding, dilation)
    check_sizes("v", data.sizes, [p.output_size for p in patterns])
    batch = batch_names(data.batched)
    made = network(
        [
            [*batch, "g", "d", *spatial("o", n)],
            *pattern_names(n),
            ["g", "d", "c", *spatial("k", n)],
        ],
        [*batch, "g", "c", *spatial("i", n)],
        data.view,
        *patterns,
        View(0, weight, (Split(0, (groups, out_channels)),)),
    )
    return finish(made, (*data.batch, groups * weight[1], *sizes), simplify)
