"""The schedule of directional derivatives, derived from the schedule of a contraction.

Every value that depends on a direction gets a tangent beside it: of a product, the sum over its factors of
the product with one factor replaced by its tangent. These are contractions again, so that gradients of
directional derivatives, which second derivatives are, come from the schedule of gradients of this one.
"""

from __future__ import annotations

from collections.abc import Sequence

from .liveness import needed, with_frees
from .schedule import Allocate, Contract, Loop, Schedule, Statement

__all__ = ["tangent"]


def tangent(schedule: Schedule, moving: Sequence[bool]) -> Schedule:
    """The schedule that computes the derivative of a contraction over real numbers in a direction.

    Args:
        schedule: of a contraction.
        moving: for each operand whether it has a part in the direction; one has.

    Returns:
        A schedule whose operands are those of the contraction, then the direction: of each operand that is
        moving its tangent. Its output is the tangent of the result.

    Example:
        >>> lines = Allocate(2), Contract(2, (0, 1))
        >>> print(tangent(Schedule(((0, 1), (1, 2), (0, 2)), (4, 6, 5), 2, (2,), lines), (True, True)))
        0 [ab], 1 [bc], 2 [ab], 3 [bc] -> 5 [ac]; a 4, b 6, c 5
        allocate 5 [ac]
        5 = 2 * 1
        5 += 0 * 3
    """
    return _Tangents(schedule, moving).schedule()


class _Tangents:
    """The values of the contraction have new numbers: there are more operands.

    Attributes:
        number: of every value of the contraction.
        change: the tangent of a value of the contraction.
        labels: of all new values.
    """

    def __init__(self, schedule: Schedule, moving: Sequence[bool]) -> None:
        self.forward = schedule
        count = schedule.count
        self.number = {value: value for value in range(count)}
        self.change: dict[int, int] = {}
        self.labels = [*schedule.labels[:count]]
        for value in range(count):
            if moving[value]:
                self.change[value] = self._new(value)
        self.count = len(self.labels)

    def schedule(self) -> Schedule:
        (root,) = self.forward.outputs
        self._follow(self.forward.statements)
        lines = self.lines(self.forward.statements)
        outputs = (self.change[root],)
        kept = with_frees(needed(lines, outputs), outputs)
        return Schedule(tuple(self.labels), self.forward.sizes, self.count, outputs, tuple(kept))

    def lines(self, statements: Sequence[Statement]) -> list[Statement]:
        """The lines, and those that compute tangents."""
        made: list[Statement] = []
        for line in statements:
            match line:
                case Allocate(value, filled):
                    made.append(Allocate(self.number[value], filled))
                    if value in self.change:
                        made.append(Allocate(self.change[value], filled))
                case Contract(target, operands, accumulate):
                    values = [self.number[x] for x in operands]
                    made.append(Contract(self.number[target], tuple(values), accumulate))
                    for position, operand in enumerate(operands):
                        if operand in self.change:
                            changed = tuple(
                                self.change[operand] if i == position else x for i, x in enumerate(values)
                            )
                            made.append(Contract(self.change[target], changed, accumulate))
                            accumulate = True
                case Loop(label, block, body):
                    made.append(Loop(label, block, tuple(self.lines(body))))
        return made

    def _follow(self, statements: Sequence[Statement]) -> None:
        """Number all values, and the tangents of those that change."""
        for line in statements:
            if isinstance(line, Loop):
                self._follow(line.body)
            elif isinstance(line, Allocate):
                self.number[line.value] = self._new(line.value)
            elif isinstance(line, Contract):
                moves = any(x in self.change for x in line.operands)
                if moves and line.target not in self.change:
                    self.change[line.target] = self._new(line.target)

    def _new(self, value: int) -> int:
        self.labels.append(self.forward.labels[value])
        return len(self.labels) - 1
