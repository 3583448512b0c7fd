"""Running the loads and stores of a schedule, ahead of what is computed and behind it.

What is loaded next is known: the program is walked once more, for its loads alone, as far ahead as there are
free buffers. A buffer is free again when the program frees it, or when what it held has been stored. Where
an operand is given twice, and two lines of one round of a loop load the same block of it, it's loaded once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ...streaming.transfers import Addition, Transfer, Transfers
from ..schedules.loads import buffered, dense_strides
from ..schedules.schedule import Adjoint, Load, Loop, Schedule, Statement, Store

__all__ = ["Moving"]

AHEAD, AHEAD_BYTES = 16, 64 << 20
"""So many blocks of a file, of so many bytes, are read ahead of what is computed with them where they lie.
That takes no buffers, and the disk needn't wait where a computation takes longer for once."""

Placed = Callable[[int, int, Sequence[int], Sequence[int] | None], Tensor]
"""The memory of a value: its number, which of its buffers, its shape, its strides; contiguous for None."""


class _Ahead(NamedTuple):
    """A load to come.

    Attributes:
        target: into which value.
        source: from where.
        entry: within which entry of its loop.
        beside: what the other lines of this round have loaded, by :func:`_place`.
    """

    target: int
    source: Tensor
    entry: int
    beside: dict[Any, _Loaded]


@dataclass
class _Loaded:
    """A block in a buffer of the value that owns it, or where it lies, and for how many values it's there."""

    buffer: Tensor
    owner: int
    slot: int | None
    transfer: Transfer
    users: int = 1


