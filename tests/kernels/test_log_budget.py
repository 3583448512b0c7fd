"""Log products under a memory budget: the same numbers and derivatives, and no more memory than allowed."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from einfx.errors import UsageError
from einfx.kernels import log, log_options, log_sums
from einfx.kernels.log_options import blocks, cuts
from tests.kernels.test_log import CASES, INF, NAN, error, shares_of

LITTLE = 1 << 14
"""Bytes: blocks of few rows and columns."""

LESS = 1 << 13
"""Less, with which the summed dimension is cut as well."""


@pytest.fixture(autouse=True)
def narrow_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the summed dimension of small matrices too."""
    monkeypatch.setattr(log_options, "SHORT", 8)
    monkeypatch.setattr(log_sums, "SMALL", -1)


@given(
    sizes=st.tuples(*(st.integers(0, 40) for _ in range(4))),
    lengths=st.tuples(*(st.integers(1, 40) for _ in range(4))),
)
def test_blocks_cover_every_product_once(
    sizes: tuple[int, int, int, int], lengths: tuple[int, int, int, int]
) -> None:
    batch, rows, depth, columns = sizes
    seen = torch.zeros(batch, rows, depth, columns)
    for n, i, k, j in blocks(sizes, lengths):
        seen[n, i, k, j] += 1
    assert (seen == 1).all()


@given(
    sizes=st.tuples(*(st.integers(1, 5000) for _ in range(4))),
    weights=st.tuples(*(st.integers(1, 50) for _ in range(3))),
    budget=st.integers(200, 1 << 24),
)
def test_blocks_fit_the_budget(
    sizes: tuple[int, int, int, int], weights: tuple[int, int, int], budget: int
) -> None:
    batch, rows, depth, columns = lengths = cuts(sizes, weights, budget)
    assert all(1 <= length <= size for length, size in zip(lengths, sizes, strict=True))
    taken = rows * depth * weights[0] + depth * columns * weights[1] + rows * columns * weights[2]
    assert batch * taken <= budget


@pytest.mark.parametrize("budget", [LESS, LITTLE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_the_error_is_that_of_logsumexp(case: str, dtype: torch.dtype, budget: int) -> None:
    a, b = CASES[case](dtype)
    a, b = a[:2, :16], b[:2, :, :16]
    assert error(log.matmul(a, b, budget_bytes=budget), a, b) <= 8


@pytest.mark.parametrize("case", ["random scores", "few unsafe", "all unsafe", "absent as -100000.0"])
def test_gradients_are_the_posteriors(case: str) -> None:
    a, b = (x.requires_grad_() for x in CASES[case](torch.float64))
    grad = torch.randn(a.shape[0], a.shape[1], b.shape[2], dtype=torch.float64)
    of_a, of_b = torch.autograd.grad(log.matmul(a, b, budget_bytes=LITTLE), (a, b), grad)
    shares = shares_of(a.detach(), b.detach()) * grad[:, :, None]
    assert torch.allclose(of_a, shares.sum(3), rtol=1e-8, atol=1e-8)
    assert torch.allclose(of_b, shares.sum(1), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("linear", [(), (0,), (1,), (0, 1)])
def test_derivatives_of_first_and_second_order_are_right(linear: tuple[int, ...]) -> None:
    torch.manual_seed(7)
    a = torch.rand(1, 2, 9, dtype=torch.float64) + 0.1 if 0 in linear else torch.randn(1, 2, 9).double()
    b = torch.rand(1, 9, 2, dtype=torch.float64) + 0.1 if 1 in linear else torch.randn(1, 9, 2).double()

    def product(x: Tensor, y: Tensor) -> Tensor:
        return log.matmul(x, y, linear_operands=linear, budget_bytes=1024)

    assert cuts((1, 2, 9, 2), (32, 32, 32), 512)[2] < 9
    inputs = (a.requires_grad_(), b.requires_grad_())
    assert gradcheck(product, inputs, check_forward_ad=True, check_batched_grad=not linear)
    assert gradgradcheck(product, inputs, check_fwd_over_rev=True)


@pytest.mark.parametrize("budget", [512, 1 << 30])
@pytest.mark.parametrize(("option", "share"), [(0.0, 0.0), ("uniform", 1 / 12), (NAN, NAN), (2.0, 2.0)])
def test_the_gradient_of_minus_infinity_is_chosen(option: float | str, share: float, budget: int) -> None:
    a = torch.randn(1, 2, 12, dtype=torch.float64)
    b = torch.randn(1, 12, 2, dtype=torch.float64)
    a[:, 1] = -INF
    b[:, :5, 1] = -INF
    a, b = a.requires_grad_(), b.requires_grad_()
    grad = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]], dtype=torch.float64)
    out = log.matmul(a, b, grad_of_neg_inf=option, budget_bytes=budget)
    of_a, of_b = torch.autograd.grad(out, (a, b), grad)
    own = torch.softmax(a.detach()[0, 0] + b.detach()[0].T, 1)
    assert torch.allclose(of_a[0, 0], own[0] + 2 * own[1], equal_nan=True)
    assert torch.allclose(of_a[0, 1], torch.full_like(own[0], 7 * share), equal_nan=True)
    assert torch.allclose(of_b[0, :, 0], own[0] + 3 * share, equal_nan=True)
    assert torch.allclose(of_b[0, :, 1], 2 * own[1] + 4 * share, equal_nan=True)


