"""The schedule of gradients, derived from the schedule of a contraction.

One sweep gives the gradients of all operands. What the contraction made on its way is made again, block by
block, and a block's gradients are taken before the next block is looked at: nothing but operands and result
need be kept from the one to the other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .schedule import Adjoint, Allocate, Contract, Free, Loop, Schedule, Statement

__all__ = ["adjoint"]


def adjoint(schedule: Schedule, wanted: Sequence[bool], needs_results: bool = False) -> Schedule:
    """The schedule that computes gradients.

    Args:
        schedule: of a contraction.
        wanted: for each operand whether its gradient is computed.
        needs_results: whether a gradient is told from what was contracted together with its result, as over
            all semirings but the real numbers.

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
    return _Sweep(schedule, wanted, needs_results).schedule()


class _Sweep:
    def __init__(self, schedule: Schedule, wanted: Sequence[bool], needs_results: bool) -> None:
        self.forward, self.wanted, self.needs_results = schedule, wanted, needs_results
        count, (root,) = schedule.count, schedule.outputs
        # Values get new numbers: operands, the gradient of the result, the result, intermediates, gradients.
        self.number = {value: value for value in range(count)}
        self.gradient = {root: count}
        self.labels = [*schedule.labels[:count], schedule.labels[root]]
        if needs_results:
            self.number[root] = self._new(root)
        self.count = len(self.labels)
        self.depends = self._dependent()
        self.outputs: list[int] = []
        for value in range(count):
            if wanted[value]:
                self.gradient[value] = self._new(value)
                self.outputs.append(self.gradient[value])
        self.root = root

    def _new(self, value: int) -> int:
        self.labels.append(self.forward.labels[value])
        return len(self.labels) - 1

    def _dependent(self) -> set[int]:
        """The values whose gradients are needed."""
        found = {value for value in range(self.forward.count) if self.wanted[value]}
        waiting = [*self.forward.statements]
        while waiting:
            line = waiting.pop(0)
            if isinstance(line, Loop):
                waiting = [*line.body, *waiting]
            elif isinstance(line, Contract) and found.intersection(line.operands):
                found.add(line.target)
        return found

    def schedule(self) -> Schedule:
        lines: list[Statement] = [Allocate(value, gradient=True) for value in self.outputs]
        lines += self._swept(self.forward.statements, {self.root})
        kept = _needed(lines, self.outputs)
        return Schedule(tuple(self.labels), self.forward.sizes, self.count, tuple(self.outputs), tuple(kept))

    def _swept(self, statements: Sequence[Statement], outside: set[int]) -> list[Statement]:
        """The lines again, for what is made in them, and then the gradients, last line first."""
        own = {line.value for line in statements if isinstance(line, Allocate)} - outside
        for value in sorted(own):
            self.number[value] = self._new(value)
            if value in self.depends:
                self.gradient[value] = self._new(value)
        again = self._again(statements, own)
        back: list[Statement] = []
        for line in reversed(statements):
            if isinstance(line, Contract) and line.target in self.depends:
                back.append(self._adjoint(line))
            elif isinstance(line, Loop) and self._touches(line):
                back.append(Loop(line.label, line.block, tuple(self._swept(line.body, outside | own))))
            elif isinstance(line, Free) and line.value in own and line.value in self.depends:
                back.append(Allocate(self.gradient[line.value], gradient=True))
            elif isinstance(line, Allocate) and line.value in own:
                if self.needs_results:
                    back.append(Free(self.number[line.value]))
                if line.value in self.depends:
                    back.append(Free(self.gradient[line.value]))
            if not self.needs_results:
                # Each value goes into one other; how it came about doesn't ask what it was.
                back += [Free(self.number[value]) for value in sorted(own & _operands([line]))]
        return [*again, *back]

    def _again(self, statements: Sequence[Statement], own: set[int]) -> list[Statement]:
        """The lines that make values of one's own, without their ends."""
        lines: list[Statement] = []
        for line in statements:
            if isinstance(line, Allocate) and line.value in own:
                lines.append(Allocate(self.number[line.value], line.filled))
            elif isinstance(line, Contract) and line.target in own:
                operands = tuple(self.number[x] for x in line.operands)
                lines.append(Contract(self.number[line.target], operands, line.accumulate))
            elif isinstance(line, Loop) and own.intersection(_written(line.body)):
                lines.append(Loop(line.label, line.block, tuple(self._renamed(line.body))))
        return lines

    def _renamed(self, statements: Sequence[Statement]) -> list[Statement]:
        """The lines of a loop under the new numbers of their values."""
        for line in statements:
            if isinstance(line, Allocate):
                self.number[line.value] = self._new(line.value)
        lines: list[Statement] = []
        for line in statements:
            if isinstance(line, Loop):
                lines.append(Loop(line.label, line.block, tuple(self._renamed(line.body))))
            elif isinstance(line, Allocate):
                lines.append(Allocate(self.number[line.value], line.filled))
            elif isinstance(line, Free):
                lines.append(Free(self.number[line.value]))
            elif isinstance(line, Contract):
                operands = tuple(self.number[x] for x in line.operands)
                lines.append(Contract(self.number[line.target], operands, line.accumulate))
        return lines

    def _touches(self, loop: Loop) -> bool:
        return any(value in self.depends for value in _written(loop.body))

    def _adjoint(self, line: Contract) -> Adjoint:
        result = self.number.get(line.target, -1) if self.needs_results else -1
        operands = tuple(self.number[x] for x in line.operands)
        gradients = tuple(self.gradient[x] if x in self.depends else -1 for x in line.operands)
        return Adjoint(result, operands, self.gradient[line.target], gradients)


def _written(statements: Sequence[Statement]) -> set[int]:
    found: set[int] = set()
    for line in statements:
        if isinstance(line, Contract):
            found.add(line.target)
        elif isinstance(line, Loop):
            found |= _written(line.body)
    return found


def _operands(statements: Sequence[Statement]) -> set[int]:
    found: set[int] = set()
    for line in statements:
        if isinstance(line, Contract):
            found.update(line.operands)
        elif isinstance(line, Loop):
            found |= _operands(line.body)
    return found


def _needed(statements: Sequence[Statement], outputs: Sequence[int]) -> list[Statement]:
    """The lines without those that make what nothing reads."""
    while True:
        read = {*outputs} | _read(statements)
        kept = _without(statements, read)
        if kept == list(statements):
            return kept
        statements = kept


def _read(statements: Sequence[Statement]) -> set[int]:
    found: set[int] = set()
    for line in statements:
        if isinstance(line, Contract):
            found.update(line.operands)
        elif isinstance(line, Adjoint):
            found.update((line.target, line.gradient, *line.gradients))
            # An operand is read for the gradients of the others, or, with the result, for its own.
            for position, operand in enumerate(line.operands):
                others = [x for i, x in enumerate(line.gradients) if i != position]
                if line.target >= 0 or any(x >= 0 for x in others):
                    found.add(operand)
        elif isinstance(line, Loop):
            found |= _read(line.body)
    return found


def _made(line: Allocate | Free | Contract) -> int:
    return line.target if isinstance(line, Contract) else line.value


def _without(statements: Sequence[Statement], read: Collection[int]) -> list[Statement]:
    kept: list[Statement] = []
    for line in statements:
        if isinstance(line, Loop):
            body = _without(line.body, read)
            if body:
                kept.append(Loop(line.label, line.block, tuple(body)))
        elif isinstance(line, Adjoint) or _made(line) in read:
            kept.append(line)
    return kept
