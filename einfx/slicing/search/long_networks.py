"""Schedules of contractions of many operands within a limit.

A path with its blocks is found by an account of the tree (:mod:`.sparing`) and then becomes a program. Where
this takes more than the account said, the account is given less. Everything is computed again in every block
at first, as that takes the least memory; what is worth it is computed before the loops where it fits.

Gradients keep what a contraction made on its way. So the path gets a part of the limit only, and is then
computed in stages, from the first operands on: what was made in a stage is made again when its gradients are
taken, of all stages further on only the results are kept meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import inf

from ...machine import item_bytes
from ..schedules.tree import ContractionTree, Cut
from .account import Account, Rates
from .fitting import Branch, State
from .moves import Loops
from .problem import Problem, Sliced
from .sparing import Spared, arranged, loosened, spared, sweep

__all__ = ["least", "within_limit"]

ROTATIONS, SEEDS = 300, 3
"""How far paths are searched, for each operand, and how many random searches there are at most."""

MOST_SEEDS, MOST, STARTS = 24, 1280, 3
"""Without gradients there are more searches: at most so many, of so many operands together; the third number
start from the path, the others change a few blocks of the best one found, and the path a little."""

PROGRAMS, SLOWER = 4, 3.0
"""Of the paths that these find, the first so many become programs; a search is given up when a path takes so
many times as long as the best one found."""

AIMS = (1.0, 0.92, 0.85)
"""Which parts of the limit these searches aim at: in what is left, values are computed before loops."""

MORE, MORE_AIMS, WORTH = 6, (1.0, 0.9, 0.75, 0.5), 8.0
"""Where a contraction takes long all the same, up to so many times as many searches are done, which aim at
other parts: until its schedule takes less than so many times what these searches take by the next figure."""

SEARCH_SECONDS = 2.5e-6
"""About what a change takes: no search is done that takes longer than the best schedule found so far."""

MOST_NESTED = 128
"""So many loops at most are in one another, as programs are gone through by calls in calls."""

TRIES = 4
"""How often the account is given less."""

PARTS = (1.0,)
GRADIENT_PARTS = (0.5, 0.3, 0.18, 0.1, 0.06)
"""What the path gets of the limit; of gradients and derivatives, which keep more than the path alone."""

STAGES = (1.0, 0.6, 0.4, 0.27, 0.18, 0.12, 0.07, 0.04)
"""What the values of a stage may take together, as parts of the limit."""

EVENT_SECONDS = 3e-5
"""About what a line of a program takes in planning: loops are weighed against one another where all programs
that this takes are made in less time than is predicted for the contraction."""


def within_limit(
    problem: Problem, tree: ContractionTree, limit: int, longest: float, free: bool, seeds: int = SEEDS
) -> Sliced | None:
    """The fastest schedule found that stays within a limit.

    Args:
        problem: what is looked for.
        tree: the path to begin with.
        limit: in bytes.
        longest: the most seconds that it may take.
        free: whether the path may be another one.
        seeds: how many searches for other paths there are at most.
    """
    if not free:
        return _attempt(problem, tree, limit, longest, 0, 0)
    best: Sliced | None = None
    # A path that keeps little may do without any loops.
    for start in (sweep(tree), tree):
        if start is not tree and _elements(problem, start) >= _elements(problem, tree):
            continue
        found = _attempt(problem, start, limit, longest, 0, 0) if start is not tree else None
        best = _faster(best, found)
    effort = SEARCH_SECONDS * ROTATIONS * tree.count
    if any(problem.wanted) or any(problem.moving):
        for seed in range(seeds):
            if best is not None and best.demand.seconds < effort:
                break
            best = _faster(best, _attempt(problem, tree, limit, longest, ROTATIONS, seed))
        return best
    if best is not None and best.demand.seconds < effort:
        return best
    count = max(seeds, min(MOST_SEEDS, MOST // tree.count)) if seeds > 1 else 1
    return _faster(best, _of_several(problem, tree, limit, longest, count))


def _of_several(
    problem: Problem, tree: ContractionTree, limit: int, longest: float, seeds: int
) -> Sliced | None:
    """The fastest of several paths, of which those that the account takes for fast become programs."""
    best: Sliced | None = None
    target, done = limit / item_bytes(problem.dtype), 0
    effort = SEARCH_SECONDS * ROTATIONS * tree.count
    for _ in range(TRIES):
        aims: Sequence[float] = AIMS
        found: list[Spared] = []
        while True:
            before = best
            found = _searched(problem, tree, target, longest, range(done, done + seeds), aims, found)
            best, closest = _fastest(problem, found, best, limit, target)
            done += seeds
            if best is None or seeds == 1 or done >= MORE * seeds:
                break
            gained = before.demand.seconds - best.demand.seconds if before is not None else inf
            if best.demand.seconds < WORTH * done * effort or gained < seeds * effort:
                break
            aims = MORE_AIMS
        if best is not None or not found:
            break
        target *= min(0.95 * limit / closest, 0.95)
    return best


def _searched(
    problem: Problem,
    tree: ContractionTree,
    target: float,
    longest: float,
    seeds: range,
    aims: Sequence[float],
    known: Sequence[Spared],
) -> list[Spared]:
    """Paths by searches with several seeds, and those known before, the ones that seem fast first."""
    rates = _rates(problem)
    found = [*known]
    best = min(found, key=_seconds, default=None)
    for number, seed in enumerate(seeds):
        aim = aims[seed // 3 % len(aims)] * target
        # The first searches start from the path itself, the others change the best that was found by then.
        if best is None or (number < STARTS and not known):
            made = spared(tree, rates, aim, longest, ROTATIONS, seed, True)
        else:
            bound, blocks = SLOWER * best.taken.seconds, loosened(best, seed)
            made = spared(best.account.tree, rates, aim, bound, ROTATIONS // 3, seed, True, blocks)
        if made is not None:
            made = arranged(made, aim)
            found.append(made)
            best = made if best is None else min(best, made, key=_seconds)
    found.sort(key=_seconds)
    # Small changes come to the same paths again and again.
    distinct = {(made.account.tree.path, made.blocks, tuple(made.places.items())): made for made in found}
    return [*distinct.values()]


def _seconds(made: Spared) -> float:
    return made.taken.seconds


def _fastest(
    problem: Problem, found: Sequence[Spared], best: Sliced | None, limit: int, target: float
) -> tuple[Sliced | None, int]:
    """The fastest program of paths or the one there is, and the least bytes that any was told to take."""
    closest = 1 << 100
    for made in found[:PROGRAMS]:
        if best is not None and made.taken.seconds > best.demand.seconds:
            break
        for part in (1.0, 0.95, 0.9):
            # Where it takes a little more than was told, loops further out may do.
            one = made if part == 1.0 else arranged(made, part * target)
            branch = Branch(one.account.tree, partial(problem.skeleton, one.account.tree))
            program, needed = _programmed(problem, branch, one, limit, limit)
            closest = min(closest, needed)
            best = _faster(best, program)
            if program is not None or needed > 1.2 * limit:
                break
    return best, closest


def _faster(one: Sliced | None, other: Sliced | None) -> Sliced | None:
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda x: x.demand.seconds)


def _elements(problem: Problem, tree: ContractionTree) -> float:
    return Account(tree, _rates(problem)).take(tree.sizes, 1.0).elements


def least(problem: Problem, tree: ContractionTree) -> Sliced:
    """The schedule that takes the least memory, roughly: single elements of all labels, or of many."""
    account = Account(tree, _rates(problem))
    taken = account.take(tree.sizes, 1.0)
    largest = [0.0] * len(tree.sizes)
    for labels, size in zip(tree.labels, account.sizes, strict=True):
        for label in labels:
            largest[label] = max(largest[label], size)
    order = sorted(range(len(largest)), key=lambda x: (-largest[x], x))
    cut = {*order[:MOST_NESTED]}
    blocks = tuple(1 if x in cut else size for x, size in enumerate(tree.sizes))
    found = [problem.sliced(tree, Loops())]
    for places in (account.last, dict.fromkeys(account.last, tree.root)):
        for loops in _programs(problem, Spared(account, blocks, taken, places), 1.0):
            found.append(problem.sliced(tree, loops))
    return min(found, key=lambda x: (x.bytes, x.demand.seconds))


def _attempt(
    problem: Problem, tree: ContractionTree, limit: int, longest: float, rotations: int, seed: int
) -> Sliced | None:
    """A path from one start, with loops, that stays within a limit."""
    keeps = any(problem.wanted) or any(problem.moving)
    room = limit - problem.output_bytes(tree)
    best: Sliced | None = None
    for part in GRADIENT_PARTS if keeps else PARTS:
        target = part * room / item_bytes(problem.dtype)
        for _ in range(TRIES):
            if target < 1:
                break
            made = spared(tree, _rates(problem), target, longest, rotations, seed, not keeps)
            if made is None:
                break
            if not keeps:
                made = arranged(made, target)
            branch = Branch(made.account.tree, partial(problem.skeleton, made.account.tree), problem.moving)
            found, closest = _programmed(problem, branch, made, room, limit)
            if found is not None:
                if best is None or found.demand.seconds < best.demand.seconds:
                    best = found
                break
            if keeps:
                break
            target *= min(0.95 * limit / closest, 0.97)
        if best is not None:
            break
    return best


def _programmed(
    problem: Problem, branch: Branch, made: Spared, room: int, limit: int
) -> tuple[Sliced | None, int]:
    """The program of a path with its blocks, and the least bytes that one was told to take."""
    closest = 1 << 100
    for loops in _programs(problem, made, room / item_bytes(problem.dtype)):
        state = branch.state(loops, limit)
        closest = min(closest, state.taken.bytes)
        if state.taken.over > 0:
            continue
        better = _settled(branch, state, limit)
        for one in dict.fromkeys((better.loops, loops)):
            found = problem.sliced(branch.tree, one)
            closest = min(closest, found.bytes) if found.bytes > limit else closest
            if found.bytes <= limit:
                return found, found.bytes
    return None, max(closest, 1)


def _settled(branch: Branch, state: State, limit: int) -> State:
    """The same with values computed once that fit, and blocks as long as they may be."""
    programs = 10 + len(state.loops.cuts)
    effort = EVENT_SECONDS * len(branch.skeleton(state.loops).events) * programs
    if not state.loops.cuts or state.taken.seconds < effort:
        return state
    state = _hoisted(branch, state, limit)
    return branch.balanced(state, limit) if state.taken.seconds >= effort else state


def _hoisted(branch: Branch, state: State, limit: int) -> State:
    """The same with values computed before loops that don't change them, as many as fit, small ones first."""
    tree = branch.tree
    inside = {cut.label: cut.block for cut in state.loops.cuts}

    def elements(value: int) -> int:
        size = 1
        for label in tree.labels[value]:
            size *= inside.get(label, tree.sizes[label])
        return size

    order = sorted((-1 - x for x in state.loops.repeated if x < 0), key=lambda x: (elements(x), x))
    low, high = 0, len(order) + 1
    while high > low + 1:
        middle = len(order) if low == 0 and high > len(order) else (low + high) // 2
        rest = (*order[:middle], *(-1 - x for x in order[middle:]))
        tried = branch.state(state.loops._replace(repeated=tuple(sorted(rest))), limit)
        if tried.taken.over <= 0:
            low = middle
            state = min(state, tried, key=lambda x: x.taken.seconds)
        else:
            high = middle
    return state


