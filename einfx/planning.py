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

from .arranging import arranged
from .costs.cost import choose_kernel
from .equation import Equation
from .layout import contiguous_strides
from .machine import item_bytes
from .options import REAL, Options
from .paths.choices import WORTH_A_LOOK, find_paths, hashable, paths_from
from .plans import Plan, Shapes, Step
from .semiring_planning import fastest_plan

__all__ = ["Plan", "Step", "plan"]

Path = Sequence[Sequence[int]]


SAVED = 1.5
"""By which factor the order of labels may speed a path up."""


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
            of these, whatever else a step costs, ``"cotengra"`` asks that. Other names are strategies of
            opt_einsum (``"greedy"``, ``"optimal"``, ``"dp"``, ``"auto-hq"``, ...) and, where it is
            installed, of cotengra (``"hyper"``, ...). A list of tuples is a
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
    frozen = hashable(optimize)
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
    best = plans[0]
    if len(best.steps) == 1:
        return best
    slow = SAVED * best.seconds > WORTH_A_LOOK
    for rival in plans if slow else plans[:1]:
        if rival.seconds < SAVED * best.seconds:
            found = _evaluate(equation, shapes, dtype, device, arranged(rival), constants)
            best = min(best, rival, found, key=lambda p: p.seconds)
    return best


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
