"""Rows of algorithms as their users write them, step by step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import einfx
from einfx import algorithms

from ..contests.libraries import library
from ..contests.row import OURS, Call, Contest, Row, with_gradients
from .operands import edges, scores
from .peers import PYRO, SEMIRING_EINSUM, pyro_chain, semiring_einsum

__all__ = ["ALGORITHMS"]

SHIPPED = "einfx.algorithms"
BROADCAST = "broadcast"
FLOYD_WARSHALL = "scipy, Floyd-Warshall"
DIJKSTRA = "scipy, Dijkstra"

Product = Callable[[Tensor, Tensor], Tensor]


def _log_broadcast(a: Tensor, b: Tensor) -> Tensor:
    return torch.logsumexp(a.unsqueeze(-1) + b.unsqueeze(-3), -2)


# A chain of matrices, multiplied in a tree: log of the number of steps, large products.


def _tree(product: Product, chain: Tensor) -> Tensor:
    """The product of matrices (..., time, i, j), neighbours first."""
    while chain.shape[-3] > 1:
        steps = chain.shape[-3]
        paired = product(chain[..., : steps - 1 : 2, :, :], chain[..., 1::2, :, :])
        chain = torch.cat((paired, chain[..., -1:, :, :]), -3) if steps % 2 else paired
    return chain.squeeze(-3)


def _in_turn(product: Product, chain: Tensor) -> Tensor:
    """The same, one after the other."""
    total, *rest = chain.unbind(-3)
    for matrix in rest:
        total = product(total, matrix)
    return total


def _chain(states: int, gradients: bool) -> Contest:
    chain = scores(4, 128, states, states)

    def ours(a: Tensor, b: Tensor) -> Tensor:
        result: Tensor = einfx.einsum("btij,btjk->btik", a, b, semiring="log")
        return result

    def run(compute: Callable[[Tensor], Tensor] | None, chain: Tensor = chain) -> Call | None:
        if compute is None:
            return None
        return with_gradients(compute, (chain,)) if gradients else lambda: compute(chain)

    calls = {OURS: run(partial(_tree, ours)), PYRO: run(pyro_chain())}
    expected = run(partial(_in_turn, _log_broadcast), chain.double())
    assert expected is not None
    return Contest(calls, expected, {"torch.matmul": run(partial(_tree, torch.matmul), chain.softmax(-1))})


# A hidden Markov model, one step after the other.


def _forward(
    product: Callable[[Tensor, Tensor], Tensor], transition: Tensor, emission: Tensor, best: bool = False
) -> Tensor:
    """The score of each sequence: of all paths, or of the best one.

    Args:
        product: of (batch, states) with (states, states), over the semiring.
        transition: (states, states).
        emission: (time, batch, states).
        best: whether only the best path counts.
    """
    alpha, *rest = emission.unbind(0)
    for step in rest:
        alpha = product(alpha, transition) + step
    return alpha.amax(-1) if best else alpha.logsumexp(-1)


def _model(states: int) -> tuple[Tensor, Tensor]:
    return scores(states, states).log_softmax(-1), scores(128, 16, states, seed=1)


def _markov(states: int) -> Contest:
    given = _model(states)

    def ours(alpha: Tensor, transition: Tensor) -> Tensor:
        result: Tensor = einfx.einsum("bi,ij->bj", alpha, transition, semiring="log")
        return result

    peer = semiring_einsum("bi,ij->bj", "log")

    def run(product: Product | None, given: tuple[Tensor, ...] = given) -> Call | None:
        return None if product is None else with_gradients(partial(_forward, product), given)

    def shipped(transition: Tensor, emission: Tensor) -> Tensor:
        return algorithms.forward(torch.zeros(states), transition, emission.transpose(0, 1))

    calls = {OURS: run(ours), SHIPPED: with_gradients(shipped, given)}
    calls |= {BROADCAST: run(_log_broadcast), SEMIRING_EINSUM: run(peer)}
    expected = run(_log_broadcast, tuple(x.double() for x in given))
    assert expected is not None
    return Contest(calls, expected, {})


def _viterbi(states: int) -> Contest:
    """The best path (time, batch) as where the gradient of its score is 1."""
    transition, emission = _model(states)

    def ours(alpha: Tensor, transition: Tensor) -> Tensor:
        result: Tensor = einfx.einsum("bi,ij->bj", alpha, transition, semiring="max_plus")
        return result

    def broadcast(alpha: Tensor, transition: Tensor) -> Tensor:
        return (alpha.unsqueeze(-1) + transition).max(-2).values

    def run(product: Product) -> Call:
        leaf = emission.clone().requires_grad_()

        def call() -> Tensor:
            score = _forward(product, transition, leaf, best=True).sum()
            (gradient,) = torch.autograd.grad(score, leaf)
            return gradient.argmax(-1)

        return call

    def shipped() -> Tensor:
        _, paths = algorithms.viterbi(torch.zeros(states), transition, emission.transpose(0, 1))
        return paths.T

    calls: dict[str, Call | None] = {
        OURS: run(ours),
        SHIPPED: shipped,
        BROADCAST: run(broadcast),
        SEMIRING_EINSUM: _viterbi_of_peer(transition, emission),
    }
    return Contest(calls, lambda: _back_pointers(transition.double(), emission.double()), {})


def _viterbi_of_peer(transition: Tensor, emission: Tensor) -> Call | None:
    """Its indices are followed back, as it has no gradient of a maximum."""
    product = semiring_einsum("bi,ij->bj", "max_plus")
    if product is None:
        return None

    def step(alpha: Tensor) -> tuple[Tensor, Tensor]:
        values, places = product(alpha, transition)
        return values, places[..., 0]

    return lambda: _followed(step, emission)


def _back_pointers(transition: Tensor, emission: Tensor) -> Tensor:
    def step(alpha: Tensor) -> tuple[Tensor, Tensor]:
        best = (alpha.unsqueeze(-1) + transition).max(-2)
        return best.values, best.indices

    return _followed(step, emission)


def _followed(step: Callable[[Tensor], tuple[Tensor, Tensor]], emission: Tensor) -> Tensor:
    alpha, *rest = emission.unbind(0)
    pointers = []
    for scores_here in rest:
        values, places = step(alpha)
        alpha = values + scores_here
        pointers.append(places)
    path = [alpha.argmax(-1)]
    for places in reversed(pointers):
        path.append(places.gather(1, path[-1].unsqueeze(1)).squeeze(1))
    return torch.stack(path[::-1])


def _shortest_paths(vertices: int) -> Contest:
    lengths = edges(vertices)

    def ours() -> Tensor:
        paths, steps = lengths, 1
        while steps < vertices - 1:
            paths = einfx.einsum("ik,kj->ij", paths, paths, semiring="min_plus")
            steps *= 2
        return paths

    def scipy(method: str, graph: Any) -> Tensor:
        return torch.from_numpy(csgraph.shortest_path(graph, method=method))

    csgraph = library("scipy.sparse.csgraph")
    calls: dict[str, Call | None] = {
        OURS: ours,
        SHIPPED: lambda: algorithms.all_pairs_shortest_paths(lengths),
        FLOYD_WARSHALL: None,
        DIJKSTRA: None,
    }
    if csgraph is not None:
        dense = lengths.double().numpy()
        sparse = csgraph.csgraph_from_dense(dense, null_value=float("inf"))
        calls[FLOYD_WARSHALL] = partial(scipy, "FW", dense)
        calls[DIJKSTRA] = partial(scipy, "D", sparse)
    return Contest(calls, lambda: _through_every_vertex(lengths.double()), {})


def _through_every_vertex(lengths: Tensor) -> Tensor:
    """Floyd's recurrence."""
    paths = lengths.clone()
    for vertex in range(len(paths)):
        paths = torch.minimum(paths, paths[:, vertex : vertex + 1] + paths[vertex : vertex + 1])
    return paths


ALGORITHMS = (
    *(
        Row(
            "log chain in a tree" + ", gradients" * gradients,
            "what pyro's _sequential_logmatmulexp computes: 4 chains of 128 32x32 matrices"
            + ", forward and backward" * gradients,
            partial(_chain, gradients=gradients),
            32,
            3,
            memory=True,
        )
        for gradients in (False, True)
    ),
    Row(
        "hidden markov model, gradients",
        "16 sequences of 128 steps, 64 states: log-likelihood and its gradients, step by step",
        _markov,
        64,
        3,
        memory=True,
    ),
    Row(
        "viterbi by gradient",
        "the best paths of the same model",
        _viterbi,
        64,
        3,
    ),
    Row(
        "all-pairs shortest paths",
        "repeated squaring over min_plus, 512 vertices, a tenth of the edges; scipy in float64",
        _shortest_paths,
        512,
        12,
        slow=frozenset({FLOYD_WARSHALL, DIJKSTRA}),
    ),
)
