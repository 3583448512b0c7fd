"""Networks of many operands are contracted within limits, by paths and loops that are found quickly."""

from __future__ import annotations

import networkx
import opt_einsum
import pytest
import torch
from torch import Tensor

from einfx.equation import Equation
from einfx.errors import MemoryLimitError
from einfx.options import REAL
from einfx.paths.choices import find_paths
from einfx.slicing.running.memory import arena, demand
from einfx.slicing.running.run import run
from einfx.slicing.schedules.tree import ContractionTree, Cut, schedule
from einfx.slicing.search.account import Account, Rates
from einfx.slicing.search.find_schedule import Sliced, find_schedule
from einfx.slicing.search.rotating import rotated
from einfx.slicing.search.sparing import spared, sweep


def _network(graph: networkx.Graph, size: int) -> tuple[Equation, list[tuple[int, ...]], list[Tensor]]:
    """A tensor for each node, and a label for each edge."""
    number = {frozenset(edge): label for label, edge in enumerate(graph.edges)}
    inputs = tuple(tuple(number[frozenset(edge)] for edge in graph.edges(node)) for node in graph.nodes)
    shapes = [(size,) * len(labels) for labels in inputs]
    generator = torch.Generator().manual_seed(0)
    operands = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return Equation(inputs, ()), shapes, operands


def _overlap(sites: int, bond: int) -> tuple[Equation, list[tuple[int, ...]], list[Tensor]]:
    """Two chains, whose tensors share a label of 2 with one another."""
    ladder = networkx.ladder_graph(sites)
    equation, _, _ = _network(ladder, bond)
    rungs = {label for label, (a, b) in enumerate(ladder.edges) if b - a == sites}
    shapes = [tuple(2 if x in rungs else bond for x in labels) for labels in equation.inputs]
    generator = torch.Generator().manual_seed(0)
    operands = [torch.randn(shape, generator=generator, dtype=torch.float64) / bond**0.5 for shape in shapes]
    return equation, shapes, operands


def _found(equation: Equation, shapes: list[tuple[int, ...]], limit: int, gradients: bool = False) -> Sliced:
    paths = find_paths(equation, shapes, torch.float64, "cpu")
    wanted = [gradients] * len(shapes)
    return find_schedule(equation, shapes, paths, limit, torch.float64, "cpu", wanted=wanted, free=True)


def _expected(equation: Equation, operands: list[Tensor]) -> Tensor:
    text = ",".join("".join(map(opt_einsum.get_symbol, labels)) for labels in equation.inputs) + "->"
    result: Tensor = opt_einsum.contract(text, *operands)
    return result


