"""What a line of a schedule of gradients does: a contraction passes its gradient on to its operands.

Over real numbers, every gradient is a contraction of the result's gradient with the other operands; over
other semirings, see :mod:`.local_gradients`.

Over complex numbers, gradients are conjugates while a schedule runs: what is passed on is then a contraction
of the operands as they are, and no operand is conjugated, which would be to copy it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ...equation import Equation
from ...layout import contiguous_strides
from ...machine import item_bytes
from ...options import Options
from ..schedules.schedule import Adjoint, Schedule
from .into import Place, into, is_real
from .local_gradients import LocalGradients
from .tiles import in_tiles
from .work import Work

__all__ = ["Memory", "Work", "gradient_work", "pass_on", "shares"]

Labels = tuple[int, ...]


class Memory(Protocol):
    """What runs a line.

    Attributes:
        used: how much of the line's workspace is in use.
    """

    used: int

    def write(
        self, equation: Equation, operands: Sequence[Tensor], target: Tensor, accumulate: bool, used: int = 0
    ) -> None:
        """Contract into a tensor, with so many bytes of the workspace in use already."""

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
    """What :func:`pass_on` takes.

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


def pass_on(
    line: Adjoint, schedule: Schedule, values: Mapping[int, Tensor], options: Options, memory: Memory
) -> None:
    """Add to gradients of operands what a contraction passes on of its own.

    Args:
        line: which gradients of what.
        schedule: that the line is part of.
        values: the tensors, or the current blocks of these.
        options: over which semiring.
        memory: what runs the line.
    """
    if not is_real(options, values[line.gradient].dtype):
        _pass_on_locally(line, schedule, values, options, memory)
        return
    incoming, kept, memory.used = values[line.gradient], 0, 0
    if _conjugated(line, schedule, incoming.dtype):
        kept = incoming.nbytes
        copy = memory.scratch(incoming.shape)
        incoming = torch.conj_physical(incoming, out=copy)
    for share in shares(schedule, line):
        operands = [incoming, *(values[x] for x in share.operands[1:])]
        target = values[share.gradient]
        if not share.is_constant(schedule):
            memory.write(share.equation, operands, target, True, kept)
            continue
        own, memory.used = share.labels, kept
        part = memory.scratch(share.shape(schedule, target.shape))
        memory.write(share.equation, operands, part, False, kept + part.nbytes)
        for dim, label in enumerate(schedule.labels[share.gradient]):
            if label not in own:
                part = part.unsqueeze(dim)
        in_tiles(Tensor.add_, target, [part])


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


def _pass_on_locally(
    line: Adjoint, schedule: Schedule, values: Mapping[int, Tensor], options: Options, memory: Memory
) -> None:
    """The same over a semiring."""
    gradient = values[line.gradient]
    used = (*line.operands, line.target, line.gradient, *line.gradients)
    places = {x: Place(values[x].shape, values[x].stride()) for x in used if x >= 0}
    local = LocalGradients.of(line, schedule, places, gradient.dtype, gradient.device.type, options)
    targets = [values[x] if x >= 0 else None for x in line.gradients]
    consumed = options.semiring.selective and line.gradient >= schedule.count
    total = values[line.target] if line.target >= 0 else gradient
    memory.used = 0
    operands = [values[x] for x in line.operands]
    local.add(operands, targets, total, gradient, memory.scratch, consumed=consumed)
