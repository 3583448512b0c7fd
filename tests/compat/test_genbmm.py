"""The stand-in for genbmm: its products and gradients, its samples' statistics, its banded matrices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from einfx.compat import genbmm
from einfx.compat.genbmm import BandedMatrix, banddiag
from einfx.compat.genbmm.sampling import draw, sample_terms
from einfx.errors import OperandError

BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logbmm": torch.add,
    "maxbmm": torch.add,
    "prodmaxbmm": torch.mul,
    "samplebmm": torch.add,
}
SIZES = st.tuples(*[st.integers(1, 5)] * 4)


def broadcast(name: str, a: Tensor, b: Tensor) -> Tensor:
    """What genbmm's README calls equivalent."""
    terms = BINARY[name](a.unsqueeze(-1), b.unsqueeze(-3))
    return terms.logsumexp(-2) if name in ("logbmm", "samplebmm") else terms.max(-2)[0]


def operands(sizes: tuple[int, int, int, int], seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    batch, rows, terms, columns = sizes
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(batch, rows, terms, dtype=dtype, generator=generator).mul_(3)
    return a, torch.randn(batch, terms, columns, dtype=dtype, generator=generator).mul_(3)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(sizes=SIZES, seed=st.integers(0, 99))
def test_a_product_is_the_reduced_broadcast(
    name: str, dtype: torch.dtype, sizes: tuple[int, int, int, int], seed: int
) -> None:
    a, b = operands(sizes, seed, dtype)
    got = getattr(genbmm, name)(a, b)
    assert got.dtype == dtype
    torch.testing.assert_close(got, broadcast(name, a.double(), b.double()).to(dtype))


@pytest.mark.parametrize("name", ["logbmm", "maxbmm", "prodmaxbmm"])
@given(sizes=SIZES, seed=st.integers(0, 99))
def test_gradients_are_those_of_the_broadcast(name: str, sizes: tuple[int, int, int, int], seed: int) -> None:
    a, b = (x.requires_grad_() for x in operands(sizes, seed, torch.float64))
    weights = torch.randn(sizes[0], sizes[1], sizes[3], dtype=torch.float64)
    got = torch.autograd.grad(getattr(genbmm, name)(a, b), (a, b), weights)
    expected = torch.autograd.grad(broadcast(name, a, b), (a, b), weights)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", ["logbmm", "prodmaxbmm"])
def test_products_are_twice_differentiable(name: str) -> None:
    a, b = (x.requires_grad_() for x in operands((2, 3, 4, 2), 0, torch.float64))
    assert torch.autograd.gradgradcheck(getattr(genbmm, name), (a, b))


def test_the_largest_product_may_be_of_two_negative_numbers_or_negative_or_zero() -> None:
    a = torch.tensor([[[-3.0, 1.0], [-1.0, 2.0], [0.0, 1.0]]])
    b = torch.tensor([[[-5.0, 1.0], [2.0, -4.0]]])
    assert genbmm.prodmaxbmm(a, b).tolist() == [[[15.0, -3.0], [5.0, -1.0], [2.0, 0.0]]]


def test_the_gradient_of_a_maximum_goes_to_the_first_of_equal_terms() -> None:
    a = torch.zeros(1, 1, 3, requires_grad=True)
    for name, b in (("maxbmm", torch.zeros(1, 3, 1)), ("prodmaxbmm", torch.tensor([[[1.0], [-1.0], [1.0]]]))):
        (grad,) = torch.autograd.grad(getattr(genbmm, name)(a, b).sum(), a)
        assert grad.count_nonzero() <= 1
        assert grad[0, 0, 0] == (1 if name == "maxbmm" else b[0, 0, 0])


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_stay_halves(name: str, dtype: torch.dtype) -> None:
    a, b = (x.requires_grad_() for x in operands((2, 3, 4, 2), 1, dtype))
    out = getattr(genbmm, name)(a, b)
    assert out.dtype == dtype
    torch.testing.assert_close(out, broadcast(name, a.float(), b.float()).to(dtype))
    assert torch.autograd.grad(out.sum(), a)[0].dtype == dtype


@pytest.mark.parametrize("name", BINARY)
def test_sums_without_terms_and_outputs_without_elements(name: str) -> None:
    function = getattr(genbmm, name)
    assert function(torch.ones(2, 3, 0), torch.ones(2, 0, 1)).tolist() == [[[-math.inf]] * 3] * 2
    for sizes in ((0, 3, 4, 2), (2, 0, 4, 2), (2, 3, 4, 0)):
        a, b = (x.requires_grad_() for x in operands(sizes, 0, torch.float32))
        out = function(a, b)
        assert out.shape == (sizes[0], sizes[1], sizes[3])
        assert [x.shape for x in torch.autograd.grad(out.sum(), (a, b))] == [a.shape, b.shape]


@pytest.mark.parametrize("name", BINARY)
def test_operands_that_do_not_fit_are_refused(name: str) -> None:
    for shapes in (((1, 2, 3), (2, 3, 4)), ((1, 2, 3), (1, 4, 3)), ((2, 3), (3, 4))):
        with pytest.raises(OperandError, match=r"\(B, I, K\) and \(B, K, J\)"):
            getattr(genbmm, name)(torch.ones(shapes[0]), torch.ones(shapes[1]))


@pytest.mark.parametrize("name", BINARY)
def test_a_chart_may_be_filled_in_place_from_products_of_its_parts(name: str) -> None:
    scores = torch.rand(2, 2, dtype=torch.float64, requires_grad=True)
    chart = torch.zeros(4, 2, 2, dtype=torch.float64)
    chart[0] = scores
    for n in range(1, 4):
        chart[n] = getattr(genbmm, name)(chart[n - 1 : n], chart[:1])[0]
    product = scores
    for _ in range(3):
        product = broadcast(name, product, scores)
    torch.testing.assert_close(chart[3], product)
    if name != "samplebmm":
        grads = [torch.autograd.grad(x.sum(), scores) for x in (chart[3], product)]
        torch.testing.assert_close(*grads)


# Samples


def assert_distributed(counts: Tensor, probabilities: Tensor) -> None:
    """Pearson's test: with a fixed seed it passes always or never."""
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    expected = probabilities[possible] / probabilities.sum() * counts.sum()
    assert expected.min() > 5, "too few draws for the test"
    if len(expected) > 1:
        assert stats.chisquare(counts[possible].numpy(), expected.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_have_the_frequencies_of_the_weights(dtype: torch.dtype) -> None:
    weights = torch.tensor([0.0, 0.1, 0.4, 0.0, 0.3, 0.2, 0.0], dtype=dtype)
    places = draw(weights.log().add(123).unsqueeze(1).repeat(1, 40_000))
    assert places.shape == (40_000,)
    assert_distributed(places.bincount(minlength=7), weights.double())


def test_infinite_terms_share_all_draws_and_empty_ones_get_none() -> None:
    logs = torch.tensor([-math.inf, math.inf, 3.0, math.inf]).unsqueeze(1).repeat(1, 10_000)
    counts = draw(logs).bincount(minlength=4)
    assert_distributed(counts, torch.tensor([0.0, 0.5, 0.0, 0.5]).double())
    undefined = draw(torch.tensor([[math.nan, -math.inf], [0.0, -math.inf]]))
    assert ((undefined >= 0) & (undefined < 2)).all()


def test_a_draw_at_the_very_end_of_the_range_finds_a_term(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, place in ((0.0, 1), (math.nextafter(1, 0), 3), (1.0, 3)):

        def always(*args: object, number: float = number, **keywords: object) -> Tensor:
            return torch.full((1,), number, dtype=torch.float64)

        monkeypatch.setattr(torch, "rand", always)
        assert draw(torch.tensor([[-math.inf], [0.1], [0.2], [0.3], [-math.inf]])).item() == place


@pytest.mark.parametrize("terms", [3, 24, 25, 65, 150])
def test_terms_are_drawn_with_their_posteriors(terms: int) -> None:
    a = torch.randn(1, 1, terms, dtype=torch.float64)
    b = torch.randn(1, terms, 2, dtype=torch.float64)
    b[0, 1, 0] = b[0, terms - 1, 1] = -math.inf
    places = sample_terms(a.expand(1, 60_000, terms), b)
    posteriors = (a + b.mT).softmax(-1)
    for column in range(2):
        probabilities = posteriors[0, column].where(posteriors[0, column] * 60_000 > 5, 0.0)
        counts = places[0, :, column].bincount(minlength=terms)
        rare = probabilities == 0
        assert counts[rare].sum() < 100
        assert_distributed(counts.where(~rare, 0), probabilities)


def test_small_budgets_cut_all_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = operands((3, 5, 70, 4), 2, torch.float32)
    a[:, :, 11] += 1e3
    monkeypatch.setattr("einfx.compat.genbmm.sampling.BUDGET_BYTES", 1)
    assert torch.equal(sample_terms(a, b), torch.full((3, 5, 4), 11))


def test_a_gradient_is_an_indicator_and_the_same_in_every_backward_pass() -> None:
    a, b = (x.requires_grad_() for x in operands((4, 6, 20, 5), 3, torch.float64))
    out = genbmm.samplebmm(a, b)
    first = torch.autograd.grad(out.sum(), (a, b), retain_graph=True)
    assert first[0].sum(2).eq(5).all()
    assert first[1].sum(1).eq(6).all()
    assert all(torch.equal(x, x.round()) for x in first)
    assert all(map(torch.equal, first, torch.autograd.grad(out.sum(), (a, b))))
    again = torch.autograd.grad(genbmm.samplebmm(a, b).sum(), (a, b))
    assert not torch.equal(first[0], again[0])


def test_samples_follow_the_seed() -> None:
    a, b = (x.requires_grad_() for x in operands((4, 6, 20, 5), 4, torch.float32))
    grads = []
    for _ in range(2):
        torch.manual_seed(17)
        grads.append(torch.autograd.grad(genbmm.samplebmm(a, b).sum(), a)[0])
    assert torch.equal(*grads)


def test_the_gradient_of_a_sample_has_a_gradient_in_what_it_weighs() -> None:
    a, b = (x.requires_grad_() for x in operands((1, 2, 3, 2), 5, torch.float64))
    weights = torch.randn(1, 2, 2, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(genbmm.samplebmm(a, b), a, weights, create_graph=True)
    assert torch.equal(torch.autograd.grad(grad.sum(), weights)[0], torch.ones(1, 2, 2).double())


def test_what_cannot_be_sampled_has_no_gradient_and_nan_has_nan() -> None:
    a = torch.tensor([[[-math.inf, -math.inf], [math.nan, 0.0], [0.0, -math.inf]]], requires_grad=True)
    out = genbmm.samplebmm(a, torch.zeros(1, 2, 1))
    torch.testing.assert_close(out[0, :, 0], torch.tensor([-math.inf, math.nan, 0.0]), equal_nan=True)
    (grad,) = torch.autograd.grad(out.sum(), a)
    assert grad[0, 0].tolist() == [0, 0]
    assert grad[0, 1].isnan().any()
    assert grad[0, 2].tolist() == [1, 0]


def test_gradients_through_a_chain_sample_whole_paths() -> None:
    length, states, draws = 4, 3, 20_000
    logs = torch.randn(length, 1, states, states, dtype=torch.float64).expand(-1, draws, -1, -1)
    steps = logs.clone().requires_grad_()
    total = steps[0]
    for step in steps[1:]:
        total = genbmm.samplebmm(total, step)
    total = genbmm.samplebmm(torch.zeros(draws, 1, states, dtype=torch.float64), total)
    total = genbmm.samplebmm(total, torch.zeros(draws, states, 1, dtype=torch.float64))
    (edges,) = torch.autograd.grad(total.sum(), steps)
    assert edges.sum((2, 3)).eq(1).all()
    starts, ends = edges.sum(3).argmax(2), edges.sum(2).argmax(2)
    assert torch.equal(starts[1:], ends[:-1])
    paths = [starts[0], *ends]
    number = sum(path * states**position for position, path in enumerate(paths))
    weights = torch.zeros(states ** (length + 1), dtype=torch.float64)
    for path in itertools.product(range(states), repeat=length + 1):
        score = sum(float(logs[t, 0, path[t], path[t + 1]]) for t in range(length))
        weights[sum(state * states**position for position, state in enumerate(path))] = math.exp(score)
    probabilities = weights / weights.sum()
    often = probabilities * draws > 5
    counts = number.bincount(minlength=len(weights))
    lumped = torch.cat([counts[often], counts[~often].sum()[None]])
    assert_distributed(lumped, torch.cat([probabilities[often], probabilities[~often].sum()[None]]))


# Banded matrices


def random_band(batch: int, n: int, lu: int, ld: int, seed: int, fill: float = 0.0) -> BandedMatrix:
    """With arbitrary numbers where the band sticks out of the matrix."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(batch, n, lu + ld + 1, dtype=torch.float64, generator=generator)
    return BandedMatrix(data, lu, ld, fill)


def dense(matrix: BandedMatrix, outside: float) -> Tensor:
    """Element by element."""
    batch, n, width = matrix.data.shape
    full = torch.full((batch, n, n), outside, dtype=matrix.data.dtype)
    for column, k in itertools.product(range(n), range(width)):
        row = column + k - matrix.lu
        if 0 <= row < n:
            full[:, row, column] = matrix.data[:, column, k]
    return full


BANDS = st.tuples(
    st.integers(1, 3), st.integers(1, 9), *[st.integers(0, 4)] * 4, st.integers(-2, 2), st.integers(0, 99)
)


@given(BANDS)
def test_bands_and_dense_matrices_convert_into_one_another(sizes: tuple[int, ...]) -> None:
    batch, n, lu, ld, *_, seed = sizes
    matrix = random_band(batch, n, lu, ld, seed, -7.0)
    full = matrix.to_dense()
    assert torch.equal(full, dense(matrix, -7.0))
    band, copy = banddiag(full, lu, ld)
    assert torch.equal(copy, full)
    assert torch.equal(BandedMatrix(band, lu, ld, -7.0).to_dense(), full)
    band.zero_()
    assert (copy == 0).sum() >= n


@given(BANDS)
def test_transposing_and_shifting_move_elements_as_they_say(sizes: tuple[int, ...]) -> None:
    batch, n, lu, ld, _, _, shift, seed = sizes
    matrix = random_band(batch, n, lu, ld, seed, -7.0)
    full = dense(matrix, -7.0)
    assert torch.equal(matrix.transpose().to_dense(), full.mT)
    assert torch.equal(matrix.band_pad(2).to_dense(), full)
    moved = matrix.col_shift(shift)
    assert (moved.lu, moved.ld) == (lu - shift, ld + shift)
    elements = {(r, c): full[:, r, c] for r in range(n) for c in range(n)}
    for r, c in elements:
        if 0 <= c + shift < n:
            assert torch.equal(moved.to_dense()[:, r, c], elements[r, c + shift])
        else:
            assert (moved.to_dense()[:, r, c] == -7).all()
    shifted = matrix.band_shift(shift)
    assert (shifted.lu, shifted.ld) == (lu + shift, ld - shift)
    for i, k in itertools.product(range(n), range(matrix.width)):
        expected = matrix.data[:, i, k + shift] if 0 <= k + shift < matrix.width else torch.tensor(-7.0)
        assert (shifted.data[:, i, k] == expected).all()


def test_unshifting_undoes_a_shift_by_one() -> None:
    matrix = random_band(1, 6, 1, 2, 0)
    assert torch.equal(matrix.col_shift(1).col_unshift().to_dense()[:, :, 1:], matrix.to_dense()[:, :, 1:])
    assert torch.equal(matrix.band_shift(1).band_unshift().data[:, :, 1:], matrix.data[:, :, 1:])


PRODUCTS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "multiply": (torch.matmul, 0.0),
    "multiply_log": (lambda a, b: (a.unsqueeze(-1) + b.unsqueeze(-3)).logsumexp(-2), -math.inf),
    "multiply_max": (lambda a, b: (a.unsqueeze(-1) + b.unsqueeze(-3)).amax(-2), -math.inf),
}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("few", [0, 10**6], ids=["in band", "dense"])
@given(sizes=BANDS)
def test_banded_products_are_dense_products(name: str, few: int, sizes: tuple[int, ...]) -> None:
    batch, n, lu, ld, other_lu, other_ld, shift, seed = sizes
    a = random_band(batch, n, lu, ld, seed, -7.0).col_shift(shift)
    b = random_band(batch, n, other_lu, other_ld, seed + 1, -7.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("einfx.compat.genbmm.sparse.FEW", few)
        got = getattr(b, name)(a.transpose())
    assert (got.lu, got.ld, got.fill) == (a.lu + b.lu, a.ld + b.ld, -7.0)
    product, zero = PRODUCTS[name]
    inside_a, inside_b = (dense(BandedMatrix(torch.ones_like(x.data), x.lu, x.ld), 0) for x in (a, b))
    # What comes in by shifting is ``fill``, an element like any other.
    expected = product(dense(a, zero), dense(b, zero))
    expected = torch.where(inside_a @ inside_b > 0, expected, torch.tensor(-7.0).double())
    torch.testing.assert_close(got.to_dense(), expected)


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("few", [0, 10**6], ids=["in band", "dense"])
def test_gradients_of_banded_products_are_right(name: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("einfx.compat.genbmm.sparse.FEW", few)
    left = random_band(2, 5, 1, 2, 0).data.requires_grad_()
    right = random_band(2, 5, 2, 0, 1).data.requires_grad_()

    def product(x: Tensor, y: Tensor) -> Tensor:
        return getattr(BandedMatrix(x, 1, 2), name)(BandedMatrix(y, 2, 0)).data

    assert torch.autograd.gradcheck(product, (left, right))


def test_elements_combine_within_the_band_of_the_second() -> None:
    a, b = random_band(2, 6, 0, 2, 0), random_band(2, 6, 1, 1, 1)
    got = a.op(b, torch.sub, zero=10)
    assert (got.lu, got.ld) == (1, 2)
    in_a, in_b = (dense(BandedMatrix(torch.ones_like(x.data), x.lu, x.ld), 0) > 0 for x in (a, b))
    expected = torch.where(in_a, dense(a, 0), 10) - torch.where(in_b, dense(b, 0), 0)
    assert torch.equal(got.to_dense(), torch.where(in_a | in_b, expected, 0))


def test_bands_that_do_not_fit_are_refused() -> None:
    with pytest.raises(OperandError, match=r"lu=1 and ld=1 has data of shape \(B, n, 3\), not \(1, 4, 2\)"):
        BandedMatrix(torch.ones(1, 4, 2), 1, 1)
    with pytest.raises(OperandError, match="same batch and size"):
        random_band(1, 4, 1, 1, 0).multiply(random_band(1, 5, 1, 1, 0))


def test_bands_of_empty_matrices_multiply() -> None:
    empty = BandedMatrix(torch.ones(2, 0, 3), 1, 1)
    assert empty.multiply_log(empty).data.shape == (2, 0, 5)
    assert empty.to_dense().shape == (2, 0, 0)
    assert empty.transpose().data.shape == (2, 0, 3)
