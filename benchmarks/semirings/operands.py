"""Random and structured operands, the same on every call."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["all_unsafe", "cky_charts", "edges", "few_unsafe", "padded_chains", "pair", "scores"]

ABSENT = -1e5
"""What torch-struct writes where there is nothing."""


def scores(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers of float32, as unnormalised log-probabilities often are."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(n: int) -> tuple[Tensor, Tensor]:
    """Two matrices (n, n) of scores."""
    return scores(n, n), scores(n, n, seed=1)


def few_unsafe(n: int) -> tuple[Tensor, Tensor]:
    """A hundredth of the product's entries underflows where rows and columns are shifted by their maxima."""
    a, b = pair(n)
    few = n // 10
    a[:few, n // 2 :] -= 400
    b[: n // 2, :few] -= 400
    return a, b


def all_unsafe(n: int) -> tuple[Tensor, Tensor]:
    """All of the entries do, and are within exp(700) of the product of the maxima."""
    a, b = pair(n)
    a[:, n // 2 :] -= 300
    b[: n // 2] -= 300
    return a, b


def padded_chains(states: int) -> tuple[Tensor, Tensor]:
    """Neighbouring potentials (8·31, states, states) of chains of lengths 7 to 32, as torch-struct has them.

    Past its length a chain stays in its state: 0 on the diagonal, and absent elsewhere.
    """
    potentials = scores(8, 32, states, states)
    for chain, length in enumerate((7, 10, 13, 16, 19, 22, 26, 32)):
        potentials[chain, length - 1 :] = ABSENT
        potentials[chain, length - 1 :].diagonal(dim1=1, dim2=2).fill_(0)
    return potentials[:, :-1].flatten(0, 1), potentials[:, 1:].flatten(0, 1)


def cky_charts(symbols: int) -> tuple[Tensor, Tensor]:
    """Parts of 8 sentences' charts that meet in spans of 32 words: (256, symbols, 31), (256, 31, symbols).

    Terminal symbols, 9 of 32, are present in spans of one word alone, which end the left chart and begin the
    right one; the other symbols in all longer spans.
    """
    splits, terminals = 31, symbols * 9 // 32
    left, right = scores(8 * 32, symbols, splits), scores(8 * 32, splits, symbols, seed=1)
    left[:, :terminals, 1:] = ABSENT
    left[:, terminals:, :1] = ABSENT
    right[:, :-1, :terminals] = ABSENT
    right[:, -1:, terminals:] = ABSENT
    return left, right


def edges(vertices: int) -> Tensor:
    """Lengths of a random directed graph's edges (vertices, vertices): a tenth is there, others are inf."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.rand(vertices, vertices, generator=generator)
    lengths[torch.rand(vertices, vertices, generator=generator) > 0.1] = torch.inf
    return lengths.fill_diagonal_(0)
