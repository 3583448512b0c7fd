"""Paths that trade multiplications for memory, by simulated annealing.

Like :func:`einfx.paths.annealing.anneal`, but a step whose operands and result together take more than a
limit costs more, in proportion to how much more it takes: so many blocks of everything would have to be
computed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import exp, log

from ...paths.annealing import Sizes
from ...paths.walks import BLOCK, Rules, Walked, added, step_cost, walked
from ..schedules.tree import ContractionTree

__all__ = ["rotated"]

WARMEST, COLDEST = 0.4, 0.02
"""At which temperatures it begins and ends: how much more, as a logarithm, a change may often cost."""

WRITTEN = 4.0
"""How many multiplications the writing of an element counts for."""

EXCESS = 2.0
"""What counts for a step that takes twice the limit, as a part of what all steps cost."""


def rotated(
    tree: ContractionTree, blocks: Sequence[int], limit: float, rotations: int, seed: int = 0
) -> ContractionTree:
    """The best path that a walk comes by, which swaps two values that meet one after the other.

    Args:
        tree: where the walk begins.
        blocks: for each label the length of its blocks, or its size.
        limit: in elements.
        rotations: how many to try.
        seed: of the random numbers.

    Example:
        >>> from einfx.equation import Equation
        >>> tree = ContractionTree(Equation.parse("ij,jk,kl->il"), (8, 8, 8, 2), ((0, 1), (3, 2)))
        >>> rotated(tree, tree.sizes, 1e6, 100).path
        ((1, 2), (0, 3))
    """
    if len(tree.path) < 2:
        return tree
    count, root = tree.count, tree.root
    masks, size = [*tree.masks], Sizes(blocks)
    parents = [tree.parent.get(x, root) for x in range(root + 1)]
    # The sum of the numbers of both children: either gives the other.
    children = [sum(tree.children.get(x, ())) for x in range(root + 1)]
    turns = max(1, rotations // BLOCK)
    exponents = [-WARMEST * exp(log(COLDEST / WARMEST) * turn / turns) for turn in range(turns)]
    pairs: dict[int, list[int]] = {}
    for x in range(root):
        pairs.setdefault(parents[x], []).append(x)

    def all_costs(rules: Rules) -> list[float]:
        found = [0.0] * (root + 1)
        for value, (a, b) in pairs.items():
            beside = (a >= count) + 2 * (b >= count)
            found[value] = step_cost(size, rules, masks[a], masks[b], masks[value], beside)
        return found

    rules = Rules(size.sums, size.unit, WRITTEN, exponents, limit)
    rules = rules._replace(excess=EXCESS * added(all_costs(rules)))
    begin = Walked(masks, parents, children)
    return _tree(tree, walked(begin, all_costs(rules), rules, size, random.Random(seed)).parents)


def _tree(tree: ContractionTree, parents: Sequence[int]) -> ContractionTree:
    """The path in which every value goes into another; the numbers of values change."""
    below: dict[int, list[int]] = {}
    for value, parent in enumerate(parents[:-1]):
        below.setdefault(parent, []).append(value)
    order, waiting = [], [tree.root]
    while waiting:
        value = waiting.pop()
        if value >= tree.count:
            order.append(value)
            waiting += below[value]
    number = {value: value for value in range(tree.count)}
    steps: list[tuple[int, int]] = []
    for value in reversed(order):
        first, second = sorted(number[x] for x in below[value])
        number[value] = tree.count + len(steps)
        steps.append((first, second))
    return ContractionTree(tree.equation, tree.sizes, tuple(steps))
