"""Running a plan: step by step, or as a straight-line function written for it.

Both emit the same kernels. The function is written only for a plan that comes back, because writing it
takes longer than running a small contraction once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .costs.cost import choose_kernel
from .kernels.real import Emit, emit_kernel
from .kernels.written import Written
from .planning import Plan

__all__ = ["call", "compile_program", "emit_plan", "run_pairwise"]


def emit_plan(
    emit: Emit,
    plan: Plan,
    values: Sequence[Any],
    *,
    guarded: bool,
    strides: Sequence[Sequence[int]] | None = None,
) -> Any:
    """Emit the steps of a plan.

    Args:
        emit: receives every torch function with its arguments and returns its value.
        plan: what to compute.
        values: the operands, or what stands for them.
        guarded: emit code for all sizes instead of for the plan's alone.
        strides: of the operands, in elements; contiguous where None. A hint.

    Returns:
        The value of the last step.
    """
    alive: dict[int, Any] = dict(enumerate(values))
    shapes = plan.value_shapes
    known: dict[int, Sequence[int]] = dict(enumerate(strides)) if strides is not None else {}
    number = len(values)
    for step in plan.steps:
        step_shapes = [shapes[x] for x in step.operands]
        step_strides = [known[x] for x in step.operands] if all(x in known for x in step.operands) else None
        kernel = choose_kernel(
            step.equation, step_shapes, plan.dtype, plan.device, strides=step_strides, guarded=guarded
        )
        operands = [alive.pop(x) for x in step.operands]
        alive[number] = emit_kernel(emit, kernel, step.equation, operands, step_shapes, guarded=guarded)
        known[number] = kernel.strides
        number += 1
    return alive[number - 1]


def run_pairwise(plan: Plan, operands: Sequence[torch.Tensor]) -> torch.Tensor:
    """Run a plan by torch.einsum on pairs: its dtypes, its errors, one graph node for each step."""
    alive = dict(enumerate(operands))
    number = len(operands)
    for step in plan.steps:
        values = [alive.pop(x) for x in step.operands]
        alive[number] = torch.functional.einsum(str(step.equation), *values)
        number += 1
    return alive[number - 1]


def compile_program(
    plan: Plan, strides: Sequence[Sequence[int]] | None = None, *, guarded: bool = False
) -> Callable[..., torch.Tensor]:
    """A function of the operands that runs a plan without any further decision.

    Args:
        plan: what to compute.
        strides: of the operands, in elements; contiguous where None. A hint.
        guarded: whether it is right for all sizes instead of for the plan's alone.

    Example:
        >>> from einfx.equation import Equation
        >>> from einfx.planning import plan
        >>> program = compile_program(plan(Equation.parse("ij,jk->ik"), [(2, 3), (3, 4)]))
        >>> program(torch.ones(2, 3), torch.ones(3, 4)).shape
        torch.Size([2, 4])
    """
    written = Written(len(plan.shapes))
    return written.function(emit_plan(written.emit, plan, written.operands, guarded=guarded, strides=strides))


def call(function: Callable[..., Any], *args: Any) -> Any:
    """The ``emit`` that runs what it is given."""
    return function(*args)
