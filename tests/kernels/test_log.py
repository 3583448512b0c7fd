"""Products over the log semiring hold logsumexp's own error for all inputs, and so do their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from einfx.errors import OperandError, UsageError
from einfx.kernels import log, log_rescue, log_sums
from einfx.kernels.log_scaling import Range
from tests.kernels.matrices import LAYOUTS, lay_out

INF, NAN = math.inf, math.nan


@pytest.fixture(params=["by product", "as small"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways for matrices of any size."""
    monkeypatch.setattr(log_sums, "SMALL", -1 if request.param == "by product" else 1 << 40)


def oracle(a: Tensor, b: Tensor) -> Tensor:
    """Logsumexp in float64, by hand and term by term: (B, I, J)."""
    terms = a.double()[..., None] + b.double()[:, None]
    largest = terms.amax(2, keepdim=True)
    shift = torch.where(largest.isfinite(), largest, torch.zeros_like(largest))
    return (terms - shift).exp().sum(2).log() + shift[:, :, 0]


def shares_of(a: Tensor, b: Tensor) -> Tensor:
    """The posteriors of all terms in float64, (B, I, K, J)."""
    terms = a.double()[..., None] + b.double()[:, None]
    weights = (terms - terms.amax(2, keepdim=True)).exp()
    return weights / weights.sum(2, keepdim=True)


def error(result: Tensor, a: Tensor, b: Tensor) -> float:
    """The largest error in units of eps·max(1, |max of the row|, |max of the column|, |result|)."""
    wanted = oracle(a, b)
    same = (result.double() == wanted) | (result.isnan() & wanted.isnan())
    tops = a.double().amax(2, keepdim=True), b.double().amax(1, keepdim=True)
    scale = wanted.abs().clamp(min=1)
    for part in tops:
        scale = torch.maximum(scale, part.abs().nan_to_num(posinf=1))
    relative = (result.double() - wanted).abs() / scale / torch.finfo(result.dtype).eps
    return float(relative.masked_fill(same, 0).amax())


def normal(*shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype) * scale


def absent(x: Tensor, share: float, mark: float) -> Tensor:
    return x.masked_fill(torch.rand(x.shape) < share, mark)


def padded_chain(mark: float, dtype: torch.dtype, states: int = 24) -> tuple[Tensor, Tensor]:
    """Neighbouring potentials of a batch of chains; past its length, a chain only stays where it is."""
    x = normal(8, 31, states, states, dtype=dtype)
    for chain, length in enumerate(torch.randint(7, 33, (8,)).tolist()):
        x[chain, length - 1 :] = mark
        x[chain, length - 1 :].diagonal(dim1=1, dim2=2).fill_(0)
    return x[:, 0:30:2].reshape(-1, states, states), x[:, 1:31:2].reshape(-1, states, states)


