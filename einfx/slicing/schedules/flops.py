"""How many multiplications and additions a schedule takes, told from the schedule alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ...options import Options
from .derivatives import is_linear
from .schedule import Adjoint, Contract, Loop, Schedule, Statement

__all__ = ["count_flops"]


def count_flops(program: Schedule, options: Options) -> int:
    """Multiplications and additions of a program, one of each for a term.

    Over semirings but the real numbers a gradient takes three times the contraction that it is of.

    Args:
        program: the schedule.
        options: over which semiring.

    Example:
        >>> from einfx.equation import Equation
        >>> from einfx.slicing.schedules.tree import ContractionTree, Cut, schedule
        >>> tree = ContractionTree(Equation.parse("ij,jk->ik"), (4, 600, 5), ((0, 1),))
        >>> count_flops(schedule(tree, [Cut(2, 1, 256)]), Options.read())
        24000
    """
    return sum(_line_flops(line, program, options, {}) for line in program.statements)


def _line_flops(line: Statement, program: Schedule, options: Options, blocks: dict[int, int]) -> int:
    if isinstance(line, Loop):
        inside = {**blocks, line.label: -(-program.sizes[line.label] // line.block)}
        return sum(_line_flops(inner, program, options, inside) for inner in line.body)
    if isinstance(line, Contract):
        return _terms(program, line.operands, line.target, blocks)
    if not isinstance(line, Adjoint):
        return 0
    if not is_linear(options):
        return 3 * _terms(program, line.operands, line.gradient, blocks)
    count = 0
    for position, mine in enumerate(line.gradients):
        if mine >= 0:
            others = [x for i, x in enumerate(line.operands) if i != position]
            count += _terms(program, (line.gradient, *others), mine, blocks)
    return count


def _terms(program: Schedule, operands: Sequence[int], target: int, blocks: dict[int, int]) -> int:
    """Multiplications and additions of one contraction in all blocks together."""
    labels = {label for value in operands for label in program.labels[value]}
    repeats = prod(count for label, count in blocks.items() if label not in labels)
    each = len(operands) - 1 + (not labels <= {*program.labels[target]})
    return repeats * prod(program.sizes[label] for label in labels) * max(each, 1)
