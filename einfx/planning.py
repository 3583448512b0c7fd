"""In which order a contraction's operands meet: a plan of pairwise steps.

A plan is data, a straight-line program: operands are numbered 0 to n-1, step i gives value n+i, the last
value is the result. Its text can be stored and read back.

    >>> p = plan(Equation.parse("ij,jk,kl->il"), [(10, 20), (20, 30), (30, 5)])
    >>> Plan.from_text(p.to_text()) == p
    True
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from .cost import choose_kernel
from .equation import Equation
from .layout import contiguous_strides
from .machine import item_bytes
from .options import REAL, Options
from .paths import WORTH_A_LOOK, find_paths, paths_from
from .plans import Plan, Shapes, Step
from .semiring_planning import fastest_plan

__all__ = ["Plan", "Step", "plan"]

Path = Sequence[Sequence[int]]

MOST_ARRANGED = 16
"""Up to this many steps any label of a result may come first: for more, planning would take too long."""


def plan(
    equation: Equation,
    shapes: Sequence[Sequence[int]],
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    optimize: Any = "auto",
    candidates: Sequence[Path] = (),
    constants: Sequence[int] = (),
    options: Options = REAL,
) -> Plan:
    """Order a contraction's operands into pairwise steps.

    Over a semiring a step may have more operands, whose products are summed at once.

    Args:
        equation: what to contract.
        shapes: the shape of each operand.
        dtype: of the operands.
        device: where it is computed.
        optimize: ``"auto"`` searches for the least predicted time, ``"multiplications"`` for the fewest
            of these, whatever else a step costs, ``"cotengra"`` asks that. Other names are opt_einsum's
            strategies (``"greedy"``, ``"optimal"``, ``"dp"``, ``"auto-hq"``, ...). A list of tuples is a
            path in opt_einsum's convention. An opt_einsum PathOptimizer or a cotengra optimizer is asked
            for its path, a cotengra ContractionTree gives its own.
        candidates: further paths that ``"auto"`` considers, by linear or single-assignment numbers.
        constants: operands that never change: what depends on them alone is computed once, and so is free.
        options: over which semiring, and within which limit.

    Returns:
        The plan. It is cached.

    Raises:
        OperandError: shapes that don't fit the equation.
        PlanError: a path that doesn't contract all operands, an unknown strategy.
        MemoryLimitError: no plan stays within the limit.

    Example:
        >>> p = plan(Equation.parse("ij,jk,kl->il"), [(10, 20), (20, 30), (30, 5)])
        >>> [step.operands for step in p.steps], p.flops
        ([(1, 2), (0, 3)], 8000)
    """
    equation.sizes(shapes)
    kind = device.type if isinstance(device, torch.device) else str(device).partition(":")[0]
    frozen: Any = optimize
    if isinstance(optimize, (list, tuple)):
        frozen = tuple(tuple(x) for x in optimize)
    extra = tuple(tuple(tuple(x) for x in path) for path in candidates)
    key = (equation, tuple(tuple(int(n) for n in s) for s in shapes), dtype, kind)
    rest = (frozen, extra, tuple(constants), options)
    if isinstance(frozen, (str, tuple)):
        return _cached_plan(*key, *rest, torch.get_num_threads())
    return _plan(*key, *rest)


@lru_cache(maxsize=4096)
def _cached_plan(
    equation: Equation,
    shapes: Shapes,
    dtype: torch.dtype,
    device: str,
    optimize: Any,
    candidates: tuple[Any, ...],
    constants: tuple[int, ...],
    options: Options,
    threads: int,
) -> Plan:
    return _plan(equation, shapes, dtype, device, optimize, candidates, constants, options)


def _plan(
    equation: Equation,
    shapes: Shapes,
    dtype: torch.dtype,
    device: str,
    optimize: Any,
    candidates: tuple[Any, ...],
    constants: tuple[int, ...],
    options: Options,
) -> Plan:
    count = len(shapes)
    at_once = [tuple(range(count))]
    if count <= 2 and isinstance(optimize, str):
        paths: list[list[tuple[int, ...]]] = [at_once]
    elif optimize == "auto":
        paths = find_paths(equation, shapes, dtype, device, constants, options, several=True)
        for path in candidates:
            paths += paths_from(equation, shapes, path)
    else:
        paths = paths_from(equation, shapes, optimize, widest=2 if options.is_plain else count)
    if not options.is_plain:
        if count > 2 and (optimize == "auto" or options.is_limited):
            paths.append(at_once)
        steps = [_steps(equation, path) for path in paths]
        return fastest_plan(equation, shapes, dtype, device, steps, constants, options)
    plans = [_evaluate(equation, shapes, dtype, device, _steps(equation, path), constants) for path in paths]
    plans.sort(key=lambda p: p.seconds)
    limit = 1.5 * plans[0].seconds
    arranged = [p for p in plans if p.seconds < limit] if limit > WORTH_A_LOOK else plans[:1]
    plans += [_evaluate(equation, shapes, dtype, device, _arranged(p), constants) for p in arranged]
    return min(plans, key=lambda p: p.seconds)


def _steps(equation: Equation, path: Sequence[tuple[int, ...]]) -> list[Step]:
    """The equation of every step; outputs keep what later steps or the result need."""
    labels: dict[int, tuple[int, ...]] = dict(enumerate(equation.inputs))
    steps = []
    number = len(labels)
    for chosen in path:
        inputs = tuple(labels.pop(i) for i in chosen)
        needed = set(equation.output).union(*labels.values())
        output = tuple(x for x in dict.fromkeys(x for part in inputs for x in part) if x in needed)
        if not labels:
            output = equation.output
        labels[number] = output
        steps.append((chosen, inputs, output))
        number += 1
    return [Step(chosen, Equation(inputs, output)) for chosen, inputs, output in steps]


def _arranged(plan: Plan) -> list[Step]:
    """The steps with the labels of intermediates in orders that spare copies and permutations.

    A GEMM writes batch, rows, columns, or batch, columns, rows; which of both is better is seen from what
    it and the step that reads the result cost together.
    """
    steps = list(plan.steps)
    count = len(plan.shapes)
    reader = {x: i for i, step in enumerate(steps) for x in step.operands}
    shapes, strides = list(plan.value_shapes), [contiguous_strides(s) for s in plan.value_shapes]
    for i, step in enumerate(steps):
        inputs = ([shapes[x] for x in step.operands], [strides[x] for x in step.operands])
        options = [(step, steps[reader[count + i]])] if count + i in reader else [(step, None)]
        if options[0][1] is not None and len(step.operands) == 2:
            orders = _natural_orders(step.equation, len(steps) <= MOST_ARRANGED)
            options += [_reordered(*options[0], count + i, order) for order in orders]
        best = None
        for made, read in options:
            kernel = choose_kernel(made.equation, inputs[0], plan.dtype, plan.device, strides=inputs[1])
            seconds = kernel.cost.seconds
            shapes[count + i] = made.equation.output_shape(inputs[0])
            strides[count + i] = kernel.strides
            if read is not None:
                seconds += choose_kernel(
                    read.equation,
                    [shapes[x] for x in read.operands],
                    plan.dtype,
                    plan.device,
                    strides=[strides[x] for x in read.operands],
                ).cost.seconds
            if best is None or seconds < best[0]:
                best = (seconds, made, read, shapes[count + i], strides[count + i])
        assert best is not None
        _, steps[i], read, shapes[count + i], strides[count + i] = best
        if read is not None:
            steps[reader[count + i]] = read
    return steps


def _natural_orders(equation: Equation, thorough: bool) -> list[tuple[int, ...]]:
    a, b = equation.inputs
    batch = tuple(x for x in equation.output if x in a and x in b)
    rows = tuple(x for x in equation.output if x in a and x not in b)
    columns = tuple(x for x in equation.output if x in b and x not in a)
    orders = [batch + rows + columns, batch + columns + rows]
    if not batch and thorough:
        for first in (*rows, *columns):
            rest = tuple(x for x in rows + columns if x != first)
            orders.append((first, *rest))
    return [order for order in dict.fromkeys(orders) if order != equation.output]


def _reordered(step: Step, reader: Step, value: int, order: tuple[int, ...]) -> tuple[Step, Step]:
    """Both steps with the labels of the value between them in another order."""
    positions = [step.equation.output.index(x) for x in order]
    inputs = [
        tuple(labels[p] for p in positions) if x == value else labels
        for x, labels in zip(reader.operands, reader.equation.inputs, strict=True)
    ]
    return (
        Step(step.operands, Equation(step.equation.inputs, order)),
        Step(reader.operands, Equation(tuple(inputs), reader.equation.output)),
    )


def _evaluate(
    equation: Equation,
    shapes: Shapes,
    dtype: torch.dtype,
    device: str,
    steps: list[Step],
    constants: tuple[int, ...],
) -> Plan:
    sizes = equation.sizes(shapes)
    item = item_bytes(dtype)
    alive: dict[int, int] = {}
    values = dict(enumerate(shapes))
    strides = {i: contiguous_strides(shape) for i, shape in values.items()}
    fixed = set(constants)
    flops = peak = 0
    seconds = 0.0
    for i, step in enumerate(steps):
        operand_shapes = [values[x] for x in step.operands]
        kernel = choose_kernel(
            step.equation, operand_shapes, dtype, device, strides=[strides[x] for x in step.operands]
        )
        cost = kernel.cost
        strides[len(shapes) + i] = kernel.strides
        values[len(shapes) + i] = step.equation.output_shape(operand_shapes)
        written = item * math.prod(values[len(shapes) + i])
        flops += cost.flops
        if fixed.issuperset(step.operands):
            fixed.add(len(shapes) + i)
        else:
            seconds += cost.seconds
        peak = max(peak, sum(alive.values()) + written + cost.workspace_bytes)
        for x in step.operands:
            alive.pop(x, None)
        alive[len(shapes) + i] = written
    naive = math.prod(sizes.values()) * max(1, len(shapes) - 1 + bool(equation.summed))
    return Plan(equation, shapes, dtype, tuple(steps), flops, peak, seconds, naive, device)
