"""A schedule whose blocks may have any lengths, and what it takes for some of them.

A search asks what a program takes many times, often with the same loops and other blocks. A skeleton goes
through the program once; then a list of lengths is told in a few microseconds for each line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log, prod
from typing import NamedTuple

import torch

from ..layout import contiguous_strides
from ..machine import item_bytes, machine_for
from ..options import REAL, Options
from .gradients import Work
from .into import Place
from .memory import LINE_SECONDS, work_of
from .schedule import Adjoint, Allocate, Contract, Free, Loop, Schedule, Statement

__all__ = ["Held", "Skeleton", "Taken", "Works"]

Works = dict[tuple[object, ...], Work]
"""What lines take, remembered from one skeleton to the next."""


class Taken(NamedTuple):
    """What a schedule takes with blocks of some lengths.

    Attributes:
        bytes: the most that is in use at a time, outputs and workspace included.
        seconds: predicted time.
        over: the sum, over the lines that take more than a limit, of the logarithm of how many times more.
        moment: the line that takes the most.
    """

    bytes: int
    seconds: float
    over: float
    moment: int


class Held(NamedTuple):
    """A buffer, or the values of a line, at some moment.

    Attributes:
        value: of the schedule; -1 for the workspace of the line itself.
        bytes: its size.
        whole: the labels that it has in their whole length.
        cut: the numbers of the cuts that make it shorter.
        used: whether the line of that moment reads or writes it.
    """

    value: int
    bytes: int
    whole: tuple[int, ...]
    cut: tuple[int, ...]
    used: bool


class _Line(NamedTuple):
    """A line that contracts.

    Attributes:
        line: as it stands in the schedule.
        kind: what it has in common with other lines that take the same for the same places.
        values: those that it reads and writes, each with the index of its buffer and of the length of each
            of its dimensions.
        varying: the indices of lengths on which it depends.
        known: what it takes, by these lengths.
    """

    line: Contract | Adjoint
    kind: tuple[object, ...]
    values: tuple[tuple[int, int, tuple[int, ...]], ...]
    varying: tuple[int, ...]
    known: dict[tuple[int, ...], Work]


class _Event(NamedTuple):
    """A buffer that comes (1) or goes (-1), or a line that contracts (0)."""

    step: int
    buffer: int
    nest: int
    filled: bool
    line: _Line | None


class Skeleton:
    """A schedule in whose loops -1 - n in place of a length stands for the n-th cut.

    Args:
        schedule: the program, without loads and stores.
        labels: the label of every cut.
        dtype: of all values.
        device: where it runs.
        options: over which semiring.
        strides: of the operands, in elements; contiguous where None.
        works: what is known of lines already.

    Example:
        >>> from ..equation import Equation
        >>> from .tree import ContractionTree, Cut
        >>> from .tree import schedule as program
        >>> tree = ContractionTree(Equation.parse("ij,jk,kl->il"), (80, 8, 80, 8), ((0, 1), (3, 2)))
        >>> marked = program(tree, [Cut(4, 0, 10)], marked=True)
        >>> skeleton = Skeleton(marked, [0], torch.float32, "cpu")
        >>> [skeleton.take([block], 10000).bytes for block in (80, 10, 1)]
        [28160, 5760, 2880]
    """

    def __init__(
        self,
        schedule: Schedule,
        labels: Sequence[int],
        dtype: torch.dtype,
        device: str,
        options: Options = REAL,
        strides: Sequence[Sequence[int]] | None = None,
        works: Works | None = None,
    ) -> None:
        self.schedule, self.labels = schedule, labels
        self.dtype, self.device, self.options = dtype, device, options
        self.item, self.machine = item_bytes(dtype), machine_for(device)
        self.works: Works = {} if works is None else works
        # Lengths are those of all labels, and behind these of the blocks of all cuts.
        self.buffers: list[tuple[int, tuple[int, ...]]] = []
        self.strides: list[tuple[int, ...] | None] = []
        self.nests: list[tuple[int, int, int]] = []
        self.counts = [0]
        self.events: list[_Event] = []
        known: dict[int, tuple[int, tuple[int, ...]]] = {}
        for value in range(schedule.count):
            own = schedule.labels[value]
            known[value] = self._buffer(value, own)
            self.strides[-1] = (
                contiguous_strides(schedule.shape(value)) if strides is None else tuple(strides[value])
            )
        self._walk(schedule.statements, known, {}, 0)

    def _buffer(self, value: int, lengths: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        self.buffers.append((value, lengths))
        self.strides.append(None)
        return len(self.buffers) - 1, lengths

    def _walk(
        self,
        statements: Sequence[Statement],
        known: dict[int, tuple[int, tuple[int, ...]]],
        blocks: Mapping[int, int],
        nest: int,
    ) -> None:
        labels = self.schedule.labels
        self.counts[nest] += len(statements)
        for line in statements:
            if isinstance(line, Loop):
                length = len(self.schedule.sizes) - 1 - line.block
                self.nests.append((nest, line.label, length))
                self.counts.append(0)
                inside = {
                    value: (buffer, tuple([length if x == line.label else x for x in own]))
                    for value, (buffer, own) in known.items()
                }
                self._walk(line.body, inside, {**blocks, line.label: length}, len(self.nests))
            elif isinstance(line, Allocate):
                known[line.value] = self._buffer(
                    line.value, tuple([blocks.get(x, x) for x in labels[line.value]])
                )
                filled = line.filled or line.gradient
                self.events.append(_Event(1, known[line.value][0], nest, filled, None))
            elif isinstance(line, Free):
                self.events.append(_Event(-1, known.pop(line.value)[0], nest, False, None))
            elif isinstance(line, (Contract, Adjoint)):
                self.events.append(_Event(0, -1, nest, False, self._line(line, known)))

    def _line(self, line: Contract | Adjoint, known: Mapping[int, tuple[int, tuple[int, ...]]]) -> _Line:
        labels = self.schedule.labels
        if isinstance(line, Contract):
            used = (*line.operands, line.target)
            kind: tuple[object, ...] = (line.accumulate,)
        else:
            used = (*line.operands, line.target, line.gradient, *line.gradients)
            kind = (line.gradient < self.schedule.count,)
        used = tuple(x for x in used if x >= 0)
        kind += (type(line).__name__, *(labels[x] for x in used))
        if isinstance(line, Adjoint):
            kind += (line.target >= 0, *(x >= 0 for x in line.gradients))
        values = tuple((x, *known[x]) for x in used)
        lengths = {x for _, buffer, own in values for x in (*own, *self.buffers[buffer][1])}
        varying = tuple(sorted(x for x in lengths if x >= len(self.schedule.sizes)))
        return _Line(line, kind, values, varying, {})

    def lengths(self, blocks: Sequence[int]) -> list[int]:
        """Of all labels, and of the blocks of all cuts."""
        sizes = self.schedule.sizes
        return [*sizes, *[min(block, sizes[label]) for block, label in zip(blocks, self.labels, strict=True)]]

    def take(self, blocks: Sequence[int], limit: float) -> Taken:
        """What it takes.

        Args:
            blocks: the length of the blocks of every cut.
            limit: in bytes.
        """
        lengths = self.lengths(blocks)
        times = [1.0]
        for outer, label, length in self.nests:
            times.append(times[outer] * max(lengths[label] / lengths[length], 1.0))
        seconds = LINE_SECONDS * sum(map(float.__mul__, times, map(float, self.counts)))
        item, stream = self.item, self.machine.stream
        sizes = [item * prod([lengths[x] for x in own]) for _, own in self.buffers]
        now = most = moment = 0
        over = 0.0
        for number, (step, buffer, nest, filled, line) in enumerate(self.events):
            if line is None:
                now += step * sizes[buffer]
                if filled:
                    seconds += times[nest] * stream(sizes[buffer])
                if step < 0:
                    continue
                total = now
            else:
                key = tuple([lengths[x] for x in line.varying])
                work = line.known.get(key)
                if work is None:
                    work = line.known[key] = self._work(line, lengths)
                seconds += times[nest] * work.seconds
                total = now + work.inside + work.apart
            if total > limit:
                over += log(total / limit)
            if total > most:
                most, moment = total, number
        return Taken(most, seconds, over, moment)

    def _work(self, line: _Line, lengths: Sequence[int]) -> Work:
        places = {}
        for value, buffer, own in line.values:
            strides = self.strides[buffer]
            if strides is None:
                strides = contiguous_strides([lengths[x] for x in self.buffers[buffer][1]])
            places[value] = Place(tuple([lengths[x] for x in own]), strides)
        key = (line.kind, *places.values())
        known = self.works.get(key)
        if known is None:
            known = work_of(line.line, self.schedule, places, self.dtype, self.device, self.options)
            self.works[key] = known
        return known

    def held(self, blocks: Sequence[int], moment: int) -> list[Held]:
        """What is in use at some moment, the largest first: buffers, and the workspace of the line."""
        lengths = self.lengths(blocks)
        alive: dict[int, None] = {}
        for event in self.events[: moment + 1]:
            if event.step > 0:
                alive[event.buffer] = None
            elif event.step < 0:
                del alive[event.buffer]
        line = self.events[moment].line
        used = {buffer for _, buffer, _ in line.values} if line is not None else set()
        found = []
        for buffer in alive:
            value, own = self.buffers[buffer]
            if value not in self.schedule.outputs:
                size = self.item * prod([lengths[x] for x in own])
                found.append(self._held(value, size, own, buffer in used))
        if line is not None:
            work = line.known[tuple([lengths[x] for x in line.varying])]
            own = tuple(dict.fromkeys(x for _, _, lengths_of in line.values for x in lengths_of))
            found.append(self._held(-1, work.inside + work.apart, own, True))
        return sorted(found, key=lambda x: (-x.bytes, x.value))

    def _held(self, value: int, size: int, lengths: Sequence[int], used: bool) -> Held:
        count = len(self.schedule.sizes)
        whole = tuple(x for x in lengths if x < count and self.schedule.sizes[x] > 1)
        return Held(value, size, whole, tuple(x - count for x in lengths if x >= count), used)