def crossed(dtype: torch.dtype, distance: float, rows: int, n: int = 48) -> tuple[Tensor, Tensor]:
    """Rows and columns whose largest elements don't meet."""
    a, b = normal(2, n, n, dtype=dtype), normal(2, n, n, dtype=dtype)
    a[:, :rows, n // 2 :] -= distance
    b[:, : n // 2, :rows] -= distance
    return a, b


CASES: dict[str, Callable[[torch.dtype], tuple[Tensor, Tensor]]] = {
    "random scores": lambda dtype: (normal(2, 40, 64, dtype=dtype), normal(2, 64, 56, dtype=dtype)),
    **{
        f"scores of scale {scale}": lambda dtype, scale=scale: (  # type: ignore[misc]
            normal(2, 40, 64, scale=scale, dtype=dtype),
            normal(2, 64, 56, scale=scale, dtype=dtype),
        )
        for scale in (10.0, 30.0, 100.0, 300.0, 1e3, 1e4, 1e6)
    },
    "scores far from 0": lambda dtype: (
        normal(1, 40, 64, dtype=dtype) + 1e4,
        normal(1, 64, 56, dtype=dtype) - 1e4,
    ),
    "few unsafe": lambda dtype: crossed(dtype, 400, 4),
    "all unsafe": lambda dtype: crossed(dtype, 300, 48),
    "all beyond float64": lambda dtype: crossed(dtype, 1e4, 48),
    **{
        f"absent as {mark}": lambda dtype, mark=mark: (  # type: ignore[misc]
            absent(normal(3, 40, 64, dtype=dtype), 0.9, mark),
            absent(normal(3, 64, 56, dtype=dtype), 0.97, mark),
        )
        for mark in (-1e5, -1e9, -1e30, -INF)
    },
    "absent, twice and thrice": lambda dtype: (
        absent(absent(normal(3, 40, 64, dtype=dtype), 0.9, -1e9), 0.5, -2e9),
        absent(absent(normal(3, 64, 56, dtype=dtype), 0.9, -1e9), 0.5, -3e9),
    ),
    "chains padded by -1e5": lambda dtype: padded_chain(-1e5, dtype),
    "chains padded by -1e9": lambda dtype: padded_chain(-1e9, dtype),
    "nothing at all": lambda dtype: (
        torch.full((2, 40, 64), -INF, dtype=dtype),
        normal(2, 64, 56, dtype=dtype),
    ),
    "levels exactly at the window": lambda dtype: (
        torch.randint(-20, 1, (2, 40, 64)).to(dtype) * Range.of_levels(dtype, 64).window / 2,
        torch.randint(-20, 1, (2, 64, 56)).to(dtype) * Range.of_levels(dtype, 64).window / 2,
    ),
}


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_the_error_is_that_of_logsumexp(case: str, dtype: torch.dtype) -> None:
    a, b = CASES[case](dtype)
    assert error(log.matmul(a, b), a, b) <= 6


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", [case for case in CASES if "-inf" not in case and case != "nothing at all"])
def test_gradients_are_the_posteriors(case: str, dtype: torch.dtype) -> None:
    a, b = (x.requires_grad_() for x in CASES[case](dtype))
    grad = torch.randn(a.shape[0], a.shape[1], b.shape[2], dtype=dtype)
    of_a, of_b = torch.autograd.grad(log.matmul(a, b), (a, b), grad)
    shares = shares_of(a.detach(), b.detach()) * grad.double()[:, :, None]
    # A rounding error of a + b changes a share by as much, relatively: past 1e5 there's nothing to compare.
    rounding = float(a.detach().abs().amax() + b.detach().abs().amax()) * torch.finfo(dtype).eps
    if rounding < 2e-3:
        tolerance = 40 * (rounding + 10 * torch.finfo(dtype).eps)
        assert torch.allclose(of_a.double(), shares.sum(3), rtol=tolerance, atol=tolerance)
        assert torch.allclose(of_b.double(), shares.sum(1), rtol=tolerance, atol=tolerance)
    # Whatever the rounding: posteriors of a sum add up to one.
    every = torch.ones_like(grad)
    of_a, of_b = torch.autograd.grad(log.matmul(a, b), (a, b), every)
    assert torch.allclose(of_a.double().sum(2), every.double().sum(2), rtol=1e-4)
    assert torch.allclose(of_b.double().sum(1), every.double().sum(1), rtol=1e-4)


@pytest.mark.usefixtures("size")
def test_the_case_that_a_single_shift_loses() -> None:
    a, b = torch.tensor([[[0.0, -200.0]]]), torch.tensor([[[-200.0], [0.0]]])
    assert log.matmul(a, b).item() == pytest.approx(-200 + math.log(2), rel=1e-7)


@pytest.mark.usefixtures("size")
@given(data=st.data())
def test_special_numbers_mean_what_they_mean_to_logsumexp(data: st.DataObject) -> None:
    rows, depth, columns = (data.draw(st.integers(1, 4)) for _ in range(3))
    element = st.sampled_from([0.0, 1.5, -2.0, -300.0, -1e9, -INF, INF, NAN])
    layouts = st.sampled_from([layout for layout in LAYOUTS if layout != "expanded"])

    def draw(*shape: int) -> Tensor:
        count = math.prod(shape)
        numbers = data.draw(st.lists(element, min_size=count, max_size=count))
        return lay_out(torch.tensor(numbers, dtype=torch.float64).reshape(1, *shape), data.draw(layouts))

    a, b = draw(rows, depth), draw(depth, columns)
    terms = a[..., None] + b[:, None]
    assert torch.allclose(log.matmul(a, b), torch.logsumexp(terms, 2), rtol=1e-13, equal_nan=True)
    annihilated = torch.where((a == -INF)[..., None] | (b == -INF)[:, None], -INF, terms)
    result = log.matmul(a, b, zero_annihilates=True)
    assert torch.allclose(result, torch.logsumexp(annihilated, 2), rtol=1e-13, equal_nan=True)


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("annihilates", [False, True])
def test_gradients_of_infinite_sums(annihilates: bool) -> None:
    a = torch.tensor([[[0.0, INF, -INF], [0.0, 1.0, NAN], [0.0, 1.0, -INF]]], dtype=torch.float64)
    b = torch.tensor([[[1.0], [2.0], [INF if annihilates else 0.0]]], dtype=torch.float64)
    x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
    out = log.matmul(x, y, zero_annihilates=annihilates)
    assert out[0, 0] == INF
    assert out[0, 1].isnan()
    (of_x,) = torch.autograd.grad(out.sum(), x)
    expected = torch.softmax(torch.tensor([1.0, 3.0, -INF]).double(), 0)
    assert torch.allclose(of_x[0, 2], expected)
    assert of_x[0, 1].isnan().all()
    assert of_x[0, 0].isnan().tolist() == [False, True, False]


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize(("option", "share"), [(0.0, 0.0), ("uniform", 1 / 3), (NAN, NAN), (2.0, 2.0)])
def test_the_gradient_of_minus_infinity_is_chosen(option: float | str, share: float) -> None:
    a = torch.tensor([[[0.0, 1.0, 2.0], [-INF, -INF, -INF]]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[[0.0, -INF], [1.0, -INF], [0.5, -INF]]], dtype=torch.float64, requires_grad=True)
    grad = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]], dtype=torch.float64)
    of_a, of_b = torch.autograd.grad(log.matmul(a, b, grad_of_neg_inf=option), (a, b), grad)
    own = torch.softmax(a[0, 0] + b[0, :, 0], 0)
    first = torch.stack((own * 1 + 2 * share, torch.full_like(own, 7 * share)))
    second = torch.stack((own * 1 + 3 * share, torch.full_like(own, 6 * share)), 1)
    assert torch.allclose(of_a[0], first, equal_nan=True)
    assert torch.allclose(of_b[0], second, equal_nan=True)


