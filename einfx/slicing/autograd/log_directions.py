"""Derivatives in a direction over logarithms, and their gradients, by sweeps of schedules within the limit.

With R = log sum exp(x + y + ...) the derivative in the direction v is a quotient of two sums of the same
terms: T = sum exp(x + y + ... - R) (v + ...). Where v is nowhere negative its logarithm is what the schedule
of directional derivatives, run over logarithms, gives for x + log v in place of a tangent: log T = L - R. Of
any v the positive and the negative part are taken apart: two sweeps, whose results are subtracted.

Gradients of <g, T> follow from those of L and of R: the incoming gradient of L is g exp(L - R).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ...machine import accumulation_dtype
from ...options import Options

__all__ = ["log_second", "log_tangent", "require_directions"]

Flags = tuple[bool, ...]


def require_directions(equation: Any, options: Options) -> None:
    """Check that derivatives in a direction over logarithms are what is computed here.

    Raises:
        UsageError: sums that are -inf have a derivative of one's own choice, other than nan and 0.
    """
    chosen = options.grad_of_neg_inf
    if chosen == "uniform" or not (float(chosen) == 0 or math.isnan(float(chosen))):
        raise UsageError(
            f"einsum {str(equation)!r} over 'log' with a memory_limit and grad_of_neg_inf={chosen!r}: "
            "there are gradients within the limit, but no second or forward-mode derivatives; leave out "
            "memory_limit, or give grad_of_neg_inf=0 or nan"
        )


def log_tangent(
    problem: Any, moving: Flags, direction: Sequence[Tensor], operands: Sequence[Tensor], result: Tensor
) -> Tensor:
    """The derivative of a contraction over logarithms in a direction.

    Args:
        problem: the contraction, a :class:`.problem.Problem`.
        moving: for each operand whether it has a part in the direction.
        direction: the tangents of those.
        operands: in the dtype that sums are taken in.
        result: the contraction.

    Raises:
        MemoryLimitError: copies of the tangents, or what is computed from them, don't stay within the limit.
    """
    require_directions(problem.equation, problem.options)
    problem = problem.leaving(sum(x.nbytes for x in direction) + _bytes(result))
    total: Tensor | None = None
    for sign, changed in _signed(problem.options, moving, direction, operands):
        part = problem.run_derivative(operands, (), moving, changed)[0]
        del changed
        _shares(part, result, problem.options)
        total = part.mul_(sign) if total is None else total.add_(part, alpha=sign)
    assert total is not None
    return total


def log_second(
    problem: Any,
    wanted: Flags,
    moving: Flags,
    gradient: Tensor,
    direction: Sequence[Tensor],
    operands: Sequence[Tensor],
    result: Tensor,
) -> tuple[Tensor, ...]:
    """The gradients of the derivative in a direction.

    Args:
        problem: as of :func:`log_tangent`.
        wanted: for each operand whether its gradient is computed.
        moving: as of :func:`log_tangent`.
        gradient: of the derivative.
        direction: as of :func:`log_tangent`.
        operands: as of :func:`log_tangent`.
        result: as of :func:`log_tangent`.

    Raises:
        MemoryLimitError: as :func:`log_tangent`.
    """
    require_directions(problem.equation, problem.options)
    made = sum(_bytes(x) for x, want in zip(operands, wanted, strict=True) if want)
    limited = problem.leaving(sum(x.nbytes for x in direction) + made + 3 * _bytes(result))
    # Where all of a part's terms are zero its share is, and so are its gradients.
    inside = limited._replace(options=replace(limited.options, grad_of_neg_inf="0.0"))
    chosen = [i for i, want in enumerate(wanted) if want]
    linear = problem.options.linear_operands
    again = [i for i in chosen if moving[i] and i not in linear]
    totals: dict[int, Tensor] = {}
    through = torch.zeros(result.shape, dtype=result.dtype, device=result.device)
    for sign, changed in _signed(problem.options, moving, direction, operands):
        part = inside.run_derivative(operands, (), moving, changed)[0]
        share = part.clone()
        _shares(share, result, problem.options)
        share.mul_(gradient).mul_(sign)
        through.add_(share)
        found = inside.run_derivative(operands, wanted, moving, [*changed, share, part])
        del changed, share, part
        for position, one in zip([*chosen, *again], found, strict=True):
            totals[position] = totals[position].add_(one) if position in totals else one
        del found, one
    last = problem.leaving(made + _bytes(result)).run_derivative(
        operands, wanted, (), [through.neg_(), result.contiguous()]
    )
    return tuple(totals[i].add_(one) for i, one in zip(chosen, last, strict=True))


def _signed(
    options: Options, moving: Flags, direction: Sequence[Tensor], operands: Sequence[Tensor]
) -> Iterator[tuple[int, list[Tensor]]]:
    """For each sign that there is the tangents' part of it, as logarithms of what they add to terms."""
    moved = [i for i, moves in enumerate(moving) if moves]
    negative = any(bool((x < 0).any()) for x in direction)
    positive = not negative or any(bool((x > 0).any()) for x in direction)
    for sign in (1,) * positive + (-1,) * negative:
        changed = []
        for position, tangent in zip(moved, direction, strict=True):
            part = tangent.clamp(min=0) if sign > 0 else tangent.clamp(max=0).neg_()
            part = part.contiguous().log_()
            if position not in options.linear_operands:
                part.add_(operands[position])
            changed.append(part)
            del part
        yield sign, changed


def _shares(part: Tensor, result: Tensor, options: Options) -> None:
    """From the logarithm of a part to its share in a sum of which the logarithm is given, in place."""
    part.sub_(result).exp_()
    if float(options.grad_of_neg_inf) == 0:
        part.masked_fill_(result == -math.inf, 0)


def _bytes(tensor: Tensor) -> int:
    """What a tensor of this shape takes in the dtype that sums are taken in."""
    return tensor.numel() * accumulation_dtype(tensor.dtype).itemsize
