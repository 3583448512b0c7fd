"""Running a schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from math import prod
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ...equation import Equation
from ...layout import contiguous_strides
from ...mapped_memory import block, make_resident
from ...options import REAL, Options
from ...progress import Choice, Progress
from ...streaming.transfers import Transfers
from ..schedules.loads import dense_strides, loaded_options
from ..schedules.schedule import Adjoint, Allocate, Contract, Free, Load, Loop, Schedule, Statement, Store
from .gradients import gradient_steps
from .into import Into, into, is_real
from .loops import Looping, line_count
from .memory import ALIGNMENT, Demand
from .moving import Moving
from .parts import Part, Rounds, Source, Step, Views
from .resident import LARGE_BYTES, Resident
from .work import line_options

__all__ = ["run"]

T = TypeVar("T")

MOST_KNOWN = 1 << 14
"""About so many lines, in so many forms, it is kept how they are computed."""

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
        running = Running(schedule, operands, found, options, where, kind, limit)
        running.progress, running.stored = shown, stored or running.dtype
        if schedule.loaded or schedule.stored:
            running.move(stack.enter_context(Transfers(running.device)))
            # Both know one another, and would keep the memory until Python looks for such rings.
            stack.callback(running.move_nothing)
        made = running.outputs()
        if running.resident is not None:
            running.resident.close()
        return made


class Running:
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
        self.where = where = found.arena
        self.taken = {interval.value: interval.bytes for interval in found.intervals}
        self.dtype, self.device = dtype, device
        self.zero = options.semiring.zero_of(self.dtype)
        # torch's copies from float16 to float32 lose the minus of negative views.
        self.operands = [x.resolve_neg() if x.dtype != dtype and x.is_neg() else x for x in operands]
        self.moment = self.used = 0
        self.lacking = False
        self.made: dict[int, Tensor] = {}
        self.views = Views(device.type)
        situation = id(schedule), self.options, dtype, device.type, torch.get_num_threads()
        # The schedule is kept, so that no other one has its number.
        _, self.decided = found.known.setdefault(situation, (schedule, {}))
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
        self.arena = Source(self.memory)

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
        scope = {value: Part.of(x) for value, x in enumerate(self.operands)}
        for line in self.schedule.statements:
            # What is outside of loops runs once: outputs are made no sooner than they are due.
            for step in self.steps(line, scope, None):
                step()
        if not self.schedule.loops:
            self.progress.computed()
        made = tuple(self.made[value] for value in self.schedule.outputs)
        if self.dtype.is_complex and self.schedule.is_adjoint:
            for gradient in made:
                gradient.conj_physical_()
        return made

    def steps(self, line: Statement, scope: dict[int, Part], rounds: Rounds | None) -> list[Step]:
        """What a line does in every round of the loops around.

        Args:
            line: the next one.
            scope: the values that are there, or their current blocks; changed to what is there then.
            rounds: of the innermost loop around.
        """
        if isinstance(line, Loop):
            looping = Looping(self, line, scope, rounds, self.moment)
            self.moment += line_count(line.body)
            return [looping]
        steps: list[Step] = []
        if isinstance(line, Allocate):
            if self.moving is None or line.value not in self.moving.loading:
                steps = self.allocate(line, scope, rounds)
        elif isinstance(line, (Load, Store)):
            steps = [self._load(line, scope) if isinstance(line, Load) else self._store(line, scope)]
        elif isinstance(line, (Contract, Adjoint)):
            steps = self.compute(line, scope)
            if self.resident is not None and self.moment in self.resident.apart:
                before, after = (partial(x, self.moment) for x in (self.resident.before, self.resident.after))
                steps = [before, *steps, after]
        elif isinstance(line, Free):
            del scope[line.value]
            if self.moving is not None:
                steps = [partial(self.moving.free, line.value)]
        self.moment += 1
        return steps

    def _load(self, line: Load, scope: dict[int, Part]) -> Step:
        assert self.moving is not None
        moving, now, source = self.moving, self.views.now, Source()
        shape = scope[line.source].shape
        scope[line.target] = Part(source, shape, dense_strides(shape, scope[line.source].strides))

        def load() -> None:
            block = moving.load(line)
            source.move(block, now)
            self.progress.moved(block.numel() * block.itemsize)

        return load

    def _store(self, line: Store, scope: dict[int, Part]) -> Step:
        assert self.moving is not None
        moving, now = self.moving, self.views.now
        target, source = self.views.slots([scope[line.target], scope[line.source]])

        def store() -> None:
            block = now[source]
            moving.store(line, now[target], block)
            self.progress.moved(block.numel() * block.itemsize)

        return store

    def _slot(self, value: int, slot: int, shape: Sequence[int], strides: Sequence[int] | None) -> Tensor:
        """One of the two buffers of a value that is loaded or stored; outside of loops it has but one."""
        start = (self.where.offsets[value] + slot * self.taken[value] // 2) // self.dtype.itemsize
        part = self.memory[start : start + prod(shape)]
        return part.view(tuple(shape)) if strides is None else part.as_strided(tuple(shape), tuple(strides))

    def allocate(self, line: Allocate, scope: dict[int, Part], rounds: Rounds | None) -> list[Step]:
        """Make a buffer: what lies in the arena is there already, and only what it starts as is written."""
        shape = self.schedule.shape(line.value, None if rounds is None else rounds.lengths)
        steps: list[Step] = []
        if line.value in self.schedule.outputs:
            part = Part.of(self._output(line.value, shape))
        elif self.moving is not None and line.value in self.moving.storing:
            source, moving, now = Source(), self.moving, self.views.now
            part = Part(source, shape, contiguous_strides(shape))
            steps.append(lambda: source.move(moving.allocate(line.value, shape), now))
        else:
            part = self._placed(self.where.offsets[line.value], shape)
        scope[line.value] = part
        if line.gradient or line.filled:
            now, slot, zero = self.views.now, self.views.slot(part), 0 if line.gradient else self.zero
            steps.append((lambda: now[slot].fill_(zero)) if zero else (lambda: now[slot].zero_()))
        return steps

    def _output(self, value: int, shape: Sequence[int]) -> Tensor:
        here = value not in self.schedule.stored
        dtype, device = (self.dtype, self.device) if here else (self.stored, torch.device("cpu"))
        made = self.made[value] = torch.empty(shape, dtype=dtype, device=device)
        if self.resident is not None:
            self.resident.make(made.nbytes)
            if self.resident.exact and made.device.type == "cpu":
                make_resident(made.view(-1))
        return made

    def _placed(self, offset: int, shape: Sequence[int]) -> Part:
        """A part of the arena that begins at some byte."""
        start = offset // self.dtype.itemsize
        if self.resident is not None:
            self.resident.take(offset + self.dtype.itemsize * prod(shape))
        start += int(self.memory.storage_offset())
        return Part(self.arena, tuple(shape), contiguous_strides(shape), start)

    def scratch(self, shape: Sequence[int]) -> Tensor:
        """Memory out of the workspace of the line that runs, one piece behind the other.

        A last block that is shorter may be computed in another way, with a workspace of its own.
        """
        size = prod(shape) * self.dtype.itemsize
        if not size or self.used + size > self.where.workspaces.get(self.moment, 0):
            self.lacking = self.lacking or size > 0
            return torch.empty(tuple(shape), dtype=self.dtype, device=self.device)
        self.used += size
        part = self._placed(self.where.offsets[-1 - self.moment] + self.used - size, shape)
        return self.memory.as_strided(part.shape, part.strides, part.offset)

    def compute(self, line: Contract | Adjoint, scope: Mapping[int, Part]) -> list[Step]:
        """What a line does that contracts."""
        moment, self.lacking = self.moment, False
        steps = self.prepared(line, scope, self.views)
        if self.lacking:
            # Memory of torch's is there no longer than the line runs.
            now, slots = self.views.now, {x: self.views.slot(scope[x]) for x in used(line) if x in scope}

            def anew() -> None:
                self.run_with(line, {x: now[slot] for x, slot in slots.items()})

            return [partial(self.at, moment, [anew])]
        if isinstance(line, Adjoint) and not is_real(self.options, self.dtype):
            # These ask for memory while they run.
            return [partial(self.at, moment, steps)]
        return steps

    def at(self, moment: int, steps: Sequence[Step]) -> None:
        """Run steps with the workspace of a line; others may have been prepared, and more will be."""
        before, self.moment = self.moment, moment
        for step in steps:
            step()
        self.moment = before

    def run_with(self, line: Contract | Adjoint, values: Mapping[int, Tensor]) -> None:
        """Run a line once, on some tensors."""
        parts = {x: Part.of(tensor) for x, tensor in values.items()}
        for step in self.prepared(line, parts, Views(self.device.type)):
            step()

    def known(self, key: Any, decide: Callable[[], T]) -> T:
        """What is decided about a line, in this run or one before."""
        found = self.decided.get(key)
        if found is None:
            if len(self.decided) >= MOST_KNOWN:
                self.decided.clear()
            found = self.decided[key] = decide()
        return cast(T, found)

    def prepared(self, line: Contract | Adjoint, parts: Mapping[int, Part], views: Views) -> list[Step]:
        """What a line does that contracts some parts of its values, in the workspace of the current line."""
        schedule, self.used = self.schedule, 0
        if isinstance(line, Adjoint):
            return gradient_steps(line, schedule, parts, self.dtype, self.options, views, self)
        operands, target = [parts[x] for x in line.operands], parts[line.target]
        places = tuple([x.place for x in operands])

        def decide() -> Into:
            labels, own = schedule.labels, line_options(self.options, line.operands)
            equation = Equation(tuple([labels[x] for x in line.operands]), labels[line.target])
            return into(equation, places, target.place, line.accumulate, self.dtype, views.device, own)

        how = self.known((line, places, target.place), decide)
        return how.steps(operands, target, views, self.scratch)


def _slices(schedule: Schedule) -> int:
    """How many blocks the innermost loops go through."""

    def count(statements: Sequence[Statement]) -> int:
        inner = [line for line in statements if isinstance(line, Loop)]
        return sum(-(-schedule.sizes[x.label] // x.block) * count(x.body) for x in inner) if inner else 1

    return count(schedule.statements)


def used(line: Contract | Adjoint) -> list[int]:
    """The values that a line reads or writes."""
    if isinstance(line, Contract):
        return [*line.operands, line.target]
    return [x for x in (*line.operands, line.target, line.gradient, *line.gradients) if x >= 0]
