"""In which order the labels of intermediates lie, so that the steps that read them need fewer copies.

A GEMM writes batch, rows, columns, or batch, columns, rows; with one label as a batch over which an operand
is broadcast any of them comes first. What is best is seen from what a step and the one that reads its result
cost together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from .costs.cost import Kernel, choose_kernel
from .equation import Equation
from .layout import contiguous_strides
from .plans import Plan, Step

__all__ = ["arranged"]

MOST_ARRANGED = 16
"""Up to this many steps any label of a result may come first if that helps the step that reads it, ..."""

MOST_TRIED = 8
"""... and up to this many if it may help the one that makes it: for more, planning would take too long."""

_PRODUCTS = frozenset({"dot", "mv", "mm", "bmm"})


def arranged(plan: Plan) -> list[Step]:
    """The steps of a plan with the labels of intermediates in orders that spare copies and permutations.

    Example:
        The second step sums a and d, which are neighbours then:

        >>> import torch
        >>> steps = (Step((0, 1), Equation.parse("ab,cbd->acd")), Step((2, 3), Equation.parse("ad,acd->c")))
        >>> shapes = ((16, 24), (32, 24, 8), (16, 8))
        >>> p = Plan(Equation.parse("ab,cbd,ad->c"), shapes, torch.float32, steps, 0, 0, 0.0, 0)
        >>> [str(step.equation) for step in arranged(p)]
        ['ab,cbd->cad', 'ab,cab->c']
    """
    steps = list(plan.steps)
    count = len(plan.shapes)
    reader = {x: i for i, step in enumerate(steps) for x in step.operands}
    shapes, strides = list(plan.value_shapes), [contiguous_strides(s) for s in plan.value_shapes]

    def kernel(step: Step) -> Kernel:
        given = [shapes[x] for x in step.operands]
        laid = [strides[x] for x in step.operands]
        return choose_kernel(step.equation, given, plan.dtype, plan.device, strides=laid)

    for i, step in enumerate(steps):
        value = count + i
        if value not in reader or len(step.operands) != 2:
            strides[value] = kernel(step).strides
            continue
        read = steps[reader[value]]
        sizes = dict(zip(step.equation.output, shapes[value], strict=True))
        least, least_using = math.inf, math.inf
        smooth = rough = False
        best = step, read, shapes[value], strides[value]
        for order, common in _orders(step.equation, len(steps) <= MOST_ARRANGED):
            helpful = common or _is_grouped(order, step, read, value)
            if smooth and not common:
                break
            if not (helpful or (rough and len(steps) <= MOST_TRIED)):
                continue
            made, reading = step, read
            if order != step.equation.output:
                made, reading = _reordered(step, read, value, order)
            making = kernel(made)
            if making.cost.seconds + (0.0 if helpful else least_using) >= least:
                continue
            shapes[value], strides[value] = tuple([sizes[x] for x in order]), making.strides
            using = kernel(reading)
            least_using = min(least_using, using.cost.seconds)
            seconds = making.cost.seconds + using.cost.seconds
            if seconds < least:
                least, smooth = seconds, _is_smooth(making) and _is_smooth(using)
                rough = not _is_smooth(making)
                best = made, reading, shapes[value], strides[value]
        steps[i], steps[reader[value]], shapes[value], strides[value] = best
    return steps


def _is_smooth(kernel: Kernel) -> bool:
    """Whether a step is a product of matrices without copies, which no order of labels makes much faster."""
    return kernel.name in _PRODUCTS and not kernel.cost.workspace_bytes


def _is_grouped(order: tuple[int, ...], step: Step, reader: Step, value: int) -> bool:
    """Whether the labels that the reader of a value sums, keeps, or has in both operands, are neighbours."""
    place = reader.operands.index(value)
    name = dict(zip(step.equation.output, reader.equation.inputs[place], strict=True))
    other = reader.equation.inputs[1 - place] if len(reader.operands) == 2 else ()
    roles = [(name[x] in reader.equation.output, name[x] in other) for x in order]
    return len(set(roles)) == 1 + sum([x != y for x, y in pairwise(roles)])


def _orders(equation: Equation, thorough: bool) -> Iterator[tuple[tuple[int, ...], bool]]:
    """Orders for the labels of a result, the given one first, each with whether every GEMM may write it."""
    a, b = equation.inputs
    batch = tuple([x for x in equation.output if x in a and x in b])
    rows = tuple([x for x in equation.output if x in a and x not in b])
    columns = tuple([x for x in equation.output if x in b and x not in a])
    common = dict.fromkeys((equation.output, batch + rows + columns, batch + columns + rows))
    for order in common:
        yield order, True
    if not batch and thorough:
        for first in (*rows, *columns):
            order = (first, *[x for x in rows + columns if x != first])
            if order not in common:
                yield order, False


def _reordered(step: Step, reader: Step, value: int, order: tuple[int, ...]) -> tuple[Step, Step]:
    """Both steps with the labels of the value between them in another order."""
    positions = [step.equation.output.index(x) for x in order]
    inputs = [
        tuple([labels[p] for p in positions]) if x == value else labels
        for x, labels in zip(reader.operands, reader.equation.inputs, strict=True)
    ]
    return (
        Step(step.operands, Equation(step.equation.inputs, order)),
        Step(reader.operands, Equation(tuple(inputs), reader.equation.output)),
    )
