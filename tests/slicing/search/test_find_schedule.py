"""The schedules that are found stay within their limits, and what an error names as enough is enough."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import product

import pytest
import torch

from einfx.equation import Equation
from einfx.errors import MemoryLimitError
from einfx.options import REAL, Options
from einfx.paths.choices import find_paths
from einfx.slicing.running.memory import arena, demand
from einfx.slicing.running.run import run
from einfx.slicing.schedules.adjoint import adjoint
from einfx.slicing.schedules.tree import ContractionTree, Cut, schedule
from einfx.slicing.search.find_schedule import Sliced, find_schedule
from tests.slicing.networks import network

EXAMPLE = "jrl,ijr,ijrk,ijrl,ikmn->imn"


def _found(
    text: str,
    shapes: Sequence[tuple[int, ...]],
    limit: int,
    gradients: bool = False,
    options: Options = REAL,
) -> Sliced:
    equation = Equation.parse(text)
    paths: list[list[tuple[int, ...]]] = [[(0,)]]
    if len(shapes) > 1:
        paths = find_paths(equation, shapes, torch.float32, "cpu", (), options)
    wanted = [gradients] * len(shapes)
    return find_schedule(equation, shapes, paths, limit, torch.float32, "cpu", options=options, wanted=wanted)


def test_a_large_contraction_needs_a_small_working_set_and_no_more_multiplications() -> None:
    # Cut globally, as a network is sliced otherwise, it takes 14 times the multiplications.
    count = 500
    shapes = [(1000, 3, 1024), (count, 1000, 3), (count, 1000, 3, 1024), (count, 1000, 3, 1024)]
    shapes.append((count, 1024, 9, 9))
    whole = _found(EXAMPLE, shapes, 1 << 40)
    found = _found(EXAMPLE, shapes, 336_000)
    assert found.bytes <= 336_000
    assert found.demand.flops <= 1.001 * whole.demand.flops
    assert found.demand.seconds <= 1.1 * whole.demand.seconds


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("seed", [0, 6, 12, 18, 24, 36, 48, 54])
def test_what_is_found_stays_within_its_limit_and_computes_the_contraction(
    seed: int, gradients: bool
) -> None:
    text, _, _, operands = network(seed)
    shapes = [tuple(x.shape) for x in operands]
    whole = _found(text, shapes, 1 << 40, gradients)
    operands = [x.float() for x in operands]
    recorded = [x.clone().requires_grad_() for x in operands]
    expected = torch.einsum(text, *recorded)
    for part in (1.0, 0.7, 0.4):
        limit = int(part * whole.bytes)
        try:
            found = _found(text, shapes, limit, gradients)
        except MemoryLimitError:
            # What it says is tested below.
            continue
        assert found.bytes <= limit
        if gradients:
            made = run(found.schedule, [*operands, torch.ones_like(expected)], found.demand)
            wanted = torch.autograd.grad(expected.sum(), recorded, retain_graph=True)
            torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-3)
        else:
            (result,) = run(found.schedule, operands, found.demand)
            torch.testing.assert_close(result, expected.detach(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["real", "log"])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("seed", [0, 8, 32])
def test_the_limit_that_an_error_names_is_enough_and_much_less_is_not(
    seed: int, gradients: bool, name: str
) -> None:
    text, _, _, operands = network(seed)
    shapes, options = [tuple(x.shape) for x in operands], Options.read(name)
    with pytest.raises(MemoryLimitError, match=r"it needs \d+ bytes") as caught:
        _found(text, shapes, 1, gradients, options)
    needed = caught.value.needed_bytes
    assert needed == int(re.findall(r"it needs (\d+) bytes", str(caught.value))[0])
    assert _found(text, shapes, needed, gradients, options).bytes <= needed
    with pytest.raises(MemoryLimitError):
        _found(text, shapes, int(0.9 * needed) - 64, gradients, options)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("seed", range(24))
def test_no_single_elements_around_any_values_take_much_less_than_the_least_limit(
    seed: int, gradients: bool
) -> None:
    _, tree, _, operands = network(seed)
    if len(tree.path) > 3 or len(tree.sizes) > 4:
        return
    shapes = [tuple(x.shape) for x in operands]
    equation = tree.equation
    wanted = [gradients] * len(shapes)
    with pytest.raises(MemoryLimitError) as caught:
        find_schedule(equation, shapes, [tree.path], 1, torch.float32, "cpu", wanted=wanted)
    least = min(_taken(tree, cuts, again, gradients) for cuts, again in _all_loops(tree))
    assert caught.value.needed_bytes is not None
    assert caught.value.needed_bytes <= 1.1 * least + 128


def _all_loops(tree: ContractionTree) -> Iterator[tuple[list[Cut], tuple[int, ...]]]:
    """For every label no loop or one around any value, in some order, computing again or not."""
    pick = random.Random(0)
    choices: list[list[int | None]] = [
        [None, *(value for value in tree.children if label in tree.below[value])]
        for label in range(len(tree.sizes))
    ]
    for chosen in product(*choices):
        cuts = [Cut(value, label, 1) for label, value in enumerate(chosen) if value is not None]
        pick.shuffle(cuts)
        yield cuts, ()
        yield cuts, tuple(tree.children)


def _taken(tree: ContractionTree, cuts: list[Cut], again: tuple[int, ...], gradients: bool) -> int:
    made = schedule(tree, cuts, again)
    if gradients:
        made = adjoint(made, [True] * tree.count)
    found = demand(made, torch.float32, "cpu")
    return arena(found.intervals).bytes + found.apart_bytes + found.output_bytes


def test_a_limit_just_above_the_least_has_the_longest_blocks_that_fit() -> None:
    shapes = [(64, 512), (512, 64), (64, 512), (512, 64)]
    with pytest.raises(MemoryLimitError) as caught:
        _found("ij,jk,kl,lm->im", shapes, 1)
    needed = caught.value.needed_bytes
    assert needed is not None
    found = _found("ij,jk,kl,lm->im", shapes, needed + 4096)
    # Each label that is cut could have blocks of one element, then 64 * 64 * 64 of them.
    assert found.bytes > needed + 2048
    assert found.demand.seconds < 0.2 * _found("ij,jk,kl,lm->im", shapes, needed).demand.seconds


def test_an_error_also_says_from_which_limit_on_it_does_not_take_long() -> None:
    shapes = [(64, 512), (512, 64), (64, 512), (512, 64)]
    with pytest.raises(MemoryLimitError, match="takes long with so little") as caught:
        _found("ij,jk,kl,lm->im", shapes, 1)
    usable = int(re.findall(r"from about (\d+) bytes", str(caught.value))[0])
    whole = _found("ij,jk,kl,lm->im", shapes, 1 << 40)
    assert caught.value.needed_bytes is not None
    assert caught.value.needed_bytes < usable < whole.bytes
    assert _found("ij,jk,kl,lm->im", shapes, usable).demand.seconds <= 2.01 * whole.demand.seconds


def test_elements_of_a_product_of_three_are_summed_in_blocks() -> None:
    shapes = [(1000, 1000)] * 3
    whole = _found("ak,ak,ak->a", shapes, 1 << 40)
    found = _found("ak,ak,ak->a", shapes, 400_000)
    # A tenth of a product of two.
    assert found.bytes <= 400_000
    assert found.demand.seconds < 1.5 * whole.demand.seconds


def test_a_large_network_is_cut_too() -> None:
    # A ring in which every tensor has one more label, with the one 7 places further on.
    inputs = tuple((i, (i + 1) % 28, 28 + (i if i % 14 < 7 else i - 7)) for i in range(28))
    equation, shapes = Equation(inputs, ()), [(8, 8, 8)] * 28
    paths = find_paths(equation, shapes, torch.float32, "cpu")
    whole = find_schedule(equation, shapes, paths, 1 << 50, torch.float32, "cpu")
    found = find_schedule(equation, shapes, paths, whole.bytes // 4, torch.float32, "cpu", free=True)
    assert found.bytes <= whole.bytes // 4
    assert found.demand.flops < 3 * whole.demand.flops


def test_one_element_does_not_fit_into_no_memory() -> None:
    with pytest.raises(MemoryLimitError, match="it needs 1 bytes"):
        find_schedule(Equation.parse("b->b"), [(1,)], [[(0,)]], 0, torch.bool, "cpu")


def test_what_would_take_for_ever_is_refused_with_the_limit_from_which_on_it_does_not() -> None:
    # A square of 5 x 5 tensors that share labels of 16 with their neighbours.
    edges: dict[frozenset[tuple[int, int]], int] = {}
    places = list(product(range(5), range(5)))
    inputs = tuple(
        tuple(
            edges.setdefault(frozenset({(i, j), beside}), len(edges))
            for beside in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1))
            if beside in places
        )
        for i, j in places
    )
    equation, shapes = Equation(inputs, ()), [(16,) * len(labels) for labels in inputs]
    paths = find_paths(equation, shapes, torch.float32, "cpu")
    whole = find_schedule(equation, shapes, paths, 1 << 50, torch.float32, "cpu")
    with pytest.raises(MemoryLimitError, match=r"would take about [\d.e+]+ hours") as caught:
        find_schedule(equation, shapes, paths, 1000, torch.float32, "cpu", free=True)
    needed = caught.value.needed_bytes
    assert needed is not None
    assert 1000 < needed < whole.bytes
    found = find_schedule(equation, shapes, paths, needed, torch.float32, "cpu", free=True)
    assert found.bytes <= needed
    assert found.demand.seconds <= max(3600, 1000 * whole.demand.seconds)


@pytest.mark.parametrize("text", ["ecgb,bah,gceh,ceab,cf->c", "fbd,f,efdh,af->e"])
def test_more_memory_makes_no_schedule_much_slower(text: str) -> None:
    sizes = dict(zip("abcefgdh", (16, 32, 48, 80, 48, 32, 80, 16), strict=True))
    shapes = [tuple(sizes[x] for x in part) for part in text.partition("->")[0].split(",")]
    equation = Equation.parse(text)
    paths = find_paths(equation, shapes, torch.float32, "cpu")
    found = find_schedule(equation, shapes, paths, 1 << 45, torch.float32, "cpu")
    for part in (1, 2, 4):
        less = find_schedule(equation, shapes, paths, found.bytes // part, torch.float32, "cpu")
        assert found.demand.seconds <= 1.2 * less.demand.seconds or found.demand.seconds < 1e-3
