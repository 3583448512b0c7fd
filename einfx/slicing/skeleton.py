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
from .into import Place
from .loads import Buffered, buffered, dense_strides, stretch
from .memory import ALIGNMENT, LINE_SECONDS, work_of
from .schedule import Adjoint, Allocate, Contract, Free, Load, Loop, Schedule, Statement, Store
from .work import Work, line_options

__all__ = ["Held", "Skeleton", "Taken", "Works"]

Lengths = tuple[int, ...]

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
    """A buffer, or the workspace of a line, at some moment.

    Attributes:
        value: of the schedule; -1 for the workspace.
        bytes: its size.
        whole: the labels that it has in their whole length.
        cut: the numbers of the cuts that make it shorter.
    """

    value: int
    bytes: int
    whole: tuple[int, ...]
    cut: tuple[int, ...]


class _Buffer(NamedTuple):
    """Memory of a value.

    Attributes:
        value: whose it is.
        lengths: the index of the length of each dimension.
        strides: of an operand.
        source: where it is loaded from, in what order its dimensions lie; -1 where they lie in their own.
        elsewhere: whether its bytes count nothing, or elsewhere.
    """

    value: int
    lengths: Lengths
    strides: tuple[int, ...] | None = None
    source: int = -1
    elsewhere: bool = False


class _Line(NamedTuple):
    """A line that contracts.

    Attributes:
        line: as it stands in the schedule.
        kind: what it has in common with other lines that take the same for the same places.
        values: those that it reads and writes, each with its buffer and the indices of the lengths of its
            dimensions.
        varying: the indices of lengths on which it depends.
        known: what it takes, by these lengths.
    """

    line: Contract | Adjoint
    kind: tuple[object, ...]
    values: tuple[tuple[int, int, Lengths], ...]
    varying: Lengths
    known: dict[Lengths, Work]


