"""Derivatives as functions that autograd follows, where no sweep of a schedule is the next one.

One sweep gives all second derivatives over real numbers at once (:mod:`.derivatives`), but is no function
that autograd could follow. Contractions are, each within the limit; for every two operands there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...equation import Equation
from ...errors import UsageError
from ...planning import plan
from ...semiring_program import SemiringProgram
from ..schedules.derivatives import is_linear
from .one_gradient import one_gradient
from .problem import Problem

__all__ = ["recorded_gradients", "second_by_contractions", "tangent_by_contractions"]

SMALL_BYTES = 1 << 20
"""Below this, no program over a semiring that autograd records takes less."""


def tangent_by_contractions(
    problem: Problem, moving: Sequence[bool], tensors: Sequence[Tensor], contract: Callable[..., Tensor]
) -> Tensor:
    """The derivative in a direction.

    Args:
        problem: over real numbers.
        moving: for each operand whether it has a part in the direction; one has.
        tensors: the direction, and the operands.
        contract: contracts within the limit, as a function that can be differentiated.
    """
    _require_linear(problem)
    count = sum(moving)
    given, operands = iter(tensors[:count]), tensors[count:]
    parts = []
    for position, moves in enumerate(moving):
        if moves:
            tangent = next(given)
            changed = [tangent if i == position else x for i, x in enumerate(operands)]
            parts.append(contract(problem.equation, changed, "auto", problem.options))
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


def second_by_contractions(
    problem: Problem,
    wanted: Sequence[bool],
    moving: Sequence[bool],
    tensors: Sequence[Tensor],
    contract: Callable[..., Tensor],
) -> tuple[Tensor, ...]:
    """The gradients of the derivative in a direction.

    Args:
        problem: over real numbers.
        wanted: for each operand whether a gradient is.
        moving: for each operand whether it has a part in the direction.
        tensors: the gradient of the derivative, the direction, and the operands.
        contract: contracts within the limit, as a function that can be differentiated.

    Returns:
        A gradient for each operand of which it's wanted.
    """
    _require_linear(problem)
    gradient, *rest = tensors
    count = sum(moving)
    given, operands = iter(rest[:count]), rest[count:]
    direction = [next(given) if moves else None for moves in moving]

    def within(target: Equation, factors: list[Tensor], _: list[int]) -> Tensor:
        return contract(target, factors, "auto", problem.options)

    found = []
    for position, want in enumerate(wanted):
        if not want:
            continue
        total = torch.zeros_like(operands[position])
        for other, tangent in enumerate(direction):
            if other != position and tangent is not None:
                changed = [tangent if i == other else x for i, x in enumerate(operands)]
                total = total + one_gradient(problem.equation, changed, gradient, position, within)
        found.append(total)
    return tuple(found)


def _require_linear(problem: Problem) -> None:
    if not is_linear(problem.options):
        raise UsageError(
            f"einsum {str(problem.equation)!r} over {problem.options.semiring.name!r} with a memory_limit: "
            "there are first and second derivatives within the limit, but no third ones; leave out "
            "memory_limit for these, or give block_size instead"
        )


def recorded_gradients(
    problem: Problem, wanted: Sequence[bool], gradient: Tensor, saved: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Gradients over any semiring, by a program that autograd records: its values stay within the limit.

    They do one by one, and are computed again where they're needed; together with what their derivatives
    take, which autograd decides, it may be a few times the limit.

    Args:
        problem: which contraction.
        wanted: for each operand whether its gradient is.
        gradient: of the result.
        saved: the operands first.

    Raises:
        MemoryLimitError: a value alone doesn't.
    """
    limit = problem.options.memory_limit
    assert limit is not None
    # A view each, so that an operand that is given twice has a gradient at each place.
    operands = [x.view_as(x) for x in saved[: len(wanted)]]
    first = operands[0]
    chosen = plan(
        problem.equation,
        [tuple(x.shape) for x in operands],
        dtype=first.dtype,
        device=first.device,
        optimize="auto",
        options=replace(problem.options, memory_limit=max(limit, SMALL_BYTES)),
    )
    whole = SemiringProgram(chosen)(operands)
    needed = [x for x, want in zip(operands, wanted, strict=True) if want]
    return torch.autograd.grad(whole, needed, gradient, create_graph=True)
