"""Where the blocks of operands and outputs that lie elsewhere are loaded and stored.

A schedule is written as if everything lay where is computed. Here loads are put into a finished one: each
block of an operand is copied inside the innermost loop that cuts one of its labels, or further out, where it
is then copied less often and takes more memory; an output is gathered block by block in the same way. While
one block is computed with, the next one is copied; so a buffer that is loaded in a loop is there twice.

    >>> from einfx.slicing.schedules.schedule import Allocate, Contract, Loop, Schedule
    >>> lines = Allocate(2, True), Loop(1, 256, (Contract(2, (0, 1), True),))
    >>> whole = Schedule(((0, 1), (1, 2), (0, 2)), (4, 600, 5), 2, (2,), lines)
    >>> print(place(whole, Remote((True, False), (True,))))
    0 [ab], 1 [bc] -> 2 [ac]; a 4, b 600, c 5
    allocate 2 [ac]
    allocate 4 [ac] of zeros
    for b in blocks of 256:
        allocate 3 [ab]
        load 3 from 0
        4 += 3 * 1
        free 3
    store 4 to 2
    free 4
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ...options import Options
from .liveness import read, written
from .schedule import Adjoint, Allocate, Contract, Free, Load, Loop, Schedule, Statement, Store

__all__ = [
    "HERE",
    "Buffered",
    "Remote",
    "buffered",
    "dense_strides",
    "depths",
    "loaded_options",
    "place",
    "stretch",
]

Path = tuple[int, ...]


@dataclass(frozen=True)
class Remote:
    """What lies elsewhere.

    Args:
        operands: for each operand of a schedule whether it does.
        outputs: for each output whether it does.
        partial: whether parts of sums are stored too, which takes less memory and copies more.
        whole: whether they never may be, as where outputs are kept in less precision than sums.
    """

    operands: tuple[bool, ...]
    outputs: tuple[bool, ...] = (False,)
    partial: bool = False
    whole: bool = False

    def __bool__(self) -> bool:
        return any(self.operands) or any(self.outputs)


class _Use(NamedTuple):
    """A line that reads an operand or writes an output: the loops that it's in, as positions, and itself."""

    path: Path
    loops: tuple[Loop, ...]
    position: int


HERE = Remote(())
"""Nothing lies elsewhere."""


def depths(schedule: Schedule, remote: Remote) -> dict[int, tuple[int, ...]]:
    """In how many loops each value that lies elsewhere may be loaded or stored, what takes the least first.

    Args:
        schedule: without loads.
        remote: what lies elsewhere.
    """
    found: dict[int, tuple[int, ...]] = {}
    for value, uses in _uses(schedule, remote).items():
        labels = schedule.labels[value]
        if value in schedule.outputs:
            inside = _common(uses)
            complete = _leading(inside, labels)
            useful = [i + 1 for i in range(complete, len(inside)) if inside[i].label in labels]
            found[value] = (useful[-1],) if remote.partial and useful else (complete,)
            continue
        deepest = max(_innermost(use.loops, labels) for use in uses)
        cutting = {
            i + 1
            for use in uses
            for i, loop in enumerate(use.loops)
            if loop.label in labels and i + 1 < deepest
        }
        found[value] = (deepest, *sorted(cutting, reverse=True), *([0] if deepest else []))
    return found


def place(schedule: Schedule, remote: Remote, chosen: Mapping[int, int] | None = None) -> Schedule:
    """Put loads and stores into a schedule.

    Args:
        schedule: without any.
        remote: what lies elsewhere.
        chosen: for values out of :func:`depths` one of the numbers of loops there; the first where missing.
    """
    return _Placing(schedule, remote, chosen or {}).placed()


def loaded_options(schedule: Schedule, options: Options) -> Options:
    """The options of a schedule whose linear operands are loaded: then what they are loaded into is linear.

    Example:
        >>> from einfx.slicing.schedules.schedule import Allocate
        >>> whole = Schedule(((0,), (0,), ()), (9,), 2, (2,), (Allocate(2, True), Contract(2, (0, 1), True)))
        >>> made = place(whole, Remote((False, True)))
        >>> loaded_options(made, Options.read("log", linear_operands=(1,))).linear_operands
        (1, 3)
    """
    if not options.linear_operands or not schedule.loaded:
        return options
    linear = options.linear_operands
    return options.linear(*linear, *(line.target for line in schedule.loads if line.source in linear))


