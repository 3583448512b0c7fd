"""The fast semirings of torch-struct, which need genbmm, agree with its slow ones and with enumeration."""

from __future__ import annotations

import importlib
import itertools
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import einfx.compat

pytest.importorskip("torch_struct", reason="torch-struct comes with the extra 'test'")


def _on_einfx() -> ModuleType:
    """torch_struct, imported while einfx stands in for genbmm."""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("torch_struct", "genbmm"):
            del sys.modules[name]
    einfx.compat.install("genbmm")
    try:
        module = importlib.import_module("torch_struct")
        fast = importlib.import_module("torch_struct.semirings.fast_semirings")
        assert fast.genbmm is importlib.import_module("einfx.compat.genbmm")
        return module
    finally:
        einfx.compat.uninstall("genbmm")


struct = _on_einfx()
PAIRS = [("FastLogSemiring", "LogSemiring"), ("FastMaxSemiring", "MaxSemiring")]


def potentials(model: str, batch: int, length: int, states: int, seed: int) -> Any:
    """Random scores in the shape that a structure of torch_struct takes."""
    generator = torch.Generator().manual_seed(seed)

    def scores(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator).mul_(2).requires_grad_()

    if model == "LinearChain":
        return scores(length - 1, states, states)
    if model == "SemiMarkov":
        return scores(length - 1, 3, states, states)
    if model == "CKY_CRF":
        return scores(length, length, states)
    both = 2 * states
    return scores(length, states), scores(states, both, both), scores(states)


STRUCTURES = ["LinearChain", "SemiMarkov", "CKY", "CKY_CRF"]
SIZES = st.tuples(st.integers(1, 3), st.integers(3, 6), st.integers(2, 4), st.integers(0, 99))


def assert_same(got: Any, expected: Any) -> None:
    torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("model", STRUCTURES)
@pytest.mark.parametrize(("fast", "slow"), PAIRS)
@settings(max_examples=25)
@given(sizes=SIZES)
def test_sums_and_marginals_are_those_of_the_slow_semiring(
    model: str, fast: str, slow: str, sizes: tuple[int, int, int, int]
) -> None:
    batch, length, states, seed = sizes
    lengths = torch.randint(2, length + 1, (batch,), generator=torch.Generator().manual_seed(seed))
    lengths[-1] = length
    results = []
    for name in (fast, slow):
        chosen = getattr(struct, model)(getattr(struct, name))
        scores = potentials(model, batch, length, states, seed)
        results.append((chosen.sum(scores, lengths=lengths), chosen.marginals(scores, lengths=lengths)))
    assert_same(*results)


@pytest.mark.parametrize(("fast", "slow"), PAIRS)
def test_long_padded_batches_agree_too(fast: str, slow: str) -> None:
    lengths = torch.tensor([7, 12, 20, 32])
    scores = potentials("LinearChain", 4, 32, 24, 0)
    results = [
        (model.sum(scores, lengths=lengths), model.marginals(scores, lengths=lengths))
        for model in (struct.LinearChain(getattr(struct, name)) for name in (fast, slow))
    ]
    assert_same(*results)


@pytest.mark.parametrize(("fast", "slow"), PAIRS)
def test_gradients_of_marginals_agree(fast: str, slow: str) -> None:
    grads = []
    for name in (fast, slow):
        scores = potentials("LinearChain", 2, 5, 3, 1)
        marginals = struct.LinearChain(getattr(struct, name)).marginals(scores)
        if name in ("FastMaxSemiring", "MaxSemiring"):
            assert marginals.sum((2, 3)).eq(1).all()
            continue
        grads.append(torch.autograd.grad(marginals.square().sum(), scores))
    if grads:
        assert_same(*grads)


def chains(scores: Tensor) -> tuple[Tensor, Tensor]:
    """All paths (P, N) through the potentials (N - 1, C, C) of one chain, and their scores (P)."""
    steps, states, _ = scores.shape
    paths = list(itertools.product(range(states), repeat=steps + 1))
    totals = [sum(scores[n, path[n + 1], path[n]] for n in range(steps)) for path in paths]
    return torch.tensor(paths), torch.stack(totals)  # type: ignore[arg-type]


def test_a_chain_agrees_with_the_enumeration_of_its_paths() -> None:
    scores = potentials("LinearChain", 2, 5, 3, 2)
    for batch in range(2):
        paths, totals = chains(scores[batch].double())
        partition = struct.LinearChain(struct.FastLogSemiring).sum(scores)
        assert_same(partition[batch].double(), totals.logsumexp(0))
        best = struct.LinearChain(struct.FastMaxSemiring)
        assert_same(best.sum(scores)[batch].double(), totals.max())
        sequence = struct.LinearChain.from_parts(best.marginals(scores))[0][batch]
        assert torch.equal(sequence, paths[totals.argmax()])
        (expected,) = torch.autograd.grad(totals.logsumexp(0), scores)
        marginals = struct.LinearChain(struct.FastLogSemiring).marginals(scores)
        assert_same(marginals[batch], expected[batch])


