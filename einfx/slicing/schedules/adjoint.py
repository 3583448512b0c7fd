"""The schedule of gradients, derived from the schedule of a contraction.

One sweep gives the gradients of all operands. What the contraction made on its way is made again, block by
block, and a block's gradients are taken before the next block is looked at: nothing but operands and result
need be kept from the one to the other. A loop over a single block is a stage: its lines stand where the loop
stood, and what is made in it is made again for its gradients.

Of every list of lines, first what it makes is made again (:meth:`_Sweep.again`); then its lines are gone
through from the last to the first, each turned into what passes gradients on (:meth:`_Sweep.back`). Lines
that make what nothing reads are left out, and buffers are freed where they were read last, by
:mod:`.liveness`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .liveness import allocated, needed, with_frees
from .schedule import Adjoint, Allocate, Contract, Free, Loop, Schedule, Statement

__all__ = ["adjoint"]


def adjoint(
    schedule: Schedule,
    wanted: Sequence[bool],
    needs_results: bool = False,
    *,
    constant: Collection[int] = (),
    consumed: bool = False,
) -> Schedule:
    """The schedule that computes gradients.

    Args:
        schedule: of a contraction.
        wanted: for each operand whether its gradient is computed.
        needs_results: whether a gradient is told from what was contracted together with its result, as over
            all semirings but the real numbers.
        constant: labels of the result along which its gradient is the same, and which it therefore lacks.
        consumed: whether lines that pass a gradient on use it up, as they do where a semiring selects: then
            that of the result is copied where it is passed on block by block.

    Returns:
        A schedule whose operands are those of the contraction, the gradient of its result and, with
        ``needs_results``, the result; whose outputs are the gradients that are wanted.

    Example:
        >>> body = (Contract(2, (0, 1), True),)
        >>> forward = Schedule(
        ...     ((0, 1), (1, 2), (0, 2)), (4, 600, 5), 2, (2,), (Allocate(2, True), Loop(1, 256, body))
        ... )
        >>> print(adjoint(forward, (True, False)))
        0 [ab], 1 [bc], 2 [ac] -> 3 [ab]; a 4, b 600, c 5
        allocate 3 [ab] of zeros
        for b in blocks of 256:
            gradient 3 from 2 through 0 of 0 * 1
    """
    return _Sweep(schedule, wanted, needs_results, constant, consumed).schedule()


class _Sweep:
    """The values of the contraction have new numbers in the schedule of gradients.

    Attributes:
        number: of a value of the contraction, where it is made again.
        gradient: of a value of the contraction, the value that is its gradient.
        labels: of all new values.
        inside: what each loop of the contraction computes, by the loop's identity.
    """

    def __init__(
        self,
        schedule: Schedule,
        wanted: Sequence[bool],
        needs_results: bool,
        constant: Collection[int],
        consumed: bool,
    ) -> None:
        self.forward, self.needs_results, self.consumed = schedule, needs_results, consumed
        count, (self.root,) = schedule.count, schedule.outputs
        self.number = {value: value for value in range(count)}
        varying = tuple(label for label in schedule.labels[self.root] if label not in constant)
        self.labels = [*schedule.labels[:count], varying]
        self.gradient = {self.root: count}
        if needs_results:
            self.number[self.root] = self._new(self.root)
        self.count = len(self.labels)
        self.inside: dict[int, set[int]] = {}
        self.depends = self._dependent([value for value in range(count) if wanted[value]])
        self.outputs = []
        for value in range(count):
            if wanted[value]:
                self.gradient[value] = self._new(value)
                self.outputs.append(self.gradient[value])

    def schedule(self) -> Schedule:
        lines: list[Statement] = [Allocate(value, gradient=True) for value in self.outputs]
        lines += self.swept(self.forward.statements)
        kept = with_frees(needed(lines, self.outputs), self.outputs)
        return Schedule(tuple(self.labels), self.forward.sizes, self.count, tuple(self.outputs), tuple(kept))

    def swept(self, statements: Sequence[Statement]) -> list[Statement]:
        """The lines again, for what is made in them, and then the gradients, last line first."""
        own = [value for value in allocated(statements) if value != self.root]
        self._number(own)
        for value in own:
            if value in self.depends:
                self.gradient[value] = self._new(value)
        back: list[Statement] = []
        for line in reversed(statements):
            back += self.back(line, own)
        return [*self.again(statements, {*own}), *back]

    def again(self, statements: Sequence[Statement], wanted: set[int]) -> list[Statement]:
        """The lines that make values, and what is needed for these."""
        lines: list[Statement] = []
        for line in statements:
            match line:
                case Allocate(value, filled) if value in wanted:
                    lines.append(Allocate(self.number[value], filled))
                case Contract(target, operands, accumulate) if target in wanted:
                    values = tuple(self.number[x] for x in operands)
                    lines.append(Contract(self.number[target], values, accumulate))
                case Loop(label, block, body) if not wanted.isdisjoint(self._written(line)):
                    inner = allocated(body)
                    self._number(inner)
                    made = self.again(body, wanted.union(inner))
                    lines += made if self._is_stage(line) else [Loop(label, block, tuple(made))]
        return lines

    def back(self, line: Statement, own: Sequence[int]) -> list[Statement]:
        """What passes on the gradient that a line's value has got.

        Args:
            line: of the contraction.
            own: the values that are made in the list of lines that it stands in.
        """
        match line:
            case Free(value) if value in own and value in self.depends:
                return [Allocate(self.gradient[value], gradient=True)]
            case Contract(target, operands) if target in self.depends:
                result = self.number[target] if self.needs_results else -1
                values = tuple(self.number[x] for x in operands)
                gradients = tuple(self.gradient[x] if x in self.depends else -1 for x in operands)
                return [Adjoint(result, values, self.gradient[target], gradients)]
            case Loop(label, block, body) if not self.depends.isdisjoint(self._written(line)):
                if self._is_stage(line):
                    return self.swept(body)
                copied = self._consumes(line)
                incoming = self.gradient[self.root]
                if copied:
                    self.gradient[self.root] = self._new(self.root)
                loop = Loop(label, block, tuple(self.swept(body)))
                if not copied:
                    return [loop]
                copy, self.gradient[self.root] = self.gradient[self.root], incoming
                return [Allocate(copy), Contract(copy, (incoming,)), loop]
        return []

    def _is_stage(self, loop: Loop) -> bool:
        """Whether a loop has a single block; a negative length stands for one that isn't known yet."""
        return loop.block >= self.forward.sizes[loop.label]

    def _consumes(self, loop: Loop) -> bool:
        """Whether the gradient of the result is to be copied for a loop: it isn't one's own to use up."""
        given = self.gradient[self.root] < self.count
        summed = loop.label not in self.forward.labels[self.root]
        return self.consumed and given and summed and self.root in self._written(loop)

    def _written(self, loop: Loop) -> set[int]:
        """What a loop of the contraction computes."""
        known = self.inside.get(id(loop))
        if known is None:
            known = {line.target for line in loop.body if isinstance(line, Contract)}
            known.update(*(self._written(line) for line in loop.body if isinstance(line, Loop)))
            self.inside[id(loop)] = known
        return known

    def _dependent(self, wanted: Sequence[int]) -> set[int]:
        """The values whose gradients are needed."""
        found = {*wanted}
        waiting = [*reversed(self.forward.statements)]
        while waiting:
            line = waiting.pop()
            if isinstance(line, Loop):
                waiting += reversed(line.body)
            elif isinstance(line, Contract) and found.intersection(line.operands):
                found.add(line.target)
        return found

    def _number(self, values: Sequence[int]) -> None:
        for value in values:
            self.number[value] = self._new(value)

    def _new(self, value: int) -> int:
        self.labels.append(self.forward.labels[value])
        return len(self.labels) - 1