@pytest.mark.parametrize("annihilates", [False, True])
def test_special_numbers_mean_what_they_mean_without_a_budget(annihilates: bool) -> None:
    pool = torch.tensor([0.0, 1.5, -300.0, -1e9, -INF, INF, NAN], dtype=torch.float64)
    odds = torch.tensor([0.4, 0.3, 0.1, 0.1, 0.06, 0.02, 0.02])
    for _ in range(20):
        a = pool[torch.multinomial(odds, 48, True)].reshape(1, 4, 12)
        b = pool[torch.multinomial(odds, 36, True)].reshape(1, 12, 3)
        limited = log.matmul(a, b, zero_annihilates=annihilates, budget_bytes=1024)
        free = log.matmul(a, b, zero_annihilates=annihilates)
        assert torch.allclose(limited, free, rtol=1e-13, equal_nan=True)


def test_it_compiles_as_one_graph_with_gradients() -> None:
    def product(x: Tensor, y: Tensor) -> Tensor:
        return log.matmul(x, y, budget_bytes=LITTLE)

    compiled = torch.compile(product, backend="aot_eager", fullgraph=True, dynamic=True)
    a, b = torch.randn(2, 20, 30, requires_grad=True), torch.randn(2, 30, 10, requires_grad=True)
    assert torch.equal(compiled(a, b), product(a, b))
    grads = torch.autograd.grad(compiled(a, b).sum(), (a, b))
    wanted = torch.autograd.grad(product(a, b).sum(), (a, b))
    assert all(torch.equal(g, w) for g, w in zip(grads, wanted, strict=True))


def test_where_it_works_in_blocks_only_inputs_and_output_are_saved() -> None:
    a, b = torch.randn(2, 40, 30, requires_grad=True), torch.randn(2, 30, 50, requires_grad=True)
    saved: list[int] = []

    def pack(x: Tensor) -> Tensor:
        saved.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        log.matmul(a, b, budget_bytes=LITTLE)
    assert sorted(size for size in saved if size) == sorted((a.numel(), b.numel(), 2 * 40 * 50))


MEASURED = """
import resource, torch
from einfx.kernels import log
torch.set_num_threads(1)
n, budget = 1024, 64 << 20
unsafe = {unsafe}
a, b = (torch.randn(1, n, n) * (40 if unsafe else 1) for _ in range(2))
a.requires_grad_({backward}), b.requires_grad_({backward})
grad = torch.ones(1, n, n)
small = [torch.randn(1, 96, 96, requires_grad=True) for _ in range(2)]
far = [(x * 50).detach().requires_grad_() for x in small]
for pair in (small, far):
    # With a gradient given, as below: torch imports symbolic shapes for it.
    log.matmul(*pair, budget_bytes=budget).backward(torch.ones(1, 96, 96))
torch.bmm(small[0].detach(), small[1].detach())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out = log.matmul(a, b, budget_bytes=budget)
if {backward}:
    out.backward(grad)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is measured in Linux's units")
@pytest.mark.parametrize("unsafe", [False, True])
@pytest.mark.parametrize("backward", [False, True])
def test_the_peak_of_a_process_stays_within_the_budget(backward: bool, unsafe: bool) -> None:
    code = MEASURED.format(backward=backward, unsafe=unsafe)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 64 + 6


def test_a_budget_below_0_is_refused() -> None:
    a = torch.randn(1, 2, 3)
    with pytest.raises(UsageError, match="budget_bytes=-1"):
        log.matmul(a, a.mT, budget_bytes=-1)
    assert math.isfinite(log.matmul(a, a.mT, budget_bytes=0).sum())
