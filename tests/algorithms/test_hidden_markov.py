"""Hidden Markov models agree with the enumeration of their paths, and with recursions in numpy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from einfx.algorithms import forward, hidden_markov, linear_chain, posterior_marginals, viterbi
from einfx.errors import OperandError

Model = tuple[Tensor, Tensor, Tensor]
MODELS = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(0, 999))


@pytest.fixture(params=["by halves", "place by place"])
def order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways for models of any size."""
    monkeypatch.setattr(hidden_markov, "HALVED", 1 << 40 if request.param == "by halves" else -1)


def both_orders(check: Callable[[], None]) -> None:
    """The same inside of a property, where fixtures are set up only once."""
    for limit in (1 << 40, -1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hidden_markov, "HALVED", limit)
            check()


def model(batch: int, places: int, states: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Model:
    """Random log-probabilities; those of the emissions needn't add to anything."""
    generator = torch.Generator().manual_seed(seed)
    initial = torch.randn(states, generator=generator, dtype=torch.float64).log_softmax(0)
    transitions = torch.randn(states, states, generator=generator, dtype=torch.float64).log_softmax(1)
    emissions = torch.randn(batch, places, states, generator=generator, dtype=torch.float64) * 2
    return initial.to(dtype), transitions.to(dtype), emissions.to(dtype)


def random_lengths(batch: int, places: int, seed: int) -> Tensor:
    return torch.randint(1, places + 1, (batch,), generator=torch.Generator().manual_seed(seed))


def enumerated(initial: Tensor, transitions: Tensor, emissions: Tensor) -> tuple[Tensor, Tensor]:
    """All paths (P, T) of one sequence (T, S), and their scores (P)."""
    places, states = emissions.shape
    paths = torch.tensor(list(itertools.product(range(states), repeat=places)))
    scores = initial[paths[:, 0]] + transitions[paths[:, :-1], paths[:, 1:]].sum(1)
    return paths, scores + emissions[torch.arange(places), paths].sum(1)


def scaled(initial: Tensor, transitions: Tensor, emissions: Tensor) -> tuple[float, NDArray[np.float64]]:
    """Log-likelihood and posteriors of one sequence by Rabiner's scaled recursions (section V.A)."""
    start, steps, seen = (x.double().exp().numpy() for x in (initial, transitions, emissions))
    places, states = seen.shape
    alphas, scales = np.zeros((places, states)), np.zeros(places)
    for t in range(places):
        alphas[t] = (start if t == 0 else alphas[t - 1] @ steps) * seen[t]
        scales[t] = alphas[t].sum()
        alphas[t] /= scales[t]
    betas = np.ones((places, states))
    for t in reversed(range(places - 1)):
        betas[t] = steps @ (seen[t + 1] * betas[t + 1]) / scales[t + 1]
    return float(np.log(scales).sum()), alphas * betas


@given(MODELS)
def test_the_likelihood_is_the_sum_over_all_paths(sizes: tuple[int, int, int, int]) -> None:
    batch, places, _, seed = sizes
    given_model, lengths = model(*sizes), random_lengths(batch, places, seed)

    def check() -> None:
        total = forward(*given_model, lengths)
        best = forward(*given_model, lengths, semiring="max_plus")
        for n, length in enumerate(lengths.tolist()):
            _, scores = enumerated(*given_model[:2], given_model[2][n, :length])
            torch.testing.assert_close(total[n], scores.logsumexp(0))
            torch.testing.assert_close(best[n], scores.max())

    both_orders(check)


@given(MODELS)
def test_the_viterbi_path_is_the_best_of_all(sizes: tuple[int, int, int, int]) -> None:
    batch, places, _, seed = sizes
    given_model, lengths = model(*sizes), random_lengths(batch, places, seed)

    def check() -> None:
        scores, found = viterbi(*given_model, lengths)
        for n, length in enumerate(lengths.tolist()):
            paths, all_scores = enumerated(*given_model[:2], given_model[2][n, :length])
            torch.testing.assert_close(scores[n], all_scores.max())
            assert torch.equal(found[n, :length], paths[all_scores.argmax()])
            assert found[n, length:].eq(-1).all()

    both_orders(check)


@given(MODELS)
def test_posteriors_are_those_of_the_paths(sizes: tuple[int, int, int, int]) -> None:
    batch, places, states, seed = sizes
    given_model, lengths = model(*sizes), random_lengths(batch, places, seed)

    def check() -> None:
        marginals = posterior_marginals(*given_model, lengths)
        for n, length in enumerate(lengths.tolist()):
            paths, scores = enumerated(*given_model[:2], given_model[2][n, :length])
            visits = torch.nn.functional.one_hot(paths, states).double()
            expected = torch.einsum("p,pts->ts", scores.softmax(0), visits)
            torch.testing.assert_close(marginals[n, :length], expected)
            assert marginals[n, length:].eq(0).all()

    both_orders(check)


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize(("places", "states"), [(1000, 3), (65, 16), (40, 90)])
def test_long_sequences_hold_the_accuracy_of_scaled_recursions(places: int, states: int) -> None:
    exact = model(2, places, states)
    rounded = model(2, places, states, dtype=torch.float32)
    marginals = posterior_marginals(*rounded)
    total = forward(*rounded)
    torch.testing.assert_close(marginals.sum(2), torch.ones(2, places), rtol=1e-3, atol=0)
    for n in range(2):
        likelihood, expected = scaled(*exact[:2], exact[2][n])
        assert total[n].item() == pytest.approx(likelihood, rel=1e-5)
        torch.testing.assert_close(marginals[n].double(), torch.from_numpy(expected), rtol=0, atol=1e-3)


def test_both_orders_give_the_same() -> None:
    given_model = model(4, 33, 12)
    results: list[tuple[Tensor, ...]] = []
    both_orders(lambda: results.append((*viterbi(*given_model), posterior_marginals(*given_model))))
    torch.testing.assert_close(*results)


@pytest.mark.usefixtures("order")
def test_the_real_semiring_takes_probabilities_and_counts_paths() -> None:
    given_model = model(2, 4, 3)
    initial, transitions, emissions = (x.exp() for x in given_model)
    total = forward(initial, transitions, emissions, semiring="real")
    torch.testing.assert_close(total, forward(*given_model).exp())
    ones = torch.ones(3), torch.ones(3, 3), torch.ones(2, 4, 3)
    assert forward(*ones, torch.tensor([4, 2]), semiring="real").tolist() == [81, 9]


@pytest.mark.usefixtures("order")
def test_derivatives_of_every_order_are_right() -> None:
    given_model = model(2, 4, 2)
    for x in given_model:
        x.requires_grad_()
    lengths = torch.tensor([4, 2])
    assert torch.autograd.gradcheck(lambda i, t, e: forward(i, t, e, lengths), given_model)
    assert torch.autograd.gradgradcheck(lambda i, t, e: forward(i, t, e, lengths), given_model)
    assert torch.autograd.gradcheck(lambda i, t, e: posterior_marginals(i, t, e, lengths), given_model)
    assert torch.autograd.gradcheck(lambda i, t, e: viterbi(i, t, e, lengths)[0], given_model)


@pytest.mark.usefixtures("order")
def test_the_gradient_by_the_transitions_counts_them() -> None:
    initial, transitions, emissions = model(3, 6, 4)
    transitions.requires_grad_()
    (expected,) = torch.autograd.grad(forward(initial, transitions, emissions).sum(), transitions)
    assert expected.sum().item() == pytest.approx(3 * 5)
    scores, paths = viterbi(initial, transitions, emissions)
    (counts,) = torch.autograd.grad(scores.sum(), transitions)
    assert counts.sum() == 15
    for path in paths.tolist():
        for before, after in itertools.pairwise(path):
            counts[before, after] -= 1
    assert counts.count_nonzero() == 0


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("padding", [math.nan, math.inf, -math.inf, 1e30])
def test_padding_has_no_influence(padding: float) -> None:
    initial, transitions, emissions = model(3, 6, 4)
    lengths = torch.tensor([1, 6, 4])
    padded = emissions.clone()
    for n, length in enumerate(lengths.tolist()):
        padded[n, length:] = padding
    padded.requires_grad_()
    total = forward(initial, transitions, padded, lengths)
    torch.testing.assert_close(total, forward(initial, transitions, emissions, lengths))
    assert torch.autograd.grad(total.sum(), padded)[0].isfinite().all()
    assert torch.equal(
        viterbi(initial, transitions, padded, lengths)[1],
        viterbi(initial, transitions, emissions, lengths)[1],
    )


@pytest.mark.usefixtures("order")
def test_what_is_impossible_has_probability_zero_and_no_gradient() -> None:
    inf = math.inf
    initial = torch.tensor([0.0, -inf, -inf])
    transitions = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]).log()
    emissions = torch.zeros(2, 4, 3)
    emissions[1, 1:, 2] = -inf
    emissions[1, 3] = torch.tensor([-inf, -inf, 0.0])
    marginals = posterior_marginals(initial, transitions, emissions[:, :3])
    assert marginals.isfinite().all()
    torch.testing.assert_close(marginals[0].sum(1), torch.ones(3))
    assert marginals[0, 1].tolist() == [0.5, 0.5, 0.0]
    impossible = emissions.clone()
    impossible[1, 2] = -inf
    impossible.requires_grad_()
    total = forward(initial, transitions, impossible)
    assert total[1] == -inf
    (grad,) = torch.autograd.grad(total.sum(), impossible)
    assert grad.isfinite().all()
    assert grad[1].eq(0).all()


