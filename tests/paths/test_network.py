"""Searching over an operand's bit masks: exhaustive for few, annealed for many, whatever the equation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from einfx.equation import Equation
from einfx.options import Options
from einfx.paths.choices import fewest_multiplications, find_paths
from einfx.paths.network import MAX_ARRANGED, Network
from einfx.semiring import semirings
from tests.test_planning import network

Path = Sequence[Sequence[int]]


def contracts_everything(path: Path, count: int) -> bool:
    return len(path) == count - 1 and sorted(x for step in path for x in step) == list(range(2 * count - 2))


def over(equation: Equation, shapes: Sequence[Sequence[int]]) -> Network:
    return Network(equation, shapes, range(len(shapes)), torch.float32, "cpu")


def seconds(searched: Network, path: Path) -> float:
    """Predicted with sets of operands, step by step."""
    members = {i: {i} for i in range(len(searched.masks))}

    def labels(part: set[int]) -> int:
        inside = outside = 0
        for i, mask in enumerate(searched.masks):
            inside |= mask * (i in part)
            outside |= mask * (i not in part)
        return inside if len(part) == 1 else inside & (outside | searched.output)

    total = 0.0
    for number, (a, b) in enumerate(path, len(searched.masks)):
        members[number] = members[a] | members[b]
        total += searched.pair_seconds(labels(members[a]), labels(members[b]), labels(members[number]))
    return total


def every_path(alive: tuple[int, ...], number: int) -> list[list[tuple[int, int]]]:
    if len(alive) == 1:
        return [[]]
    found = []
    for a, b in itertools.combinations(alive, 2):
        rest = (*(x for x in alive if x not in (a, b)), number)
        found += [[(a, b), *path] for path in every_path(rest, number + 1)]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_of_five_operands_the_fastest_tree_is_among_the_promising(seed: int) -> None:
    searched = over(*network(5, seed, (2, 40)))
    best = min(seconds(searched, path) for path in every_path(tuple(range(5)), 5))
    assert min(seconds(searched, path) for path in searched.promising()) <= best * (1 + 1e-9)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 22), st.integers(0, 500))
def test_every_path_contracts_everything(count: int, seed: int) -> None:
    equation, shapes = network(count, seed, (1, 4))
    for path in (
        *find_paths(equation, shapes, torch.float32, "cpu"),
        fewest_multiplications(equation, shapes),
    ):
        assert contracts_everything(path, count)


@pytest.mark.parametrize("count", [6, 12, MAX_ARRANGED + 4])
def test_networks_in_parts_and_scalars_are_contracted(count: int) -> None:
    vectors = Equation(tuple((i // 2,) for i in range(count)), (0,))
    shapes = [(2 + i // 2,) for i in range(count)]
    assert contracts_everything(find_paths(vectors, shapes, torch.float32, "cpu")[0], count)
    assert contracts_everything(fewest_multiplications(vectors, shapes), count)
    scaled = Equation(((), *vectors.inputs, ()), vectors.output)
    with_scalars = [(), *shapes, ()]
    assert contracts_everything(find_paths(scaled, with_scalars, torch.float32, "cpu")[0], count + 2)
    assert contracts_everything(fewest_multiplications(scaled, with_scalars), count + 2)


@pytest.mark.parametrize("count", [7, 12, 24])
@pytest.mark.parametrize("size", [1, 10**9, 10**40])
def test_sizes_of_one_and_huge_sizes_are_planned(count: int, size: int) -> None:
    inputs = tuple((i, (i + 1) % count, count + i // 4) for i in range(count))
    equation = Equation(inputs, (0, count))
    shapes = [(size,) * 3] * count
    assert contracts_everything(find_paths(equation, shapes, torch.float32, "cpu")[0], count)
    assert contracts_everything(fewest_multiplications(equation, shapes), count)


@pytest.mark.parametrize("name", sorted(semirings()))
def test_paths_over_any_semiring_contract_everything(name: str) -> None:
    equation, shapes = network(12, 4)
    options = Options.read(semiring=name)
    for path in find_paths(equation, shapes, torch.float32, "cpu", (), options):
        assert contracts_everything(path, 12)


def test_labels_that_one_operand_alone_has_cost_no_multiplications() -> None:
    equation = Equation.parse("iax,iby,icz,idw,iev->")
    shapes = [(2, 3, 1000 + i) for i in range(5)]
    assert set(over(equation, shapes)._needed()) == {1}
    assert contracts_everything(fewest_multiplications(equation, shapes), 5)