class Buffered(NamedTuple):
    """A buffer that is there twice: while one is computed with, the other one is copied to or from.

    Attributes:
        value: whose it is.
        loop: as long as this loop runs.
        around: the loops around its allocation, outer ones first.
        load: whether it's loaded rather than stored.
    """

    value: int
    loop: Loop
    around: tuple[Loop, ...]
    load: bool


def buffered(schedule: Schedule) -> list[Buffered]:
    """The buffers that are there twice.

    A load looks ahead within the loop around it, and within the loops around that one as long as these do
    nothing else in a loop: there the first block of the next round is copied during the last one of this.
    """
    return list(_buffered(schedule.statements, ()))


def stretch(shape: Sequence[int], strides: Sequence[int]) -> int:
    """How many elements of a tensor lie side by side in memory, in whatever order.

    Example:
        >>> stretch((10, 40), (100, 1)), stretch((10, 100), (100, 1)), stretch((7, 3), (1, 7))
        (40, 1000, 21)
    """
    count = 1
    for step, size in sorted(zip(strides, shape, strict=True)):
        if size != 1:
            if step != count:
                break
            count *= size
    return count


def dense_strides(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """The strides, in elements, of a copy without gaps that keeps the order of dimensions in memory.

    Example:
        >>> dense_strides((2, 3, 4), (1, 1000, 10))
        (1, 8, 2)
    """
    made, step = [0] * len(shape), 1
    for dim in sorted(range(len(shape)), key=lambda dim: (strides[dim], shape[dim] != 1, -dim)):
        made[dim] = step
        step *= max(shape[dim], 1)
    return tuple(made)


def _buffered(statements: Sequence[Statement], around: tuple[Loop, ...]) -> Iterator[Buffered]:
    for line in statements:
        if isinstance(line, Loop):
            yield from _buffered(line.body, (*around, line))
        elif isinstance(line, (Load, Store)) and around:
            outer = len(around) - 1
            while outer > 0 and sum(isinstance(x, Loop) for x in around[outer - 1].body) == 1:
                outer -= 1
            value = line.target if isinstance(line, Load) else line.source
            yield Buffered(value, around[outer], around, isinstance(line, Load))


def _uses(schedule: Schedule, remote: Remote) -> dict[int, list[_Use]]:
    """The lines that read each operand, or write each output, that lies elsewhere."""
    apart = {value for value, there in enumerate(remote.operands) if there}
    apart.update(value for value, there in zip(schedule.outputs, remote.outputs, strict=True) if there)
    found: dict[int, list[_Use]] = {value: [] for value in sorted(apart)}

    def walk(statements: Sequence[Statement], path: Path, loops: tuple[Loop, ...]) -> None:
        for position, line in enumerate(statements):
            if isinstance(line, Loop):
                walk(line.body, (*path, position), (*loops, line))
            elif isinstance(line, (Contract, Adjoint)):
                for value in apart & (read(line) | written((line,))):
                    found[value].append(_Use(path, loops, position))

    walk(schedule.statements, (), ())
    return {value: uses for value, uses in found.items() if uses}


def _common(uses: Sequence[_Use]) -> tuple[Loop, ...]:
    """The loops that all of some lines are in."""
    first, *others = uses
    count = len(first.path)
    for use in others:
        while use.path[:count] != first.path[:count]:
            count -= 1
    return first.loops[:count]


def _leading(loops: Sequence[Loop], labels: Sequence[int]) -> int:
    """How many loops, from the outermost on, cut these labels and nothing else."""
    return next((i for i, loop in enumerate(loops) if loop.label not in labels), len(loops))


def _innermost(loops: Sequence[Loop], labels: Sequence[int]) -> int:
    """How many loops there are down to the innermost one that cuts one of these labels."""
    return max((i + 1 for i, loop in enumerate(loops) if loop.label in labels), default=0)


class _Placed(NamedTuple):
    """One buffer: its number, and between which lines of the body at ``path`` it is there."""

    number: int
    value: int
    path: Path
    first: int
    last: int
    loops: tuple[Loop, ...]


class _Placing:
    def __init__(self, schedule: Schedule, remote: Remote, chosen: Mapping[int, int]) -> None:
        self.schedule = schedule
        self.labels = [*schedule.labels]
        self.outputs = {value for value, there in zip(schedule.outputs, remote.outputs, strict=True) if there}
        self.buffers: dict[Path, list[_Placed]] = {}
        possible = depths(schedule, remote)
        for value, uses in _uses(schedule, remote).items():
            self._plan(value, uses, chosen.get(value, possible[value][0]))

    def _plan(self, value: int, uses: Sequence[_Use], depth: int) -> None:
        groups: dict[Path, list[_Use]] = {}
        for use in uses:
            here = depth
            if value not in self.outputs:
                here = min(depth, _innermost(use.loops, self.schedule.labels[value]))
            groups.setdefault(use.path[:here], []).append(use)
        for path, members in groups.items():
            lines = [use.path[len(path)] if len(use.path) > len(path) else use.position for use in members]
            loops = members[0].loops[: len(path)]
            placed = _Placed(len(self.labels), value, path, min(lines), max(lines), loops)
            self.labels.append(self.schedule.labels[value])
            self.buffers.setdefault(path, []).append(placed)

    def placed(self) -> Schedule:
        lines = self._body(self.schedule.statements, (), {})
        return replace(self.schedule, labels=tuple(self.labels), statements=tuple(lines))

    def _body(self, statements: Sequence[Statement], path: Path, names: Mapping[int, int]) -> list[Statement]:
        buffers = self.buffers.get(path, [])
        made: list[Statement] = []
        for position, line in enumerate(statements):
            for x in buffers:
                if x.first == position:
                    made += self._begun(x)
            here = {**names, **{x.value: x.number for x in buffers if x.first <= position <= x.last}}
            if isinstance(line, Loop):
                made.append(replace(line, body=tuple(self._body(line.body, (*path, position), here))))
            elif isinstance(line, Allocate) and line.value in self.outputs:
                made.append(self._elsewhere(line))
            else:
                made.append(_renamed(line, here))
            for x in buffers:
                if x.last == position:
                    made += self._ended(x)
        return made

    def _begun(self, x: _Placed) -> list[Statement]:
        if x.value not in self.outputs:
            return [Allocate(x.number), Load(x.number, x.value)]
        (own,) = [
            line for line in self.schedule.statements if isinstance(line, Allocate) and line.value == x.value
        ]
        return [replace(own, value=x.number)]

    def _ended(self, x: _Placed) -> list[Statement]:
        if x.value not in self.outputs:
            return [Free(x.number)]
        return [Store(x.value, x.number, self._is_partial(x)), Free(x.number)]

    def _is_partial(self, x: _Placed) -> bool:
        """Whether what is stored is a part of a sum."""
        return any(loop.label not in self.schedule.labels[x.value] for loop in x.loops)

    def _elsewhere(self, line: Allocate) -> Allocate:
        """The output itself, which starts as zeros where parts of sums are added to it."""
        partial = any(
            x.value == line.value and self._is_partial(x) for group in self.buffers.values() for x in group
        )
        return line if partial else Allocate(line.value)


def _renamed(line: Statement, names: Mapping[int, int]) -> Statement:
    if isinstance(line, Contract):
        operands = tuple(names.get(x, x) for x in line.operands)
        return Contract(names.get(line.target, line.target), operands, line.accumulate)
    if isinstance(line, Adjoint):
        return Adjoint(
            names.get(line.target, line.target),
            tuple(names.get(x, x) for x in line.operands),
            names.get(line.gradient, line.gradient),
            tuple(names.get(x, x) for x in line.gradients),
        )
    return line
