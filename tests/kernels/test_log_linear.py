"""Operands of log products given in linear space: exact, and with derivatives where weights are 0."""

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

from einfx.errors import UsageError
from einfx.kernels import log, log_rescue, log_sums
from tests.kernels.matrices import LAYOUTS, lay_out

INF, NAN = math.inf, math.nan
WHICH: tuple[tuple[int, ...], ...] = ((0,), (1,), (0, 1))


@pytest.fixture(params=["by product", "as small"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways for matrices of any size."""
    monkeypatch.setattr(log_sums, "SMALL", -1 if request.param == "by product" else 1 << 40)


def weights(*shape: int, zeros: float = 0.3, dtype: torch.dtype = torch.float64) -> Tensor:
    """Some are 0, but nowhere both the first of a row and the first of a column."""
    x = torch.rand(*shape, dtype=dtype) + 0.01
    absent = torch.rand(shape) < zeros
    absent[..., 0, :] = absent[..., :, 0] = False
    return x.masked_fill(absent, 0)


def operands(linear: tuple[int, ...], spread: float, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Logarithms that lie far apart, and sparse weights of all sizes."""
    shapes = (2, 20, 16), (2, 16, 24)
    made = []
    for position, shape in enumerate(shapes):
        if position in linear:
            made.append(weights(*shape, dtype=dtype) * torch.exp(torch.randn(shape, dtype=dtype) * 5))
        else:
            made.append(torch.randn(shape, dtype=dtype) * spread)
    return made


def as_terms(x: Tensor, is_linear: bool) -> Tensor:
    return x.log() if is_linear else x


def plain(a: Tensor, b: Tensor, linear: tuple[int, ...]) -> Tensor:
    """By hand, differentiable where weights are 0 too, if scores don't lie far apart."""
    left = a if 0 in linear else a.exp()
    right = b if 1 in linear else b.exp()
    return (left @ right).log()


def oracle(a: Tensor, b: Tensor, linear: tuple[int, ...]) -> Tensor:
    left, right = as_terms(a.double(), 0 in linear), as_terms(b.double(), 1 in linear)
    return torch.logsumexp(left[..., None] + right[:, None], 2)


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("linear", WHICH)
@pytest.mark.parametrize("spread", [1.0, 30.0, 300.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_are_those_of_the_logarithms(linear: tuple[int, ...], spread: float, dtype: torch.dtype) -> None:
    a, b = operands(linear, spread, dtype)
    result = log.matmul(a, b, linear_operands=linear)
    wanted = oracle(a, b, linear)
    tops = (as_terms(x.double(), p in linear).amax(2 - p, keepdim=True) for p, x in enumerate((a, b)))
    scale = 1 + sum(top.abs().clamp(max=1e9) for top in tops)
    assert torch.equal(result == -INF, wanted == -INF)
    error = ((result.double() - wanted).abs() / scale).masked_fill(wanted == -INF, 0).amax()
    assert error <= 6 * torch.finfo(dtype).eps


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("linear", WHICH)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_rightly(linear: tuple[int, ...], layout: str) -> None:
    a, b = (lay_out(x, layout) for x in operands(linear, 1.0, torch.float32))
    assert torch.allclose(
        log.matmul(a, b, linear_operands=linear), oracle(a, b, linear).float(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("linear", WHICH)
@pytest.mark.parametrize("gather", [-1.0, 2.0])
@pytest.mark.parametrize("spread", [1.0, 300.0])
def test_derivatives_hold_where_weights_are_0(
    linear: tuple[int, ...], gather: float, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_rescue, "GATHER_SHARE", gather)
    a, b = (x.requires_grad_() for x in operands(linear, spread))
    grad = torch.randn(2, 20, 24, dtype=torch.float64)
    found = torch.autograd.grad(log.matmul(a, b, linear_operands=linear, grad_of_neg_inf=0), (a, b), grad)
    out = oracle(a, b, linear).detach()
    shape = (2, 20, 16, 24)
    left = torch.zeros(shape).double() if 0 in linear else a.detach()[..., None].expand(shape)
    right = torch.zeros(shape).double() if 1 in linear else b.detach()[:, None].expand(shape)
    # Derivatives with respect to both operands: without a linear one's own weight.
    base = (left + right - out[:, :, None]).exp().masked_fill((out == -INF)[:, :, None], 0)
    base = base * grad[:, :, None]
    of_a = base * b.detach()[:, None] if 1 in linear else base
    of_b = base * a.detach()[..., None] if 0 in linear else base
    # 0 times what is infinite is 0.
    wanted = [x.nan_to_num(0, INF, -INF).sum(dim) for x, dim in ((of_a, 3), (of_b, 1))]
    for x, y, operand in zip(found, wanted, (a, b), strict=True):
        # What lies further below the largest derivative of an entry than the exponents reach may be 0.
        size = y.abs().amax(2 if operand is a else 1, keepdim=True)
        assert torch.allclose(x / size, y / size, rtol=1e-9, atol=1e-12, equal_nan=True)


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("linear", WHICH)
def test_derivatives_of_first_and_second_order_are_right(linear: tuple[int, ...]) -> None:
    torch.manual_seed(5)
    a = torch.rand(2, 3, 4, dtype=torch.float64) + 0.1 if 0 in linear else torch.randn(2, 3, 4).double()
    b = torch.rand(2, 4, 2, dtype=torch.float64) + 0.1 if 1 in linear else torch.randn(2, 4, 2).double()

    def product(x: Tensor, y: Tensor) -> Tensor:
        return log.matmul(x, y, linear_operands=linear)

    inputs = (a.requires_grad_(), b.requires_grad_())
    assert gradcheck(product, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(product, inputs, check_fwd_over_rev=True)


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("linear", WHICH)
def test_second_derivatives_hold_where_weights_are_0(linear: tuple[int, ...]) -> None:
    a = weights(2, 5, 6) if 0 in linear else torch.randn(2, 5, 6).double()
    b = weights(2, 6, 4) if 1 in linear else torch.randn(2, 6, 4).double()
    func = torch.func

    def penalty(f: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        grads = torch.autograd.grad(f(x, y).sin().sum(), (x, y), create_graph=True)
        return torch.autograd.grad(torch.cat([g.flatten() for g in grads]).square().sum(), (x, y))

    found = penalty(lambda x, y: log.matmul(x, y, linear_operands=linear))
    wanted = penalty(lambda x, y: plain(x, y, linear))
    assert all(torch.allclose(x, y) for x, y in zip(found, wanted, strict=True))
    hessians = [
        func.jacfwd(func.jacrev(lambda y, f=f: f(a, y).sum()))(b)
        for f in (lambda x, y: log.matmul(x, y, linear_operands=linear), lambda x, y: plain(x, y, linear))
    ]
    assert torch.allclose(*hessians)


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("linear", WHICH)
def test_transforms_of_torch_func_compose(linear: tuple[int, ...]) -> None:
    a = weights(3, 2, 4, 5) if 0 in linear else torch.randn(3, 2, 4, 5).double()
    b = weights(2, 5, 3) if 1 in linear else torch.randn(2, 5, 3).double()

    def ours(x: Tensor, y: Tensor) -> Tensor:
        return (log.matmul(x, y, linear_operands=linear) ** 2).sum()

    def wanted(x: Tensor, y: Tensor) -> Tensor:
        return (plain(x, y, linear) ** 2).sum()

    func = torch.func
    transforms: list[Callable[[Any], Any]] = [
        lambda f: func.vmap(f, in_dims=(0, None))(a, b),
        lambda f: func.vmap(func.grad(f, argnums=1), in_dims=(0, None))(a, b),
        lambda f: func.jvp(f, (a[0], b), (a[1], b + 1))[1],
        lambda f: func.vmap(lambda x, t: func.jvp(lambda z: f(z, b), (x,), (t,))[1])(a, a.flip(0)),
        lambda f: func.hessian(lambda x: f(x, b))(a[0]),
    ]
    for transform in transforms:
        assert torch.allclose(transform(ours), transform(wanted))


@pytest.mark.parametrize("n", [4, 48])
def test_it_compiles_as_one_graph_with_and_without_gradients(n: int) -> None:
    def product(x: Tensor, y: Tensor) -> Tensor:
        return log.matmul(x, y, linear_operands=(1,), grad_of_neg_inf=0.0)

    compiled = torch.compile(product, backend="aot_eager", fullgraph=True, dynamic=True)
    a, b = torch.randn(2, n, n), weights(2, n, n, dtype=torch.float32)
    assert torch.equal(compiled(a, b), product(a, b))
    x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
    grads = torch.autograd.grad(compiled(x, y).sum(), (x, y))
    expected = torch.autograd.grad(product(x, y).sum(), (x, y))
    assert all(torch.equal(g, w) for g, w in zip(grads, expected, strict=True))


@pytest.mark.usefixtures("size")
@given(data=st.data())
def test_special_numbers_mean_what_their_logarithms_do(data: st.DataObject) -> None:
    rows, depth, columns = (data.draw(st.integers(1, 4)) for _ in range(3))
    scores = st.sampled_from([0.0, 1.5, -300.0, -1e9, -INF, INF, NAN])
    shares = st.sampled_from([0.0, 1.0, 0.3, 1e-300, 1e300, INF, NAN, -INF])

    def draw(element: st.SearchStrategy[float], *shape: int) -> Tensor:
        count = math.prod(shape)
        numbers = data.draw(st.lists(element, min_size=count, max_size=count))
        return torch.tensor(numbers, dtype=torch.float64).reshape(1, *shape)

    a, b = draw(scores, rows, depth), draw(shares, depth, columns)
    terms = a[..., None] + b.log()[:, None]
    result = log.matmul(a, b, linear_operands=(1,))
    assert torch.allclose(result, torch.logsumexp(terms, 2), rtol=1e-12, equal_nan=True)
    annihilated = torch.where((a == -INF)[..., None] | (b == 0)[:, None], -INF, terms)
    result = log.matmul(a, b, linear_operands=(1,), zero_annihilates=True)
    assert torch.allclose(result, torch.logsumexp(annihilated, 2), rtol=1e-12, equal_nan=True)


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("gather", [-1.0, 2.0])
def test_negative_weights_count_as_long_as_the_sum_is_positive(
    gather: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_rescue, "GATHER_SHARE", gather)
    a = torch.tensor([[[0.0, 1.0, -800.0, -799.0]]], dtype=torch.float64)
    columns = [[1.0, -0.25, 0, 0], [-1.0, 0.25, 0, 0], [0, 0, 1, -0.25], [0, 0, -1, 0.25], [0, 0, 1, 1]]
    b = torch.tensor([columns], dtype=torch.float64).mT.contiguous()
    result = log.matmul(a, b, linear_operands=(1,))
    rest = 1 - 0.25 * math.e
    wanted = torch.tensor([math.log(rest), NAN, -800 + math.log(rest), NAN, -799 + math.log1p(math.exp(-1))])
    assert torch.allclose(result[0, 0], wanted.double(), equal_nan=True)


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize(("option", "share"), [(0.0, 0.0), ("uniform", 0.5), (NAN, NAN), (2.0, 2.0)])
def test_the_derivative_of_an_empty_sum_is_chosen(option: float | str, share: float) -> None:
    a = torch.tensor([[[0.0, 1.0]]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[[0.0], [0.0]]], dtype=torch.float64, requires_grad=True)
    out = log.matmul(a, b, linear_operands=(1,), grad_of_neg_inf=option)
    assert out.item() == -INF
    for grad in torch.autograd.grad(out.sum() * 3, (a, b)):
        assert torch.allclose(grad, torch.full_like(grad, 3 * share), equal_nan=True)


def test_weights_of_a_circuit_in_float32_are_as_exact_as_in_float64() -> None:
    a, b = torch.randn(1, 100, 200) * 20 - 500, torch.softmax(torch.randn(1, 200, 150) * 3, 1)
    x, y = (t.clone().requires_grad_() for t in (a, b))
    out = log.matmul(x, y, linear_operands=(1,))
    grads = torch.autograd.grad(out.sum(), (x, y))
    x, y = (t.double().requires_grad_() for t in (a, b))
    exact = torch.logsumexp(x[..., None] + y.log()[:, None], 2)
    for found, wanted in zip(grads, torch.autograd.grad(exact.sum(), (x, y)), strict=True):
        assert torch.allclose(found.double(), wanted, rtol=2e-3, atol=1e-6)
    assert (out.double() - exact).abs().amax() < 600 * 6e-7


def test_other_positions_are_refused() -> None:
    a = torch.randn(1, 2, 3)
    with pytest.raises(UsageError, match="positions are 0 and 1"):
        log.matmul(a, a.mT, linear_operands=(2,))
