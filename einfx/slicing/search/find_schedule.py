"""Looking for the path and the loops that keep a contraction within a limit, at the least cost in time.

Both are looked for together: each of several paths gets the loops that it needs (:mod:`.fitting`), and the
one that then takes the least time is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import NamedTuple

import torch

from ...equation import Equation
from ...errors import MemoryLimitError
from ...options import REAL, Options
from ...plans import size_text
from ..running.memory import Demand, arena, demand
from ..schedules.derivatives import derivative
from ..schedules.loads import HERE, Remote, loaded_options, place
from ..schedules.schedule import Schedule
from ..schedules.tree import ContractionTree, Cut, schedule
from .events import Works
from .fitting import Branch, State
from .hoisting import place_within
from .moves import Loops
from .skeleton import Skeleton

__all__ = ["Sliced", "find_schedule"]

Path = Sequence[Sequence[int]]
Sizes = Sequence[int]

BRANCHES = 6
"""How many paths get loops."""

MOST_SEARCHED = 16
"""Up to so many operands loops are looked for wherever they help; beyond only where they help everything."""

MOST_GRADIENTS = 32
"""Of gradients of more operands, loops are looked for in the way that takes less time only."""

WORTH_MORE = 1.3
"""Where a path takes so many times the time that it takes without a limit, other kinds of loops are tried."""

SLOWER, GUESSES = 2.0, 6
"""An error also says which limit takes at most so many times the time without one, guessed so often."""

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
    works: Works = field(default_factory=Works)

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
    branches = [Branch(tree, partial(problem.skeleton, tree), moving) for tree in dict.fromkeys(trees)]
    branches.sort(key=lambda branch: branch.plain.taken.seconds)
    chosen = branches[:BRANCHES]
    chosen += [x for x in sorted(branches, key=lambda x: x.plain.taken.bytes)[:2] if x not in chosen]
    best: Sliced | None = None
    least, slowest = inf, branches[0]
    for branch in chosen:
        if best is not None and branch.plain.taken.seconds >= best.demand.seconds:
            continue
        found = None
        if branch.plain.taken.bytes <= problem.limit or branch.floor() <= problem.limit:
            found = _within(problem, branch, problem.limit)
        if found is None:
            # The finest there is, whatever the limit: it may be enough, and says what would be.
            finest = branch.finest()
            exact = problem.sliced(branch.tree, finest.loops)
            if exact.bytes < least:
                least, slowest = exact.bytes, branch
            if exact.bytes <= problem.limit:
                found = _aimed(problem, branch, problem.limit, finest, branch.fitted) or exact
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
            f"{needed} bytes ({size_text(needed)}), as far as was found{_advice(problem, slowest, needed)}",
            needed,
        )
    return problem.settled(best)


def _advice(problem: _Problem, branch: Branch, least: int) -> str:
    """With how much more than the least limit a path isn't much slower than without one."""
    if branch.tree.count > MOST_SEARCHED:
        return ""
    whole = problem.sliced(branch.tree, Loops())
    low, high = least, whole.bytes
    enough, first = SLOWER * whole.demand.seconds, True
    for _ in range(GUESSES):
        # The least limit itself first, which may do.
        middle = low if first else round((low * high) ** 0.5)
        found = _within(problem, branch, middle)
        if found is not None and found.demand.seconds <= enough:
            high = middle
            if first:
                return ""
        else:
            low = middle
        first = False
    return (
        f", and takes long with so little; from about {high} bytes ({size_text(high)}) on it takes at most "
        f"{SLOWER:g} times as long as without a limit"
    )


def _within(problem: _Problem, branch: Branch, limit: int) -> Sliced | None:
    """The fastest schedule found that stays within a limit."""
    found = None
    if branch.tree.count <= MOST_SEARCHED or branch.plain.taken.bytes <= limit:
        found = _aimed(problem, branch, limit, branch.plain, branch.fitted)
    if found is None or found.demand.seconds > WORTH_MORE * branch.plain.taken.seconds:
        searches = [branch.everywhere, branch.spaced][: 1 + branch.long]
        if any(problem.wanted) and branch.tree.count > MOST_GRADIENTS:
            searches = [branch.spaced]
        for search in searches:
            other = _aimed(problem, branch, limit, branch.plain, search)
            if found is None or (other is not None and other.demand.seconds < found.demand.seconds):
                found = other
    return found


def _aimed(
    problem: _Problem, branch: Branch, limit: int, start: State, search: Callable[[State, float], State]
) -> Sliced | None:
    """What a search finds that stays within a limit; told less where buffers leave gaps in the arena."""
    current = start
    for part in LOWER:
        current = search(current, part * limit)
        if current.taken.over > 0:
            break
        found = problem.sliced(branch.tree, branch.balanced(current, part * limit).loops)
        if found.bytes <= limit:
            return found
    return None
