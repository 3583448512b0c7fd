"""Which lines of a program make what, which read it, and so which are needed and where buffers are freed."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .schedule import Adjoint, Allocate, Contract, Free, Loop, Statement

__all__ = ["allocated", "needed", "read", "with_frees", "written"]


def allocated(statements: Sequence[Statement]) -> list[int]:
    """The values that lines give a buffer, those inside of loops left out."""
    return [line.value for line in statements if isinstance(line, Allocate)]


def written(statements: Sequence[Statement]) -> set[int]:
    """The values that lines contract something into, inside of loops too."""
    found: set[int] = set()
    for line in statements:
        if isinstance(line, Contract):
            found.add(line.target)
        elif isinstance(line, Loop):
            found |= written(line.body)
    return found


def read(line: Statement) -> set[int]:
    """The values that a line reads, or adds to.

    Example:
        >>> sorted(read(Contract(2, (0, 1)))), sorted(read(Contract(2, (0, 1), accumulate=True)))
        ([0, 1], [0, 1])
        >>> sorted(read(Adjoint(-1, (0, 1), 3, (4, -1))))
        [1, 3, 4]
    """
    if isinstance(line, Contract):
        return {*line.operands}
    if isinstance(line, Loop):
        return set().union(*map(read, line.body))
    if not isinstance(line, Adjoint):
        return set()
    found = {value for value in (line.target, line.gradient, *line.gradients) if value >= 0}
    for position, operand in enumerate(line.operands):
        # An operand is read for the gradients of the others, or, with the result, for its own.
        others = [x for i, x in enumerate(line.gradients) if i != position]
        if line.target >= 0 or any(x >= 0 for x in others):
            found.add(operand)
    return found


def needed(statements: Sequence[Statement], outputs: Collection[int]) -> list[Statement]:
    """The lines without those that make what nothing reads."""
    useful = {*outputs}
    makers: dict[int, list[int]] = {}
    waiting = [*outputs]

    def gather(lines: Sequence[Statement]) -> None:
        for line in lines:
            if isinstance(line, Loop):
                gather(line.body)
            elif isinstance(line, Contract):
                makers.setdefault(line.target, []).extend(line.operands)
            else:
                waiting.extend(read(line))

    gather(statements)
    useful.update(waiting)
    while waiting:
        for value in makers.pop(waiting.pop(), ()):
            if value not in useful:
                useful.add(value)
                waiting.append(value)
    return _making(statements, useful)


def _making(statements: Sequence[Statement], useful: Collection[int]) -> list[Statement]:
    kept: list[Statement] = []
    for line in statements:
        if isinstance(line, Loop):
            body = _making(line.body, useful)
            if body:
                kept.append(Loop(line.label, line.block, tuple(body)))
        elif isinstance(line, Adjoint) or _made(line) in useful:
            kept.append(line)
    return kept


def _made(line: Statement) -> int:
    assert not isinstance(line, Loop)
    return line.value if isinstance(line, (Allocate, Free)) else line.target


def with_frees(statements: Sequence[Statement], outputs: Collection[int]) -> list[Statement]:
    """The lines with every buffer made right before the first, and freed right after the last that uses it.

    Args:
        statements: lines of a program; where these free something is of no matter, nor where they make it
            but for whether that is inside of a loop.
        outputs: what is never freed.

    Example:
        >>> lines = [Allocate(1), Contract(1, (0,)), Allocate(2), Contract(2, (1,)), Free(1)]
        >>> with_frees([*lines[:-1], Contract(3, (2,)), Free(1)], (3,))[4:]
        [Free(value=1), Contract(target=3, operands=(2,), accumulate=False), Free(value=2)]
    """
    return _freed(statements, outputs)[0]


def _freed(statements: Sequence[Statement], outputs: Collection[int]) -> tuple[list[Statement], set[int]]:
    """The lines, and the values that they use."""
    lines: list[Statement] = []
    used: list[set[int]] = []
    made: dict[int, Allocate] = {}
    for line in statements:
        if isinstance(line, Loop):
            body, inside = _freed(line.body, outputs)
            lines.append(Loop(line.label, line.block, tuple(body)))
            used.append(inside)
        elif isinstance(line, Allocate) and line.value not in outputs:
            made[line.value] = line
        elif not isinstance(line, Free):
            lines.append(line)
            used.append(_used(line))
    last = {value: place for place, values in enumerate(used) for value in values}
    result: list[Statement] = []
    waiting = dict(made)
    for place, (line, values) in enumerate(zip(lines, used, strict=True)):
        result += [waiting.pop(value) for value in sorted(values & waiting.keys())]
        result.append(line)
        result += [Free(value) for value in sorted(values & made.keys()) if last[value] == place]
    return result, set().union(*used)


def _used(line: Statement) -> set[int]:
    if isinstance(line, Allocate):
        return {line.value}
    return read(line) | ({line.target} if isinstance(line, Contract) else set())