class Moving:
    """The loads and stores of one run.

    Attributes:
        loading: the values that are loaded.
        storing: the values that are stored.

    Args:
        schedule: the program.
        sources: the operands that lie elsewhere, whole.
        transfers: what copies.
        placed: where buffers lie.
        additions: how parts of sums are added to each output that lies elsewhere.
    """

    def __init__(
        self,
        schedule: Schedule,
        sources: Mapping[int, Tensor],
        transfers: Transfers,
        placed: Placed,
        additions: Mapping[int, Addition],
    ) -> None:
        self._schedule, self._transfers = schedule, transfers
        self._placed, self._additions = placed, additions
        self._loops: dict[int, list[int]] = {}
        self._loop_of: dict[int, int] = {}
        for buffer in buffered(schedule):
            self._loop_of[buffer.value] = id(buffer.loop)
            self._loops.setdefault(id(buffer.loop), []).append(buffer.value)
        self._entered = dict.fromkeys(self._loops, 0)
        self._walked = dict.fromkeys(self._loops, 0)
        # Of each value, the buffers to fill next with the moments at which they are free.
        self._free: dict[int, deque[tuple[int, Any]]] = {}
        self._coming: dict[int, deque[_Loaded]] = {}
        self._using: dict[int, _Loaded] = {}
        self._turn: dict[int, int] = {}
        self._storing: dict[int, dict[int, Transfer]] = {}
        lines = list(_flat(schedule.statements))
        # A semiring that selects takes what it passes on out of the gradient.
        self._used_up = {line.gradient for line in lines if isinstance(line, Adjoint)}
        self.loading = {line.target for line in lines if isinstance(line, Load)}
        self.storing = {line.source for line in lines if isinstance(line, Store)}
        self._walk = self._loads(_moving_lines(schedule.statements), dict(sources))
        self._next = next(self._walk, None)

    def enter(self, loop: Loop) -> None:
        """A loop begins."""
        values = self._loops.get(id(loop))
        if values is None:
            return
        self._entered[id(loop)] += 1
        moment = self._transfers.mark()
        for value in values:
            self._free[value] = deque([(0, moment), (1, moment)])
        self._begin()

    def leave(self, loop: Loop) -> None:
        """A loop has ended, and others may use its buffers."""
        for value in self._loops.get(id(loop), ()):
            self._settle(value)

    def load(self, line: Load) -> Tensor:
        """The buffer that a line loads, once what is computed next can see what's in it."""
        target = line.target
        if not self._coming.get(target):
            # It stands alone, outside of every loop.
            self._free[target] = deque([(0, self._transfers.mark())])
            self._start()
        loaded = self._coming[target].popleft()
        self._transfers.wait(loaded.transfer)
        self._using[target] = loaded
        return loaded.buffer

    def allocate(self, value: int, shape: Sequence[int]) -> Tensor:
        """A buffer that a value is computed in, to be stored."""
        slot = self._turn[value] = 1 - self._turn.get(value, 1)
        if value not in self._loop_of:
            slot = self._turn[value] = 0
        earlier = self._storing.get(value, {}).pop(slot, None)
        if earlier is not None:
            self._transfers.wait(earlier)
        return self._placed(value, slot, shape, None)

    def store(self, line: Store, target: Tensor, source: Tensor) -> None:
        """Begin to store a buffer in the current block of an output."""
        add = self._additions[line.target] if line.accumulate else None
        started = self._transfers.copy(target, source, after=self._transfers.mark(), add=add)
        self._storing.setdefault(line.source, {})[self._turn[line.source]] = started

    def free(self, value: int) -> None:
        """A buffer is done with."""
        loaded = self._using.pop(value, None)
        if loaded is not None:
            loaded.users -= 1
        if value not in self._loop_of:
            self._settle(value)
        elif loaded is not None and not loaded.users:
            if loaded.slot is not None:
                self._free[loaded.owner].append((loaded.slot, self._transfers.mark()))
            self._begin()

    def close(self) -> None:
        """Look no further ahead."""
        self._walk.close()
        self._next = None

    def _settle(self, value: int) -> None:
        for transfer in self._storing.pop(value, {}).values():
            self._transfers.wait(transfer)

    def _begin(self) -> None:
        """Begin the loads to come, in their order, as far as there are buffers for them."""
        while self._next is not None:
            loop = self._loop_of.get(self._next.target)
            if loop is None or self._entered[loop] < self._next.entry:
                return
            if not self._has_room(self._next):
                return
            self._start()

    def _has_room(self, load: _Ahead) -> bool:
        """Whether there's a buffer for a load, or none is needed."""
        if self._shared(load) is not None:
            return True
        if self._stays(load) is None:
            return bool(self._free[load.target])
        count, bytes_ = len(self._coming.get(load.target, ())), load.source.numel() * load.source.itemsize
        return count < 2 or (count < AHEAD and count * bytes_ < AHEAD_BYTES)

    def _start(self) -> None:
        assert self._next is not None
        target, source, _, beside = self._next
        loaded, block = self._shared(self._next), self._stays(self._next)
        if loaded is not None:
            loaded.users += 1
        elif block is not None:
            loaded = _Loaded(block, target, None, self._transfers.read(block))
        else:
            slot, moment = self._free[target].popleft()
            buffer = self._buffer(target, slot, source)
            loaded = _Loaded(buffer, target, slot, self._transfers.copy(buffer, source, after=moment))
        if target in self._loop_of and target not in self._used_up:
            beside[_place(source)] = loaded
        self._coming.setdefault(target, deque()).append(loaded)
        self._next = next(self._walk, None)

    def _stays(self, load: _Ahead) -> Tensor | None:
        """A block where it lies, laid out as its buffer would be; None if it has to be copied there."""
        layout = self._buffer(load.target, 0, load.source)
        if load.target in self._used_up or not self._transfers.stays(layout, load.source):
            return None
        return load.source.as_strided(layout.shape, layout.stride())

    def _buffer(self, value: int, slot: int, source: Tensor) -> Tensor:
        shape = tuple(source.shape)
        return self._placed(value, slot, shape, dense_strides(shape, source.stride()))

    def _shared(self, load: _Ahead) -> _Loaded | None:
        """What another line of the same round loads, if it's the same block and still there."""
        if load.target in self._used_up:
            return None
        loaded = load.beside.get(_place(load.source))
        return loaded if loaded is not None and loaded.users else None

    def _loads(
        self, statements: Sequence[Any], sources: Mapping[int, Tensor]
    ) -> Generator[_Ahead, None, None]:
        beside: dict[Any, _Loaded] = {}
        for line in statements:
            if isinstance(line, Load):
                entry = self._walked.get(self._loop_of.get(line.target, -1), 0)
                yield _Ahead(line.target, sources[line.source], entry, beside)
                continue
            loop, body = line
            if id(loop) in self._walked:
                self._walked[id(loop)] += 1
            size = self._schedule.sizes[loop.label]
            dims = {
                value: self._schedule.labels[value].index(loop.label)
                for value in sources
                if loop.label in self._schedule.labels[value]
            }
            for start in range(0, size, loop.block):
                length = min(loop.block, size - start)
                inside = {
                    value: tensor.narrow(dims[value], start, length) if value in dims else tensor
                    for value, tensor in sources.items()
                }
                yield from self._loads(body, inside)


def _place(source: Tensor) -> Any:
    """Equal for blocks that are the same memory, seen in the same way."""
    seen = source.dtype, source.is_conj(), source.is_neg()
    return source.data_ptr(), tuple(source.shape), source.stride(), seen


def _flat(statements: Sequence[Statement]) -> Iterator[Statement]:
    """The lines, those inside of loops instead of these."""
    for line in statements:
        if isinstance(line, Loop):
            yield from _flat(line.body)
        else:
            yield line


def _moving_lines(statements: Sequence[Statement]) -> list[Any]:
    """The loads, and the loops that have some, as pairs of a loop and its own such lines."""
    kept: list[Any] = []
    for line in statements:
        if isinstance(line, Load):
            kept.append(line)
        elif isinstance(line, Loop):
            body = _moving_lines(line.body)
            if body:
                kept.append((line, body))
    return kept
