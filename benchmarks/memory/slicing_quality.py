"""Multiplications of sliced tensor networks, beside cotengra's slices, within the same memory.

cotengra searches a tree and slices it for a target size of the largest intermediate. What that takes is told
by einfx's own account, every value of a slice included; einfx then plans within as many bytes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from math import isnan, nan
from typing import Any, NamedTuple

import torch

from einfx.equation import Equation
from einfx.errors import MemoryLimitError
from einfx.paths import find_paths, linear_to_ssa
from einfx.slicing.running.memory import demand
from einfx.slicing.schedules.tree import ContractionTree, Cut, schedule
from einfx.slicing.search.find_schedule import find_schedule

__all__ = ["NETWORKS", "Outcome", "lattice", "regular", "run", "section"]

FRACTIONS = (10, 100)
"""Target sizes: the largest intermediate of the tree that isn't sliced, divided by these."""


class Outcome(NamedTuple):
    """One network within one limit.

    Attributes:
        name: of the network.
        fraction: how much smaller the largest intermediate was to be.
        limit: in bytes: what cotengra's slices take.
        whole: multiplications of cotengra's tree without slices.
        theirs: of cotengra's slices.
        ours: of einfx's schedule; not a number where einfx refuses the limit.
        theirs_seconds: of cotengra's search.
        ours_seconds: of einfx's.
    """

    name: str
    fraction: int
    limit: int
    whole: float
    theirs: float
    ours: float
    theirs_seconds: float
    ours_seconds: float


def lattice(side: int, bond: int) -> tuple[Equation, list[tuple[int, ...]]]:
    """A square of tensors, each of which shares a label with its neighbours."""
    edges: dict[tuple[int, int, int, int], int] = {}
    inputs = []
    for row in range(side):
        for column in range(side):
            own = []
            for first in ((row - 1, column), (row, column), (row, column - 1)):
                for second in ((first[0] + 1, first[1]), (first[0], first[1] + 1)):
                    if (row, column) in (first, second) and min(*first) >= 0 and max(*second) < side:
                        own.append(edges.setdefault((*first, *second), len(edges)))
            inputs.append(tuple(own))
    return Equation(tuple(inputs), ()), [(bond,) * len(own) for own in inputs]


def regular(count: int, bond: int, seed: int) -> tuple[Equation, list[tuple[int, ...]]]:
    """Tensors of three labels each, joined at random."""
    pick = random.Random(seed)
    while True:
        ends = [node for node in range(count) for _ in range(3)]
        pick.shuffle(ends)
        pairs = list(zip(ends[::2], ends[1::2], strict=True))
        if all(a != b for a, b in pairs) and len({frozenset(pair) for pair in pairs}) == len(pairs):
            break
    inputs = tuple(tuple(i for i, pair in enumerate(pairs) if node in pair) for node in range(count))
    return Equation(inputs, ()), [(bond,) * 3] * count


NETWORKS = {
    "lattice 6x6, bond 4": lattice(6, 4),
    "lattice 8x8, bond 4": lattice(8, 4),
    "3-regular, 40, bond 4": regular(40, 4, 0),
    "3-regular, 60, bond 4": regular(60, 4, 1),
}


def run() -> list[Outcome]:
    """Plan every network within every limit."""
    return [
        _outcome(name, equation, shapes, fraction)
        for name, (equation, shapes) in NETWORKS.items()
        for fraction in FRACTIONS
    ]


def _outcome(name: str, equation: Equation, shapes: Sequence[tuple[int, ...]], fraction: int) -> Outcome:
    import cotengra

    sizes = equation.sizes(shapes)
    start = time.perf_counter()
    optimizer = cotengra.HyperOptimizer(
        methods=["greedy"], optlib="random", max_repeats=32, seed=0, parallel=False, progbar=False
    )
    tree = optimizer.search(equation.inputs, equation.output, sizes)
    whole, largest = tree.contraction_cost(), tree.max_size()
    tree = tree.slice_and_reconfigure(target_size=max(int(largest / fraction), 1))
    between = time.perf_counter()
    limit = _bytes(equation, shapes, tree)
    middle = time.perf_counter()
    paths = find_paths(equation, shapes, torch.float32, "cpu")
    try:
        ours = find_schedule(equation, shapes, paths, limit, torch.float32, "cpu", free=True).demand.flops / 2
    except MemoryLimitError:
        # It would take hours.
        ours = nan
    end = time.perf_counter()
    counts = whole, tree.contraction_cost(), ours
    return Outcome(name, fraction, limit, *counts, between - start, end - middle)


def _bytes(equation: Equation, shapes: Sequence[tuple[int, ...]], tree: Any) -> int:
    """What a slice of cotengra's takes, all of it computed again in every slice as cotengra does."""
    by_label = equation.sizes(shapes)
    sizes = tuple(by_label[label] for label in equation.labels)
    path = tuple(linear_to_ssa(tree.get_path(), len(shapes)))
    mine = ContractionTree(equation, sizes, path)
    cuts = [Cut(mine.root, label, 1) for label in tree.sliced_inds]
    again = [-1 - value for value in mine.children]
    return demand(schedule(mine, cuts, again), torch.float32, "cpu").peak_bytes


def section(outcomes: Sequence[Outcome]) -> str:
    """The part for the file of results."""
    lines = [
        "Multiplications of sliced tensor networks, as multiples of those of cotengra's tree without slices; "
        "einfx has as many bytes as a slice of cotengra's takes:",
        "",
        "| network | largest / | limit, bytes | cotengra | einfx | einfx / cotengra | planning, s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for x in outcomes:
        planning = f"{x.theirs_seconds:.1f}, {x.ours_seconds:.1f}"
        ours = "refused | " if isnan(x.ours) else f"{x.ours / x.whole:.2f} | {x.ours / x.theirs:.2f}"
        figures = f"{x.theirs / x.whole:.2f} | {ours}"
        lines.append(f"| {x.name} | {x.fraction} | {x.limit:,} | {figures} | {planning} |")
    return "\n".join(lines) + "\n"
