"""Plans over semirings: of several orders of steps the fastest that stays within a memory limit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from .costs.semiring_cost import choose_step
from .equation import Equation
from .errors import MemoryLimitError
from .machine import item_bytes
from .options import Options
from .plans import Plan, Shapes, Step, size_text

__all__ = ["DEFAULT_BUDGET_BYTES", "LEAST_WORKSPACE_BYTES", "fastest_plan", "result_bytes"]

DEFAULT_BUDGET_BYTES = 1 << 30
"""What temporaries beyond operands and result may take where no limit is given."""

LEAST_WORKSPACE_BYTES = 1 << 18
"""What a kernel needs for its blocks, at least, to be of use."""


def fastest_plan(
    equation: Equation,
    shapes: Shapes,
    dtype: torch.dtype,
    device: str,
    candidates: Sequence[Sequence[Step]],
    constants: Sequence[int],
    options: Options,
) -> Plan:
    """The plan of least predicted time whose values stay within the limit.

    Args:
        equation: the whole contraction.
        shapes: of its operands.
        dtype: of its operands.
        device: where it is computed.
        candidates: lists of steps.
        constants: operands that never change.
        options: over which semiring, and within which limit.

    Raises:
        MemoryLimitError: the values of no candidate do.
    """
    situation = equation, shapes, dtype, device
    considered = [_evaluate(*situation, steps, constants, options) for steps in candidates]
    considered.sort(key=lambda pair: pair[0].seconds)
    limit = options.memory_limit
    allowed = DEFAULT_BUDGET_BYTES + result_bytes(equation, shapes, dtype) if limit is None else limit
    for made, kept_bytes in considered:
        if kept_bytes + LEAST_WORKSPACE_BYTES * (limit is not None and len(shapes) > 1) <= allowed:
            return made
    if limit is None:
        return min(considered, key=lambda pair: pair[1])[0]
    least = min(kept_bytes for _, kept_bytes in considered) + LEAST_WORKSPACE_BYTES
    raise MemoryLimitError(
        f"einsum {str(equation)!r} over {options.semiring.name!r}: memory_limit={limit} "
        f"({size_text(limit)}) is less than its result and blocks take; it needs {least} bytes "
        f"({size_text(least)})",
        least,
    )


def result_bytes(equation: Equation, shapes: Sequence[Sequence[int]], dtype: torch.dtype) -> int:
    """Bytes of the result."""
    return item_bytes(dtype) * math.prod(equation.output_shape(shapes))


def _evaluate(
    equation: Equation,
    shapes: Shapes,
    dtype: torch.dtype,
    device: str,
    steps: Sequence[Step],
    constants: Sequence[int],
    options: Options,
) -> tuple[Plan, int]:
    """A plan, and the peak bytes of its values without any workspace."""
    sizes = equation.sizes(shapes)
    item = item_bytes(dtype)
    values = dict(enumerate(shapes))
    alive: dict[int, int] = {}
    fixed = set(constants)
    flops = peak = kept = 0
    seconds = 0.0
    for number, step in enumerate(steps, len(shapes)):
        operand_shapes = [values[x] for x in step.operands]
        cost = choose_step(step.equation, operand_shapes, dtype, device, options).cost
        values[number] = step.equation.output_shape(operand_shapes)
        written = item * math.prod(values[number])
        flops += cost.flops
        if fixed.issuperset(step.operands):
            fixed.add(number)
        else:
            seconds += cost.seconds
        now = sum(alive.values()) + written
        kept = max(kept, now)
        workspace = cost.workspace_bytes
        if options.memory_limit is not None:
            workspace = min(workspace, max(options.memory_limit - now, LEAST_WORKSPACE_BYTES))
        peak = max(peak, now + workspace)
        for x in step.operands:
            alive.pop(x, None)
        alive[number] = written
    naive = math.prod(sizes.values()) * max(1, len(shapes) - 1 + bool(equation.summed))
    made = Plan(equation, shapes, dtype, tuple(steps), flops, peak, seconds, naive, device, options)
    return made, kept
