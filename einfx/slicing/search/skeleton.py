"""A schedule whose blocks may have any lengths, and what it takes for some of them.

A search asks what a program takes many times, often with the same loops and other blocks. A skeleton goes
through the program once; then a list of lengths is told in a few microseconds for each line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from math import log, prod
from operator import add, mul

import torch

from ...layout import contiguous_strides
from ...machine import item_bytes, machine_for
from ...options import REAL, Options
from ..running.into import Place
from ..running.memory import ALIGNMENT, LINE_SECONDS, work_of
from ..running.work import Work, line_options
from ..schedules.loads import Buffered, buffered, dense_strides, stretch
from ..schedules.schedule import Adjoint, Allocate, Contract, Free, Load, Loop, Schedule, Statement, Store
from .events import Buffer, Event, Held, Lengths, Line, Taken, Works

__all__ = ["Skeleton"]

_MUCH = 1 << 100
"""More bytes than anything takes."""


class Skeleton:
    """A schedule in whose loops -1 - n in place of a length stands for the n-th cut.

    Args:
        schedule: the program.
        labels: the label of every cut.
        dtype: of all values.
        device: where it runs.
        options: over which semiring.
        strides: of the operands, in elements; contiguous where None.
        works: what is known of lines already.

    Example:
        >>> from einfx.equation import Equation
        >>> from einfx.slicing.schedules.tree import ContractionTree, Cut
        >>> from einfx.slicing.schedules.tree import schedule as program
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
        self.works = Works() if works is None else works
        # Lengths are those of all labels, and behind these of the blocks of all cuts.
        self.buffers: list[Buffer] = []
        self.nests: list[tuple[int, int, int]] = []
        self.counts = [0]
        self.events: list[Event] = []
        self.given, self.stored = schedule.given, schedule.stored
        self.twice: dict[int, list[Buffered]] = {}
        if schedule.loaded or self.stored:
            for buffer in buffered(schedule):
                self.twice.setdefault(id(buffer.loop), []).append(buffer)
        self.doubled = {buffer.value for group in self.twice.values() for buffer in group}
        # The number of every value's buffer; what a value is long follows from the loops around a line.
        known: dict[int, int] = {}
        for value in range(schedule.count):
            own = contiguous_strides(schedule.shape(value)) if strides is None else tuple(strides[value])
            known[value] = self._new(Buffer(value, schedule.labels[value], own))
        self._walk(schedule.statements, known, {}, 0)
        self.copies = [i for i, event in enumerate(self.events) if event.line is None and not event.buffers]
        # What each event takes with the lengths that were asked for last.
        self._lengths: list[int] | None = None
        self._depending: dict[int, list[int]] = {}
        self._changes: list[int] = []
        self._beside: list[int] = []
        self._apart: list[int] = []
        self._seconds: list[float] = []

    def _new(self, buffer: Buffer) -> int:
        self.buffers.append(buffer)
        return len(self.buffers) - 1

    def _walk(
        self, statements: Sequence[Statement], known: dict[int, int], blocks: Mapping[int, int], nest: int
    ) -> None:
        self.counts[nest] += len(statements)
        for line in statements:
            if isinstance(line, Loop):
                self._loop(line, known, blocks, nest)
            elif isinstance(line, Allocate):
                value = line.value
                elsewhere = value in self.doubled or value in self.stored
                known[value] = self._new(Buffer(value, self._own(value, blocks), elsewhere=elsewhere))
                self.events.append(Event(1, known[value], nest, line.filled or line.gradient))
            elif isinstance(line, Free):
                self.events.append(Event(-1, known.pop(line.value), nest))
            elif isinstance(line, Load):
                buffer = known[line.target]
                self.buffers[buffer] = self.buffers[buffer]._replace(source=known[line.source])
                self.events.append(Event(0, buffer, nest, moved=self._own(line.target, blocks)))
            elif isinstance(line, Store):
                moved = self._own(line.source, blocks)
                self.events.append(Event(0, known[line.source], nest, moved=moved))
            elif isinstance(line, (Contract, Adjoint)):
                self.events.append(Event(0, -1, nest, line=self._line(line, known, blocks)))

    def _own(self, value: int, blocks: Mapping[int, int]) -> Lengths:
        """The indices of the lengths of a value in some loops."""
        return tuple([blocks.get(x, x) for x in self.schedule.labels[value]])

    def _loop(self, line: Loop, known: dict[int, int], blocks: Mapping[int, int], nest: int) -> None:
        count = len(self.schedule.sizes)
        # A stage has all of its label in one block.
        length = count - 1 - line.block if line.block < 0 else line.label
        self.nests.append((nest, line.label, length))
        self.counts.append(0)
        there = []
        for double in self.twice.get(id(line), ()):
            cut = {x.label: count - 1 - x.block if x.block < 0 else x.label for x in double.around}
            there.append(self._new(Buffer(double.value, self._own(double.value, cut))))
        self.events += [Event(2, x, nest) for x in there]
        self._walk(line.body, known, {**blocks, line.label: length}, len(self.nests))
        self.events += [Event(-2, x, nest) for x in there]

    def _line(self, line: Contract | Adjoint, known: Mapping[int, int], blocks: Mapping[int, int]) -> Line:
        labels = self.schedule.labels
        if isinstance(line, Contract):
            used: tuple[int, ...] = (*line.operands, line.target)
            kind: tuple[object, ...] = ("contract", line.accumulate)
        else:
            used = (*line.operands, line.target, line.gradient, *line.gradients)
            # Operands that only their own gradient would be asked of aren't there.
            kind = ("adjoint", line.gradient in self.given, *[x in known for x in used])
        used = tuple([x for x in used if x in known])
        kind += (line_options(self.options, line.operands),)
        values = tuple([(x, known[x], self._own(x, blocks)) for x in used])
        count = len(self.schedule.sizes)
        lengths = {x for _, buffer, own in values for x in (*own, *self._deciding(buffer)) if x >= count}
        varying = tuple(sorted(lengths))
        name = self._name(kind, values, varying)
        return Line(line, (*kind, *[labels[x] for x in used]), values, varying, name)

    def _name(
        self, kind: tuple[object, ...], values: Sequence[tuple[int, int, Lengths]], varying: Lengths
    ) -> dict[Lengths, Work]:
        """What lines take that do the same as this one with labels of other names."""
        count, sizes = len(self.schedule.sizes), self.schedule.sizes
        cut = {x: -1 - i for i, x in enumerate(varying)}
        called: dict[int, int] = {}
        parts: list[object] = [kind]
        for value, buffer, own in values:
            made = self.buffers[buffer]
            while made.source >= 0 and made.strides is None:
                parts.append(tuple([cut[x] if x >= count else sizes[x] for x in made.lengths]))
                made = self.buffers[made.source]
            parts.append(tuple([called.setdefault(x, len(called)) for x in self.schedule.labels[value]]))
            parts.append(tuple([cut[x] if x >= count else sizes[x] for x in own]))
            if made.strides is not None:
                parts.append(made.strides)
            else:
                parts.append(tuple([cut[x] if x >= count else sizes[x] for x in made.lengths]))
            parts.append(made.strides is None)
        return self.works.lines.setdefault(tuple(parts), {})

    def _deciding(self, buffer: int) -> Lengths:
        """The indices of lengths that decide on the strides of a buffer."""
        made = self.buffers[buffer]
        if made.source >= 0:
            return made.lengths + self._deciding(made.source)
        return () if made.strides is not None else made.lengths

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
        self._update(lengths)
        times = [1.0]
        for outer, label, length in self.nests:
            times.append(times[outer] * max(lengths[label] / lengths[length], 1.0))
        each = [times[event.nest] for event in self.events]
        seconds = LINE_SECONDS * sum(map(mul, self.counts, times)) + sum(map(mul, self._seconds, each))
        totals = list(map(add, accumulate(self._changes), self._beside))
        most = max(totals, default=0)
        moment = totals.index(most) if most > 0 else 0
        # Buffers lie in one allocation: what torch allocates for a line is beside all of it.
        apart = max(self._apart, default=0)
        if most > 0:
            most += apart
        rest = limit - apart
        if most <= limit:
            over = 0.0
        elif apart == 0:
            over = sum([log(total / limit) for total in totals if total > limit])
        else:
            over = sum([log((total + apart) / limit) for total in totals if total > rest])
            # What is returned is there at every moment, and in no loop it gets smaller.
            if 2 * apart > most - self._returned(lengths):
                moment = self._apart.index(apart)
        meanwhile, waited = self._copied(lengths, times)
        return Taken(max(most, 0), max(seconds, meanwhile) + waited, over, moment)

    def _returned(self, lengths: Sequence[int]) -> int:
        """The bytes of the outputs that are computed where they are returned."""
        outputs = self.schedule.outputs
        found = [x.lengths for x in self.buffers if x.value in outputs and not x.elsewhere]
        return sum([self.item * prod([lengths[x] for x in own]) for own in found])

    def _update(self, lengths: list[int]) -> None:
        """Settle the bytes and seconds of all events that depend on lengths which aren't as they were."""
        before, self._lengths = self._lengths, lengths
        if before is None:
            events: Iterable[int] = self._depend()
        else:
            changed = [x for x, (now, then) in enumerate(zip(lengths, before, strict=True)) if now != then]
            events = dict.fromkeys([event for x in changed for event in self._depending.get(x, ())])
        for number in events:
            event = self.events[number]
            if event.line is not None:
                key = tuple([lengths[x] for x in event.line.varying])
                work = event.line.known.get(key)
                if work is None:
                    work = event.line.known[key] = self._work(event.line, lengths)
                self._seconds[number] = work.seconds
                self._beside[number], self._apart[number] = work.inside, work.apart
                continue
            buffer = self.buffers[event.buffer]
            size = self.item * prod([lengths[x] for x in buffer.lengths])
            if event.filled:
                self._seconds[number] = self.machine.stream(size)
            if event.buffers in (2, -2):
                size = -(-size // ALIGNMENT) * ALIGNMENT
            elif buffer.elsewhere:
                size = 0
            self._changes[number] = event.buffers * size

    def _depend(self) -> list[int]:
        """Find out which events depend on which lengths of blocks; all of them that take something."""
        found = []
        count = len(self.schedule.sizes)
        self._changes, self._beside = [0] * len(self.events), [0] * len(self.events)
        self._seconds, self._apart = [0.0] * len(self.events), [0] * len(self.events)
        for number, event in enumerate(self.events):
            if event.line is None and event.buffers <= 0:
                # At no such moment the most is in use.
                self._beside[number] = -_MUCH
            if event.line is not None or event.buffers:
                found.append(number)
                own = self.buffers[event.buffer].lengths if event.line is None else event.line.varying
                for x in own:
                    if x >= count:
                        self._depending.setdefault(x, []).append(number)
        return found

    def _copied(self, lengths: Sequence[int], times: Sequence[float]) -> tuple[float, float]:
        """The seconds of copies while something is computed, and of those that are waited for."""
        meanwhile = waited = 0.0
        for number in self.copies:
            event = self.events[number]
            shape, source = [lengths[x] for x in event.moved], self.buffers[event.buffer].source
            strides = None if source < 0 else self.buffers[source].strides
            side = None if strides is None else self.item * stretch(shape, strides)
            each = self.machine.transfer(self.item * prod(shape), side)
            if self.buffers[event.buffer].value in self.doubled:
                meanwhile += (times[event.nest] - 1) * each
            waited += each
        return meanwhile, waited

    def peaks(self, limit: float) -> list[int]:
        """The moments of more than a limit, with more than those before and after, of what was asked last."""
        totals = list(map(add, accumulate(self._changes), self._beside))
        high = [(total, number) for number, total in enumerate(totals) if total > 0]
        bytes_ = [0, *[total for total, _ in high], 0]
        return [
            number
            for place, (total, number) in enumerate(high, 1)
            if total > limit and bytes_[place - 1] < total >= bytes_[place + 1]
        ]

    def _work(self, line: Line, lengths: Sequence[int]) -> Work:
        places = {}
        for value, buffer, own in line.values:
            strides = self._strides(buffer, self.buffers[buffer].lengths, lengths)
            places[value] = Place(tuple([lengths[x] for x in own]), strides)
        key = (line.kind, *places.values())
        known = self.works.places.get(key)
        if known is None:
            rest = self.dtype, self.device, self.options
            known = self.works.places[key] = work_of(line.line, self.schedule, places, *rest)
        return known

    def _strides(self, buffer: int, own: Lengths, lengths: Sequence[int]) -> tuple[int, ...]:
        """The strides of a buffer whose dimensions have lengths with these indices."""
        made = self.buffers[buffer]
        shape = [lengths[x] for x in own]
        if made.source >= 0:
            return dense_strides(shape, self._strides(made.source, own, lengths))
        return contiguous_strides(shape) if made.strides is None else made.strides

    def held(self, blocks: Sequence[int], moment: int) -> list[Held]:
        """What is in use at some moment, the largest first: buffers, and the workspace of the line."""
        lengths = self.lengths(blocks)
        alive: dict[int, None] = {}
        for event in self.events[: moment + 1]:
            if event.buffers > 0:
                alive[event.buffer] = None
            elif event.buffers < 0:
                del alive[event.buffer]
        found = []
        for number in alive:
            buffer = self.buffers[number]
            if buffer.value not in self.schedule.outputs and not buffer.elsewhere:
                size = self.item * prod([lengths[x] for x in buffer.lengths])
                found.append(self._held(buffer.value, size, buffer.lengths))
        line = self.events[moment].line
        if line is not None:
            work = line.known[tuple([lengths[x] for x in line.varying])]
            own = tuple(dict.fromkeys(x for _, _, mine in line.values for x in mine))
            found.append(self._held(-1, work.inside + work.apart, own))
        return sorted(found, key=lambda x: (-x.bytes, x.value))

    def _held(self, value: int, size: int, lengths: Sequence[int]) -> Held:
        count = len(self.schedule.sizes)
        whole = tuple(x for x in lengths if x < count and self.schedule.sizes[x] > 1)
        return Held(value, size, whole, tuple(x - count for x in lengths if x >= count))
