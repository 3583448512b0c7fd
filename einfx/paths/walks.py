"""Walks over contraction trees by rotations: in C where it is built, and in Python, to the same trees.

Where ``x`` is made of ``a`` and ``b`` and then meets ``c``, after a rotation ``a`` meets ``c`` first.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from .walks_native import BLOCK, Rules, Walked, walk

__all__ = ["BLOCK", "Rules", "Walked", "added", "step_cost", "walked"]


def added(numbers: Iterable[float]) -> float:
    """The sum, rounded after each number as in C; some versions of Python's own sum aren't.

    Example:
        >>> added([1e16, 1.0, -1e16])
        0.0
    """
    total = 0.0
    for number in numbers:
        total += number
    return total


def step_cost(
    size: Mapping[int, float], rules: Rules, one: int, other: int, result: int, beside: int
) -> float:
    """What a step costs.

    Args:
        size: of a tensor, by the mask of its labels.
        rules: what counts how much.
        one: the labels of an operand.
        other: those of the other one.
        result: those of the result.
        beside: which operands are intermediates: 1 for the first one, and 2 for the other.

    Example:
        >>> size = {0b01: 2.0, 0b11: 8.0, 0b10: 4.0}
        >>> rules = Rules((), 0.0, 1.0, (), limit=4.0, excess=10.0)
        >>> step_cost(size, rules, 0b01, 0b11, 0b10, 0), step_cost(size, rules, 0b01, 0b11, 0b10, 2)
        (12.0, 32.0)
    """
    written = size[result]
    cost = size[one | other] + rules.written * written
    if rules.excess:
        taken = written + (size[one] if beside & 1 else 0.0) + (size[other] if beside & 2 else 0.0)
        if taken > rules.limit:
            cost += rules.excess * (taken / rules.limit - 1)
    return cost


def walked(
    tree: Walked,
    costs: Sequence[float],
    rules: Rules,
    size: Mapping[int, float],
    generator: random.Random,
) -> Walked:
    """The best tree that a walk by rotations comes by.

    Args:
        tree: where it begins; stays as it is.
        costs: of each node, leaves included.
        rules: what costs and temperatures are.
        size: of a tensor, by the mask of its labels, as the rules have it.
        generator: of random numbers; goes on as far as they are drawn.
    """
    found = walk(tree, costs, rules, generator)
    return _in_python(tree, costs, rules, size, generator) if found is None else found


def _in_python(
    tree: Walked,
    costs: Sequence[float],
    rules: Rules,
    size: Mapping[int, float],
    generator: random.Random,
) -> Walked:
    masks, parents, children, costs = [*tree.masks], [*tree.parents], [*tree.children], [*costs]
    root = len(masks) - 1
    count = root // 2 + 1
    best, found = added(costs), tree
    number = generator.random
    for exponent in rules.exponents:
        for _ in range(BLOCK):
            a = int(number() * root)
            x = parents[a]
            if x == root:
                continue
            p = parents[x]
            b, c = children[x] - a, children[p] - x
            mine, mask, other = masks[a], masks[b], masks[c]
            kept = (mine | other) & (mask | masks[p])
            allowed = (costs[x] + costs[p]) * (1.0 - number()) ** exponent
            first = step_cost(size, rules, mine, other, kept, (a >= count) + 2 * (c >= count))
            if first > allowed:
                continue
            second = step_cost(size, rules, kept, mask, masks[p], 1 + 2 * (b >= count))
            if first + second <= allowed:
                costs[x], costs[p], masks[x] = first, second, kept
                children[x], children[p] = a + c, x + b
                parents[c], parents[b] = x, p
        total = added(costs)
        if total < best * (1 - 1e-9):
            best, found = total, Walked([*masks], [*parents], [*children])
    return found
