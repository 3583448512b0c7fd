"""In which order a contraction's operands meet: a plan of pairwise steps.

A plan is data, a straight-line program: operands are numbered 0 to n-1, step i gives value n+i, the last
value is the result. Its text can be stored and read back.

    >>> p = plan(Equation.parse("ij,jk,kl->il"), [(10, 20), (20, 30), (30, 5)])
    >>> Plan.from_text(p.to_text()) == p
    True
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch

from .cost import choose_kernel
from .equation import Equation
from .errors import PlanError
from .layout import contiguous_strides
from .machine import item_bytes
from .paths import WORTH_A_LOOK, find_paths, paths_from

__all__ = ["Plan", "Step", "plan"]

Shapes = tuple[tuple[int, ...], ...]
Path = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Step:
    """One contraction of a plan.

    Args:
        operands: the numbers of one or two values that it reads.
        equation: how it contracts them.
    """

    operands: tuple[int, ...]
    equation: Equation


@dataclass(frozen=True)
class Plan:
    """An ordered list of pairwise contractions with what they are predicted to cost.

    Args:
        equation: the whole contraction.
        shapes: of its operands, for which it was planned.
        dtype: of its operands.
        steps: what to compute, in this order.
        flops: multiplications and additions of all steps.
        peak_bytes: the most that is allocated beside the operands at any time, the result included.
        seconds: predicted time.
        naive_flops: multiplications and additions of a single sum over all labels.
        device: where it is computed, as text.

    Example:
        >>> p = plan(Equation.parse("ij,jk,kl->il"), [(10, 20), (20, 30), (30, 5)])
        >>> [str(step.equation) for step in p.steps], p.flops, p.naive_flops
        (['ab,bc->ac', 'ab,bc->ac'], 8000, 90000)
    """

    equation: Equation
    shapes: Shapes
    dtype: torch.dtype
    steps: tuple[Step, ...]
    flops: int
    peak_bytes: int
    seconds: float
    naive_flops: int
    device: str = field(default="cpu")

    @cached_property
    def value_shapes(self) -> Shapes:
        """The shape of every value: operands first, then the result of each step."""
        shapes = list(self.shapes)
        for step in self.steps:
            shapes.append(step.equation.output_shape([shapes[i] for i in step.operands]))
        return tuple(shapes)

    @property
    def path(self) -> tuple[tuple[int, ...], ...]:
        """The steps in opt_einsum's linear convention: positions in a list that shrinks."""
        alive = list(range(len(self.shapes)))
        path = []
        for i, step in enumerate(self.steps):
            chosen = tuple(sorted(alive.index(x) for x in step.operands))
            path.append(chosen)
            for position in reversed(chosen):
                del alive[position]
            alive.append(len(self.shapes) + i)
        return tuple(path)

    def __str__(self) -> str:
        shapes = ", ".join("x".join(map(str, s)) or "scalar" for s in self.shapes)
        lines = [
            f"{self.equation}  ({shapes}; {str(self.dtype).removeprefix('torch.')} on {self.device})",
            f"FLOPs {self.flops:.3e} (naive {self.naive_flops:.3e}), peak {_size(self.peak_bytes)}, "
            f"predicted {self.seconds * 1e6:,.1f} us",
        ]
        rows = [("value", "operands", "step", "kernel", "FLOPs", "bytes")]
        for i, step in enumerate(self.steps):
            operand_shapes = [self.value_shapes[x] for x in step.operands]
            kernel = choose_kernel(step.equation, operand_shapes, self.dtype, self.device)
            rows.append(
                (
                    str(len(self.shapes) + i),
                    ", ".join(map(str, step.operands)),
                    str(step.equation),
                    kernel.name,
                    f"{kernel.cost.flops:.3e}",
                    _size(kernel.cost.bytes),
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for row in rows:
            lines.append("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip())
        return "\n".join(lines)

    def to_text(self) -> str:
        """The plan as one line of JSON, which :meth:`from_text` reads."""
        return json.dumps(
            {
                "equation": [self.equation.inputs, self.equation.output],
                "shapes": self.shapes,
                "dtype": str(self.dtype).removeprefix("torch."),
                "device": self.device,
                "steps": [[s.operands, s.equation.inputs, s.equation.output] for s in self.steps],
                "flops": self.flops,
                "peak_bytes": self.peak_bytes,
                "seconds": self.seconds,
                "naive_flops": self.naive_flops,
            }
        )

    @classmethod
    def from_text(cls, text: str) -> Plan:
        """Read what :meth:`to_text` wrote.

        Raises:
            PlanError: the text isn't that of a plan.
        """
        try:
            data = json.loads(text)
            inputs, output = data["equation"]
            return cls(
                equation=_equation(inputs, output),
                shapes=tuple(map(tuple, data["shapes"])),
                dtype=getattr(torch, data["dtype"]),
                steps=tuple(
                    Step(tuple(operands), _equation(step_inputs, step_output))
                    for operands, step_inputs, step_output in data["steps"]
                ),
                flops=data["flops"],
                peak_bytes=data["peak_bytes"],
                seconds=data["seconds"],
                naive_flops=data["naive_flops"],
                device=data["device"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"this isn't the text of a plan: {error}") from error


def plan(
    equation: Equation,
    shapes: Sequence[Sequence[int]],
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    optimize: Any = "auto",
    candidates: Sequence[Path] = (),
    constants: Sequence[int] = (),
) -> Plan:
    """Order a contraction's operands into pairwise steps.

    Args:
        equation: what to contract.
        shapes: the shape of each operand.
        dtype: of the operands.
        device: where it is computed.
        optimize: ``"auto"`` searches for the least predicted time. Other names are opt_einsum's
            strategies (``"greedy"``, ``"optimal"``, ``"dp"``, ``"auto-hq"``, ...). A list of tuples is a
            path in opt_einsum's convention. An opt_einsum PathOptimizer or a cotengra optimizer is asked
            for its path, a cotengra ContractionTree gives its own.
        candidates: further paths that ``"auto"`` considers, by linear or single-assignment numbers.
        constants: operands that never change: what depends on them alone is computed once, and so is free.

    Returns:
        The plan. It is cached.

    Raises:
        OperandError: shapes that don't fit the equation.
        PlanError: a path that doesn't contract all operands, an unknown strategy.

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
    if isinstance(frozen, (str, tuple)):
        return _cached_plan(*key, frozen, extra, tuple(constants), torch.get_num_threads())
    return _plan(*key, frozen, extra, tuple(constants))


@lru_cache(maxsize=4096)
def _cached_plan(
    equation: Equation,
    shapes: Shapes,
    dtype: torch.dtype,
    device: str,
    optimize: Any,
    candidates: tuple[Any, ...],
    constants: tuple[int, ...],
    threads: int,
) -> Plan:
    return _plan(equation, shapes, dtype, device, optimize, candidates, constants)


def _plan(
    equation: Equation,
    shapes: Shapes,
    dtype: torch.dtype,
    device: str,
    optimize: Any,
    candidates: tuple[Any, ...],
    constants: tuple[int, ...],
) -> Plan:
    count = len(shapes)
    if count <= 2 and isinstance(optimize, str):
        paths: list[list[tuple[int, ...]]] = [[tuple(range(count))]]
    elif optimize == "auto":
        paths = find_paths(equation, shapes, dtype, device, constants)
        for path in candidates:
            paths += paths_from(equation, shapes, path)
    else:
        paths = paths_from(equation, shapes, optimize)
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
            options += [_reordered(*options[0], count + i, order) for order in _natural_orders(step.equation)]
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


def _natural_orders(equation: Equation) -> list[tuple[int, ...]]:
    a, b = equation.inputs
    batch = tuple(x for x in equation.output if x in a and x in b)
    rows = tuple(x for x in equation.output if x in a and x not in b)
    columns = tuple(x for x in equation.output if x in b and x not in a)
    orders = [batch + rows + columns, batch + columns + rows]
    if not batch:
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


def _equation(inputs: Sequence[Sequence[int]], output: Sequence[int]) -> Equation:
    return Equation(tuple(map(tuple, inputs)), tuple(output))


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
