"""The derivative of contractions of logarithms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .block_size import AUTOMATIC_BLOCK_SIZE, BlockSize
from .contraction import contract, gradients, require_gradient
from .equation import Equation, compile_equation
from .extend import aligned
from .log_differentiable import log_einsum
from .log_forward import largest_terms, scaled_sums

__all__ = ["log_einsum_backward"]


def log_einsum_backward(
    equation: Equation,
    args: Sequence[Tensor],
    needs_grad: Sequence[bool],
    grad: Tensor,
    block_size: BlockSize = AUTOMATIC_BLOCK_SIZE,
    grad_of_neg_inf: float | str = math.nan,
    saved_max: Tensor | None = None,
    saved_sumexpsub: Tensor | None = None,
) -> list[Tensor | None]:
    """The gradients of :func:`.log_forward.log_einsum_forward`.

    Args:
        equation: from :func:`.equation.compile_equation`.
        args: the operands.
        needs_grad: for each of them, whether its gradient is wanted.
        grad: the gradient of the output.
        block_size: as in the forward function.
        grad_of_neg_inf: as in :func:`.log_differentiable.log_einsum`.
        saved_max: the largest terms that the forward function returned.
        saved_sumexpsub: the sums that it returned. Where one of these two is given, every term counts by its
            share in the sums given, whatever the sums of these operands are: they may be those of a larger
            contraction of which this one is a part.

    Returns:
        For each operand its gradient, or None.

    Raises:
        OperandError: the operands or ``grad`` don't fit the equation.
        UsageError: ``needs_grad`` has another length than ``args``.

    Example:
        >>> from einfx.compat.torch_semiring_einsum import compile_equation
        >>> x = torch.tensor([1.0, 3.0]).log()
        >>> log_einsum_backward(compile_equation("i->"), (x,), (True,), torch.tensor(1.0))
        [tensor([0.2500, 0.7500])]
    """
    if saved_max is None and saved_sumexpsub is None:

        def function(*operands: Tensor) -> Tensor:
            return log_einsum(equation, *operands, block_size=block_size, grad_of_neg_inf=grad_of_neg_inf)

        return gradients(equation, args, needs_grad, grad, function)
    require_gradient(equation, args, needs_grad, grad)
    largest = largest_terms(equation, args, block_size) if saved_max is None else saved_max
    if saved_sumexpsub is None:
        sums = scaled_sums(equation, args, block_size, largest)
    else:
        sums = saved_sumexpsub
    share = grad / sums
    nothing = sums == 0
    plain = not isinstance(grad_of_neg_inf, str) and math.isnan(grad_of_neg_inf)
    if not plain:
        share = share.masked_fill(nothing, 0.0)
    result: list[Tensor | None] = [
        _shares(equation, args, position, share, largest, block_size) if needed else None
        for position, needed in enumerate(needs_grad)
    ]
    if not plain and grad_of_neg_inf != 0.0:
        only = grad.masked_fill(~nothing, 0.0)
        rest = log_einsum_backward(equation, args, needs_grad, only, block_size, grad_of_neg_inf)
        result = [x if x is None or y is None else x + y for x, y in zip(result, rest, strict=True)]
    return result


def _shares(
    equation: Equation,
    args: Sequence[Tensor],
    position: int,
    share: Tensor,
    largest: Tensor,
    block_size: BlockSize,
) -> Tensor:
    """For each element of an operand, the sum of share · exp(term - largest) over the terms that it is in.

    That is a sum over logarithms again, whose further operand is the logarithm of the share: once for the
    positive shares, once for the negative ones.
    """
    own = equation.input_variables[position]
    unique = list(dict.fromkeys(own))
    wanted = compile_equation(inputs=[*equation.input_variables, equation.output_variables], output=unique)
    parts = []
    for sign in (share, -share):
        if sign is not share and not bool((share < 0).any()):
            continue
        factor = sign.clamp(min=0).log() - largest
        summed: Tensor = contract(wanted, (*args, factor), "log", block_size)
        parts.append(summed.exp())
    total = parts[0] - parts[1] if len(parts) == 2 else parts[0]
    if len(unique) == len(own):
        return total
    result = torch.zeros_like(args[position])
    aligned(result, own, unique).copy_(total)
    return result
