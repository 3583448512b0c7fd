"""Walks in C draw the same numbers and come to the same trees as those in Python."""

from __future__ import annotations

import random

import networkx
import pytest

from einfx.equation import Equation
from einfx.paths import walks_native
from einfx.paths.annealing import Sizes, anneal
from einfx.paths.trees import greedy_tree
from einfx.slicing.schedules.tree import ContractionTree
from einfx.slicing.search.rotating import rotated

from .test_annealing import masks_of, network

built = pytest.mark.skipif(walks_native.describe() == "not built", reason="there is no C code to test")


@built
@pytest.mark.parametrize(("count", "degree"), [(3, 1.0), (9, 1.5), (30, 2.0), (50, 3.0)])
def test_annealing_finds_the_same_paths_with_c_and_without(
    count: int, degree: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, output, sizes = network(count, count, degree)
    masks, kept = masks_of(inputs, output)
    starts = [greedy_tree(masks, kept, Sizes(sizes).__getitem__, 0.3, seed) for seed in range(3)]
    found = anneal(masks, kept, starts, sizes, 4000, (0.0, 4.0))
    monkeypatch.setattr(walks_native, "_library", lambda: None)
    assert anneal(masks, kept, starts, sizes, 4000, (0.0, 4.0)) == found


@built
@pytest.mark.parametrize("limit", [20.0, 1e3, 1e9])
@pytest.mark.parametrize("side", [2, 5, 8])
def test_paths_of_little_memory_are_the_same_with_c_and_without(
    side: int, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = networkx.grid_2d_graph(side, side)
    number = {frozenset(edge): label for label, edge in enumerate(graph.edges)}
    inputs = tuple(tuple(number[frozenset(edge)] for edge in graph.edges(node)) for node in graph.nodes)
    count = side * side
    steps = ((0, 1), *((count + place, place + 2) for place in range(count - 2)))
    tree = ContractionTree(Equation(inputs, ()), tuple(2 + x % 3 for x in range(len(number))), steps)
    found = [rotated(tree, tree.sizes, limit, 2000, seed).path for seed in range(3)]
    monkeypatch.setattr(walks_native, "_library", lambda: None)
    assert [rotated(tree, tree.sizes, limit, 2000, seed).path for seed in range(3)] == found


@built
def test_random_numbers_go_on_where_a_walk_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = walks_native.Walked([1, 3, 6, 4, 5, 0, 0], [4, 4, 5, 6, 5, 6, 6], [0, 0, 0, 0, 1, 6, 8])
    sizes = Sizes([2, 3, 4])
    rules = walks_native.Rules(sizes.sums, 0.0, 1.0, [-0.1] * 10)
    one, other = random.Random(5), random.Random(5)
    walks_native.walk(tree, [0.0] * 4 + [1.0] * 3, rules, one)
    # Of every rotation one number or two.
    assert one.random() in [other.random() for _ in range(2 * 64 * 10 + 1)]
    monkeypatch.setattr(walks_native, "_library", lambda: None)
    assert walks_native.walk(tree, [0.0] * 7, rules, one) is None
