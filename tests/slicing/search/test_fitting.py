"""The loops that are found around a path are nearly the best of all: beside every set of loops."""

from __future__ import annotations

from functools import partial
from itertools import permutations, product

import pytest
import torch

from einfx.equation import Equation
from einfx.options import REAL
from einfx.slicing.schedules.tree import ContractionTree, Cut
from einfx.slicing.search.find_schedule import find_schedule
from einfx.slicing.search.fitting import Branch, State
from einfx.slicing.search.moves import Loops
from einfx.slicing.search.problem import Problem

SIZES = {"i": 32, "j": 256, "k": 128, "l": 64}


def _tree(text: str, path: tuple[tuple[int, int], ...]) -> ContractionTree:
    equation = Equation.parse(text)
    shapes = [tuple(SIZES[x] for x in part) for part in text.partition("->")[0].split(",")]
    sizes = equation.sizes(shapes)
    return ContractionTree(equation, tuple(sizes[x] for x in equation.labels), path)


def _every(tree: ContractionTree, branch: Branch, limit: int) -> list[State]:
    """Loops of each label around no value or any one, in any order, in blocks of powers of four."""
    found = []
    places = [[-1, *(x for x in tree.children if label in tree.below[x])] for label in range(len(tree.sizes))]
    for chosen in product(*places):
        cuts = [(value, label) for label, value in enumerate(chosen) if value >= 0]
        for order in permutations(cuts):
            lengths = [[x for x in (1, 4, 16, 64) if x < tree.sizes[label]] for _, label in order]
            for blocks in product(*lengths):
                made = tuple(Cut(*place, block) for place, block in zip(order, blocks, strict=True))
                for again in ((), tuple(tree.children)):
                    state = branch.state(Loops(made, again), limit)
                    if state.taken.over <= 0:
                        found.append(state)
    return sorted(found, key=lambda x: x.taken.seconds)


@pytest.mark.parametrize("part", [3, 10, 40])
@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("ij,jk,kl->il", ((0, 1), (2, 3))),
        ("ij,jk,ik->i", ((0, 1), (2, 3))),
        ("jl,jk,kl->j", ((0, 1), (2, 3))),
        ("j,jk,kl->jl", ((0, 1), (2, 3))),
    ],
)
def test_no_loops_in_blocks_of_powers_of_four_are_much_faster(
    text: str, path: tuple[tuple[int, int], ...], part: int
) -> None:
    tree = _tree(text, path)
    shapes = [tuple(tree.sizes[x] for x in labels) for labels in tree.equation.inputs]
    whole = Problem(1 << 40, torch.float32, "cpu", REAL, (), None).sliced(tree, Loops())
    output = 4 * len(torch.empty([tree.sizes[x] for x in tree.equation.output]).flatten())
    limit = output + (whole.bytes - output) // part
    found = find_schedule(tree.equation, shapes, [tree.path], limit, torch.float32, "cpu")
    problem = Problem(limit, torch.float32, "cpu", REAL, (), None)
    branch = Branch(tree, partial(problem.skeleton, tree))
    every = _every(tree, branch, limit)
    best = next(x for x in every if problem.sliced(tree, x.loops).bytes <= limit)
    assert found.demand.seconds <= 1.1 * best.taken.seconds