@pytest.mark.usefixtures("order")
def test_among_equal_paths_one_is_chosen_as_a_whole() -> None:
    states = torch.zeros(3), torch.zeros(3, 3), torch.zeros(2, 5, 3)
    scores, paths = viterbi(*states)
    assert scores.tolist() == [0, 0]
    assert torch.equal(paths, viterbi(*states)[1])
    assert ((paths >= 0) & (paths < 3)).all()


def test_nothing_is_recorded_for_inputs_without_gradient() -> None:
    given_model = model(2, 3, 2)
    assert not viterbi(*given_model)[0].requires_grad
    assert not posterior_marginals(*given_model).requires_grad
    given_model[0].requires_grad_()
    assert viterbi(*given_model)[0].requires_grad
    assert posterior_marginals(*given_model).requires_grad
    with torch.no_grad():
        assert not posterior_marginals(*given_model).requires_grad
        assert not viterbi(*given_model)[0].requires_grad
    assert not given_model[2].requires_grad


@given(MODELS)
def test_a_chain_of_potentials_sums_over_all_paths(sizes: tuple[int, int, int, int]) -> None:
    batch, places, states, seed = sizes
    potentials = torch.randn(batch, places - 1, states, states, dtype=torch.float64).requires_grad_()
    lengths = random_lengths(batch, places, seed)

    def check() -> None:
        for semiring in ("log", "max_plus"):
            total = linear_chain(potentials, lengths, semiring)
            for n, length in enumerate(lengths.tolist()):
                paths = torch.tensor(list(itertools.product(range(states), repeat=length)))
                steps = [potentials[n, t, paths[:, t], paths[:, t + 1]] for t in range(length - 1)]
                scores = torch.stack([*steps, torch.zeros(len(paths)).double()]).sum(0)
                expected = scores.logsumexp(0) if semiring == "log" else scores.max()
                torch.testing.assert_close(total[n], expected)
                if length > 1:
                    sums = (total[n], expected)
                    torch.testing.assert_close(
                        *[torch.autograd.grad(x, potentials, retain_graph=True)[0] for x in sums]
                    )

    both_orders(check)


