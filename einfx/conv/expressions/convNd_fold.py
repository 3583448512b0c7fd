"""Patches added up where they came from: the adjoint of unfolding."""

from __future__ import annotations

from functools import lru_cache
from math import prod

from torch import Tensor

from ...padding import positive
from ..checks import check_blocks
from ..parameters import Numbers, Paddings, conv_patterns, per_dimension
from ..symbolic.network import network
from ..symbolic.views import Split, View
from .common import Expression, Symbolic, batch_names, expression, finish, pattern_names, spatial

__all__ = ["einsum_expression", "symbolic"]


def einsum_expression(
    x: Tensor,
    output_size: Numbers,
    kernel_size: Numbers,
    stride: Numbers = 1,
    padding: Paddings = 0,
    dilation: Numbers = 1,
    simplify: bool = True,
) -> Expression:
    """The expression of patches folded back.

    Args:
        x: patches, shape: (batch, channels * kernel elements, output elements), or without the batch.
        output_size: the sizes of the folded result, the input of the convolution: one for each dimension;
            one number alone stands for two dimensions, as in ``torch.nn.functional.fold``, unless
            ``kernel_size`` says otherwise.
        kernel_size: elements of the kernel: a number, or one for each dimension.
        stride: inputs between neighbouring outputs: a number, or one for each dimension.
        padding: zeros on either side; also ``"same"``, ``"valid"``, or a pair (left, right) for each
            dimension.
        dilation: inputs between neighbouring elements of the kernel.
        simplify: whether to simplify by the structure of the patterns.

    Returns:
        The equation; its operands: patches, patterns; and the shape (batch, channels, *output_size).

    Raises:
        OperandError: sizes or hyper-parameters that don't fit one another.

    Example:
        >>> import torch
        >>> equation, operands, shape = einsum_expression(torch.ones(1, 6, 7), (9,), 3, simplify=False)
        >>> equation, shape
        ('abcd,cde->abe', (1, 2, 9))
    """
    return expression(symbolic, {"input": x}, output_size, kernel_size, stride, padding, dilation, simplify)


@lru_cache(maxsize=4096)
def symbolic(
    x: tuple[int, ...],
    output_size: Numbers,
    kernel_size: Numbers,
    stride: Numbers = 1,
    padding: Paddings = 0,
    dilation: Numbers = 1,
    simplify: bool = True,
) -> Symbolic:
    """The network of :func:`einsum_expression` for shapes, and the shape of its result."""
    lengths = [len(value) for value in (output_size, kernel_size) if isinstance(value, tuple)]
    n = lengths[0] if lengths else 2
    sizes = tuple(positive("output_size", size) for size in per_dimension("output_size", output_size, n))
    kernel = per_dimension("kernel_size", kernel_size, n)
    patterns = conv_patterns(sizes, kernel, stride, padding, dilation)
    outputs = tuple(p.output_size for p in patterns)
    check_blocks(x, prod(kernel), outputs)
    batch, channels = x[:-2], x[-2] // prod(kernel)
    names = batch_names(bool(batch))
    made = network(
        [[*names, "c", *spatial("k", n), *spatial("o", n)], *pattern_names(n)],
        [*names, "c", *spatial("i", n)],
        View(0, x, (Split(len(x) - 1, outputs), Split(len(x) - 2, (channels, *kernel)))),
        *patterns,
    )
    return finish(made, (*batch, channels, *sizes), simplify)