def test_a_hidden_markov_model_is_a_chain() -> None:
    states, symbols = 4, 6
    normalised = [torch.randn(*shape).log_softmax(0) for shape in ((states, states), (symbols, states))]
    initial = torch.randn(states).log_softmax(0)
    scores = struct.LinearChain.hmm(*normalised, initial, torch.randint(0, symbols, (3, 8)))
    fast, slow = (struct.LinearChain(x).sum(scores) for x in (struct.FastLogSemiring, struct.LogSemiring))
    assert_same(fast, slow)


def test_samples_of_chains_have_the_frequencies_of_their_paths() -> None:
    draws = 20_000
    scores = potentials("LinearChain", 1, 4, 3, 3).detach()
    paths, totals = chains(scores[0].double())
    batch = scores.expand(draws, -1, -1, -1).clone().requires_grad_()
    edges = struct.LinearChain(struct.FastSampleSemiring).marginals(batch)
    assert edges.sum((2, 3)).eq(1).all()
    sequences = torch.cat([edges[:, :1].sum(2).argmax(2), edges.sum(3).argmax(2)], 1)
    place = 3 ** torch.arange(4)
    counts = (sequences * place).sum(1).bincount(minlength=3**4)[(paths * place).sum(1)]
    expected = totals.softmax(0) * draws
    often = expected > 5
    lumped = [torch.cat([x[often], x[~often].sum()[None]]) for x in (counts.double(), expected)]
    assert stats.chisquare(*(x.numpy() for x in lumped)).pvalue > 1e-4


@pytest.mark.parametrize("model", ["SemiMarkov", "CKY", "CKY_CRF"])
def test_samples_average_to_the_marginals(model: str) -> None:
    draws = 4000
    one = potentials(model, 1, 4, 2, 4)
    many = [x.detach().expand(draws, *x.shape[1:]).clone() for x in (one if model == "CKY" else (one,))]
    scores = tuple(x.requires_grad_() for x in many) if model == "CKY" else many[0].requires_grad_()
    sampled = getattr(struct, model)(struct.FastSampleSemiring).marginals(scores)
    expected = getattr(struct, model)(struct.LogSemiring).marginals(one)
    for got, wanted in zip(*(x if model == "CKY" else (x,) for x in (sampled, expected)), strict=True):
        mean, probability = got.mean(0), wanted[0]
        error = (probability * (1 - probability)).clamp(min=0).sqrt() / draws**0.5
        # Counts of a rule within one tree may exceed 1; five standard errors of a sum of a few.
        assert ((mean - probability).abs() <= 10 * error + 2e-3).all()


def test_checkpoints_take_the_fast_semiring() -> None:
    scores = potentials("LinearChain", 2, 6, 3, 5)
    checkpointed = struct.LinearChain(struct.CheckpointSemiring(struct.FastLogSemiring, 1))
    plain = struct.LinearChain(struct.LogSemiring)
    assert_same(checkpointed.sum(scores), plain.sum(scores))
    assert_same(checkpointed.marginals(scores), plain.marginals(scores))


def aligned(scores: Tensor, add: Any) -> Tensor:
    """The sum over all alignments of one pair, cell by cell (Needleman and Wunsch 1970)."""
    rows, columns, _ = scores.shape
    chart: dict[tuple[int, int], Tensor] = {(0, 0): scores[0, 0, 1]}
    for i, j in itertools.product(range(rows), range(columns)):
        before = [(i, j - 1), (i - 1, j - 1), (i - 1, j)]
        ways = [chart[cell] + scores[i, j, move] for move, cell in enumerate(before) if cell in chart]
        if ways:
            chart[i, j] = add(torch.stack(ways))
    return chart[rows - 1, columns - 1]


@pytest.mark.parametrize(
    ("semiring", "add"),
    [
        ("StdSemiring", lambda x: x.logsumexp(0)),
        ("LogSemiring", lambda x: x.logsumexp(0)),
        ("FastLogSemiring", lambda x: x.logsumexp(0)),
        ("MaxSemiring", lambda x: x.amax(0)),
    ],
)
@pytest.mark.parametrize("sizes", [(2, 3), (4, 4), (3, 7), (9, 12)])
def test_alignments_multiply_banded_matrices(semiring: str, add: Any, sizes: tuple[int, int]) -> None:
    scores = torch.randn(2, *sizes, 3, requires_grad=True)
    linear = semiring == "StdSemiring"
    model = struct.Alignment(getattr(struct, semiring))
    given_scores = scores.detach().exp() if linear else scores.detach().clone()
    total = model.sum(given_scores)
    exact = scores.detach().double().requires_grad_()
    expected = torch.stack([aligned(x, add) for x in exact])
    assert_same((total.log() if linear else total).double(), expected)
    if not linear:
        marginals = model.marginals(scores.detach().clone())
        assert_same(marginals.double(), torch.autograd.grad(expected.sum(), exact)[0])
