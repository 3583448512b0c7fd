"""A contraction of any number of operands over any semiring, in blocks that take little memory.

All operands are multiplied at once, without pairwise intermediates, which ``ak,ak,ak->a`` has no use for. The
ranges of labels, those of the output too, are cut so that what a block takes beyond the operands and the
output stays within a budget, and on a CPU within its caches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..accumulators import LOG as LOG_SUMS
from ..algebra import Semiring
from ..domains import require_non_negative
from ..equation import Equation
from ..errors import OperandError, UsageError
from ..modes import is_captured
from ..semiring import get
from .batching import sums_without_terms, tracked
from .blocked_generic import differentiable_sums
from .blocked_log import log_contraction
from .blocked_loops import Limits, Subscripts, walk
from .blocked_products import REDUCTIONS, best, generic
from .blocked_selection import Selection, gathered, select
from .blocked_sums import FACTOR, LOG, WEIGHT, Spec, compute, weighted_sums

__all__ = ["BUDGET_BYTES", "contract"]

BUDGET_BYTES = 1 << 30
"""What temporaries may take by default."""


def contract(
    equation: Equation,
    operands: Sequence[Tensor],
    semiring: str | Semiring,
    *,
    block_size: int | None = None,
    budget_bytes: int = BUDGET_BYTES,
    return_argmax: bool = False,
    linear_operands: Sequence[int] = (),
    grad_of_neg_inf: float | str = math.nan,
) -> Any:
    """Contract operands over a semiring.

    Works under autograd, ``torch.func`` and ``torch.compile``. Real and log contractions save nothing but
    inputs and output, and stay within the budget in the backward pass too; their derivatives of every order
    are computed by this function. Where the addition selects, the gradient goes to the first of equal terms,
    and nothing is saved but its place; a sum without terms has a gradient of zero. Over any other semiring
    the gradient is that of its laws, computed block by block.

    Args:
        equation: the contraction; labels may repeat within an operand.
        operands: one tensor for each input, of dtypes that the semiring takes; dtypes promote as torch's do.
        semiring: a name or a semiring.
        block_size: the longest range of each summed label; the budget alone limits it by default.
        budget_bytes: for temporaries, beyond operands, output and, in the backward pass, gradients.
        return_argmax: for a semiring whose addition selects: also return where.
        linear_operands: over the log semiring, positions of operands that are given as they are instead of
            as logarithms. They aren't negative; their gradient is finite where they are 0.
        grad_of_neg_inf: over the log semiring, the derivative of a sum that is -inf by every element of each
            of its terms: a number, such as the nan that torch.logsumexp gives, or ``"uniform"`` for 1 over
            the number of terms.

    Returns:
        The output. With ``return_argmax``, also int64 indices of shape (*output, S), for the S summed labels
        in the order of their first appearance: of the first of equal terms, in the order of these labels.

    Raises:
        OperandError: operands that don't fit the equation or the semiring; an argmax of nothing.
        UsageError: a block size below 1, an argmax of sums that aren't one of their terms, or what is for the
            log semiring alone.

    Example:
        >>> a = torch.tensor([[1.0, 5.0], [2.0, 0.0]])
        >>> contract(Equation.parse("ak,ak,ak->a"), (a, a, a), "max_plus", return_argmax=True)
        (tensor([15.,  6.]), tensor([[1], [0]]))
        >>> contract(Equation.parse("ak,k->a"), (a.log(), a[0]), "log", linear_operands=(1,)).exp().round()
        tensor([26.,  2.])
    """
    algebra = get(semiring)
    if block_size is not None and block_size < 1:
        raise UsageError(f"a block size is at least 1, not {block_size}")
    if is_captured():
        equation = _constant(equation)
    sizes = equation.sizes([tuple(operand.shape) for operand in operands])
    linear = _checked(equation, operands, algebra, linear_operands, grad_of_neg_inf)
    dtype = operands[0].dtype
    for operand in operands[1:]:
        dtype = torch.promote_types(dtype, operand.dtype)
    # Not what the equation remembers: torch.compile can't follow a property that takes a lock.
    summed = tuple([label for label in sizes if label not in equation.output])
    count = math.prod([sizes[label] for label in summed])
    if return_argmax:
        algebra.selection()
        if count == 0:
            raise OperandError(f"{str(equation)!r} over {algebra.name!r} sums no terms, so there's no argmax")
    limits = Limits(block_size, budget_bytes)
    subscripts, tensors = _plain(equation, operands, sizes, summed)
    if _is_log(algebra):
        kinds = "".join(WEIGHT if position in linear else LOG for position in range(len(tensors)))
        empty = str(1 / max(1, count)) if grad_of_neg_inf == "uniform" else str(float(grad_of_neg_inf))
        spec = Spec(subscripts, kinds, limits, algebra.zero_annihilates, empty, dtype)
        return log_contraction(spec, *tensors)
    if algebra.addition is torch.add and algebra.multiplication is torch.mul:
        spec = Spec(subscripts, FACTOR * len(tensors), limits, algebra.zero_annihilates, "nan", dtype)
        return weighted_sums(spec, *tensors) if _follows(*tensors) else compute(spec, tensors)
    if 0 in sizes.values():
        shape = [sizes[label] for label in equation.output]
        values = sums_without_terms(algebra.zero_of(dtype), shape, dtype, *tensors)
        places = values.new_zeros((*shape, len(summed)), dtype=torch.int64)
        return (values, places) if return_argmax else values
    differentiable = (dtype.is_floating_point or dtype.is_complex) and _follows(*tensors)
    if algebra.selective:
        selection = Selection(subscripts, algebra, limits, dtype)
        if return_argmax or differentiable or _transformed():
            values, places = select(selection, *tensors)
            if differentiable:
                values = gathered(selection, places, *tensors)
            return (values, places) if return_argmax else values
    if _transformed() or (differentiable and not algebra.selective):
        return differentiable_sums(subscripts, tensors, generic(algebra, tensors, dtype), limits)
    kernel = (best if algebra.addition in REDUCTIONS else generic)(algebra, tensors, dtype)
    return walk(subscripts, tensors, kernel, limits)[0]


_LABELS = tuple(range(1024))


def _constant(equation: Equation) -> Equation:
    """The same with labels that torch.compile can't hold for variables, as it does with numbers."""
    inputs = [tuple([_LABELS[label] for label in labels]) for labels in equation.inputs]
    return Equation(tuple(inputs), tuple([_LABELS[label] for label in equation.output]))


