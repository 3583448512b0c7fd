"""Closures of graphs agree with networkx, scipy, and Floyd's and Warshall's algorithms in numpy."""

from __future__ import annotations

import itertools
import math

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csgraph
from torch import Tensor

from einfx.algorithms import all_pairs_shortest_paths, reachability, widest_paths
from einfx.errors import OperandError

GRAPHS = st.tuples(st.integers(1, 12), st.floats(0.05, 1), st.integers(0, 999))


def graph(n: int, density: float, seed: int, missing: float = math.inf) -> Tensor:
    """Random weights from 0 to 1."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(n, n, generator=generator, dtype=torch.float64)
    return weights.masked_fill(torch.rand(n, n, generator=generator) > density, missing)


def tilted(weights: Tensor, seed: int) -> Tensor:
    """The same graph with negative edges and no negative cycle: every path changes by its ends alone."""
    heights = torch.randn(len(weights), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return weights + heights.unsqueeze(1) - heights


def digraph(weights: Tensor) -> networkx.DiGraph:
    found = networkx.DiGraph()
    found.add_nodes_from(range(len(weights)))
    found.add_weighted_edges_from(
        [(i, j, weights[i, j].item()) for i, j in weights.isfinite().nonzero().tolist() if i != j]
    )
    return found


def floyd(matrix: Tensor, better: np.ufunc, along: np.ufunc) -> NDArray[np.float64]:
    """The closure vertex by vertex."""
    found = matrix.double().numpy().copy()
    for k in range(len(found)):
        found = better(found, along(found[:, k : k + 1], found[k : k + 1]))
    return found


@given(GRAPHS)
def test_distances_are_those_of_networkx_and_scipy(sizes: tuple[int, float, int]) -> None:
    for weights in (graph(*sizes), tilted(graph(*sizes), sizes[2])):
        distances = all_pairs_shortest_paths(weights)
        lengths = dict(networkx.all_pairs_bellman_ford_path_length(digraph(weights)))
        n = len(weights)
        expected = torch.tensor([[lengths[i].get(j, math.inf) for j in range(n)] for i in range(n)])
        torch.testing.assert_close(distances, expected.double(), rtol=1e-6, atol=1e-6)
        # Without its diagonal scipy takes the matrix as it is.
        dense = csgraph.csgraph_from_dense(weights.fill_diagonal_(math.inf).numpy(), null_value=math.inf)
        exact = csgraph.floyd_warshall(dense)
        torch.testing.assert_close(distances, torch.from_numpy(exact), rtol=1e-12, atol=1e-12)


@given(GRAPHS)
def test_the_gradient_of_a_distance_marks_a_shortest_path(sizes: tuple[int, float, int]) -> None:
    weights = tilted(graph(*sizes), sizes[2]).requires_grad_()
    distances = all_pairs_shortest_paths(weights)
    start, end = 0, len(weights) - 1
    (edges,) = torch.autograd.grad(distances[start, end], weights)
    if start == end or distances[start, end] == math.inf:
        return
    assert edges.unique().tolist() in ([0, 1], [1])
    assert weights.detach()[edges == 1].sum().item() == pytest.approx(distances[start, end].item(), abs=1e-9)
    after = dict(edges.nonzero().tolist())
    assert len(after) == int(edges.sum())
    place = start
    while place != end:
        place = after.pop(place)
    assert not after


@given(GRAPHS)
def test_negative_cycles_are_found_exactly_where_scipy_finds_them(sizes: tuple[int, float, int]) -> None:
    weights = graph(*sizes).sub(0.2).fill_diagonal_(math.inf)
    dense = csgraph.csgraph_from_dense(weights.numpy(), null_value=math.inf)
    try:
        expected = csgraph.johnson(dense)
    except csgraph.NegativeCycleError:
        with pytest.raises(OperandError, match="negative length"):
            all_pairs_shortest_paths(weights)
    else:
        torch.testing.assert_close(all_pairs_shortest_paths(weights), torch.from_numpy(expected))


def test_a_negative_cycle_through_all_vertices_and_a_negative_loop_are_found() -> None:
    for n in (1, 2, 3, 4, 5, 7, 8, 9):
        weights = torch.full((n, n), math.inf)
        for i in range(n):
            weights[i, (i + 1) % n] = 1 - n - 0.5 if i == 0 else 1.0
        with pytest.raises(OperandError, match="cycle of negative length through vertex 0, so"):
            all_pairs_shortest_paths(weights)
        weights[0, 1 % n] += 0.5
        assert all_pairs_shortest_paths(weights).diagonal().eq(0).all()


def test_an_error_names_the_graph_of_a_batch() -> None:
    weights = torch.ones(2, 3, 4, 4)
    weights[1, 2, 3, 3] = -1
    with pytest.raises(OperandError, match=r"through vertex 3 of graph \(1, 2\)"):
        all_pairs_shortest_paths(weights)


def test_cycles_that_rounding_alone_makes_negative_are_none() -> None:
    inf = math.inf
    for dtype in (torch.float32, torch.float64):
        weights = torch.tensor([[inf, 0.1, inf], [inf, inf, 0.2], [-0.3, inf, inf]], dtype=dtype)
        distances = all_pairs_shortest_paths(weights)
        assert distances.diagonal().tolist() == [0, 0, 0]
        torch.testing.assert_close(distances[0, 2].item(), 0.3, rtol=1e-6, atol=0)


def test_small_negative_cycles_are_found_beside_large_weights() -> None:
    # Some write 1e9 for what is missing.
    weights = torch.full((50, 50), 1e9)
    weights[3, 7], weights[7, 3] = 1.0, -1.001
    with pytest.raises(OperandError, match="through vertex 3"):
        all_pairs_shortest_paths(weights)
    weights[7, 3] = -1.0
    assert all_pairs_shortest_paths(weights)[3, 7] == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_zero_cycles_of_rounded_weights_everywhere_are_no_negative_cycles(dtype: torch.dtype) -> None:
    for seed in range(20):
        heights = torch.randn(20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        weights = (heights - heights.unsqueeze(1)).to(dtype)
        distances = all_pairs_shortest_paths(weights)
        # The search prefers those of all paths whose roundings add up.
        accuracy = 200 * torch.finfo(dtype).eps
        torch.testing.assert_close(distances, weights, rtol=accuracy, atol=accuracy)


def test_integers_stay_integers() -> None:
    none = torch.iinfo(torch.int64).max
    weights = torch.tensor([[none, 4, 1], [none, none, none], [none, 2, none]])
    assert all_pairs_shortest_paths(weights).tolist() == [[0, 3, 1], [none, 0, none], [none, 2, 0]]
    with pytest.raises(OperandError, match="negative length"):
        all_pairs_shortest_paths(torch.tensor([[0, -1], [0, 0]]))


def test_edges_of_length_minus_infinity_leave_missing_ones_missing() -> None:
    inf = math.inf
    weights = torch.tensor([[inf, -inf, inf], [inf, inf, 5.0], [inf, inf, inf]])
    expected = [[0, -inf, -inf], [inf, 0, 5], [inf, inf, 0]]
    assert all_pairs_shortest_paths(weights).tolist() == expected
    weights[2, 0] = 7.0
    with pytest.raises(OperandError, match="negative length"):
        all_pairs_shortest_paths(weights)


def test_batches_are_graphs_of_their_own() -> None:
    graphs = torch.stack([graph(6, 0.4, seed) for seed in range(6)]).view(2, 3, 6, 6)
    distances, widths = all_pairs_shortest_paths(graphs), widest_paths(graphs)
    reached = reachability(graphs.isfinite())
    for place in np.ndindex(2, 3):
        assert torch.equal(distances[place], all_pairs_shortest_paths(graphs[place]))
        assert torch.equal(widths[place], widest_paths(graphs[place]))
        assert torch.equal(reached[place], reachability(graphs[place].isfinite()))


@given(GRAPHS)
def test_widths_are_those_of_floyds_algorithm(sizes: tuple[int, float, int]) -> None:
    capacities = graph(*sizes, missing=-math.inf)
    expected = floyd(capacities.clone().fill_diagonal_(math.inf), np.maximum, np.minimum)
    assert torch.equal(widest_paths(capacities), torch.from_numpy(expected))


def test_undirected_widths_are_those_of_the_maximum_spanning_tree() -> None:
    weights = graph(12, 1.0, 3).triu(1)
    weights += weights.mT.clone()
    network = networkx.from_numpy_array(weights.numpy())
    tree = networkx.maximum_spanning_tree(network)
    widths = widest_paths(weights)
    for i in range(12):
        for j, path in networkx.single_source_shortest_path(tree, i).items():
            steps = [weights[a, b].item() for a, b in itertools.pairwise(path)]
            assert widths[i, j].item() == min(steps, default=math.inf)


def test_the_gradient_of_a_width_marks_its_narrowest_edge() -> None:
    capacities = torch.tensor([[0.0, 2.0, 9.0], [0.0, 0.0, 0.0], [0.0, 5.0, 0.0]], requires_grad=True)
    (grad,) = torch.autograd.grad(widest_paths(capacities)[0, 1], capacities)
    assert grad.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


@given(GRAPHS)
def test_what_is_reached_is_the_transitive_closure_of_networkx(sizes: tuple[int, float, int]) -> None:
    edges = graph(sizes[0], sizes[1] / 3, sizes[2]).isfinite()
    closure = networkx.transitive_closure(
        networkx.from_numpy_array(edges.numpy(), create_using=networkx.DiGraph), reflexive=True
    )
    expected = torch.from_numpy(networkx.to_numpy_array(closure, dtype=bool))
    assert torch.equal(reachability(edges), expected)
    assert torch.equal(reachability(edges.int() * 3), expected)


@pytest.mark.parametrize("function", [all_pairs_shortest_paths, widest_paths, reachability])
def test_graphs_without_edges_or_vertices(function: object) -> None:
    assert callable(function)
    assert function(torch.zeros(0, 0)).shape == (0, 0)
    assert function(torch.zeros(2, 0, 0)).shape == (2, 0, 0)
    assert function(torch.zeros(0, 3, 3)).shape == (0, 3, 3)
    assert function(torch.ones(1, 1)).shape == (1, 1)
    with pytest.raises(OperandError, match=r"has the shape \(..., n, n\), not \(2, 3\)"):
        function(torch.zeros(2, 3))


def test_a_long_chain_is_followed_to_its_end() -> None:
    n = 70
    weights = torch.full((n, n), math.inf)
    weights.diagonal(1).fill_(1)
    place = torch.arange(n)
    expected = (place - place.unsqueeze(1)).float()
    assert torch.equal(all_pairs_shortest_paths(weights), expected.masked_fill(expected < 0, math.inf))
    assert torch.equal(reachability(weights.isfinite()), expected >= 0)
    assert (widest_paths((-weights).nan_to_num(neginf=-math.inf))[0, 1:] == -1).all()