def small_cases() -> dict[str, tuple[Tensor, Tensor]]:
    torch.manual_seed(3)
    double = torch.float64
    far = torch.tensor([[[0.0, -2000.0, -1.0]] * 3] * 2, dtype=double)
    away = torch.tensor([[[-2000.0, -3.0], [0.5, -2000.0], [-2000.0, -2001.0]]] * 2, dtype=double)
    return {
        "scores": (normal(2, 3, 4, dtype=double), normal(2, 4, 2, dtype=double)),
        "levels": (far + normal(2, 3, 3, dtype=double), away + normal(2, 3, 2, dtype=double)),
    }


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("case", ["scores", "levels"])
@pytest.mark.parametrize("gather", [-1.0, 2.0])
def test_derivatives_of_first_and_second_order_are_right(
    case: str, gather: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_rescue, "GATHER_SHARE", gather)
    a, b = (x.requires_grad_() for x in small_cases()[case])
    assert gradcheck(log.matmul, (a, b), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(log.matmul, (a, b), check_fwd_over_rev=True)


@pytest.mark.usefixtures("size")
def test_transforms_of_torch_func_compose() -> None:
    a, b = normal(3, 2, 4, 5, dtype=torch.float64), normal(2, 5, 3, dtype=torch.float64)

    def total(x: Tensor, y: Tensor) -> Tensor:
        return (log.matmul(x, y) ** 2).sum()

    def plain(x: Tensor, y: Tensor) -> Tensor:
        return (torch.logsumexp(x[..., None] + y[:, None], 2) ** 2).sum()

    func = torch.func
    transforms: list[Callable[[Any], Any]] = [
        lambda f: func.vmap(f, in_dims=(0, None))(a, b),
        lambda f: func.vmap(f, in_dims=(1, None))(a.transpose(0, 1), b),
        lambda f: func.vmap(func.grad(f), in_dims=(0, None))(a, b),
        lambda f: func.grad(lambda x: func.vmap(f, in_dims=(0, None))(x, b).sum())(a),
        lambda f: func.jvp(lambda x: f(x, b), (a[0],), (a[1],))[1],
        lambda f: func.jvp(lambda x, y: f(x, y), (a[0], b), (a[1], b * 2))[1],
        lambda f: func.vmap(lambda x, t: func.jvp(lambda z: f(z, b), (x,), (t,))[1])(a, a.flip(0)),
        lambda f: func.hessian(lambda x: f(x, b))(a[0]),
        lambda f: func.jacrev(func.jacrev(lambda y: f(a[0], y)))(b),
        lambda f: func.jacrev(func.jacfwd(lambda y: f(a[0], y)))(b),
        lambda f: func.grad(lambda z: func.grad(f)(z, b).pow(2).sum())(a[0]),
    ]
    for transform in transforms:
        assert torch.allclose(transform(total), transform(plain))


@pytest.mark.parametrize("n", [4, 48])
def test_it_compiles_as_one_graph_with_and_without_gradients(n: int) -> None:
    compiled = torch.compile(log.matmul, backend="aot_eager", fullgraph=True, dynamic=True)
    a, b = absent(normal(2, n, n), 0.5, -1e5), absent(normal(2, n, n), 0.5, -1e5)
    expected = log.matmul(a, b)
    assert torch.equal(compiled(a, b), expected)
    x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
    grads = torch.autograd.grad(compiled(x, y).sum(), (x, y))
    wanted = torch.autograd.grad(log.matmul(x, y).sum(), (x, y))
    assert all(torch.equal(g, w) for g, w in zip(grads, wanted, strict=True))


def test_the_operators_pass_torchs_own_checks() -> None:
    options = False, "0.0", 0, 1 << 30
    a, b = normal(2, 3, 4).requires_grad_(), normal(2, 4, 2).requires_grad_()
    torch.library.opcheck(torch.ops.einfx.log_matmul, (a, b, False, *options))
    saved = torch.ops.einfx.log_matmul(a.detach(), b.detach(), False, *options)
    for target in range(4):
        arguments = (a, b, *saved, None, normal(2, 4, 2), normal(2, 3, 2), target, *options)
        torch.library.opcheck(torch.ops.einfx.log_posteriors, arguments)


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_rightly(layout: str) -> None:
    a, b = lay_out(normal(3, 20, 12), layout), lay_out(normal(3, 12, 8), layout)
    assert torch.allclose(log.matmul(a, b), log.matmul(a.clone(), b.clone()), rtol=1e-6)


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    a, b = normal(2, 5, 70).to(dtype).requires_grad_(), normal(2, 70, 3).to(dtype).requires_grad_()
    result = log.matmul(a, b)
    assert result.dtype == dtype
    assert torch.equal(result, log.matmul(a.float(), b.float()).to(dtype))
    of_a, of_b = torch.autograd.grad(result.sum(), (a, b))
    assert of_a.dtype == of_b.dtype == dtype


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 0, 4), (2, 3, 4, 0), (0, 0, 0, 0)])
@pytest.mark.usefixtures("size")
def test_empty_dimensions_give_minus_infinity(shape: tuple[int, int, int, int]) -> None:
    batch, rows, depth, columns = shape
    a = torch.rand(batch, rows, depth, requires_grad=True)
    b = torch.rand(batch, depth, columns)
    result = log.matmul(a, b)
    assert result.shape == (batch, rows, columns)
    assert (result == -INF).all()
    if depth:
        result.sum().backward()
        assert a.grad is not None
        assert torch.equal(a.grad, torch.zeros_like(a))


