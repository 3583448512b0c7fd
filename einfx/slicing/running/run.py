"""Running a schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...equation import Equation
from ...mapped_memory import block, make_resident
from ...options import REAL, Options
from ...progress import Choice, Progress
from ...streaming.transfers import Transfers
from ..schedules.loads import loaded_options
from ..schedules.schedule import Adjoint, Allocate, Contract, Free, Load, Loop, Schedule, Statement, Store
from .gradients import pass_on
from .into import Into, Place, into
from .memory import ALIGNMENT, Demand, arena
from .moving import Moving
from .resident import LARGE_BYTES, Resident
from .work import line_options

__all__ = ["run"]

SHORT_SECONDS = 0.1
"""What is predicted to take less than this shows no progress by itself."""


def run(
    schedule: Schedule,
    operands: Sequence[Tensor],
    found: Demand,
    options: Options = REAL,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    stored: torch.dtype | None = None,
    progress: Choice = None,
    limit: int = 0,
) -> tuple[Tensor, ...]:
    """Run a schedule.

    Args:
        schedule: the program.
        operands: of one dtype, on one device, of the shapes of the program; those that it loads in host
            memory and of any dtype.
        found: what the program takes, by :func:`.memory.demand`.
        options: over which semiring.
        device: where is computed; by default where the first operand is.
        dtype: in which is computed; by default that of the first operand.
        stored: of outputs that are stored elsewhere; by default that in which is computed.
        progress: who is told how far it is; see :class:`einfx.progress.Progress`.
        limit: the bytes that may be in use, outputs included, where that is more than what the program takes:
            so much of what is freed meanwhile may stay.

    Returns:
        The outputs, new contiguous tensors, those that are stored elsewhere in host memory.

    Example:
        >>> from einfx.slicing.running.memory import demand
        >>> from einfx.slicing.schedules.tree import ContractionTree, Cut
        >>> from einfx.slicing.schedules.tree import schedule as program
        >>> tree = ContractionTree(Equation.parse("ij,jk->ik"), (4, 600, 5), ((0, 1),))
        >>> cut = program(tree, [Cut(2, 1, 256)])
        >>> a, b = torch.ones(4, 600), torch.ones(600, 5)
        >>> run(cut, (a, b), demand(cut, a.dtype, "cpu"))[0][0]
        tensor([600., 600., 600., 600., 600.])
    """
    first = operands[0]
    if progress is None and found.seconds < SHORT_SECONDS:
        progress = False
    with torch.no_grad(), ExitStack() as stack:
        shown = stack.enter_context(Progress.of(progress, _slices(schedule), round(found.moved_bytes)))
        where, kind = device or first.device, dtype or first.dtype
        running = _Running(schedule, operands, found, options, where, kind, limit)
        running.progress, running.stored = shown, stored or running.dtype
        if schedule.loaded or schedule.stored:
            running.move(stack.enter_context(Transfers(running.device)))
            # Both know one another, and would keep the memory until Python looks for such rings.
            stack.callback(running.move_nothing)
        made = running.outputs()
        if running.resident is not None:
            running.resident.close()
        return made


class _Running:
    progress: Progress
    stored: torch.dtype
    moving: Moving | None = None
    resident: Resident | None = None

    def __init__(
        self,
        schedule: Schedule,
        operands: Sequence[Tensor],
        found: Demand,
        options: Options,
        device: torch.device,
        dtype: torch.dtype,
        limit: int = 0,
    ) -> None:
        self.schedule, self.options = schedule, loaded_options(schedule, options)
        self.where = where = arena(found.intervals)
        self.taken = {interval.value: interval.bytes for interval in found.intervals}
        self.dtype, self.device = dtype, device
        self.zero = options.semiring.zero_of(self.dtype)
        # torch's copies from float16 to float32 lose the minus of negative views.
        self.operands = [x.resolve_neg() if x.dtype != dtype and x.is_neg() else x for x in operands]
        self.moment = self.used = 0
        self.made: dict[int, Tensor] = {}
        self.ways: dict[tuple[Any, ...], Into] = {}
        size = where.bytes // self.dtype.itemsize
        if self.device.type == "cpu" and found.peak_bytes >= LARGE_BYTES:
            apart = {
                moment: taken.workspace_bytes - where.workspaces.get(moment, 0)
                for moment, taken in enumerate(found.moments)
            }
            self.resident = Resident(found, apart, where.bytes, limit)
        # A little more, so that it can start where vectors like it.
        memory = block(size + ALIGNMENT // self.dtype.itemsize, self.dtype, self.device)
        skip = -memory.data_ptr() % ALIGNMENT // self.dtype.itemsize if self.device.type == "cpu" else 0
        self.memory = memory[skip : skip + size]
        if self.resident is not None and self.resident.exact:
            self.resident.take(where.bytes)
            make_resident(self.memory)

    def move(self, transfers: Transfers) -> None:
        """Load and store by these from now on."""
        gradients = {
            line.value for line in self.schedule.statements if isinstance(line, Allocate) and line.gradient
        }
        additions = {
            value: torch.add if value in gradients else self.options.semiring.add
            for value in self.schedule.stored
        }
        sources = {value: self.operands[value] for value in self.schedule.loaded}
        self.moving = Moving(self.schedule, sources, transfers, self._slot, additions)

    def move_nothing(self) -> None:
        """Forget what loads and stores."""
        if self.moving is not None:
            self.moving.close()
            self.moving = None

    def outputs(self) -> tuple[Tensor, ...]:
        self._run(self.schedule.statements, dict(enumerate(self.operands)), {})
        if not self.schedule.loops:
            self.progress.computed()
        made = tuple(self.made[value] for value in self.schedule.outputs)
        if self.dtype.is_complex and self.schedule.is_adjoint:
            for gradient in made:
                gradient.conj_physical_()
        return made

    def _run(
        self, statements: Sequence[Statement], values: dict[int, Tensor], blocks: Mapping[int, int]
    ) -> None:
        for line in statements:
            if isinstance(line, Loop):
                self._loop(line, values, blocks)
                continue
            if isinstance(line, Allocate):
                if self.moving is None or line.value not in self.moving.loading:
                    values[line.value] = self._allocated(line, blocks)
            elif isinstance(line, (Load, Store)):
                self._transfer(line, values)
            elif isinstance(line, (Contract, Adjoint)):
                self._compute(line, values)
            elif isinstance(line, Free):
                del values[line.value]
                if self.moving is not None:
                    self.moving.free(line.value)
            self.moment += 1

    def _loop(self, line: Loop, values: Mapping[int, Tensor], blocks: Mapping[int, int]) -> None:
        size, first = self.schedule.sizes[line.label], self.moment
        dims = {
            value: self.schedule.labels[value].index(line.label)
            for value in values
            if line.label in self.schedule.labels[value]
        }
        moving, leaf = self.moving, not any(isinstance(inner, Loop) for inner in line.body)
        if moving is not None:
            moving.enter(line)
        for start in range(0, size, line.block):
            length = min(line.block, size - start)
            inside = {
                value: tensor.narrow(dims[value], start, length) if value in dims else tensor
                for value, tensor in values.items()
            }
            self.moment = first
            self._run(line.body, inside, {**blocks, line.label: length})
            if leaf:
                self.progress.computed()
        if moving is not None:
            moving.leave(line)

    def _transfer(self, line: Load | Store, values: dict[int, Tensor]) -> None:
        assert self.moving is not None
        if isinstance(line, Load):
            block = values[line.target] = self.moving.load(line)
        else:
            block = values[line.source]
            self.moving.store(line, values[line.target], block)
        self.progress.moved(block.numel() * block.itemsize)

    def _slot(self, value: int, slot: int, shape: Sequence[int], strides: Sequence[int] | None) -> Tensor:
        """One of the two buffers of a value that is loaded or stored; outside of loops it has but one."""
        start = (self.where.offsets[value] + slot * self.taken[value] // 2) // self.dtype.itemsize
        part = self.memory[start : start + prod(shape)]
        return part.view(tuple(shape)) if strides is None else part.as_strided(tuple(shape), tuple(strides))

    def _allocated(self, line: Allocate, blocks: Mapping[int, int]) -> Tensor:
        shape = self.schedule.shape(line.value, blocks)
        if line.value in self.schedule.outputs:
            here = line.value not in self.schedule.stored
            dtype, device = (self.dtype, self.device) if here else (self.stored, torch.device("cpu"))
            made = self.made[line.value] = torch.empty(shape, dtype=dtype, device=device)
            if self.resident is not None:
                self.resident.make(made.nbytes)
                if self.resident.exact and made.device.type == "cpu":
                    make_resident(made.view(-1))
        elif self.moving is not None and line.value in self.moving.storing:
            made = self.moving.allocate(line.value, shape)
        else:
            made = self._placed(self.where.offsets[line.value], shape)
        if line.gradient:
            return made.zero_()
        return made.fill_(self.zero) if line.filled else made

    def _placed(self, offset: int, shape: Sequence[int]) -> Tensor:
        start = offset // self.dtype.itemsize
        if self.resident is not None:
            self.resident.take(offset + self.dtype.itemsize * prod(shape))
        return self.memory[start : start + prod(shape)].view(tuple(shape))

    def scratch(self, shape: Sequence[int]) -> Tensor:
        """Memory out of the workspace of the line that runs, one piece behind the other.

        A last block that is shorter may be computed in another way, with a workspace of its own.
        """
        size = prod(shape) * self.dtype.itemsize
        if not size or self.used + size > self.where.workspaces.get(self.moment, 0):
            return torch.empty(tuple(shape), dtype=self.dtype, device=self.device)
        self.used += size
        return self._placed(self.where.offsets[-1 - self.moment] + self.used - size, shape)

    def _compute(self, line: Contract | Adjoint, values: Mapping[int, Tensor]) -> None:
        moment, resident = self.moment, self.resident
        if resident is not None:
            resident.before(moment)
        if isinstance(line, Contract):
            self._contract(line, values)
        else:
            pass_on(line, self.schedule, values, self.options, self)
        if resident is not None:
            resident.after(moment)

    def _contract(self, line: Contract, values: Mapping[int, Tensor]) -> None:
        operands, target = [values[x] for x in line.operands], values[line.target]
        # All iterations of a loop but the last have blocks of the same form, and are many.
        form = (self.moment, *[(x.shape, x.stride()) for x in (*operands, target)])
        how = self.ways.get(form)
        if how is None:
            labels = self.schedule.labels
            equation = Equation(tuple(labels[x] for x in line.operands), labels[line.target])
            own = line_options(self.options, line.operands)
            how = self.ways[form] = self._way(equation, operands, target, line.accumulate, own)
        self.used = 0
        how.run(operands, target, self.scratch)

    def write(
        self,
        equation: Equation,
        operands: Sequence[Tensor],
        target: Tensor,
        accumulate: bool,
        used: int = 0,
    ) -> None:
        """Contract into a tensor, with so many bytes of the workspace of the line in use already."""
        how = self._way(equation, operands, target, accumulate, self.options)
        self.used = used
        how.run(operands, target, self.scratch)

    def _way(
        self,
        equation: Equation,
        operands: Sequence[Tensor],
        target: Tensor,
        accumulate: bool,
        options: Options,
    ) -> Into:
        places = [_place(x) for x in operands]
        return into(equation, places, _place(target), accumulate, self.dtype, self.device.type, options)


def _slices(schedule: Schedule) -> int:
    """How many blocks the innermost loops go through."""

    def count(statements: Sequence[Statement]) -> int:
        inner = [line for line in statements if isinstance(line, Loop)]
        return sum(-(-schedule.sizes[x.label] // x.block) * count(x.body) for x in inner) if inner else 1

    return count(schedule.statements)


def _place(tensor: Tensor) -> Place:
    return Place(tuple(tensor.shape), tuple(tensor.stride()))
