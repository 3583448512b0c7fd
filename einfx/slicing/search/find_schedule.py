"""Looking for the path and the loops that keep a contraction within a limit, at the least cost in time.

Both are looked for together: each of several paths gets the loops that it needs (:mod:`.fitting`), and the
one that then takes the least time is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import inf

import torch

from ...equation import Equation
from ...errors import MemoryLimitError
from ...options import REAL, Options
from ...plans import size_text
from ..schedules.loads import HERE, Remote
from ..schedules.tree import ContractionTree
from .fitting import Branch, State
from .long_networks import SEEDS, least, within_limit
from .moves import Loops
from .problem import Problem, Sizes, Sliced

__all__ = ["Sliced", "find_schedule"]

Path = Sequence[Sequence[int]]

BRANCHES = 6
"""How many paths get loops."""

MOST_SEARCHED = 16
"""Up to so many operands loops are looked for wherever they help; beyond only where they help everything."""

LONGEST_SECONDS, LONGEST_TIMES = 3600.0, 1000.0
"""Schedules that are predicted to take longer than so many seconds, and so many times as long as without a
limit, are refused: whoever wants these nevertheless sets the first to ``math.inf``."""

WORTH_MORE = 1.3
"""Where a path takes so many times the time that it takes without a limit, other kinds of loops are tried."""

LESS, WORTH_LESS, SURELY = (0.7, 0.5, 0.35, 0.2), 1e-4, 0.8
"""Within which parts of the limit loops are looked for too, where a contraction takes so many seconds for
each line of its program; they are taken where they are predicted to take less than this part of the time,
since smaller blocks often run longer than predicted."""

SLOWER, GUESSES, LONG_GUESSES = 2.0, 6, 6
"""An error also says which limit takes at most so many times the time without one, guessed so often,
of many operands the second number of times."""

LOWER = (1.0, 0.97, 0.93, 0.87, 0.8, 0.7)
"""Which parts of the limit are aimed at, one after the other, where buffers leave gaps in the arena."""


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
    free: bool = False,
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
        free: whether other paths than those may be taken too, where many operands don't fit.

    Raises:
        MemoryLimitError: there's none, or only some that would take longer than :data:`LONGEST_SECONDS` and
            :data:`LONGEST_TIMES` times as long as without a limit; it says which limit the smallest one found
            would need that takes less.

    Example:
        >>> equation, shapes = Equation.parse("ij,jk,kl->il"), [(200, 300), (300, 400), (400, 10)]
        >>> found = find_schedule(equation, shapes, [[(0, 1), (2, 3)]], 50_000, torch.float32, "cpu")
        >>> found.bytes <= 50_000, len(found.cuts) > 0
        (True, True)
    """
    sizes = equation.sizes(shapes)
    by_label = tuple(sizes[label] for label in equation.labels)
    problem = Problem(
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
    best = smallest = None
    longest = max(LONGEST_SECONDS, LONGEST_TIMES * branches[0].plain.taken.seconds)
    slowest = fastest = branches[0]
    for branch in chosen:
        if best is not None and branch.plain.taken.seconds >= best.demand.seconds:
            continue
        found = None
        if branch.plain.taken.bytes <= problem.limit or branch.long or branch.floor() <= problem.limit:
            # Searches for other paths come to the same ones from wherever they start.
            seeds = SEEDS if best is None else 1
            found = _within(problem, branch, problem.limit, longest, free, seeds)
        if found is None:
            # The finest there is, whatever the limit: it may be enough, and says what would be.
            finest = _finest(problem, branch)
            if finest.bytes <= problem.limit:
                found = finest
            elif smallest is None or finest.bytes < smallest.bytes:
                smallest, slowest = finest, branch
        if found is not None and found.bytes > limit:
            # A limit of nothing.
            smallest = found
        elif found is not None and (best is None or _is_faster(found, best)):
            best, fastest = found, branch
    if best is None and any(remote.outputs) and not (remote.partial or remote.whole):
        # Where results don't fit one by one, parts of them are added up where they are kept.
        rest = {"options": options, "wanted": wanted, "moving": moving, "strides": strides, "free": free}
        parts = replace(remote, partial=True)
        return find_schedule(equation, shapes, paths, limit, dtype, device, **rest, remote=parts)  # type: ignore[arg-type]
    if best is not None and best.demand.seconds <= longest:
        for branch in dict.fromkeys((branches[0], fastest)):
            best = _with_less(problem, branch, best, longest, free)
        return problem.settled(best)
    reached = best if smallest is None or (best is not None and best.bytes < smallest.bytes) else smallest
    assert reached is not None
    gradients = " with its gradients" * any(wanted) + " with its derivatives" * any(moving)
    text = (
        f"einsum {str(equation)!r} of {', '.join(str(tuple(shape)) for shape in shapes)}{gradients}: "
        f"memory_limit={limit} ({size_text(limit)}) is too little; beside its operands it needs "
    )
    needed, seconds = reached.bytes, reached.demand.seconds
    if seconds <= longest:
        text += f"{needed} bytes ({size_text(needed)}), as far as was found"
        raise MemoryLimitError(text + _advice(problem, slowest, needed, free), needed)
    needed = _bearable(problem, slowest, max(limit, needed), longest, free)
    raise MemoryLimitError(
        f"{text}{needed} bytes ({size_text(needed)}), as far as was found; {size_text(reached.bytes)} would "
        f"be enough too, but it would take about {seconds / 3600:.3g} hours then",
        needed,
    )


def _with_less(problem: Problem, branch: Branch, best: Sliced, longest: float, free: bool) -> Sliced:
    """The same or a faster one that was found within less memory: loops may also save time.

    A search stops where its limit is kept, and so may miss loops that it comes to within a smaller one.
    """
    if branch.long:
        return best
    limit = problem.limit
    worth = WORTH_LESS * len(branch.skeleton(Loops()).events)
    chosen = best
    for part in LESS:
        if chosen.demand.seconds < worth:
            break
        less = int(part * min(limit, branch.plain.taken.bytes))
        found = _within(problem, branch, less, longest, free, seeds=1)
        if found is None:
            break
        longer = branch.balanced(branch.state(Loops(found.cuts, found.repeated), limit), limit)
        for one in (found, problem.sliced(branch.tree, longer.loops)):
            if one.bytes <= limit and _is_faster(one, chosen):
                chosen = one
    return chosen if chosen.demand.seconds < SURELY * best.demand.seconds else best


def _is_faster(one: Sliced, other: Sliced) -> bool:
    return one.demand.seconds < other.demand.seconds


def _finest(problem: Problem, branch: Branch) -> Sliced:
    """About the least that a path can do with."""
    if branch.long:
        return least(problem, branch.tree)
    finest = branch.finest()
    exact = problem.sliced(branch.tree, finest.loops)
    if exact.bytes > problem.limit:
        return exact
    return _aimed(problem, branch, problem.limit, finest, branch.fitted) or exact


def _advice(problem: Problem, branch: Branch, needed: int, free: bool) -> str:
    """With how much more than the least limit a path isn't much slower than without one."""
    if branch.tree.count > MOST_SEARCHED:
        return ""
    whole = problem.sliced(branch.tree, Loops())
    found = _within(problem, branch, needed, inf, free)
    if found is not None and found.demand.seconds <= SLOWER * whole.demand.seconds:
        return ""
    enough = _bearable(problem, branch, needed, SLOWER * whole.demand.seconds, free)
    return (
        f", and takes long with so little; from about {enough} bytes ({size_text(enough)}) on it takes at "
        f"most {SLOWER:g} times as long as without a limit"
    )


def _bearable(problem: Problem, branch: Branch, low: int, longest: float, free: bool) -> int:
    """Roughly the least limit above another one with which it takes so many seconds at most."""
    high = problem.sliced(branch.tree, Loops()).bytes
    for _ in range(LONG_GUESSES if branch.long else GUESSES):
        middle = round((low * high) ** 0.5)
        found = _within(problem, branch, middle, longest, free, seeds=1)
        if found is not None and found.demand.seconds <= longest:
            high = min(middle, found.bytes)
        else:
            low = middle
    return high


def _within(
    problem: Problem, branch: Branch, limit: int, longest: float, free: bool, seeds: int = SEEDS
) -> Sliced | None:
    """The fastest schedule found that stays within a limit; of many operands one in so many seconds."""
    found = None
    if not branch.long or branch.plain.taken.bytes <= limit:
        found = _aimed(problem, branch, limit, branch.plain, branch.fitted)
    if branch.long:
        return found or within_limit(problem, branch.tree, limit, longest, free, seeds)
    if found is None or found.demand.seconds > WORTH_MORE * branch.plain.taken.seconds:
        other = _aimed(problem, branch, limit, branch.plain, branch.everywhere)
        if found is None or (other is not None and _is_faster(other, found)):
            found = other
    return found


def _aimed(
    problem: Problem, branch: Branch, limit: int, start: State, search: Callable[[State, float], State]
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