class _Event(NamedTuple):
    """A step of the program.

    Attributes:
        buffers: how many come (1, 2) or go (-1, -2); 0 where it's a line that contracts or copies.
        buffer: which; -1 for a line that contracts.
        nest: in which loops.
        filled: whether a buffer that comes is filled.
        line: that contracts.
        moved: the indices of lengths of what is copied.
    """

    buffers: int
    buffer: int
    nest: int
    filled: bool = False
    line: _Line | None = None
    moved: Lengths = ()


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
        self.buffers: list[_Buffer] = []
        self.nests: list[tuple[int, int, int]] = []
        self.counts = [0]
        self.events: list[_Event] = []
        self.given, self.stored = schedule.given, schedule.stored
        self.twice: dict[int, list[Buffered]] = {}
        if schedule.loaded or self.stored:
            for buffer in buffered(schedule):
                self.twice.setdefault(id(buffer.loop), []).append(buffer)
        self.doubled = {buffer.value for group in self.twice.values() for buffer in group}
        known: dict[int, tuple[int, Lengths]] = {}
        for value in range(schedule.count):
            own = contiguous_strides(schedule.shape(value)) if strides is None else tuple(strides[value])
            known[value] = self._new(_Buffer(value, schedule.labels[value], own))
        self._walk(schedule.statements, known, {}, 0)

    def _new(self, buffer: _Buffer) -> tuple[int, Lengths]:
        self.buffers.append(buffer)
        return len(self.buffers) - 1, buffer.lengths

    def _walk(
        self,
        statements: Sequence[Statement],
        known: dict[int, tuple[int, Lengths]],
        blocks: Mapping[int, int],
        nest: int,
    ) -> None:
        labels = self.schedule.labels
        self.counts[nest] += len(statements)
        for line in statements:
            if isinstance(line, Loop):
                self._loop(line, known, blocks, nest)
            elif isinstance(line, Allocate):
                value = line.value
                lengths = tuple([blocks.get(x, x) for x in labels[value]])
                elsewhere = value in self.doubled or value in self.stored
                known[value] = self._new(_Buffer(value, lengths, elsewhere=elsewhere))
                self.events.append(_Event(1, known[value][0], nest, line.filled or line.gradient))
            elif isinstance(line, Free):
                self.events.append(_Event(-1, known.pop(line.value)[0], nest))
            elif isinstance(line, Load):
                buffer, lengths = known[line.target]
                self.buffers[buffer] = self.buffers[buffer]._replace(source=known[line.source][0])
                self.events.append(_Event(0, buffer, nest, moved=lengths))
            elif isinstance(line, Store):
                buffer, lengths = known[line.source]
                self.events.append(_Event(0, buffer, nest, moved=lengths))
            elif isinstance(line, (Contract, Adjoint)):
                self.events.append(_Event(0, -1, nest, line=self._line(line, known)))

    def _loop(
        self, line: Loop, known: Mapping[int, tuple[int, Lengths]], blocks: Mapping[int, int], nest: int
    ) -> None:
        count = len(self.schedule.sizes)
        length = count - 1 - line.block
        self.nests.append((nest, line.label, length))
        self.counts.append(0)
        inside = {
            value: (buffer, tuple([length if x == line.label else x for x in own]))
            for value, (buffer, own) in known.items()
        }
        there = []
        for double in self.twice.get(id(line), ()):
            cut = {outer.label: count - 1 - outer.block for outer in double.around}
            lengths = tuple([cut.get(x, x) for x in self.schedule.labels[double.value]])
            there.append(self._new(_Buffer(double.value, lengths))[0])
        self.events += [_Event(2, x, nest) for x in there]
        self._walk(line.body, inside, {**blocks, line.label: length}, len(self.nests))
        self.events += [_Event(-2, x, nest) for x in there]

    def _line(self, line: Contract | Adjoint, known: Mapping[int, tuple[int, Lengths]]) -> _Line:
        labels = self.schedule.labels
        if isinstance(line, Contract):
            used: tuple[int, ...] = (*line.operands, line.target)
            kind: tuple[object, ...] = ("contract", line.accumulate)
        else:
            used = (*line.operands, line.target, line.gradient, *line.gradients)
            # Operands that only their own gradient would be asked of aren't there.
            kind = ("adjoint", line.gradient in self.given, *(x in known for x in used))
        used = tuple(x for x in used if x in known)
        kind += (line_options(self.options, line.operands), *(labels[x] for x in used))
        values = tuple((x, *known[x]) for x in used)
        lengths = {x for _, buffer, own in values for x in (*own, *self._deciding(buffer))}
        varying = tuple(sorted(x for x in lengths if x >= len(self.schedule.sizes)))
        return _Line(line, kind, values, varying, {})

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
        times = [1.0]
        for outer, label, length in self.nests:
            times.append(times[outer] * max(lengths[label] / lengths[length], 1.0))
        seconds = LINE_SECONDS * sum([count * each for count, each in zip(self.counts, times, strict=True)])
        stream, transfer = self.machine.stream, self.machine.transfer
        sizes = [self.item * prod([lengths[x] for x in buffer.lengths]) for buffer in self.buffers]
        now = most = moment = 0
        over = meanwhile = waited = 0.0
        for number, (buffers, buffer, nest, filled, line, moved) in enumerate(self.events):
            if line is not None:
                key = tuple([lengths[x] for x in line.varying])
                work = line.known.get(key)
                if work is None:
                    work = line.known[key] = self._work(line, lengths)
                seconds += times[nest] * work.seconds
                total = now + work.inside + work.apart
            elif buffers:
                size = sizes[buffer]
                if filled:
                    seconds += times[nest] * stream(size)
                if buffers in (2, -2):
                    size = -(-size // ALIGNMENT) * ALIGNMENT
                elif self.buffers[buffer].elsewhere:
                    size = 0
                now += buffers * size
                total = now if buffers > 0 else 0
            else:
                shape, source = [lengths[x] for x in moved], self.buffers[buffer].source
                strides = None if source < 0 else self.buffers[source].strides
                side = None if strides is None else self.item * stretch(shape, strides)
                each = transfer(self.item * prod(shape), side)
                if self.buffers[buffer].value in self.doubled:
                    meanwhile += (times[nest] - 1) * each
                waited += each
                continue
            if total > limit:
                over += log(total / limit)
            if total > most:
                most, moment = total, number
        return Taken(most, max(seconds, meanwhile) + waited, over, moment)

    def _work(self, line: _Line, lengths: Sequence[int]) -> Work:
        places = {}
        for value, buffer, own in line.values:
            strides = self._strides(buffer, self.buffers[buffer].lengths, lengths)
            places[value] = Place(tuple([lengths[x] for x in own]), strides)
        key = (line.kind, *places.values())
        known = self.works.get(key)
        if known is None:
            rest = self.dtype, self.device, self.options
            known = self.works[key] = work_of(line.line, self.schedule, places, *rest)
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
