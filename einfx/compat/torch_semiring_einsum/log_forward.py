"""Contractions of logarithms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .block_size import AUTOMATIC_BLOCK_SIZE, BlockSize
from .contraction import common_dtype, contract
from .equation import Equation
from .extend import semiring_einsum_forward
from .utils import add_in_place, clip_inf_in_place, sum_block

__all__ = ["FEW_TERMS", "largest_terms", "log_einsum_forward", "resize_max_values", "scaled_sums"]

FEW_TERMS = 1 << 15
"""Up to so many terms are summed one by one where their largest is subtracted."""


def log_einsum_forward(
    equation: Equation,
    *args: Tensor,
    block_size: BlockSize = AUTOMATIC_BLOCK_SIZE,
    return_max: bool = False,
    return_sumexpsub: bool = False,
) -> Any:
    """The logarithm of sums of products of exponentials.

    Args:
        equation: from :func:`.equation.compile_equation`.
        args: the operands.
        block_size: as in :func:`.real_forward.real_einsum_forward`.
        return_max: whether to return the largest terms too.
        return_sumexpsub: whether to return the sums too, of the exponentials of all terms less the largest.

    Returns:
        The output, or a tuple of it and what else was asked for, in this order. The largest terms are
        finite: instead of an infinity the largest number of the dtype, of its sign.

    Raises:
        OperandError: the operands don't fit the equation, or aren't floating point.
        UsageError: ``equation`` isn't compiled, or ``block_size`` can't be one.

    Example:
        >>> from einfx.compat.torch_semiring_einsum import compile_equation
        >>> x = torch.tensor([1.0, 2.0, 3.0]).log()
        >>> log_einsum_forward(compile_equation("i,i->"), x, x).exp()
        tensor(14.0000)
    """
    output = contract(equation, args, "log", block_size)
    if not return_max and not return_sumexpsub:
        return output
    with torch.no_grad():
        largest = largest_terms(equation, args, block_size)
        sums = scaled_sums(equation, args, block_size, largest, output) if return_sumexpsub else None
    extra = [x for x, wanted in ((largest, return_max), (sums, return_sumexpsub)) if wanted]
    return (output, *extra)


def largest_terms(equation: Equation, args: Sequence[Tensor], block_size: BlockSize) -> Tensor:
    """The largest term of every sum, as a finite number (or nan).

    Example:
        >>> from einfx.compat.torch_semiring_einsum import compile_equation
        >>> largest_terms(compile_equation("i,i->"), (torch.tensor([1.0, 4.0]), torch.tensor([2.0, 0.0])), 1)
        tensor(4.)
    """
    largest: Tensor = contract(equation, args, "max_plus", block_size)
    clip_inf_in_place(largest)
    return largest


def resize_max_values(max_values: Tensor, equation: Equation) -> Tensor:
    """A view with a dimension of size 1 for each summed variable at its end, as the terms of a block have.

    Args:
        max_values: with the dimensions of the output.
        equation: whose terms.

    Example:
        >>> from einfx.compat.torch_semiring_einsum import compile_equation
        >>> resize_max_values(torch.ones(2, 3), compile_equation("ik,kl,lj->ij")).shape
        torch.Size([2, 3, 1, 1])
    """
    return max_values[(..., *[None] * len(equation.compiled.summed))]


def scaled_sums(
    equation: Equation,
    args: Sequence[Tensor],
    block_size: BlockSize,
    max_values: Tensor,
    output: Tensor | None = None,
) -> Tensor:
    """The sum of the exponentials of all terms less what is given for each sum.

    Of many terms it is taken from the logarithm of the sum, which is as exact as the terms themselves are.

    Args:
        equation: from :func:`.equation.compile_equation`.
        args: its operands.
        block_size: as in :func:`log_einsum_forward`.
        max_values: what is subtracted, of the shape of the output.
        output: the logarithm of the sum, where it is known.

    Example:
        >>> from einfx.compat.torch_semiring_einsum import compile_equation
        >>> x = torch.tensor([1000.0, 1000.0])
        >>> scaled_sums(compile_equation("i->"), (x,), 1, torch.tensor(1000.0))
        tensor(2.)
    """
    if math.prod(equation.get_sizes(args, equation.all_variables())) > FEW_TERMS:
        if output is None:
            output = contract(equation, args, "log", block_size)
        return (output - max_values).exp()
    resized = resize_max_values(max_values, equation)
    dtype = common_dtype(args)

    def exponentials(a: Tensor, dims: Sequence[int]) -> Tensor:
        return sum_block(a.sub_(resized).exp_(), dims)

    def once(compute_sum: Any) -> Any:
        return compute_sum(add_in_place, exponentials, add_in_place)

    result: Tensor = semiring_einsum_forward(equation, [arg.to(dtype) for arg in args], block_size, once)
    return result
