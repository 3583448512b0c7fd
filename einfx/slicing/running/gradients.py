"""What a line of a schedule of gradients does: a contraction passes its gradient on to its operands.

Over real numbers, every gradient is a contraction of the result's gradient with the other operands; over
other semirings, see :mod:`.local_gradients`.

Over complex numbers, gradients are conjugates while a schedule runs: what is passed on is then a contraction
of the operands as they are, and no operand is conjugated, which would be to copy it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ...equation import Equation
from ...layout import contiguous_strides
from ...machine import item_bytes
from ...options import Options
from ..schedules.schedule import Adjoint, Schedule
from .into import Place, into, is_real
from .local_gradients import LocalGradients
from .parts import Part, Step, Views
from .products import beside, elements
from .work import Work

__all__ = ["Memory", "Work", "gradient_steps", "gradient_work", "shares"]

Labels = tuple[int, ...]
T = TypeVar("T")


class Memory(Protocol):
    """What runs a line.

    Attributes:
        used: how much of the line's workspace is in use.
    """

    used: int

    def known(self, key: Any, decide: Callable[[], T]) -> T:
        """What is decided about a line, in this run or one before."""

    def scratch(self, shape: Sequence[int]) -> Tensor:
        """A piece of the workspace of the line that runs, behind what is in use."""


def gradient_work(
    line: Adjoint,
    schedule: Schedule,
    places: Mapping[int, Place],
    dtype: torch.dtype,
    device: str,
    options: Options,
) -> Work:
    """What the line takes.

    Args:
        line: which gradients of what.
        schedule: that the line is part of.
        places: of its values.
        dtype: of its values.
        device: where it runs.
        options: over which semiring.
    """
    if not is_real(options, dtype):
        return LocalGradients.of(line, schedule, places, dtype, device, options).work
    total = Work()
    kept = 0
    if _conjugated(line, schedule, dtype):
        kept = item_bytes(dtype) * prod(places[line.gradient].shape)
    for share in shares(schedule, line):
        target, beside = places[share.gradient], kept
        if share.is_constant(schedule):
            shape = share.shape(schedule, target.shape)
            target = Place(shape, contiguous_strides(shape))
            beside += item_bytes(dtype) * prod(shape)
        operands = [places[x] for x in share.operands]
        if kept:
            first = operands[0].shape
            operands[0] = Place(first, contiguous_strides(first))
        how = into(share.equation, operands, target, not beside > kept, dtype, device)
        own = Work.of(how)
        total = total.then(own._replace(inside=own.inside + beside))
    return total


def gradient_steps(
    line: Adjoint,
    schedule: Schedule,
    parts: Mapping[int, Part],
    dtype: torch.dtype,
    options: Options,
    views: Views,
    memory: Memory,
) -> list[Step]:
    """What adds to gradients of operands what a contraction passes on of its own, in every round.

    Args:
        line: which gradients of what.
        schedule: that the line is part of.
        parts: of its values.
        dtype: of its values.
        options: over which semiring.
        views: of the parts.
        memory: what runs the line.
    """
    if not is_real(options, dtype):
        return [_local_step(line, schedule, parts, dtype, options, views, memory)]
    incoming, memory.used, now = parts[line.gradient], 0, views.now
    steps: list[Step] = []
    if _conjugated(line, schedule, dtype):
        given, copy = views.slot(incoming), memory.scratch(incoming.shape)
        steps.append(lambda: torch.conj_physical(now[given], out=copy))
        incoming = Part.of(copy)
    kept = memory.used
    for share in memory.known(line, lambda: shares(schedule, line)):
        operands = [incoming, *(parts[x] for x in share.operands[1:])]
        target, memory.used = parts[share.gradient], kept
        constant = share.is_constant(schedule)
        written = Part.of(memory.scratch(share.shape(schedule, target.shape))) if constant else target
        places = tuple([x.place for x in operands])
        decide = partial(
            into, share.equation, places, written.place, not constant, dtype, views.device, options
        )
        how = memory.known((line, share.gradient, places, written.place), decide)
        steps += how.steps(operands, written, views, memory.scratch)
        if constant:
            spread = beside(written.place, share.labels, schedule.labels[share.gradient])
            steps.append(elements(Tensor.add_, target, [written.seen(spread)], views, None))
    return steps


def _conjugated(line: Adjoint, schedule: Schedule, dtype: torch.dtype) -> bool:
    """Whether the gradient of a line comes from the caller, as it is, and has to be conjugated."""
    return dtype.is_complex and line.gradient in schedule.given


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
    labels: Labels
    operands: tuple[int, ...]
    gradient: int

    def is_constant(self, schedule: Schedule) -> bool:
        """Whether it is the same along a label of the gradient."""
        return len(self.labels) < len(schedule.labels[self.gradient])

    def shape(self, schedule: Schedule, shape: Sequence[int]) -> tuple[int, ...]:
        """The sizes of its labels, for a gradient of a shape."""
        labels = schedule.labels[self.gradient]
        return tuple([size for label, size in zip(labels, shape, strict=True) if label in self.labels])


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


def _local_step(
    line: Adjoint,
    schedule: Schedule,
    parts: Mapping[int, Part],
    dtype: torch.dtype,
    options: Options,
    views: Views,
    memory: Memory,
) -> Step:
    """The same over a semiring."""
    used = (*line.operands, line.target, line.gradient, *line.gradients)
    places = {x: parts[x].place for x in used if x >= 0}
    decide = partial(LocalGradients.of, line, schedule, places, dtype, views.device, options)
    local = memory.known((line, *places.values()), decide)
    consumed = options.semiring.selective and line.gradient >= schedule.count
    now, operands = views.now, views.slots([parts[x] for x in line.operands])
    targets = [views.slot(parts[x]) if x >= 0 else None for x in line.gradients]
    gradient = views.slot(parts[line.gradient])
    total = views.slot(parts[line.target]) if line.target >= 0 else gradient

    def pass_on() -> None:
        memory.used = 0
        wanted = [None if x is None else now[x] for x in targets]
        values = [now[x] for x in operands]
        local.add(values, wanted, now[total], now[gradient], memory.scratch, consumed=consumed)

    return pass_on
