"""A transposed convolution: the patterns of a convolution, with its outputs as the inputs.

It is linear in the input and in the kernel, so its Jacobian-vector products are the same expression, with the
tangent in the place of the one or the other.
"""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from ..checks import check_channels, check_weight
from ..parameters import Numbers, Paddings, transposed_patterns
from ..symbolic.network import network
from ..symbolic.views import Split, View
from .common import Expression, Grouped, Symbolic, batch_names, expression, finish, pattern_names, spatial

__all__ = ["einsum_expression", "symbolic"]


def einsum_expression(
    x: Tensor,
    weight: Tensor,
    stride: Numbers = 1,
    padding: Paddings = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
    simplify: bool = True,
) -> Expression:
    """The expression of a transposed convolution.

    Args:
        x: the input, shape: (batch, in_channels, *input_sizes), or without the batch.
        weight: the kernel, shape: (in_channels, out_channels / groups, *kernel_sizes).
        stride: that of the convolution which is transposed, as are padding and dilation.
        padding: elements cut from either side of the output: a number, or one for each dimension.
        output_padding: elements added on the right of the output.
        groups: in how many groups the channels are split.
        dilation: outputs between neighbouring elements of the kernel.
        simplify: whether to simplify by the structure of the patterns.

    Returns:
        The equation; its operands: ungrouped input, patterns, ungrouped kernel; and the shape (batch,
        out_channels, *output_sizes).

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> x, weight = torch.ones(1, 4, 7), torch.ones(4, 2, 3)
        >>> equation, operands, shape = einsum_expression(x, weight, simplify=False)
        >>> equation, shape
        ('abcd,edf,bcge->abgf', (1, 2, 9))
    """
    return expression(
        symbolic, {"input": x, "weight": weight}, stride, padding, output_padding, groups, dilation, simplify
    )


@lru_cache(maxsize=4096)
def symbolic(
    x: tuple[int, ...],
    weight: tuple[int, ...],
    stride: Numbers = 1,
    padding: Paddings = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
    simplify: bool = True,
) -> Symbolic:
    """The network of :func:`einsum_expression` for shapes, and the shape of its result."""
    n = check_weight(weight, groups)
    data = Grouped("input", 0, x, n, groups, "conv_transpose")
    check_channels("input", data.channels, weight[0], groups, weight)
    patterns = transposed_patterns(data.sizes, weight[2:], stride, padding, output_padding, dilation)
    batch = batch_names(data.batched)
    made = network(
        [
            [*batch, "g", "c", *spatial("o", n)],
            *pattern_names(n),
            ["g", "c", "d", *spatial("k", n)],
        ],
        [*batch, "g", "d", *spatial("i", n)],
        data.view,
        *patterns,
        View(1, weight, (Split(0, (groups, data.channels // groups)),)),
    )
    return finish(made, (*data.batch, groups * weight[1], *(p.input_size for p in patterns)), simplify)
