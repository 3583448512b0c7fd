"""Looking for the loops that keep a contraction within a limit, at the least cost in time.

Path and loops are looked for together: each of several paths gets the loops that it needs, and the one that
then takes the least time is taken. For one path, loops are added and refined one at a time, each time the one
that brings the lines that take too much furthest down for the time that it costs (:mod:`.moves` says which
there are); afterwards, the blocks of all loops are weighed against one another within the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf, log, prod
from typing import NamedTuple

import torch

from ..equation import Equation
from ..errors import MemoryLimitError
from ..options import REAL, Options
from ..plans import size_text
from .derivatives import derivative
from .hoisting import place_within
from .loads import HERE, Remote, loaded_options, place
from .memory import Demand, arena, demand
from .moves import Loops, Move, moves, origins
from .schedule import Contract, Schedule
from .skeleton import Skeleton, Taken, Works
from .tree import ContractionTree, Cut, schedule

__all__ = ["Sliced", "find_schedule"]

Path = Sequence[Sequence[int]]
Sizes = Sequence[int]

BRANCHES = 6
"""How many paths get loops."""

ROUNDS = 60
"""How many loops are added or refined at most."""

MOST_PAIRED = 5
"""Up to so many loops, blocks of one are lengthened while those of another are shortened."""

MOST_HOISTED = 16
"""Of so many values is asked whether they could be computed once."""

MOST_SEARCHED = 16
"""Up to so many operands loops are looked for wherever they help; beyond only where they help everything."""

WORTH_MORE = 1.3
"""Where a path takes so many times the time that it takes without a limit, other kinds of loops are tried."""

LOWER = (1.0, 0.97, 0.93, 0.87, 0.8, 0.7)
"""Which parts of the limit are aimed at, one after the other, where buffers leave gaps in the arena."""


class Sliced(NamedTuple):
    """A schedule with what it takes.

    Attributes:
        schedule: the program.
        demand: its bytes and seconds.
        tree: its path.
        cuts: its loops.
        repeated: the values that are computed again in loops that don't change them.
    """

    schedule: Schedule
    demand: Demand
    tree: ContractionTree
    cuts: tuple[Cut, ...]
    repeated: tuple[int, ...] = ()

    def __str__(self) -> str:
        """What it takes, and the program."""
        found = self.demand
        taken = f"peak {size_text(self.bytes)}, predicted {found.seconds * 1e6:,.1f} us"
        return f"FLOPs {found.flops:.3e}, {taken}\n{self.schedule}"

    @property
    def bytes(self) -> int:
        """What running it takes: the arena, what torch allocates for a line, and outputs."""
        found = self.demand
        return arena(found.intervals).bytes + found.apart_bytes + found.output_bytes


@dataclass(frozen=True)
class _Problem:
    """What is looked for."""

    limit: int
    dtype: torch.dtype
    device: str
    options: Options
    wanted: tuple[bool, ...]
    strides: tuple[tuple[int, ...], ...] | None
    moving: tuple[bool, ...] = ()
    remote: Remote = HERE
    works: Works = field(default_factory=dict)

    def program(
        self, tree: ContractionTree, loops: Loops, marked: bool = False
    ) -> tuple[Schedule, list[Sizes] | None]:
        """What is computed, with everything here, and the strides of its operands."""
        made = schedule(tree, loops.cuts, loops.repeated, marked)
        return derivative(made, self.options, self.wanted, self.moving, self.strides)

    def skeleton(self, tree: ContractionTree, loops: Loops) -> Skeleton:
        """What tells, for these loops, what blocks of any lengths take."""
        made, strides = self.program(tree, loops, marked=True)
        if self.remote:
            made = place(made, self.remote)
        labels = [cut.label for cut in loops.cuts]
        rest = self.dtype, self.device, loaded_options(made, self.options), strides, self.works
        return Skeleton(made, labels, *rest)

    def sliced(self, tree: ContractionTree, loops: Loops) -> Sliced:
        """The schedule with what it takes exactly."""
        made, strides = self.program(tree, loops)
        if self.remote:
            made = place(made, self.remote)
        return Sliced(made, self.measure(strides, made), tree, loops.cuts, loops.repeated)

    def settled(self, found: Sliced) -> Sliced:
        """The same with loads further out, where what is copied is then copied less often."""
        if not self.remote:
            return found
        made, strides = self.program(found.tree, Loops(found.cuts, found.repeated))
        made, taken = place_within(made, self.remote, self.limit, partial(self.measure, strides))
        return found._replace(schedule=made, demand=taken)

    def measure(self, strides: Sequence[Sizes] | None, made: Schedule) -> Demand:
        """What a schedule takes."""
        return demand(made, self.dtype, self.device, self.options, strides)


class _State(NamedTuple):
    """Loops and what they take."""

    loops: Loops
    taken: Taken


class _Branch:
    """One path, and the loops that were tried around it."""

    def __init__(self, problem: _Problem, tree: ContractionTree) -> None:
        self.problem, self.tree = problem, tree
        self.skeletons: dict[object, Skeleton] = {}
        self.known: dict[tuple[Loops, float], Taken] = {}
        self.plain = self.state(Loops(), inf)

    def skeleton(self, loops: Loops) -> Skeleton:
        key = (tuple([(cut.value, cut.label) for cut in loops.cuts]), loops.repeated)
        found = self.skeletons.get(key)
        if found is None:
            found = self.skeletons[key] = self.problem.skeleton(self.tree, loops)
        return found

    def state(self, loops: Loops, limit: float) -> _State:
        taken = self.known.get((loops, limit))
        if taken is None:
            blocks = [cut.block for cut in loops.cuts]
            taken = self.known[loops, limit] = self.skeleton(loops).take(blocks, limit)
        return _State(loops, taken)

    def moves(self, state: _State) -> list[Move]:
        """Changes that could help at the moment when the most is in use."""
        loops, moment = state.loops, state.taken.moment
        skeleton = self.skeleton(loops)
        origin = origins(self.tree, skeleton.schedule, self.problem.moving)
        held = skeleton.held([cut.block for cut in loops.cuts], moment)
        if not held:
            return []
        value = -1
        if (line := skeleton.events[moment].line) is not None:
            made = line.line
            value = origin.get(made.target if isinstance(made, Contract) else made.gradient, -1)
        return moves(self.tree, loops, held, origin, value)

    def fitted(self, start: _State, limit: float) -> _State:
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

    def everywhere(self, start: _State, limit: float) -> _State:
        """Loops around all that has their label, which change everything else as often, until the path fits.

        This takes more time than loops where they are needed, but there's always one more that helps.
        """
        again, last = tuple(sorted(self.tree.children)), _last(self.tree)
        current = self.state(start.loops._replace(repeated=again), limit)
        for _ in range(ROUNDS):
            if current.taken.over <= 0:
                break
            loops, found = current.loops, dict[Move, None]()
            skeleton = self.skeleton(loops)
            for buffer in skeleton.held([cut.block for cut in loops.cuts], current.taken.moment)[:3]:
                for label in buffer.whole:
                    cut = Cut(last[label], label, self.tree.sizes[label])
                    found[Move(Loops((cut, *loops.cuts), again), 0)] = None
                for number in buffer.cut:
                    if loops.cuts[number].block > 1:
                        found[Move(loops, number)] = None
            tried = [state for move in found for state in self._refined(current, move, limit)]
            best = self._chosen(current, tried)
            if best is None:
                break
            current = best
        return self._hoisted(current, limit)

    def _hoisted(self, current: _State, limit: float) -> _State:
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

    def _chosen(self, before: _State, tried: Sequence[_State]) -> _State | None:
        """What brings the path further down, at the least cost."""
        better = [x for x in tried if x.taken.over < before.taken.over * (1 - 1e-9)]
        fitting = [x for x in better if x.taken.over <= 0]
        if fitting:
            return min(fitting, key=lambda x: x.taken.seconds)
        return max(better, key=lambda x: _gain(before, x), default=None)

    def _refined(self, before: _State, move: Move, limit: float) -> Iterator[_State]:
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

    def finest(self) -> _State:
        """The path with loops over single elements wherever one takes less for it."""
        current = self.state(Loops(), 1.0)
        for _ in range(2 * ROUNDS):
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

    def balanced(self, start: _State, limit: float) -> _State:
        """The same loops with the blocks that take the least time within a limit; those of one block go."""
        current = start
        for _ in range(ROUNDS):
            tried = [self.state(loops, limit) for loops in _balances(self.tree, current.loops)]
            fitting = [x for x in tried if x.taken.over <= 0]
            best = min(fitting, key=lambda x: x.taken.seconds, default=current)
            if best.taken.seconds >= current.taken.seconds * (1 - 1e-4):
                break
            current = best
        return current


def _with_block(loops: Loops, position: int, block: int) -> Loops:
    cuts = loops.cuts
    return loops._replace(
        cuts=(*cuts[:position], cuts[position]._replace(block=block), *cuts[position + 1 :])
    )


def _lowness(state: _State) -> tuple[int, float]:
    return state.taken.bytes, state.taken.over


def _gain(before: _State, after: _State) -> float:
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
            for (position, block), (other, length) in zip(first, second, strict=False):
                if position != other:
                    yield _with_block(_with_block(loops, position, block), other, length)


def _lengths(block: int, size: int, up: bool) -> list[int]:
    """Lengths of blocks near one: of some blocks more or fewer, which are as long as one another."""
    count = -(-size // block)
    counts = {count // 2, count * 4 // 5, count - 1} if up else {count * 2, count * 5 // 4, count + 1}
    found = {-(-size // x) for x in counts if x > 0}
    if not up:
        found |= {x for multiple in (8, 64) for x in [block // multiple * multiple] if x}
    return sorted(x for x in found if x != block and 1 <= x <= size)


def find_schedule(
    equation: Equation,
    shapes: Sequence[Sizes],
    paths: Sequence[Path],
    limit: int,
    dtype: torch.dtype,
    device: str,
    *,
    options: Options = REAL,
    wanted: Sequence[bool] = (),
    moving: Sequence[bool] = (),
    strides: Sequence[Sizes] | None = None,
    remote: Remote = HERE,
) -> Sliced:
    """The fastest schedule of some paths that stays within a limit.

    Args:
        equation: what is contracted; no label twice in an operand.
        shapes: of the operands; dimensions that broadcast are to be taken out before.
        paths: from which to choose, as lists of the values that each step joins.
        limit: the most bytes beside the operands, outputs included.
        dtype: of the operands.
        device: where they are.
        options: over which semiring.
        wanted: for each operand whether its gradient is computed; empty for the contraction itself.
        moving: for each operand whether it has a part in the direction of a derivative; empty for none.
        strides: of the operands, in elements, and of what :func:`.derivatives.derivative` takes beside them;
            all are contiguous where None.
        remote: what lies elsewhere, of the operands and outputs of the schedule that is computed.

    Raises:
        MemoryLimitError: there's none; it says which limit the smallest one found would need.

    Example:
        >>> equation, shapes = Equation.parse("ij,jk,kl->il"), [(200, 300), (300, 400), (400, 10)]
        >>> found = find_schedule(equation, shapes, [[(0, 1), (2, 3)]], 50_000, torch.float32, "cpu")
        >>> found.bytes <= 50_000, len(found.cuts) > 0
        (True, True)
    """
    sizes = equation.sizes(shapes)
    by_label = tuple(sizes[label] for label in equation.labels)
    problem = _Problem(
        max(limit, 1),
        dtype,
        device,
        options,
        tuple(wanted),
        None if strides is None else tuple(map(tuple, strides)),
        tuple(moving),
        remote,
    )
    trees = [ContractionTree(equation, by_label, tuple(tuple(step) for step in path)) for path in paths]
    branches = [_Branch(problem, tree) for tree in dict.fromkeys(trees)]
    branches.sort(key=lambda branch: branch.plain.taken.seconds)
    chosen = branches[:BRANCHES]
    chosen += [x for x in sorted(branches, key=lambda x: x.plain.taken.bytes)[:2] if x not in chosen]
    best: Sliced | None = None
    least = inf
    for branch in chosen:
        if best is not None and branch.plain.taken.seconds >= best.demand.seconds:
            continue
        found = None
        if branch.plain.taken.bytes <= problem.limit or branch.floor() <= problem.limit:
            found = _within(branch, problem.limit)
        if found is None:
            # The finest there is, whatever the limit: it may be enough, and says what would be.
            finest = branch.finest()
            exact = problem.sliced(branch.tree, finest.loops)
            least = min(least, exact.bytes)
            if exact.bytes <= problem.limit:
                found = _aimed(branch, problem.limit, finest, branch.fitted) or exact
        if found is not None and (best is None or found.demand.seconds < best.demand.seconds):
            best = found
    if best is None and any(remote.outputs) and not (remote.partial or remote.whole):
        # Where results don't fit one by one, parts of them are added up where they are kept.
        rest = {"options": options, "wanted": wanted, "moving": moving, "strides": strides}
        parts = replace(remote, partial=True)
        return find_schedule(equation, shapes, paths, limit, dtype, device, **rest, remote=parts)  # type: ignore[arg-type]
    if best is None:
        gradients = " with its gradients" * any(wanted) + " with its derivatives" * any(moving)
        needed = int(least)
        raise MemoryLimitError(
            f"einsum {str(equation)!r} of {', '.join(str(tuple(shape)) for shape in shapes)}{gradients}: "
            f"memory_limit={limit} ({size_text(limit)}) is too little; beside its operands it needs "
            f"{needed} bytes ({size_text(needed)}), as far as was found",
            needed,
        )
    return problem.settled(best)


def _within(branch: _Branch, limit: int) -> Sliced | None:
    """The fastest schedule found that stays within a limit."""
    found = None
    if branch.tree.count <= MOST_SEARCHED or branch.plain.taken.bytes <= limit:
        found = _aimed(branch, limit, branch.plain, branch.fitted)
    if found is None or found.demand.seconds > WORTH_MORE * branch.plain.taken.seconds:
        other = _aimed(branch, limit, branch.plain, branch.everywhere)
        if found is None or (other is not None and other.demand.seconds < found.demand.seconds):
            found = other
    return found


def _aimed(
    branch: _Branch, limit: int, start: _State, search: Callable[[_State, float], _State]
) -> Sliced | None:
    """What a search finds that stays within a limit; told less where buffers leave gaps in the arena."""
    current = start
    for part in LOWER:
        current = search(current, part * limit)
        if current.taken.over > 0:
            break
        found = branch.problem.sliced(branch.tree, branch.balanced(current, part * limit).loops)
        if found.bytes <= limit:
            return found
    return None
