"""Parts of values as views that move while loops go on.

A line reads and writes the same parts of the same values in every round of a loop, with the same shapes and
strides; only where they begin differs, by so many elements from one block to the next. What a line does is
therefore decided once, in terms of :class:`Part`; :class:`Views` has the tensors of the current round, of
which each is made anew only when a loop goes on in which it moves, or is kept for when it comes again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import NamedTuple

from torch import Tensor

from .matrix_views import Place

__all__ = ["Part", "Rounds", "Source", "Step", "Views"]

Sizes = tuple[int, ...]

Step = Callable[[], object]
"""Something that is done in every round, with the views of the round."""

MOST_KEPT = 2048
"""So many views of a run are kept for when they come again; each takes 600 bytes."""


class Source:
    """Memory that parts of values lie in.

    Args:
        tensor: one that has the memory; None where it is loaded later, or in turns into one of two buffers.
    """

    def __init__(self, tensor: Tensor | None = None) -> None:
        self.tensor = tensor
        self.changes = tensor is None
        self.origin = 0
        self.seen: list[tuple[int, Sizes, Sizes, int]] = []

    def move(self, tensor: Tensor, now: list[Tensor]) -> None:
        """From now on the values are in this tensor."""
        self.tensor, self.origin = tensor, int(tensor.storage_offset())
        for slot, shape, strides, offset in self.seen:
            now[slot] = tensor.as_strided(shape, strides, self.origin + offset)


class Part(NamedTuple):
    """A part of a value: where it lies in the first round, and how it moves.

    Attributes:
        source: the memory.
        shape: of the part.
        strides: in elements.
        offset: of its first element, from the start of the storage; where the source changes, from the start
            of the tensor.
        moves: for loops that it moves in, the outer ones first, how far with each step of their label.
    """

    source: Source
    shape: Sizes
    strides: Sizes
    offset: int = 0
    moves: tuple[tuple[Rounds, int], ...] = ()

    @classmethod
    def of(cls, tensor: Tensor) -> Part:
        """A tensor that is there, as a part that doesn't move."""
        offset = int(tensor.storage_offset())
        return cls(Source(tensor), tuple(tensor.shape), tuple(tensor.stride()), offset)

    @property
    def place(self) -> Place:
        """How it lies."""
        return Place(self.shape, self.strides)

    def seen(self, place: Place) -> Part:
        """The same memory in another shape, from the same element on."""
        return self._replace(shape=place.shape, strides=place.strides)

    def block(self, dim: int, rounds: Rounds) -> Part:
        """What a loop has in its current round."""
        shape = (*self.shape[:dim], rounds.length, *self.shape[dim + 1 :])
        step, offset, moves = self.strides[dim], self.offset, self.moves
        if len(rounds.starts) > 1 and step:
            moves = (*moves, (rounds, step))
        elif len(rounds.starts):
            offset += step * rounds.starts[0]
        return Part(self.source, shape, self.strides, offset, moves)


class _Table(dict[int, Tensor]):
    """The views of one shape in one source, by where they begin; up to some number of them is kept."""

    def __init__(self, part: Part, most: int) -> None:
        self.source, self.shape, self.strides = part.source, part.shape, part.strides
        self.most = most

    def __missing__(self, start: int) -> Tensor:
        tensor = self.source.tensor
        assert tensor is not None
        view = tensor.as_strided(self.shape, self.strides, start)
        if len(self) < self.most:
            self[start] = view
        return view


class _Moving:
    """A view that moves with a loop, by ``step`` elements, from where outer loops have it begin."""

    def __init__(self, part: Part) -> None:
        self.source, self.offset = part.source, part.offset
        self.outer = part.moves[:-1]

    def base(self) -> int:
        return self.source.origin + self.offset + sum([step * rounds.start for rounds, step in self.outer])


class Rounds:
    """A loop over blocks of one length: all blocks but a shorter last one, or that.

    Args:
        label: which is in blocks.
        starts: where the blocks begin.
        length: of each of them.
        outer: the rounds of the loop around it.
    """

    def __init__(self, label: int, starts: range, length: int, outer: Rounds | None = None) -> None:
        self.label, self.starts, self.length, self.outer = label, starts, length, outer
        self.start = starts[0] if starts else 0
        self._moving: list[tuple[int, _Table, int, int]] = []
        self._led: list[tuple[int, _Moving]] = []

    @property
    def lengths(self) -> dict[int, int]:
        """How long blocks of each label are, inside of this loop and those around it."""
        outer = {} if self.outer is None else self.outer.lengths
        return {**outer, self.label: self.length}

    def enter(self) -> None:
        """The loop begins: find where what moves in it begins."""
        for position, moving in self._led:
            slot, table, step, _ = self._moving[position]
            self._moving[position] = slot, table, step, moving.base()

    def go(self, start: int, now: list[Tensor]) -> None:
        """Go on to a block."""
        self.start = start
        for slot, table, step, base in self._moving:
            now[slot] = table[base + step * start]

    def add(self, slot: int, part: Part, kept: int, now: list[Tensor]) -> None:
        """From now on move a part with this loop, of whose views so many are kept."""
        moving, table, step = _Moving(part), _Table(part, kept), part.moves[-1][1]
        base = moving.base()
        if moving.outer or part.source.changes:
            self._led.append((len(self._moving), moving))
        self._moving.append((slot, table, step, base))
        now[slot] = table[base + step * self.start]


class Views:
    """The views of parts in the current round.

    Args:
        device: where they are.

    Attributes:
        now: the views, each in its slot.

    Example:
        >>> import torch
        >>> x, views = torch.arange(6), Views()
        >>> rounds = Rounds(0, range(0, 6, 2), 2)
        >>> slot = views.slot(Part.of(x).block(0, rounds))
        >>> rounds.enter()
        >>> rounds.go(4, views.now)
        >>> views.now[slot]
        tensor([4, 5])
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.now: list[Tensor] = []
        self._slots: dict[Part, int] = {}
        self._room = MOST_KEPT

    def slot(self, part: Part) -> int:
        """Where the view of a part is, from now on in every round."""
        found = self._slots.get(part)
        if found is not None:
            return found
        source = part.source
        slot = self._slots[part] = len(self.now)
        if part.moves:
            self.now.append(_NOTHING)
            part.moves[-1][0].add(slot, part, self._kept(part), self.now)
        elif source.tensor is not None:
            self.now.append(source.tensor.as_strided(part.shape, part.strides, source.origin + part.offset))
        else:
            self.now.append(_NOTHING)
        if source.changes and not part.moves:
            source.seen.append((slot, part.shape, part.strides, part.offset))
        return slot

    def slots(self, parts: Iterable[Part]) -> list[int]:
        """The slots of several parts."""
        return [self.slot(part) for part in parts]

    def _kept(self, part: Part) -> int:
        """How many views of a part to keep: all, if they come again and there aren't too many; or none."""
        moving = {id(rounds) for rounds, _ in part.moves}
        rounds, again = part.moves[-1][0].outer, False
        while rounds is not None:
            again = again or (id(rounds) not in moving and len(rounds.starts) > 1)
            rounds = rounds.outer
        views = prod([len(rounds.starts) for rounds, _ in part.moves])
        if part.source.changes or not again or views > self._room:
            return 0
        self._room -= views
        return views


_NOTHING = Tensor()
"""Stands for a view that isn't there yet."""