def _checked(
    equation: Equation,
    operands: Sequence[Tensor],
    algebra: Semiring,
    linear_operands: Sequence[int],
    grad_of_neg_inf: float | str,
) -> set[int]:
    """The positions of linear operands."""
    linear = set(linear_operands)
    unchanged = isinstance(grad_of_neg_inf, float) and math.isnan(grad_of_neg_inf)
    if not _is_log(algebra) and (linear or not unchanged):
        raise UsageError(
            f"linear_operands and grad_of_neg_inf are for the log semiring, not for {algebra.name!r}"
        )
    if isinstance(grad_of_neg_inf, str) and grad_of_neg_inf != "uniform":
        raise UsageError(f"grad_of_neg_inf is a number or 'uniform', not {grad_of_neg_inf!r}")
    if not linear <= set(range(len(operands))):
        raise UsageError(
            f"linear_operands {sorted(linear)} name an operand that {str(equation)!r} doesn't have; "
            f"its operands are 0 to {len(operands) - 1}"
        )
    algebra.check(*operands)
    for position in sorted(linear):
        try:
            require_non_negative(operands[position])
        except OperandError:
            raise OperandError(
                f"{str(equation)!r} over 'log': operand {position} is linear and has negative elements, "
                "which have no logarithm"
            ) from None
    return linear


def _is_log(algebra: Semiring) -> bool:
    return (
        algebra.addition is torch.logaddexp
        and algebra.multiplication is torch.add
        and algebra.accumulator in (None, LOG_SUMS)
    )


def _transformed() -> bool:
    """Whether tensors may be those of a transform or a compiler, which can't be written into."""
    return is_captured() or torch._C._are_functorch_transforms_active()


def _follows(*tensors: Tensor) -> bool:
    """Whether a derivative of what is computed from these may be asked for."""
    if is_captured():
        return True
    return tracked(*tensors)


def _plain(
    equation: Equation, operands: Sequence[Tensor], sizes: dict[int, int], summed: tuple[int, ...]
) -> tuple[Subscripts, list[Tensor]]:
    """Operands with every label at most once and at its full size: diagonals, without what broadcasts."""
    inputs, tensors = [], []
    for operand, labels in zip(operands, equation.inputs, strict=True):
        order = list(labels)
        while len(set(order)) < len(order):
            twice = next(label for label in order if order.count(label) > 1)
            first = order.index(twice)
            second = order.index(twice, first + 1)
            operand = operand.diagonal(0, first, second)
            order = [label for dim, label in enumerate(order) if dim not in (first, second)] + [twice]
        for dim in reversed(range(len(order))):
            if operand.shape[dim] != sizes[order[dim]]:
                operand = operand.squeeze(dim)
                del order[dim]
        inputs.append(tuple(order))
        tensors.append(operand)
    return Subscripts(tuple(inputs), equation.output, summed), tensors
