"""What a schedule takes: bytes at every line, seconds, and where in one block of memory each buffer lies.

Buffers lie in one allocation, the arena, at places that are settled beforehand: what an allocator makes of
buffers that come and go in a loop may be several times of what is in use.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any, NamedTuple

import torch

from ...equation import Equation
from ...layout import contiguous_strides
from ...machine import item_bytes, machine_for
from ...options import REAL, Options
from ..schedules.loads import Buffered, buffered, dense_strides, loaded_options, stretch
from ..schedules.schedule import Adjoint, Allocate, Contract, Free, Load, Loop, Schedule, Statement, Store
from .gradients import gradient_work
from .into import Place, into
from .narrow import narrow_seconds
from .work import Work, line_options

__all__ = ["Arena", "Demand", "Moment", "arena", "demand", "work_of"]

ALIGNMENT = 64
"""Buffers start at multiples of so many bytes, as vector instructions like it."""

MOST_REARRANGED, MOST_ARRANGED = 600, 4000
"""Up to so many buffers are put in several orders into an arena; beyond the second number as they come."""

MOST_CHANGED, MOST_PLACED = 60, 4000
"""Orders that leave gaps are changed so often, or as often as so many buffers get a place meanwhile."""

LINE_SECONDS = 6e-6
"""What running a line costs apart from its arithmetic: up to 7 us for one that computes, less for others.
Small products take longer than their arithmetic tells: with 2 us, plans were chosen that ran slower.
"""


class Moment(NamedTuple):
    """What is in use while one line runs.

    Attributes:
        bytes: all of it.
        line: the line.
        alive: the values that have a buffer.
        looped: the labels that are in blocks, with the lengths of these.
        workspace_bytes: what the line itself takes, part of ``bytes``.
    """

    bytes: int
    line: Statement
    alive: tuple[int, ...]
    looped: tuple[tuple[int, int], ...]
    workspace_bytes: int


class Interval(NamedTuple):
    """From which line to which a buffer is in use; ``value`` is -1 - line for the workspace of a line."""

    value: int
    first: int
    last: int
    bytes: int


@dataclass
class Demand:
    """What a schedule takes.

    Attributes:
        peak_bytes: the most that is in use at a time: buffers, workspace and outputs.
        seconds: predicted time.
        flops: multiplications and additions.
        moments: every line, in the order of the program.
        intervals: every buffer but the outputs.
        output_bytes: of the outputs together, without those that lie elsewhere.
        apart_bytes: the most that torch allocates meanwhile, for one line.
        moved_bytes: what is loaded and stored.
        known: what earlier runs have decided about lines, which later ones need not decide again.
    """

    peak_bytes: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    moments: list[Moment] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)
    output_bytes: int = 0
    apart_bytes: int = 0
    moved_bytes: float = 0.0
    known: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def arena(self) -> Arena:
        """Where every buffer lies."""
        return arena(self.intervals)


def demand(
    schedule: Schedule,
    dtype: torch.dtype,
    device: str,
    options: Options = REAL,
    strides: Sequence[Sequence[int]] | None = None,
) -> Demand:
    """What a schedule takes.

    Args:
        schedule: the program.
        dtype: of all values.
        device: where it runs.
        options: over which semiring.
        strides: of the operands, in elements; contiguous where None.

    Example:
        >>> from einfx.slicing.schedules.tree import ContractionTree, Cut
        >>> from einfx.slicing.schedules.tree import schedule as program
        >>> tree = ContractionTree(Equation.parse("ij,jk,kl->il"), (80, 8, 80, 8), ((0, 1), (3, 2)))
        >>> whole = demand(program(tree), torch.float32, "cpu").peak_bytes
        >>> whole, demand(program(tree, [Cut(4, 0, 10)]), torch.float32, "cpu").peak_bytes
        (28160, 5760)
    """
    walk = _Walk(schedule, dtype, device, loaded_options(schedule, options))
    places = {}
    for value in range(schedule.count):
        shape = schedule.shape(value)
        own = contiguous_strides(shape) if strides is None else tuple(strides[value])
        places[value] = Place(shape, own)
    walk.run(schedule.statements, places, {}, 1.0)
    found = walk.found
    found.seconds = max(found.seconds, walk.meanwhile) + walk.waited
    here = [value for value in schedule.outputs if value not in walk.stored]
    found.output_bytes = sum(walk.item * prod(schedule.shape(value)) for value in here)
    found.peak_bytes = max([moment.bytes for moment in found.moments], default=found.output_bytes)
    return found


class _Walk:
    def __init__(self, schedule: Schedule, dtype: torch.dtype, device: str, options: Options) -> None:
        self.schedule, self.dtype, self.device, self.options = schedule, dtype, device, options
        self.item = item_bytes(dtype)
        self.found = Demand()
        self.alive: dict[int, int] = {}
        self.started: dict[int, int] = {}
        # Seconds of copies while something is computed, and of those that are waited for.
        self.meanwhile = self.waited = 0.0
        self.stored = schedule.stored
        self.twice: dict[int, list[Buffered]] = {}
        if schedule.loaded or self.stored:
            for buffer in buffered(schedule):
                self.twice.setdefault(id(buffer.loop), []).append(buffer)
        self.doubled = {buffer.value for group in self.twice.values() for buffer in group}

    def run(
        self,
        statements: Sequence[Statement],
        places: dict[int, Place],
        blocks: Mapping[int, int],
        times: float,
    ) -> None:
        for line in statements:
            work = Work()
            self.found.seconds += LINE_SECONDS * times
            if isinstance(line, Loop):
                self._loop(line, places, blocks, times)
                continue
            if isinstance(line, Allocate):
                shape = self.schedule.shape(line.value, blocks)
                places[line.value] = Place(shape, contiguous_strides(shape))
                if line.value not in self.doubled:
                    self.alive[line.value] = 0 if line.value in self.stored else self.item * prod(shape)
                    self.started[line.value] = len(self.found.moments)
                if line.filled or line.gradient:
                    self.found.seconds += times * machine_for(self.device).stream(self.item * prod(shape))
            elif isinstance(line, Load):
                source = places[line.source]
                places[line.target] = Place(source.shape, dense_strides(source.shape, source.strides))
                side = self.item * stretch(source.shape, source.strides)
                self._transfer(line.target, places, times, side)
            elif isinstance(line, Store):
                self._transfer(line.source, places, times)
            elif isinstance(line, (Contract, Adjoint)):
                work = work_of(line, self.schedule, places, self.dtype, self.device, self.options)
                self.found.seconds += times * work.seconds
                self.found.flops += times * work.flops
            beside = work.inside + work.apart
            total = sum(self.alive.values()) + beside
            self.found.moments.append(Moment(total, line, tuple(self.alive), tuple(blocks.items()), beside))
            self.found.apart_bytes = max(self.found.apart_bytes, work.apart)
            if work.inside:
                here = len(self.found.moments) - 1
                self.found.intervals.append(Interval(-1 - here, here, here, work.inside))
            if isinstance(line, Free):
                if line.value not in self.doubled:
                    self._end(line.value)
                del places[line.value]

    def _loop(self, line: Loop, places: Mapping[int, Place], blocks: Mapping[int, int], times: float) -> None:
        size, label = self.schedule.sizes[line.label], line.label
        inside = dict(places)
        for value, place in places.items():
            labels = self.schedule.labels[value]
            if label in labels:
                dim = labels.index(label)
                shape = (*place.shape[:dim], min(line.block, size), *place.shape[dim + 1 :])
                inside[value] = Place(shape, place.strides)
        twice = self.twice.get(id(line), ())
        for buffer in twice:
            sizes = self.schedule.sizes
            lengths = {outer.label: min(outer.block, sizes[outer.label]) for outer in buffer.around}
            aligned = -(-self.item * prod(self.schedule.shape(buffer.value, lengths)) // ALIGNMENT)
            self.alive[buffer.value] = 2 * ALIGNMENT * aligned
            self.started[buffer.value] = len(self.found.moments)
        self.run(
            line.body, inside, {**blocks, label: min(line.block, size)}, times * max(size / line.block, 1)
        )
        for buffer in twice:
            self._end(buffer.value)

    def _transfer(
        self, value: int, places: Mapping[int, Place], times: float, side: int | None = None
    ) -> None:
        """Count a copy to or from elsewhere; the first of many, and one that is alone, is waited for."""
        moved = self.item * prod(places[value].shape)
        seconds = machine_for(self.device).transfer(moved, side)
        self.found.moved_bytes += times * moved
        if value in self.doubled:
            self.meanwhile += (times - 1) * seconds
        self.waited += seconds

    def _end(self, value: int) -> None:
        if value not in self.schedule.outputs:
            last = len(self.found.moments) - 1
            self.found.intervals.append(Interval(value, self.started[value], last, self.alive[value]))
        del self.alive[value]


def work_of(
    line: Contract | Adjoint,
    schedule: Schedule,
    places: Mapping[int, Place],
    dtype: torch.dtype,
    device: str,
    options: Options,
) -> Work:
    """What a line takes beside buffers.

    Args:
        line: one that contracts.
        schedule: that the line is part of.
        places: of the values that it reads and writes.
        dtype: of its values.
        device: where it runs.
        options: over which semiring.
    """
    item = item_bytes(dtype)
    if isinstance(line, Adjoint):
        work = gradient_work(line, schedule, places, dtype, device, options)
        # Gradients are read and written.
        reached = [*line.operands, line.gradient, *[x for x in line.gradients if x >= 0] * 2]
    else:
        labels = schedule.labels
        equation = Equation(tuple(labels[x] for x in line.operands), labels[line.target])
        operands = [places[x] for x in line.operands]
        own = line_options(options, line.operands)
        work = Work.of(into(equation, operands, places[line.target], line.accumulate, dtype, device, own))
        reached = [*line.operands, *(line.target,) * (1 + line.accumulate)]
    beside = sum([narrow_seconds(places[x], item, device) for x in reached if x in places])
    return work._replace(seconds=work.seconds + beside) if beside else work


class Arena(NamedTuple):
    """Where buffers lie.

    Attributes:
        bytes: the size of the arena.
        offsets: where each value starts; at -1 - line the workspace of a line.
        workspaces: how long the workspace of each line is.
    """

    bytes: int
    offsets: Mapping[int, int]
    workspaces: Mapping[int, int]


def arena(intervals: Sequence[Interval]) -> Arena:
    """Give every buffer a place that no other uses at the same time, as low as it can be.

    Those that are given one first leave no gaps: large ones, or those that are large for long, or those that
    are there for long. Where each of these orders leaves gaps they are changed, step by step. Whichever needs
    least is taken. Very many get theirs in the order in which they come, as each then only has to be compared
    with those that are there.

    Example:
        >>> arena([Interval(0, 0, 3, 640), Interval(1, 1, 2, 64), Interval(2, 4, 5, 100)])
        Arena(bytes=704, offsets={0: 0, 2: 0, 1: 640}, workspaces={})
    """
    workspaces = {-1 - x.value: x.bytes for x in intervals if x.value < 0}
    if len(intervals) > MOST_ARRANGED:
        return Arena(*_placed_in_turn(intervals), workspaces)
    least = _most_at_once(intervals)
    best: tuple[int, dict[int, int]] | None = None
    orders = [sorted(intervals, key=x) for x in _ORDERS[: None if len(intervals) <= MOST_REARRANGED else 1]]
    for changes in (0, min(MOST_CHANGED, MOST_PLACED // max(len(intervals), 1))):
        for order in orders:
            for _ in range(max(changes, 1)):
                found = _placed(order)
                if best is None or found[0] < best[0]:
                    best = found
                if best[0] <= least:
                    return Arena(*best, workspaces)
                # What ends highest gets its place first then: all is free below it.
                ends = [found[1][x.value] + _aligned(x.bytes) for x in order]
                highest = ends.index(max(ends))
                order = [order[highest], *order[:highest], *order[highest + 1 :]]
    assert best is not None
    return Arena(*best, workspaces)


def _length(interval: Interval) -> int:
    return interval.last - interval.first + 1


_ORDERS: tuple[Callable[[Interval], tuple[int, int]], ...] = (
    lambda x: (-x.bytes, x.first),
    lambda x: (-x.bytes * _length(x), x.first),
    lambda x: (-_length(x), -x.bytes),
)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _most_at_once(intervals: Sequence[Interval]) -> int:
    """The bytes that no arena can do without."""
    changes: dict[int, int] = {}
    for interval in intervals:
        size = _aligned(interval.bytes)
        changes[interval.first] = changes.get(interval.first, 0) + size
        changes[interval.last + 1] = changes.get(interval.last + 1, 0) - size
    return max(accumulate([changes[line] for line in sorted(changes)]), default=0)


def _placed(intervals: Sequence[Interval]) -> tuple[int, dict[int, int]]:
    """The bytes of an arena, and where in it each buffer starts, which get their places one by one."""
    offsets: dict[int, int] = {}
    placed: list[tuple[int, int, int, int]] = []
    total = 0
    for value, first, last, bytes_ in intervals:
        size = _aligned(bytes_)
        beside = [(start, end) for start, end, since, until in placed if since <= last and first <= until]
        beside.sort()
        offset = 0
        for start, end in beside:
            if start - offset >= size:
                break
            offset = max(offset, end)
        placed.append((offset, offset + size, first, last))
        offsets[value] = offset
        total = max(total, offset + size)
    return total, offsets


def _placed_in_turn(intervals: Sequence[Interval]) -> tuple[int, dict[int, int]]:
    """The same for those that come first first, of these for those first that stay longest."""
    offsets: dict[int, int] = {}
    there: list[tuple[int, int, int]] = []
    total, now = 0, -1
    for value, first, last, bytes_ in sorted(intervals, key=lambda x: (x.first, -x.last, -x.bytes)):
        if first > now:
            there, now = [x for x in there if x[2] >= first], first
        size, offset = _aligned(bytes_), 0
        for start, end, _ in there:
            if start - offset >= size:
                break
            offset = max(offset, end)
        insort(there, (offset, offset + size, last))
        offsets[value] = offset
        total = max(total, offset + size)
    return total, offsets
