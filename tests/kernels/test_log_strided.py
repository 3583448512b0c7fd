"""Sums over logarithms in C, for tensors that lie in any way, beside the same in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from einfx.kernels import log_native, log_strided
from einfx.kernels.native import LEVELS

pytestmark = pytest.mark.skipif(not log_strided.built(), reason="the extension isn't built")

Labels = tuple[int, ...]


@st.composite
def contractions(draw: st.DrawFn) -> tuple[tuple[Labels, ...], Labels, dict[int, int], int]:
    """Labels of operands and result, sizes, and a seed."""
    count = draw(st.integers(1, 5))
    sizes = {label: draw(st.sampled_from([1, 2, 3, 5, 17, 33])) for label in range(count)}
    while math.prod(sizes.values()) > 100_000:
        sizes[max(sizes, key=lambda label: sizes[label])] = 3
    inputs = draw(
        st.lists(st.lists(st.sampled_from(range(count)), unique=True).map(tuple), min_size=1, max_size=4)
    )
    present = sorted({label for own in inputs for label in own})
    output = draw(st.lists(st.sampled_from(present), unique=True).map(tuple)) if present else ()
    return tuple(inputs), output, sizes, draw(st.integers(0, 10**6))


def lying_anyhow(shape: list[int], generator: torch.Generator) -> Tensor:
    """Numbers whose dimensions lie in any order, with gaps."""
    order = torch.randperm(len(shape), generator=generator).tolist()
    whole = torch.empty([shape[dim] + 1 for dim in order]).normal_(generator=generator) * 3
    for place, dim in enumerate(order):
        whole = whole.narrow(place, 0, shape[dim])
    return whole.permute([order.index(dim) for dim in range(len(shape))])


def all_terms(
    inputs: tuple[Labels, ...], operands: list[Tensor], order: Labels, sizes: dict[int, int]
) -> Tensor:
    """The logarithms of all terms in float64, with a dimension for each label."""
    total = torch.zeros([sizes[label] for label in order], dtype=torch.float64)
    for own, x in zip(inputs, operands, strict=True):
        view = x.double().permute([own.index(label) for label in order if label in own])
        total = total + view.reshape([sizes[label] if label in own else 1 for label in order])
    return total


@settings(deadline=None, max_examples=60)
@given(
    contractions(), st.booleans(), st.sampled_from([0.0, 0.2, 0.9]), st.sampled_from([math.nan, 0.0, 0.25])
)
def test_sums_and_shares_are_those_of_all_terms(
    contraction: tuple[tuple[Labels, ...], Labels, dict[int, int], int],
    accumulate: bool,
    zeros: float,
    empty: float,
) -> None:
    inputs, output, sizes, seed = contraction
    generator = torch.Generator().manual_seed(seed)

    def made(labels: Labels) -> Tensor:
        return lying_anyhow([sizes[label] for label in labels], generator)

    operands = [made(own) for own in inputs]
    for x in operands:
        x.masked_fill_(torch.empty(x.shape).uniform_(generator=generator) < zeros, -math.inf)
    order = (*output, *sorted({label for own in inputs for label in own} - {*output}))
    terms = all_terms(inputs, operands, order, sizes)
    dims = tuple(range(len(output), len(order)))
    expected = torch.logsumexp(terms, dims) if dims else terms
    found = made(output)
    there = found.double()
    assert log_strided.add_sums(inputs, output, operands, found, accumulate=accumulate)
    wanted = torch.logaddexp(there, expected) if accumulate else expected
    torch.testing.assert_close(found.double(), wanted, atol=2e-5, rtol=2e-6)

    total, gradient = expected.float(), made(output)
    targets = [made(own) for own in inputs]
    before = [x.double() for x in targets]
    whole, incoming = (x.double().reshape((*x.shape, *(1 for _ in dims))) for x in (total, gradient))
    shares = torch.where(whole == -math.inf, empty, (terms - whole).exp()) * incoming
    assert log_strided.add_shares(inputs, output, operands, total, gradient, targets, empty)
    for own, old, target in zip(inputs, before, targets, strict=True):
        gone = [dim for dim, label in enumerate(order) if label not in own]
        left = [label for label in order if label in own]
        part = shares.sum(gone) if gone else shares
        wanted = old + part.permute([left.index(label) for label in own])
        torch.testing.assert_close(target.double(), wanted, atol=1e-4, rtol=3e-5, equal_nan=True)


def test_infinite_and_undefined_terms_make_their_sums_so() -> None:
    inf, nan = math.inf, math.nan
    x = torch.tensor([[0.0, inf, 1.0], [0.0, nan, inf], [-inf, -inf, -inf], [inf, -inf, inf]])
    for matrix in (x, x.mT.contiguous().mT):
        found = torch.empty(4)
        assert log_strided.add_sums(((0, 1),), (0,), [matrix], found, accumulate=False)
        torch.testing.assert_close(found, torch.tensor([inf, nan, -inf, inf]), equal_nan=True)


def test_where_nothing_depends_on_an_empty_sum_its_terms_have_no_gradient() -> None:
    x, target = torch.full((2, 3), -math.inf), torch.zeros(2, 3)
    gradient, total = torch.tensor([0.0, 1.0]), torch.full((2,), -math.inf)
    assert log_strided.add_shares(((0, 1),), (0,), [x], total, gradient, [target], math.nan)
    assert target[0].eq(0).all()
    assert target[1].isnan().all()


def test_a_number_that_is_the_sum_of_very_many_shares_is_as_exact_as_one_of_few() -> None:
    x = torch.zeros(1000, 3000)
    gradient, total, target = torch.full((1000,), 0.1), torch.full((1000,), math.log(3000)), torch.zeros(())
    assert log_strided.add_shares(
        ((), (0, 1)), (0,), [torch.zeros(()), x], total, gradient, [target, None], 0.0
    )
    exact = float(gradient[0]) * 1000 * 3000 * math.exp(-float(total[0]))
    assert target.item() == pytest.approx(exact, rel=2e-6)


def test_very_many_terms_in_a_sum_are_as_exact_as_few() -> None:
    found = torch.empty(())
    x = torch.full((3000, 1000), 0.1)
    assert log_strided.add_sums(((0, 1),), (), [x], found, accumulate=False)
    assert found.item() == pytest.approx(0.1 + math.log(3e6), rel=3e-7)


def test_views_that_are_not_what_is_in_memory_are_left_to_others() -> None:
    x = torch.complex(torch.ones(2), torch.ones(2)).conj().imag
    assert x.is_neg()
    assert not log_strided.add_sums(((0,),), (), [x], torch.empty(()), accumulate=False)


def test_operands_that_repeat_themselves_are_left_to_others() -> None:
    assert not log_strided.suits(((0, 1), (0,)), (0,), ((3, 2), (1,)), torch.float32, "cpu")
    assert not log_strided.suits(((0, 0),), (0,), ((3, 3),), torch.float32, "cpu")
    assert not log_strided.suits(((0,),), (0,), ((0,),), torch.float32, "cpu")


@pytest.mark.parametrize("level", range(len(LEVELS)))
def test_every_instruction_set_gives_the_same(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_native, "LEVEL", level)
    x, found = torch.randn(50, 70), torch.empty(70)
    assert log_strided.add_sums(((0, 1),), (1,), [x], found, accumulate=False)
    torch.testing.assert_close(found, x.logsumexp(0))
    target = torch.zeros_like(x)
    assert log_strided.add_shares(((0, 1),), (1,), [x], found, torch.ones(70), [target], 0.0)
    torch.testing.assert_close(target, x.softmax(0))


def test_threads_share_sums_and_shares() -> None:
    threads = torch.get_num_threads()
    x, w = torch.randn(64, 900), torch.randn(900, 40)
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found, targets = torch.empty(64, 40), [torch.zeros_like(x), None]
            assert log_strided.add_sums(((0, 1), (1, 2)), (0, 2), [x, w], found, accumulate=False)
            ones = torch.ones_like(found)
            assert log_strided.add_shares(((0, 1), (1, 2)), (0, 2), [x, w], found, ones, targets, 0.0)
            results.append((found, targets[0]))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(results[0], results[1])