def test_a_hidden_markov_model_is_a_chain_of_potentials() -> None:
    initial, transitions, emissions = model(2, 7, 4)
    potentials = transitions + emissions[:, 1:, None]
    potentials[:, 0] += (initial + emissions[:, 0]).unsqueeze(2)
    torch.testing.assert_close(linear_chain(potentials), forward(initial, transitions, emissions))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3,), (3, 2), (2, 5, 3)), r"log_transitions has the shape \(S, S\) where S is 3, not \(3, 2\)"),
        (((3,), (3, 3), (2, 5, 4)), r"log_emissions has the shape \(B, T, S\) where S is 3, not \(2, 5, 4\)"),
        (((3,), (3, 3), (5, 3)), r"log_emissions has the shape \(B, T, S\), not \(5, 3\)"),
        (((3,), (3, 3), (2, 0, 3)), "no elements"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(OperandError, match=message):
        forward(*[torch.zeros(shape) for shape in shapes])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "lengths", [torch.tensor([0, 3]), torch.tensor([6, 3]), torch.tensor([3]), torch.tensor([1.0, 2.0])]
)
def test_lengths_that_do_not_fit_are_refused(lengths: Tensor) -> None:
    with pytest.raises(OperandError, match=r"lengths (are from 1 to 5|is one integer)"):
        forward(*model(2, 5, 3), lengths)


def test_empty_batches_have_empty_results() -> None:
    assert forward(*model(0, 5, 3)).shape == (0,)
    assert posterior_marginals(*model(0, 5, 3)).shape == (0, 5, 3)
    assert linear_chain(torch.zeros(0, 2, 3, 3)).shape == (0,)
