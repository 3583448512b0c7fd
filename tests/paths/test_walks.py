"""Walks come to trees of the same leaves that cost no more, whether they run in C or in Python."""

from __future__ import annotations

import random
from math import prod

import pytest

from einfx.paths import walks_native
from einfx.paths.annealing import Sizes
from einfx.paths.walks import Rules, Walked, step_cost, walked

# The chain ab,bc,cd,de -> ae from left to right: leaves 0 to 3, then two values and the result.
LABELS = (0b00011, 0b00110, 0b01100, 0b11000, 0b00101, 0b01001, 0b10001)
CHAIN = Walked([*LABELS], [4, 4, 5, 6, 5, 6, 6], [0, 0, 0, 0, 1, 6, 8])
LENGTHS = (8, 8, 8, 8, 2)


def _multiplications(tree: Walked) -> int:
    """Counted from the labels of every pair of children."""
    total = 0
    for node in range(4, 7):
        below = [x for x in range(6) if tree.parents[x] == node]
        assert len(below) == 2
        assert sum(below) == tree.children[node]
        together = tree.masks[below[0]] | tree.masks[below[1]]
        total += prod(n for label, n in enumerate(LENGTHS) if together >> label & 1)
    return total


@pytest.mark.parametrize("native", [False, True])
def test_a_chain_is_contracted_from_its_narrow_end(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(walks_native, "_library", lambda: None)
    size = Sizes(LENGTHS)
    rules = Rules(size.sums, 0.0, 0.0, [-0.3] * 20)
    costs = [0.0] * 4 + [512.0, 512.0, 128.0]
    assert _multiplications(CHAIN) == 512 + 512 + 128
    before = [[*x] for x in CHAIN]
    found = walked(CHAIN, costs, rules, size, random.Random(0))
    assert [[*x] for x in CHAIN] == before
    assert [*found.masks[:4]] == [*LABELS[:4]]
    assert _multiplications(found) == 3 * 128


def test_steps_over_the_limit_cost_more_in_proportion() -> None:
    size = Sizes(LENGTHS)
    rules = Rules(size.sums, 0.0, 2.0, (), limit=64.0, excess=100.0)
    plain = rules._replace(excess=0.0)
    for beside, taken in ((0, 64), (1, 128), (2, 128), (3, 192)):
        step = (LABELS[4], LABELS[2], LABELS[5], beside)
        assert step_cost(size, plain, *step) == 512 + 2 * 64
        assert step_cost(size, rules, *step) == 512 + 2 * 64 + 100 * (taken / 64 - 1)
