"""Looking for the loops that keep a contraction within a limit, at the least cost in time.

Path and loops are looked for together: each of several paths gets the loops that it needs, and the one that
then takes the least time is taken. For one path, loops are added and refined one at a time, each time the one
that brings the lines that take too much furthest down for the time that it costs; afterwards, blocks are
lengthened as far as the limit allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf, log
from typing import NamedTuple

import torch

from ..equation import Equation
from ..errors import MemoryLimitError
from ..options import REAL, Options
from ..plans import size_text
from .derivatives import derivative
from .hoisting import place_within
from .loads import HERE, Remote, place
from .memory import Demand, arena, demand
from .schedule import Schedule
from .tree import ContractionTree, Cut, schedule

__all__ = ["Sliced", "find_schedule"]

Path = Sequence[Sequence[int]]
Sizes = Sequence[int]

BRANCHES = 6
"""How many paths get loops."""

ROUNDS = 60
"""How many loops are added or refined at most."""


class Sliced(NamedTuple):
    """A schedule with what it takes.

    Attributes:
        schedule: the program.
        demand: its bytes and seconds.
        tree: its path.
        cuts: its loops.
    """

    schedule: Schedule
    demand: Demand
    tree: ContractionTree
    cuts: tuple[Cut, ...]

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

    def judge(self, tree: ContractionTree, cuts: Sequence[Cut]) -> _Candidate:
        made = schedule(tree, cuts)
        made, given = derivative(made, self.options, self.wanted, self.moving, self.strides)
        if self.remote:
            made = place(made, self.remote)
        found = self.measure(given, made)
        over = sum(log(moment.bytes / self.limit) for moment in found.moments if moment.bytes > self.limit)
        return _Candidate(Sliced(made, found, tree, tuple(cuts)), over)

    def settled(self, found: Sliced) -> Sliced:
        """The same with loads further out, where what is copied is then copied less often."""
        if not self.remote:
            return found
        forward = schedule(found.tree, found.cuts)
        made, given = derivative(forward, self.options, self.wanted, self.moving, self.strides)
        made, taken = place_within(made, self.remote, self.limit, partial(self.measure, given))
        return found._replace(schedule=made, demand=taken)

    def measure(self, strides: Sequence[Sizes] | None, made: Schedule) -> Demand:
        return demand(made, self.dtype, self.device, self.options, strides)


class _Candidate(NamedTuple):
    sliced: Sliced
    over: float


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
    plain = [problem.judge(tree, ()) for tree in dict.fromkeys(trees)]
    plain.sort(key=lambda candidate: candidate.sliced.demand.seconds)
    best: Sliced | None = None
    least = inf
    chosen = plain[:BRANCHES]
    chosen += [x for x in sorted(plain, key=lambda x: x.sliced.demand.peak_bytes)[:2] if x not in chosen]
    for candidate in chosen:
        if best is not None and candidate.sliced.demand.seconds >= best.demand.seconds:
            continue
        found = _fitted(problem, candidate)
        if found.sliced.bytes > problem.limit:
            # The finest there is, whatever the limit: it may be enough, and says what would be.
            found = _finest(problem, candidate)
            least = min(least, found.sliced.bytes)
            if found.sliced.bytes > problem.limit:
                continue
        found = _coarsened(problem, found)
        if best is None or found.sliced.demand.seconds < best.demand.seconds:
            best = found.sliced
    if best is None and any(remote.outputs) and not remote.partial:
        # Where results don't fit one by one, parts of them are added up where they are kept.
        rest = {"options": options, "wanted": wanted, "moving": moving, "strides": strides}
        parts = replace(remote, partial=True)
        return find_schedule(equation, shapes, paths, limit, dtype, device, **rest, remote=parts)  # type: ignore[arg-type]
    if best is None:
        gradients = " with its gradients" * any(wanted) + " with its derivatives" * any(moving)
        raise MemoryLimitError(
            f"einsum {str(equation)!r} of {', '.join(str(tuple(shape)) for shape in shapes)}{gradients}: "
            f"memory_limit={limit} ({size_text(limit)}) is too little; beside its operands it needs "
            f"{int(least)} bytes ({size_text(least)}), as far as was found"
        )
    return problem.settled(best)


def _fitted(problem: _Problem, start: _Candidate) -> _Candidate:
    """The path with loops until it fits, or until nothing brings it further down."""
    current = start
    for _ in range(ROUNDS):
        if current.over <= 0:
            if current.sliced.bytes <= problem.limit:
                break
            # Buffers leave gaps in the arena: aim lower.
            lower = replace(problem, limit=int(problem.limit * 0.93))
            return _fitted(lower, lower.judge(current.sliced.tree, current.sliced.cuts))
        tried = [problem.judge(current.sliced.tree, cuts) for cuts in _moves(current.sliced)]
        better = [x for x in tried if x.over < current.over * (1 - 1e-9)]
        if not better:
            break
        fitting = [x for x in better if x.over <= 0]
        if fitting:
            current = min(fitting, key=lambda x: x.sliced.demand.seconds)
        else:
            current = max(better, key=partial(_gain, current))
    return current


def _finest(problem: _Problem, start: _Candidate) -> _Candidate:
    """The path with loops over single elements wherever one takes less for it."""
    lowest = replace(problem, limit=1)
    current = lowest.judge(start.sliced.tree, start.sliced.cuts)
    for _ in range(ROUNDS):
        tried = [lowest.judge(current.sliced.tree, cuts) for cuts in _moves(current.sliced, _to_one)]
        best = min(tried, key=lambda x: (x.sliced.bytes, x.over), default=current)
        if (best.sliced.bytes, best.over) >= (current.sliced.bytes, current.over):
            break
        current = best
    return current


def _gain(before: _Candidate, after: _Candidate) -> float:
    """How much less is over the limit, for how much more time."""
    slower = after.sliced.demand.seconds / before.sliced.demand.seconds
    return (before.over - after.over) / (log(max(slower, 1.0)) + 0.02)


def _moves(sliced: Sliced, finer: Callable[[int], list[int]] | None = None) -> list[tuple[Cut, ...]]:
    """Cuts with one more, or with one that is finer, which could help where most is in use."""
    tree, cuts, finer = sliced.tree, sliced.cuts, finer or _finer
    found: dict[tuple[Cut, ...], None] = {}
    for position, cut in enumerate(cuts):
        for block in finer(cut.block):
            found[(*cuts[:position], cut._replace(block=block), *cuts[position + 1 :])] = None
    for value in tree.children:
        chain = {value, *tree.above(value)}
        for label in sorted(tree.below[value]):
            size = tree.sizes[label]
            if size == 1 or not _may_cut(tree, cuts, chain, value, label):
                continue
            for block in finer(size):
                found[(*cuts, Cut(value, label, block))] = None
    return list(found)


def _may_cut(tree: ContractionTree, cuts: Sequence[Cut], chain: set[int], value: int, label: int) -> bool:
    """Whether a loop over a label around a value makes sense: the value, or what it is made of, has it."""
    if any(cut.label == label and (cut.value in chain or value in tree.above(cut.value)) for cut in cuts):
        return False
    return label in tree.labels[value] or any(label in tree.labels[child] for child in tree.children[value])


def _finer(block: int) -> list[int]:
    """Shorter blocks to try."""
    return sorted({max(1, -(-block // by)) for by in (2, 4, 16, 64, 1024)} - {block})


def _to_one(block: int) -> list[int]:
    """Single elements."""
    return [1] if block > 1 else []


def _coarsened(problem: _Problem, found: _Candidate) -> _Candidate:
    """The same loops with blocks as long as the limit allows; those of one block go."""
    current, tree = found, found.sliced.tree
    for position in range(len(found.sliced.cuts)):
        while (cut := current.sliced.cuts[position]).block < tree.sizes[cut.label]:
            cuts = list(current.sliced.cuts)
            longer = max(cut.block + 1, cut.block * 5 // 4)
            cuts[position] = cut._replace(block=min(tree.sizes[cut.label], longer))
            tried = problem.judge(tree, cuts)
            slower = tried.sliced.demand.seconds > current.sliced.demand.seconds
            if tried.over > 0 or slower or tried.sliced.bytes > problem.limit:
                break
            current = tried
    needed = [cut for cut in current.sliced.cuts if cut.block < tree.sizes[cut.label]]
    return problem.judge(tree, needed)
