"""What a schedule takes: bytes at every line, seconds, and where in one block of memory each buffer lies.

Buffers lie in one allocation, the arena, at places that are settled beforehand: what an allocator makes of
buffers that come and go in a loop may be several times of what is in use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import torch

from ..equation import Equation
from ..layout import contiguous_strides
from ..machine import item_bytes, machine_for
from ..options import REAL, Options
from .into import Into, Place, into
from .schedule import Adjoint, Allocate, Contract, Free, Loop, Schedule, Statement

__all__ = ["Arena", "Demand", "Moment", "Share", "arena", "demand", "shares"]

ALIGNMENT = 64
"""Buffers start at multiples of so many bytes, as vector instructions like it."""

LINE_SECONDS = 6e-6
"""What running a line costs apart from its arithmetic."""


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
        output_bytes: of the outputs together.
        apart_bytes: the most that torch allocates meanwhile, for one line.
    """

    peak_bytes: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    moments: list[Moment] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)
    output_bytes: int = 0
    apart_bytes: int = 0


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
        >>> from .tree import ContractionTree, Cut
        >>> from .tree import schedule as program
        >>> tree = ContractionTree(Equation.parse("ij,jk,kl->il"), (80, 8, 80, 8), ((0, 1), (3, 2)))
        >>> whole = demand(program(tree), torch.float32, "cpu").peak_bytes
        >>> whole, demand(program(tree, [Cut(4, 0, 10)]), torch.float32, "cpu").peak_bytes
        (28160, 5760)
    """
    walk = _Walk(schedule, dtype, device, options)
    places = {}
    for value in range(schedule.count):
        shape = schedule.shape(value)
        own = contiguous_strides(shape) if strides is None else tuple(strides[value])
        places[value] = Place(shape, own)
    walk.run(schedule.statements, places, {}, 1.0)
    found = walk.found
    found.output_bytes = sum(walk.item * prod(schedule.shape(value)) for value in schedule.outputs)
    found.peak_bytes = max([moment.bytes for moment in found.moments], default=found.output_bytes)
    return found


class _Walk:
    def __init__(self, schedule: Schedule, dtype: torch.dtype, device: str, options: Options) -> None:
        self.schedule, self.dtype, self.device, self.options = schedule, dtype, device, options
        self.item = item_bytes(dtype)
        self.found = Demand()
        self.alive: dict[int, int] = {}
        self.started: dict[int, int] = {}

    def run(
        self,
        statements: Sequence[Statement],
        places: dict[int, Place],
        blocks: Mapping[int, int],
        times: float,
    ) -> None:
        for line in statements:
            inside = apart = 0
            self.found.seconds += LINE_SECONDS * times
            if isinstance(line, Loop):
                self._loop(line, places, blocks, times)
                continue
            if isinstance(line, Allocate):
                shape = self.schedule.shape(line.value, blocks)
                places[line.value] = Place(shape, contiguous_strides(shape))
                self.alive[line.value] = self.item * prod(shape)
                self.started[line.value] = len(self.found.moments)
                if line.filled or line.gradient:
                    self.found.seconds += times * machine_for(self.device).stream(self.alive[line.value])
            elif isinstance(line, Contract):
                inside, apart = self._count([self.contraction(line, places)], times)
            elif isinstance(line, Adjoint):
                inside, apart = self._count(self.adjoints(line, places), times)
            total = sum(self.alive.values()) + inside + apart
            self.found.moments.append(
                Moment(total, line, tuple(self.alive), tuple(blocks.items()), inside + apart)
            )
            self.found.apart_bytes = max(self.found.apart_bytes, apart)
            if inside:
                here = len(self.found.moments) - 1
                self.found.intervals.append(Interval(-1 - here, here, here, inside))
            if isinstance(line, Free):
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
        self.run(
            line.body, inside, {**blocks, label: min(line.block, size)}, times * max(size / line.block, 1)
        )

    def _end(self, value: int) -> None:
        if value not in self.schedule.outputs:
            last = len(self.found.moments) - 1
            self.found.intervals.append(Interval(value, self.started[value], last, self.alive[value]))
        del self.alive[value]

    def _count(self, contractions: Sequence[Into], times: float) -> tuple[int, int]:
        """Bytes that contractions take one after the other, in the arena and apart."""
        for how in contractions:
            self.found.seconds += times * how.seconds
            if how.kernel is not None:
                self.found.flops += times * how.kernel.cost.flops
        inside = [how.workspace_bytes for how in contractions if how.matrices]
        apart = [how.workspace_bytes for how in contractions if not how.matrices]
        return max(inside, default=0), max(apart, default=0)

    def contraction(self, line: Contract, places: Mapping[int, Place]) -> Into:
        labels = self.schedule.labels
        equation = Equation(tuple(labels[x] for x in line.operands), labels[line.target])
        operands = [places[x] for x in line.operands]
        return into(
            equation, operands, places[line.target], line.accumulate, self.dtype, self.device, self.options
        )

    def adjoints(self, line: Adjoint, places: Mapping[int, Place]) -> list[Into]:
        if self.options.semiring.name != "real":
            labels = self.schedule.labels
            target = places[line.gradient]
            equation = Equation(tuple(labels[x] for x in line.operands), labels[line.gradient])
            how = into(
                equation,
                [places[x] for x in line.operands],
                target,
                True,
                self.dtype,
                self.device,
                self.options,
            )
            # The step is computed again, with its gradients apart.
            gradients = sum(
                self.item * prod(places[x].shape)
                for x, mine in zip(line.operands, line.gradients, strict=True)
                if mine >= 0
            )
            extra = 3 * self.item * prod(target.shape) + 2 * gradients
            return [
                Into(
                    equation,
                    self.options,
                    True,
                    None,
                    False,
                    False,
                    how.workspace_bytes + extra,
                    3 * how.seconds,
                )
            ]
        return [self._share(share, places) for share in shares(self.schedule, line)]

    def _share(self, share: Share, places: Mapping[int, Place]) -> Into:
        target = places[share.gradient]
        operands = [places[x] for x in share.operands]
        labels = self.schedule.labels[share.gradient]
        if len(share.labels) == len(labels):
            return into(share.equation, operands, target, True, self.dtype, self.device)
        shape = tuple(size for label, size in zip(labels, target.shape, strict=True) if label in share.labels)
        apart = Place(shape, contiguous_strides(shape))
        return into(share.equation, operands, apart, False, self.dtype, self.device)


class Share(NamedTuple):
    """What a contraction passes on to the gradient of one of its operands.

    Attributes:
        equation: the contraction that gives it.
        labels: of its result: those of the operand, but for what the operand has for itself alone, along
            which the gradient is the same.
        operands: the values that are contracted, the gradient of the result first.
        gradient: the value that it is added to.
    """

    equation: Equation
    labels: tuple[int, ...]
    operands: tuple[int, ...]
    gradient: int


def shares(schedule: Schedule, line: Adjoint) -> list[Share]:
    """What a contraction passes on to every gradient that is wanted, over real numbers."""
    made = []
    for position, mine in enumerate(line.gradients):
        if mine < 0:
            continue
        operands = (line.gradient, *(x for i, x in enumerate(line.operands) if i != position))
        inputs = tuple(schedule.labels[x] for x in operands)
        there = {label for labels in inputs for label in labels}
        labels = tuple(label for label in schedule.labels[mine] if label in there)
        made.append(Share(Equation(inputs, labels), labels, operands, mine))
    return made


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
    """Give every buffer a place that no other uses at the same time; large ones first, as low as they can.

    Example:
        >>> arena([Interval(0, 0, 3, 640), Interval(1, 1, 2, 64), Interval(2, 4, 5, 100)])
        Arena(bytes=704, offsets={0: 0, 2: 0, 1: 640}, workspaces={})
    """
    offsets: dict[int, int] = {}
    placed: list[tuple[Interval, int]] = []
    total = 0
    for interval in sorted(intervals, key=lambda x: (-x.bytes, x.first)):
        size = -(-interval.bytes // ALIGNMENT) * ALIGNMENT
        beside = sorted(
            (start, start + -(-other.bytes // ALIGNMENT) * ALIGNMENT)
            for other, start in placed
            if other.first <= interval.last and interval.first <= other.last
        )
        offset = 0
        for start, end in beside:
            if start - offset >= size:
                break
            offset = max(offset, end)
        placed.append((interval, offset))
        offsets[interval.value] = offset
        total = max(total, offset + size)
    workspaces = {-1 - x.value: x.bytes for x in intervals if x.value < 0}
    return Arena(total, offsets, workspaces)
