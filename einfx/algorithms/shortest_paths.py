"""Paths between all pairs of vertices: the shortest, the widest, and whether there is one.

All three are the closure of a matrix over a semiring whose addition selects: with 1 on the diagonal, so that
a vertex reaches itself, squaring it doubles the length of the paths that are considered, and squaring it
log2(n) times finds all of them (Aho, Hopcroft and Ullman, "The design and analysis of computer algorithms",
1974, section 5.6). That is log n times the operations of Floyd's and Warshall's algorithms (1962), as matrix
products, and less where the paths have few edges: nothing is squared that no longer changes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..contract import einsum
from ..errors import OperandError
from ..semiring import get

__all__ = ["all_pairs_shortest_paths", "reachability", "widest_paths"]


def all_pairs_shortest_paths(weights: Tensor) -> Tensor:
    """The lengths of the shortest paths between all pairs of vertices, over the min-plus semiring.

    The gradient of a distance marks the edges of a shortest path.

    Args:
        weights: (..., n, n), floating or integer: of the edge from row to column, +inf (the largest integer)
            where there's none. They may be negative. Those on the diagonal count where they're negative
            only, since staying costs nothing.

    Returns:
        (..., n, n), +inf where there's no path, 0 on the diagonal.

    Raises:
        OperandError: another shape, or a cycle of negative length, around which paths get ever shorter. What
            rounding alone makes negative isn't taken for one.

    Example:
        >>> inf = torch.inf
        >>> weights = torch.tensor([[inf, 4.0, 1.0], [inf, inf, inf], [inf, 2.0, inf]], requires_grad=True)
        >>> distances = all_pairs_shortest_paths(weights)
        >>> distances
        tensor([[0., 3., 1.],
                [inf, 0., inf],
                [inf, 2., 0.]], grad_fn=...)
        >>> torch.autograd.grad(distances[0, 1], weights)
        (tensor([[0., 0., 1.],
                [0., 0., 0.],
                [0., 1., 0.]]),)
    """
    _require_square("weights", weights)
    loops = weights.diagonal(0, -2, -1)
    edges = weights.diagonal_scatter(loops.clamp(max=0), 0, -2, -1)
    if not bool((weights < 0).any()):
        return _closure(edges, "min_plus")
    distances = _closure_without_negative_cycles(edges)
    return distances.diagonal_scatter(torch.zeros_like(loops), 0, -2, -1)


def widest_paths(capacities: Tensor) -> Tensor:
    """The widths of the widest paths between all pairs of vertices, over the max-min semiring.

    A path is as wide as its narrowest edge (Pollack, "The maximum capacity through a network", 1960). The
    gradient of a width marks that edge.

    Args:
        capacities: (..., n, n), floating or integer: of the edge from row to column, -inf (the smallest
            integer), or 0 if capacities are positive, where there's none. The diagonal isn't read.

    Returns:
        (..., n, n), with what stands for no edge where there's no path; +inf (the largest integer) on the
        diagonal.

    Raises:
        OperandError: another shape or dtype.

    Example:
        >>> capacities = torch.tensor([[0, 2, 9], [0, 0, 0], [0, 5, 0]])
        >>> widest_paths(capacities)[0, 1]
        tensor(5)
    """
    _require_square("capacities", capacities)
    one = torch.full_like(capacities.diagonal(0, -2, -1), get("max_min").one_of(capacities.dtype))
    return _closure(capacities.diagonal_scatter(one, 0, -2, -1), "max_min")


def reachability(edges: Tensor) -> Tensor:
    """Between which vertices there is a path: the reflexive transitive closure, over the boolean semiring.

    Args:
        edges: (..., n, n), bool, or numbers of which those that aren't 0 are edges, from row to column.

    Returns:
        (..., n, n) bool, True on the diagonal.

    Raises:
        OperandError: another shape.

    Example:
        >>> reachability(torch.tensor([[0, 1, 0], [0, 0, 1], [0, 0, 0]]))
        tensor([[ True,  True,  True],
                [False,  True,  True],
                [False, False,  True]])
    """
    _require_square("edges", edges)
    itself = torch.ones_like(edges.diagonal(0, -2, -1), dtype=torch.bool)
    return _closure((edges != 0).diagonal_scatter(itself, 0, -2, -1), "boolean")


def _closure(matrix: Tensor, semiring: str) -> Tensor:
    """Sums over all paths of up to n edges, given those of up to one: 1 or better on the diagonal."""
    edges = 1
    while edges < matrix.shape[-1]:
        longer: Tensor = einsum("...ij,...jk->...ik", matrix, matrix, semiring=semiring)
        if torch.equal(longer, matrix):
            break
        matrix, edges = longer, 2 * edges
    return matrix


def _closure_without_negative_cycles(matrix: Tensor) -> Tensor:
    """The same over min-plus.

    A cycle has at most n edges, so that the shortest way from one of its vertices back to it shows a negative
    one. The absolute values along each way, which are added beside it, tell what may be rounding: half a unit
    of each for the weights themselves, and again for every sum that they are in.
    """
    size = matrix.detach().abs()
    # Beside an edge of length -inf, one that is missing still is.
    missing_wins = matrix.dtype.is_floating_point and bool((matrix == -torch.inf).any())
    edges, sums = 1, 0
    while edges < matrix.shape[-1]:
        longer, middle = einsum(
            "...ij,...jk->...ik",
            matrix,
            matrix,
            semiring="min_plus",
            zero_annihilates=missing_wins or None,
            return_argmax=True,
        )
        if torch.equal(longer, matrix):
            break
        middle = middle.squeeze(-1)
        size = size.gather(-1, middle) + size.gather(-2, middle)
        matrix, edges, sums = longer, 2 * edges, sums + 1
    ways, sizes = (x.detach().diagonal(0, -2, -1) for x in (matrix, size))
    rounding = torch.finfo(matrix.dtype).eps * (sums + 1) * sizes if matrix.dtype.is_floating_point else 0
    negative = ((ways < -rounding) | (ways == -torch.inf)).nonzero()
    if len(negative):
        *graph, vertex = negative[0].tolist()
        where = f" of graph {tuple(graph)}" if graph else ""
        raise OperandError(
            f"there's a cycle of negative length through vertex {vertex}{where}, so there's no shortest path "
            f"from {vertex} to itself; all cycles must have a length of at least 0"
        )
    return matrix


def _require_square(name: str, matrix: Tensor) -> None:
    if not isinstance(matrix, Tensor):
        raise OperandError(f"{name} is a tensor of the shape (..., n, n), not {matrix!r}")
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise OperandError(f"{name} has the shape (..., n, n), not {tuple(matrix.shape)}")