def _programs(problem: Problem, made: Spared, room: float) -> Iterator[Loops]:
    """The loops for the blocks of a path; with more and more stages for gradients.

    Args:
        problem: what is looked for.
        made: the path with its blocks.
        room: in elements.
    """
    tree = made.account.tree
    cuts = [Cut(made.places[x], x, b) for x, b in enumerate(made.blocks) if b < tree.sizes[x]]
    cuts.sort(key=lambda cut: (-cut.value, tree.sizes[cut.label]))
    again = tuple(sorted(-1 - x for x in tree.children)) if cuts else ()
    yield Loops(tuple(cuts), again)
    if not any(problem.wanted):
        return
    known = set()
    for part in STAGES:
        stages = tuple(_stages(made, part * room))
        if stages and stages not in known and len(stages) + len(cuts) <= MOST_NESTED:
            known.add(stages)
            yield Loops((*stages, *cuts), again)


def _stages(made: Spared, most: float) -> list[Cut]:
    """Loops over single blocks around values, such that in none more elements are kept than there may be."""
    account, tree = made.account, made.account.tree
    account.take(made.blocks, 1.0)
    kept, found = [0.0] * tree.count, []
    for value, step in tree.children.items():
        own = {child: kept[child] for child in step}
        for child in sorted(step, key=lambda x: -own[x]):
            total = account.sizes[value] + sum(own.values())
            if total <= most or own[child] <= account.sizes[child]:
                continue
            summed = [x for x in account.unions[child - tree.count] if account.last[x] == child]
            whole = [x for x in summed if made.blocks[x] >= tree.sizes[x]]
            if whole:
                found.append(Cut(child, whole[0], tree.sizes[whole[0]]))
                own[child] = account.sizes[child]
        kept.append(account.sizes[value] + sum(own.values()))
    return found[::-1]


def _rates(problem: Problem) -> Rates:
    return Rates.of(problem.dtype, problem.device, problem.options)
