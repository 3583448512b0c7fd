"""A convolution: input and kernel meet through one index pattern for each dimension.

It is linear in the input and in the kernel, so its Jacobian-vector products are the same expression, with the
tangent in the place of the one or the other.
"""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from ..checks import check_channels, check_groups, check_weight
from ..parameters import Numbers, Paddings, conv_patterns
from ..symbolic.network import network
from ..symbolic.views import Split, View
from .common import Expression, Grouped, Symbolic, batch_names, expression, finish, pattern_names, spatial

__all__ = ["einsum_expression", "symbolic"]


def einsum_expression(
    x: Tensor,
    weight: Tensor,
    stride: Numbers = 1,
    padding: Paddings = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    simplify: bool = True,
) -> Expression:
    """The expression of a convolution.

    Args:
        x: the input, shape: (batch, in_channels, *input_sizes), or without the batch.
        weight: the kernel, shape: (out_channels, in_channels / groups, *kernel_sizes).
        stride: inputs between neighbouring outputs: a number, or one for each dimension.
        padding: zeros on either side; also ``"same"``, ``"valid"``, or a pair (left, right) for each
            dimension.
        dilation: inputs between neighbouring elements of the kernel.
        groups: in how many groups the channels are split.
        simplify: whether to simplify by the structure of the patterns.

    Returns:
        The equation; its operands: ungrouped input, patterns, ungrouped kernel; and the shape (batch,
        out_channels, *output_sizes) to which the contraction is reshaped.

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> x, weight = torch.ones(1, 2, 9), torch.ones(4, 2, 3)
        >>> equation, operands, shape = einsum_expression(x, weight, padding=1, simplify=False)
        >>> equation, shape
        ('abcd,efd,bgce->abgf', (1, 4, 9))
    """
    return expression(symbolic, {"input": x, "weight": weight}, stride, padding, dilation, groups, simplify)


@lru_cache(maxsize=4096)
def symbolic(
    x: tuple[int, ...],
    weight: tuple[int, ...],
    stride: Numbers = 1,
    padding: Paddings = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    simplify: bool = True,
) -> Symbolic:
    """The network of :func:`einsum_expression` for shapes, and the shape of its result."""
    n = check_weight(weight, groups)
    data = Grouped("input", 0, x, n, groups)
    check_channels("input", data.channels, weight[1] * groups, groups, weight)
    out_channels = check_groups("out_channels", weight[0], groups)
    patterns = conv_patterns(data.sizes, weight[2:], stride, padding, dilation)
    batch = batch_names(data.batched)
    made = network(
        [
            [*batch, "g", "c", *spatial("i", n)],
            *pattern_names(n),
            ["g", "d", "c", *spatial("k", n)],
        ],
        [*batch, "g", "d", *spatial("o", n)],
        data.view,
        *patterns,
        View(1, weight, (Split(0, (groups, out_channels)),)),
    )
    return finish(made, (*data.batch, weight[0], *(p.output_size for p in patterns)), simplify)