@pytest.mark.parametrize("part", [2, 8])
@pytest.mark.parametrize("kind", ["lattice", "regular"])
def test_networks_are_cut_within_their_limit_and_give_the_same(kind: str, part: int) -> None:
    regular = networkx.random_regular_graph(3, 24, seed=1)
    graph = networkx.grid_2d_graph(5, 5) if kind == "lattice" else regular
    equation, shapes, operands = _network(graph, 4)
    whole = _found(equation, shapes, 1 << 40)
    found = _found(equation, shapes, whole.bytes // part)
    told = demand(found.schedule, torch.float64, "cpu")
    assert arena(told.intervals).bytes + told.apart_bytes + told.output_bytes == found.bytes
    assert found.bytes <= whole.bytes // part
    (result,) = run(found.schedule, operands, found.demand)
    torch.testing.assert_close(result, _expected(equation, operands))


@pytest.mark.parametrize("sites", [10, 40])
def test_a_chain_needs_no_more_memory_for_more_operands(sites: int) -> None:
    equation, shapes, operands = _overlap(sites, 8)
    found = _found(equation, shapes, 4_000)
    assert found.bytes <= 4_000
    assert not found.cuts
    (result,) = run(found.schedule, operands, found.demand)
    torch.testing.assert_close(result, _expected(equation, operands))


@pytest.mark.parametrize(("sites", "times"), [(20, 6), (32, 10)])
def test_gradients_of_chains_are_computed_in_stages(sites: int, times: int) -> None:
    equation, shapes, operands = _overlap(sites, 8)
    returned = 8 * sum(x.numel() for x in operands)
    whole = _found(equation, shapes, 1 << 40, gradients=True)
    limit = returned + 8_000
    assert whole.bytes > returned + 20_000
    found = _found(equation, shapes, limit, gradients=True)
    assert found.bytes <= limit
    assert found.demand.flops < times * whole.demand.flops
    recorded = [x.clone().requires_grad_() for x in operands]
    wanted = torch.autograd.grad(_expected(equation, recorded), recorded)
    made = run(found.schedule, [*operands, torch.ones((), dtype=torch.float64)], found.demand)
    torch.testing.assert_close(made, wanted)


def test_gradients_of_very_long_chains_are_those_without_a_limit() -> None:
    equation, shapes, operands = _overlap(180, 4)
    sizes = equation.sizes(shapes)
    steps = [(0, 1), *((358 + number, number) for number in range(2, 360))]
    start = ContractionTree(equation, tuple(sizes[x] for x in equation.labels), tuple(steps))
    returned = 8 * sum(x.numel() for x in operands)
    results = []
    for limit in (1 << 40, returned + 12_000):
        found = find_schedule(
            equation, shapes, [sweep(start).path], limit, torch.float64, "cpu", wanted=[True] * 360, free=True
        )
        assert found.bytes <= limit
        results.append(run(found.schedule, [*operands, torch.ones((), dtype=torch.float64)], found.demand))
    # These depend on one another along the whole chain.
    assert all(x.isfinite().all() and x.count_nonzero() for x in results[0])
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=0.0)


def test_a_limit_that_is_far_too_small_for_a_very_long_chain_is_refused() -> None:
    equation, shapes, _ = _overlap(180, 4)
    steps = ((0, 1), *((358 + number, number) for number in range(2, 360)))
    with pytest.raises(MemoryLimitError, match="is too little"):
        find_schedule(equation, shapes, [steps], 8, torch.float64, "cpu", wanted=[True] * 360, free=True)


def test_the_account_of_a_tree_is_near_to_what_its_program_takes() -> None:
    equation, shapes, _ = _network(networkx.grid_2d_graph(5, 5), 4)
    rates = Rates.of(torch.float64, "cpu", REAL)
    tree = ContractionTree(equation, (4,) * 40, tuple(find_paths(equation, shapes, torch.float64, "cpu")[0]))
    for limit in (2000, 500, 200):
        made = spared(tree, rates, limit, 100.0, 100)
        assert made is not None
        assert made.taken.elements <= limit
        found = made.account.tree
        cuts = [Cut(made.account.last[x], x, block) for x, block in enumerate(made.blocks) if block < 4]
        again = [-1 - value for value in found.children] if cuts else []
        exact = demand(schedule(found, sorted(cuts, key=lambda cut: -cut.value), again), torch.float64, "cpu")
        assert 0.4 < exact.peak_bytes / (8 * made.taken.elements) < 2.5
        assert 0.4 < exact.seconds / made.taken.seconds < 2.5


def test_a_path_is_searched_for_less_memory_where_that_is_scarce() -> None:
    equation, shapes, _ = _network(networkx.grid_2d_graph(5, 5), 4)
    rates = Rates.of(torch.float64, "cpu", REAL)
    start = sweep(
        ContractionTree(equation, (4,) * 40, tuple(find_paths(equation, shapes, torch.float64, "cpu")[0]))
    )
    scarce = rotated(start, start.sizes, 500.0, 20_000)
    ample = rotated(start, start.sizes, 1e9, 20_000)
    assert sorted(x for step in scarce.path for x in step) == list(range(48))
    few, many = (Account(tree, rates).take(tree.sizes, 1.0) for tree in (scarce, ample))
    assert few.elements <= many.elements
    assert many.seconds < Account(start, rates).take(start.sizes, 1.0).seconds
