"""Paths of many operands that need little memory, with the labels that are best cut into blocks.

A path is cut where the most is in use, label by label, each time the one that brings it furthest down for
the time that it costs. After every few cuts the path is searched once more, for labels as short as they are
by then: the path that is best for whole labels rarely is for cut ones (Gray and Chan, Hyper-optimized
approximate contraction of tensor networks; Huang et al., Classical simulation of quantum supremacy circuits,
section 3). Paths that sweep over the operands in a line are a second place to start from: they keep little.
All is told by an :class:`.account.Account`; the blocks at the end are as long as the limit lets them be.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from math import log
from typing import NamedTuple

from ..schedules.tree import ContractionTree
from .account import Account, Estimate, Rates
from .rotating import rotated

__all__ = ["Spared", "arranged", "loosened", "spared", "sweep"]

ROUNDS = 100
"""How many labels are cut or cut more finely at most."""

TRIED = 12
"""So many labels are tried at a moment."""

SEARCHED = 1
"""After so many cuts the path is searched once more."""

SHARE = 0.8
"""What of a limit one step may take, beside what else is there."""

NOISE = 0.7
"""How much less what a cut is worth may be by chance."""

MOST_LOOSENED = 4
"""So many labels at most are made whole again, for others to be cut instead."""

STAY = 1e-3
"""A path is only left for one that takes less time by so much."""


class Spared(NamedTuple):
    """A path with the lengths of the blocks of all labels, around which values they go, and what it takes."""

    account: Account
    blocks: tuple[int, ...]
    taken: Estimate
    places: Mapping[int, int]


def sweep(tree: ContractionTree) -> ContractionTree:
    """The path that goes along a line through all operands, near ones after one another.

    The line is that of Cuthill and McKee: from an operand at the border outwards, the neighbours of those
    that came first first, of these the ones with few neighbours before those with many.

    Args:
        tree: another path of the same operands.

    Example:
        >>> from einfx.equation import Equation
        >>> tree = ContractionTree(Equation.parse("ab,bc,cd,de->ae"), (2,) * 5, ((1, 2), (0, 4), (3, 5)))
        >>> sweep(tree).path
        ((0, 1), (4, 2), (5, 3))
    """
    inputs = tree.equation.inputs
    holders: dict[int, list[int]] = {}
    for number, labels in enumerate(inputs):
        for label in labels:
            holders.setdefault(label, []).append(number)
    beside = [sorted({y for x in labels for y in holders[x]} - {i}) for i, labels in enumerate(inputs)]
    order: list[int] = []
    waiting = dict.fromkeys(sorted(range(len(inputs)), key=lambda x: (len(beside[x]), x)))
    while waiting:
        # What is furthest from anywhere is at the border.
        start = _outwards(next(iter(waiting)), beside)[-1]
        line = _outwards(_outwards(start, beside)[-1], beside)
        order += line
        for number in line:
            del waiting[number]
    steps, made = [], order[0]
    for place, number in enumerate(order[1:]):
        steps.append((made, number))
        made = len(inputs) + place
    return ContractionTree(tree.equation, tree.sizes, tuple(steps))


def _outwards(start: int, beside: Sequence[Sequence[int]]) -> list[int]:
    """All that can be reached, the nearest first."""
    line, seen = [start], {start}
    for number in line:
        for other in sorted(beside[number], key=lambda x: (len(beside[x]), x)):
            if other not in seen:
                seen.add(other)
                line.append(other)
    return line


def spared(
    tree: ContractionTree,
    rates: Rates,
    limit: float,
    longest: float,
    rotations: int,
    seed: int = 0,
    free: bool = False,
    blocks: Sequence[int] = (),
) -> Spared | None:
    """A path that stays within a limit, and its blocks; None where none was found.

    Args:
        tree: the path to start from.
        rates: what steps take.
        limit: in elements.
        longest: the most seconds that it may take.
        rotations: how far the path is searched after every cut, in changes for each operand; 0 where the path
            is to stay as it is.
        seed: of the random numbers, of that search and of which labels are cut; the first three take those
            that seem best, in one of three ways.
        free: whether loops may go further out than they need to, for :func:`arranged` to decide on.
        blocks: for each label the length of its blocks to start from; whole where empty.
    """
    account, blocks = Account(tree, rates), [*(blocks or tree.sizes)]
    taken, cuts = account.take(blocks, limit, None, free), 0
    noise = random.Random(seed).random if seed > 2 else None
    # Labels of which single elements are left at once, or blocks that get shorter step by step.
    parts = (1,) if free and seed % 3 == 0 else (2, 8)
    movable, free = free, free and seed % 3 < 2

    def searched(account: Account, taken: Estimate) -> tuple[Account, Estimate]:
        return _searched(account, blocks, taken, limit, rotations, seed, free)

    if rotations and taken.over > 0:
        account, taken = searched(account, taken)
    for _ in range(ROUNDS):
        if taken.over <= 0 or taken.seconds > longest:
            break
        best = _best(_cut(account, blocks, taken, limit, free, parts), taken, noise)
        if best is None:
            return None
        label, blocks[label], taken = best
        account.take(blocks, limit, None, free)
        cuts += 1
        if rotations and cuts % SEARCHED == 0:
            account, taken = searched(account, taken)
    if taken.over > 0:
        return None
    if rotations and cuts:
        account, taken = searched(account, taken)
    found = Spared(account, tuple(blocks), taken, account.last)
    return found if movable else _lengthened(found, limit, free)


def loosened(found: Spared, seed: int) -> tuple[int, ...]:
    """The lengths of blocks with a few labels whole again, at random.

    Args:
        found: a path with its blocks.
        seed: of the random numbers.
    """
    sizes = found.account.tree.sizes
    cut = [label for label, block in enumerate(found.blocks) if block < sizes[label]]
    pick = random.Random(seed)
    whole = pick.sample(cut, min(len(cut), pick.randint(1, MOST_LOOSENED)))
    return tuple([sizes[x] if x in whole else block for x, block in enumerate(found.blocks)])


def arranged(found: Spared, limit: float) -> Spared:
    """The same with blocks as long and loops as far in as they may be.

    Args:
        found: with loops that may go further out than they need to.
        limit: in elements.
    """
    # Longer blocks may be worth more than loops further in, or less.
    ways = _lengthened(_lowered(found, limit), limit, False), _lowered(_lengthened(found, limit, True), limit)
    return min(ways, key=lambda x: (x.taken.over > 0, x.taken.seconds))


def _best(
    cuts: Sequence[tuple[int, int, Estimate]], taken: Estimate, noise: Callable[[], float] | None
) -> tuple[int, int, Estimate] | None:
    """The cut that is worth most, or, with noise, one that is worth nearly as much."""
    if not cuts:
        return None
    if noise is None:
        return max(cuts, key=lambda x: _gain(taken, x[2]))
    weighted = [(_gain(taken, x[2]), noise()) for x in cuts]
    values = [
        (fits, gain - (NOISE * chance if fits else 0.0) if fits else gain * (1 - NOISE * chance))
        for (fits, gain), chance in weighted
    ]
    return cuts[max(range(len(cuts)), key=values.__getitem__)]


def _cut(
    account: Account, blocks: list[int], taken: Estimate, limit: float, free: bool, parts: Sequence[int]
) -> list[tuple[int, int, Estimate]]:
    """Labels of what is in use at the moment of the most, with shorter blocks that take less."""
    worth: dict[int, float] = {}
    for value in account.alive(taken.step):
        for label in account.tree.labels[value]:
            if blocks[label] > 1:
                worth[label] = worth.get(label, 0.0) + account.sizes[value] * (1 - 1 / blocks[label])
    found = []
    for label in sorted(worth, key=lambda x: -worth[x])[:TRIED]:
        before = blocks[label]
        for block in sorted({1, *[-(-before // part) for part in parts if part > 1]} - {before}):
            blocks[label] = block
            less = account.take(blocks, limit, None, free)
            if less.over < taken.over * (1 - 1e-9):
                found.append((label, block, less))
        blocks[label] = before
    return found


def _gain(before: Estimate, after: Estimate) -> tuple[bool, float]:
    """How much less is over the limit, for how much more time."""
    if after.over <= 0:
        return True, -log(after.seconds)
    slower = after.seconds / before.seconds
    return False, (before.over - after.over) / (log(max(slower, 1.0)) + 0.02)


def _searched(
    account: Account,
    blocks: Sequence[int],
    taken: Estimate,
    limit: float,
    rotations: int,
    seed: int,
    free: bool,
) -> tuple[Account, Estimate]:
    """A better path for labels as long as their blocks are, if there is one."""
    best = account, taken
    found = rotated(account.tree, blocks, SHARE * limit, rotations * account.tree.count, seed)
    if found.path == account.tree.path:
        return best
    other = Account(found, account.rates, account.known)
    less = other.take(blocks, limit, None, free)
    if _distance(less) < _distance(taken) - STAY:
        best = other, less
    # As the one that is gone on with was asked last.
    best[0].take(blocks, limit, None, free)
    return best


def _distance(taken: Estimate) -> float:
    """How far a path is from doing it in a second within the limit."""
    return log(taken.seconds) + taken.over


def _lengthened(start: Spared, limit: float, free: bool) -> Spared:
    """The same with the blocks of one label after the other as long as they may be."""
    account, blocks, taken, places = start.account, [*start.blocks], start.taken, start.places
    sizes = account.tree.sizes
    cut = [label for label, block in enumerate(blocks) if block < sizes[label]]
    # Those first without which most time is saved.
    cut.sort(key=lambda x: places[x])
    for _ in range(2):
        for label in cut:
            low, high = blocks[label], sizes[label] + 1
            while high > low + 1:
                middle = min(high - 1, low * 4) if high > sizes[label] else (low + high) // 2
                blocks[label] = middle
                found = account.take(blocks, limit, places, free)
                if found.over <= 0 and found.seconds <= taken.seconds:
                    low, taken = middle, found
                else:
                    high = middle
            blocks[label] = low
    return Spared(account, tuple(blocks), account.take(blocks, limit, places, free), places)


def _lowered(start: Spared, limit: float) -> Spared:
    """The same with the loop of one label after the other as far in as it may be."""
    account, blocks, tree = start.account, start.blocks, start.account.tree
    places = dict(account.last)
    taken = account.take(blocks, limit, places)
    if taken.over <= 0:
        return Spared(account, blocks, taken, places)
    cut = [label for label, block in enumerate(blocks) if block < tree.sizes[label]]
    places.update((label, tree.root) for label in cut)
    taken = account.take(blocks, limit, places)
    for _ in range(2):
        before = taken
        # Where most is left out of the loop first.
        for label in sorted(cut, key=lambda x: account.last[x]):
            for place in (account.last[label], *tree.above(account.last[label])):
                if place >= places[label]:
                    break
                found = account.take(blocks, limit, {**places, label: place})
                if found.over <= 0 and found.seconds < taken.seconds:
                    places[label], taken = place, found
                    break
        if taken.seconds >= before.seconds:
            break
    return Spared(account, blocks, account.take(blocks, limit, places), places)