@pytest.mark.usefixtures("size")
def test_autocast_does_not_lower_the_precision() -> None:
    a, b = normal(2, 40, 50).requires_grad_(), normal(2, 50, 30).requires_grad_()

    def derivatives() -> list[Tensor]:
        out = log.matmul(a, b)
        grads = torch.autograd.grad(out.square().sum(), (a, b), create_graph=True)
        second = torch.autograd.grad(torch.cat([x.flatten() for x in grads]).square().sum(), (a, b))
        return [out, *grads, *second]

    wanted = derivatives()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(x, y) for x, y in zip(derivatives(), wanted, strict=True))
        assert torch.equal(torch.func.vmap(log.matmul)(a[None], b[None])[0], wanted[0])


def test_small_problems_are_logsumexp_to_the_last_bit() -> None:
    a, b = normal(2, 5, 7), normal(2, 7, 11)
    assert torch.equal(log.matmul(a, b), torch.logsumexp(a[..., None] + b[:, None], 2))


def test_what_does_not_fit_is_refused() -> None:
    a = normal(2, 3, 4)
    with pytest.raises(OperandError, match=r"not \(2, 3, 4\) and \(2, 3, 4\)"):
        log.matmul(a, a)
    with pytest.raises(OperandError, match=r"no torch\.int64 numbers"):
        log.matmul(a.long(), a.mT.long())
    with pytest.raises(UsageError, match="not 'unifrom'"):
        log.matmul(a, a.mT, grad_of_neg_inf="unifrom")
