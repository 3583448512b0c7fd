"""Looking for the loops around one path that keep it within a limit, at the least cost in time.

Loops are added and refined one at a time, each time the one that brings the lines that take too much furthest
down for the time that it costs (:mod:`.moves` says which there are); afterwards, the blocks of all loops are
weighed against one another within the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf, log, prod
from typing import NamedTuple

from ..schedules.schedule import Contract
from ..schedules.tree import ContractionTree, Cut
from .events import Taken
from .moves import Loops, Move, moves, origins
from .skeleton import Skeleton

__all__ = ["Branch", "State"]

ROUNDS = 60
"""How many loops are added or refined at most."""

MOST_PAIRED = 5
"""Up to so many loops, blocks of one are lengthened while those of another are shortened."""

LONG, LONG_ROUNDS = 12, 12
"""A network of more operands is long: then fewer rounds look for the finest loops."""

MOST_BALANCED, SWEEPS = 8, 4
"""The blocks of more loops of a long network are lengthened in turn, so many times at most."""

MOST_HOISTED = 16
"""Of so many values is asked whether they could be computed once."""


class State(NamedTuple):
    """Loops and what they take."""

    loops: Loops
    taken: Taken


class Branch:
    """One path, and the loops that were tried around it.

    Args:
        tree: the path.
        program: the skeleton of the path with loops.
        moving: for each operand whether a derivative is one in a direction that it has a part in.
    """

    def __init__(
        self, tree: ContractionTree, program: Callable[[Loops], Skeleton], moving: Sequence[bool] = ()
    ) -> None:
        self.tree, self.program, self.moving = tree, program, moving
        self.long = tree.count > LONG
        self.skeletons: dict[object, Skeleton] = {}
        self.known: dict[tuple[Loops, float], Taken] = {}
        self.plain = self.state(Loops(), inf)

    def skeleton(self, loops: Loops) -> Skeleton:
        """What tells what loops like these take, whatever their blocks."""
        sizes = self.tree.sizes
        key = (
            tuple([(cut.value, cut.label, cut.block >= sizes[cut.label]) for cut in loops.cuts]),
            loops.repeated,
        )
        found = self.skeletons.get(key)
        if found is None:
            found = self.skeletons[key] = self.program(loops)
        return found

    def state(self, loops: Loops, limit: float) -> State:
        """Loops with what they take, beside a limit."""
        taken = self.known.get((loops, limit))
        if taken is None:
            blocks = [cut.block for cut in loops.cuts]
            taken = self.known[loops, limit] = self.skeleton(loops).take(blocks, limit)
        return State(loops, taken)

    def moves(self, state: State) -> list[Move]:
        """Changes that could help at the moment when the most is in use."""
        loops, moment = state.loops, state.taken.moment
        skeleton = self.skeleton(loops)
        origin = origins(self.tree, skeleton.schedule, self.moving)
        held = skeleton.held([cut.block for cut in loops.cuts], moment)
        if not held:
            return []
        value = -1
        if (line := skeleton.events[moment].line) is not None:
            made = line.line
            value = origin.get(made.target if isinstance(made, Contract) else made.gradient, -1)
        return moves(self.tree, loops, held, origin, value)

    def fitted(self, start: State, limit: float) -> State:
        """Loops until the path fits, or until nothing brings it further down."""
        current = self.state(start.loops, limit)
        for _ in range(ROUNDS):
            if current.taken.over <= 0:
                break
            tried = [x for move in self.moves(current) for x in self._refined(current, move, limit)]
            best = self._chosen(current, tried)
            if best is None:
                break
            current = best
        return current

    def everywhere(self, start: State, limit: float) -> State:
        """Loops around all that has their label, which change everything else as often, until the path fits.

        This takes more time than loops where they are needed, but there's always one more that helps.
        """
        again, last = tuple(sorted(self.tree.children)), _last(self.tree)
        current = self.state(start.loops._replace(repeated=again), limit)
        for _ in range(ROUNDS):
            if current.taken.over <= 0:
                break
            offered = self._outermost(current, last)
            best = self._chosen(current, [x for move in offered for x in self._refined(current, move, limit)])
            if best is None:
                break
            current = best
        return self._hoisted(current, limit)

    def _outermost(self, state: State, last: Mapping[int, int]) -> list[Move]:
        """Loops around everything over labels of what is in use at the moment of the most."""
        loops, found = state.loops, dict[Move, None]()
        skeleton = self.skeleton(loops)
        held = skeleton.held([cut.block for cut in loops.cuts], state.taken.moment)
        for buffer in held[:3]:
            for label in buffer.whole:
                cut = Cut(last[label], label, self.tree.sizes[label])
                # A loop within another one over the same label would have nothing to cut.
                others = [x for x in loops.cuts if x.label != label]
                found[Move(Loops((cut, *others), loops.repeated), 0)] = None
            for number in buffer.cut:
                if loops.cuts[number].block > 1:
                    found[Move(loops, number)] = None
        return list(found)

    def _hoisted(self, current: State, limit: float) -> State:
        """The same with values computed once that were computed again and again, where they fit."""
        if current.taken.over > 0:
            return current
        sizes, tree = self.tree.sizes, self.tree
        work = {
            value: prod([sizes[x] for x in {x for child in made for x in tree.labels[child]}])
            for value, made in tree.children.items()
        }
        for value in sorted(work):
            work[value] += sum(work.get(child, 0) for child in tree.children[value])
        for value in sorted(work, key=lambda x: (-work[x], x))[:MOST_HOISTED]:
            rest = tuple(x for x in current.loops.repeated if x != value)
            tried = self.state(current.loops._replace(repeated=rest), limit)
            if tried.taken.over <= 0 and tried.taken.seconds <= current.taken.seconds:
                current = tried
        return current

    def _chosen(self, before: State, tried: Sequence[State]) -> State | None:
        """What brings the path further down, at the least cost."""
        better = [x for x in tried if x.taken.over < before.taken.over * (1 - 1e-9)]
        fitting = [x for x in better if x.taken.over <= 0]
        if fitting:
            return min(fitting, key=lambda x: x.taken.seconds)
        return max(better, key=lambda x: _gain(before, x), default=None)

    def _refined(self, before: State, move: Move, limit: float) -> Iterator[State]:
        """A change, with blocks of several lengths."""
        if move.cut < 0:
            yield self.state(move.loops, limit)
            return
        longest = move.loops.cuts[move.cut].block
        finest = self.state(_with_block(move.loops, move.cut, 1), limit)
        if finest.taken.over >= before.taken.over:
            return
        yield finest
        if finest.taken.over <= 0:
            # The longest block that fits.
            low, high = 1, longest
            while high > low * 5 // 4 + 1:
                middle = round((low * high) ** 0.5)
                middle = min(max(middle, low + 1), high - 1)
                state = self.state(_with_block(move.loops, move.cut, middle), limit)
                if state.taken.over <= 0:
                    low = middle
                    yield state
                else:
                    high = middle
            return
        for by in (2, 8, 32):
            block = -(-longest // by)
            if 1 < block < longest:
                yield self.state(_with_block(move.loops, move.cut, block), limit)

    def floor(self) -> int:
        """About the least bytes that the path can do with, by loops over single elements of all labels."""
        every = _every(self.tree)
        again = every._replace(repeated=tuple(sorted(self.tree.children)))
        return min(self.state(loops, 1.0).taken.bytes for loops in (every, again))

    def finest(self) -> State:
        """The path with loops over single elements wherever one takes less for it."""
        current = self.state(Loops(), 1.0)
        for _ in range(LONG_ROUNDS if self.long else 2 * ROUNDS):
            tried = []
            for move in self.moves(current):
                loops = move.loops if move.cut < 0 else _with_block(move.loops, move.cut, 1)
                tried.append(self.state(loops, 1.0))
            best = min(tried, key=_lowness, default=current)
            if _lowness(best) >= _lowness(current):
                break
            current = best
        every = _every(self.tree)
        again = every._replace(repeated=tuple(sorted(self.tree.children)))
        return min(current, self.state(every, 1.0), self.state(again, 1.0), key=_lowness)

    def balanced(self, start: State, limit: float) -> State:
        """The same loops with the blocks that take the least time within a limit; those of one block go."""
        current = start
        if self.long and len(start.loops.cuts) > MOST_BALANCED:
            return self._evened(start, limit)
        for _ in range(ROUNDS):
            tried = [self.state(loops, limit) for loops in _balances(self.tree, current.loops)]
            fitting = [x for x in tried if x.taken.over <= 0]
            best = min(fitting, key=lambda x: x.taken.seconds, default=current)
            if best.taken.seconds >= current.taken.seconds * (1 - 1e-4):
                break
            current = best
        return current

    def _evened(self, start: State, limit: float) -> State:
        """The same of many loops, one loop after the other."""
        current = start
        for _ in range(SWEEPS):
            before, position = current, 0
            while position < len(current.loops.cuts):
                cuts = current.loops.cuts
                cut, size = cuts[position], self.tree.sizes[cuts[position].label]
                tried = [_with_block(current.loops, position, x) for x in _lengths(cut.block, size, up=True)]
                if cut.block >= size:
                    tried = [current.loops._replace(cuts=cuts[:position] + cuts[position + 1 :])]
                states = [self.state(loops, limit) for loops in tried]
                fitting = [x for x in states if x.taken.over <= 0]
                best = min(fitting, key=lambda x: x.taken.seconds, default=current)
                if best.taken.seconds < current.taken.seconds:
                    current = best
                position += len(current.loops.cuts) == len(cuts)
            if current.taken.seconds >= before.taken.seconds * (1 - 1e-2):
                break
        return current


def _with_block(loops: Loops, position: int, block: int) -> Loops:
    cuts = loops.cuts
    return loops._replace(
        cuts=(*cuts[:position], cuts[position]._replace(block=block), *cuts[position + 1 :])
    )


def _lowness(state: State) -> tuple[int, float]:
    return state.taken.bytes, state.taken.over


def _gain(before: State, after: State) -> float:
    """How much less is over the limit, for how much more time."""
    slower = after.taken.seconds / before.taken.seconds
    return (before.taken.over - after.taken.over) / (log(max(slower, 1.0)) + 0.02)


def _every(tree: ContractionTree) -> Loops:
    """Loops over single elements of every label, each around the last value that is made of some with it."""
    last = _last(tree)
    cuts = [Cut(last[label], label, 1) for label in sorted(last) if tree.sizes[label] > 1]
    return Loops(tuple(sorted(cuts, key=lambda cut: -tree.sizes[cut.label])))


def _last(tree: ContractionTree) -> dict[int, int]:
    """For each label the last value that is made of some with it."""
    return {label: value for value in tree.children for x in tree.children[value] for label in tree.labels[x]}


def _balances(tree: ContractionTree, loops: Loops) -> Iterator[Loops]:
    """Loops with one block longer or shorter, with one longer and another shorter, or with one cut less."""
    cuts = loops.cuts
    longer, shorter = [], []
    for position, cut in enumerate(cuts):
        size = tree.sizes[cut.label]
        if cut.block >= size:
            yield loops._replace(cuts=cuts[:position] + cuts[position + 1 :])
            continue
        longer.append([(position, x) for x in _lengths(cut.block, size, up=True)])
        shorter.append([(position, x) for x in _lengths(cut.block, size, up=False)])
    for group in (*longer, *shorter):
        for position, block in group:
            yield _with_block(loops, position, block)
    if len(longer) > MOST_PAIRED:
        return
    for first in longer:
        for second in shorter:
            for position, block in first:
                for other, length in second[-2:]:
                    if position != other:
                        yield _with_block(_with_block(loops, position, block), other, length)


def _lengths(block: int, size: int, up: bool) -> list[int]:
    """Lengths of blocks near one: of some blocks more or fewer, which are as long as one another."""
    count = -(-size // block)
    # Far ones too: between may be lengths for which another kernel takes more memory.
    near, far = (count * 4 // 5, count - 1, count // 2), (count // 4, count // 16, count // 64)
    counts = {*near, *far} if up else {count * 2, count * 5 // 4, count + 1, count * 4}
    found = {-(-size // x) for x in counts if x > 0}
    if not up:
        found |= {x for multiple in (8, 64) for x in [block // multiple * multiple] if x}
    return sorted(x for x in found if x != block and 1 <= x <= size)
