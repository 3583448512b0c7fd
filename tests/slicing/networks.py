"""Random contractions with a tree and loops, for the tests of schedules."""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from torch import Tensor

from einfx.equation import Equation
from einfx.slicing.schedules.tree import ContractionTree, Cut

__all__ = ["Network", "network"]


class Network(NamedTuple):
    """A contraction, in which pairs it is computed, loops around that, and operands."""

    text: str
    tree: ContractionTree
    cuts: list[Cut]
    operands: list[Tensor]


def network(seed: int) -> Network:
    """A contraction of one to six operands with hyperedges, sums of one operand, and sizes from 1 up."""
    pick = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    letters = "abcdefgh"
    parts = ["".join(pick.sample(letters, pick.randint(1, 4))) for _ in range(pick.randint(1, 6))]
    used = sorted(set("".join(parts)))
    output = "".join(pick.sample(used, pick.randint(0, min(3, len(used)))))
    size = {letter: pick.randint(1, 5) for letter in letters}
    operands = [
        torch.randn([size[x] for x in part], dtype=torch.float64, generator=generator) for part in parts
    ]
    text = f"{','.join(parts)}->{output}"
    equation = Equation.parse(text)
    alive: list[int] = list(range(len(parts)))
    path: list[tuple[int, ...]] = []
    if len(parts) == 1:
        path.append((0,))
    while len(alive) > 1:
        pair = tuple(pick.sample(alive, 2))
        alive = [value for value in alive if value not in pair] + [len(parts) + len(path)]
        path.append(pair)
    sizes = equation.sizes([x.shape for x in operands])
    tree = ContractionTree(equation, tuple(sizes[x] for x in equation.labels), tuple(path))
    return Network(text, tree, _cuts(tree, pick), operands)


def _cuts(tree: ContractionTree, pick: random.Random) -> list[Cut]:
    cuts: list[Cut] = []
    for _ in range(pick.randint(0, 4)):
        value = pick.randint(tree.count, tree.root)
        label = pick.choice(sorted(tree.below[value]))
        related = {value, *tree.above(value)}
        if any(x.label == label and (x.value in related or value in tree.above(x.value)) for x in cuts):
            continue
        cuts.append(Cut(value, label, pick.randint(1, max(1, tree.sizes[label]))))
    return cuts
