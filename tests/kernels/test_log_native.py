"""The C passes of log products: each against float64, on every instruction set, and products without them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from einfx.kernels import log, log_native, log_rescue, log_sums
from einfx.kernels.native import LEVELS
from tests.kernels.matrices import LAYOUTS, lay_out
from tests.kernels.test_log import CASES, INF, NAN, error, shares_of

EPS = torch.finfo(torch.float32).eps

built = pytest.mark.skipif(log_native.describe() == "not built", reason="there is no C code to test")


@pytest.fixture(params=range(len(LEVELS)))
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every instruction set; a machine without it takes a worse one."""
    monkeypatch.setattr(log_native, "LEVEL", request.param)


def tops(rows: float, columns: float, like: Tensor) -> tuple[Tensor, Tensor]:
    batch, height, width = like.shape
    return torch.full((batch, height, 1), rows), torch.full((batch, 1, width), columns)


@built
@pytest.mark.usefixtures("level")
def test_exponentials_are_right_to_a_rounding_error() -> None:
    x = torch.cat((torch.zeros(1), -torch.rand(1 << 16) * 90))[None, None]
    plain, scaled, top, special = log_native.shift(x, 2, 80.0, scale=2.0**40)
    assert plain is not None
    assert scaled is not None
    wanted = x.double().exp().masked_fill(x <= -80, 0)
    assert ((plain - wanted).abs() <= EPS * wanted).all()
    assert torch.equal(scaled, plain * 2.0**40)
    assert (top.item(), special) == (0, False)


@built
@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize(
    "shape", [(3, 37, 71), (2, 1, 5), (1, 300, 40), (19, 7, 3), (21, 5, 1), (40, 3, 24), (9, 1, 16)]
)
def test_operands_of_every_layout_are_shifted(layout: str, dim: int, shape: tuple[int, int, int]) -> None:
    x = lay_out(torch.randn(shape), layout)
    plain, _, top, _ = log_native.shift(x, dim, 80.0)
    assert torch.equal(top, x.amax(dim, keepdim=True))
    assert plain is not None
    assert torch.allclose(plain, (x - top).exp(), rtol=1e-6)
    _, scaled, top, _ = log_native.shift(x, dim, 80.0, linear=True, scale=2.0, plain=False)
    assert torch.equal(top, x.abs().amax(dim, keepdim=True))
    assert scaled is not None
    assert torch.allclose(scaled, x / top * 2, rtol=1e-6)


@built
@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("place", [0, 35, 69])
def test_special_numbers_are_noticed(dim: int, place: int) -> None:
    for number, linear, special in ((NAN, 0, 1), (INF, 0, 1), (-INF, 0, 0), (NAN, 1, 1), (-INF, 1, 1)):
        x = torch.rand(2, 70, 70)
        x[1, place, place] = number
        assert log_native.shift(x, dim, 80.0, linear=bool(linear))[3] == bool(special)
    empty = torch.full((1, 3, 3), -INF)
    plain, _, top, special = log_native.shift(empty, dim, 80.0)
    assert torch.equal(plain, torch.zeros(1, 3, 3))  # type: ignore[arg-type]
    assert (top == -INF).all()
    assert not special


@built
@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("in_place", [False, True])
def test_logarithms_are_right_to_a_rounding_error(in_place: bool) -> None:
    exact = torch.exp(torch.rand(2, 50, 60) * 60 - 45)
    exact[0, 0, :3] = torch.tensor([0.0, -1.0, 1.0])
    sums = exact * 2.0**50
    logs = sums if in_place else torch.empty_like(sums)
    lost = log_native.finish(sums, logs, tops(3.0, -1.0, sums), 1e-15, 50)
    wanted = exact.double().log() + 2
    few = exact.abs() <= 1e-15
    assert lost == few.sum()
    assert (logs[few] == -INF).all()
    assert logs[0, 0, 1].isnan()
    fine = ~few & (exact > 0)
    assert ((logs - wanted).abs() <= 2 * EPS * wanted.abs().clamp(min=3))[fine].all()
    if not in_place:
        assert torch.equal(sums, exact.masked_fill(few, 0))


@built
@pytest.mark.usefixtures("level")
def test_quotients_are_0_where_sums_are() -> None:
    x, sums = torch.randn(2, 30, 40), torch.rand(2, 30, 40)
    sums[:, ::3] = 0
    found, zeros = log_native.divide(x, sums)
    assert torch.equal(found, torch.where(sums == 0, 0, x / sums))
    assert zeros == (sums == 0).sum()
    expanded, _ = log_native.divide(x[:, :1, :1].expand(2, 30, 40), sums)
    assert torch.equal(expanded, torch.where(sums == 0, 0, x[:, :1, :1] / sums))
    assert log_native.divide(x, sums, in_place=True)[0] is x


@built
@pytest.mark.usefixtures("level")
def test_sums_relative_to_different_numbers_meet() -> None:
    parts = [torch.rand(2, 20, 30).masked_fill(torch.rand(2, 20, 30) < 0.3, 0) for _ in range(2)]
    reference = (torch.randn(2, 20, 30) * 100).masked_fill(parts[0] == 0, -INF)
    rows, columns = torch.randn(2, 20, 1) * 50, torch.randn(2, 1, 30) * 50
    terms = reference.double() + parts[0].double().log(), (rows + columns).double() + parts[1].double().log()
    total = parts[0].clone()
    log_native.meet(parts[1], total, reference, (rows, columns))
    found = total.double().log() + reference.double()
    assert torch.allclose(found, torch.logaddexp(*terms), rtol=1e-5, atol=1e-5)
    assert torch.equal(total == 0, reference == -INF)


@built
@pytest.mark.usefixtures("level")
def test_sums_that_what_is_left_could_change_are_found() -> None:
    total = torch.rand(2, 20, 300).masked_fill(torch.rand(2, 20, 300) < 0.3, 0)
    reference = (torch.randn(2, 20, 300) * 100).masked_fill(total == 0, -INF)
    pairs = [(torch.randn(2, 20, 1) * 100, torch.randn(2, 1, 300) * 100) for _ in range(3)]
    pairs[0][0][0, 0] = -INF
    wanted = (torch.rand(2, 20, 600) < 0.5)[..., ::2]
    found, some = log_native.bound(total, reference, wanted, pairs, -5.0)
    largest = torch.stack([rows + columns for rows, columns in pairs]).amax(0)
    known = total.double().log() + reference.double() - 5
    near = (largest - known).abs() < 1e-3
    assert torch.equal(found | near, (wanted & (largest > known)) | near)
    assert some
    none, some = log_native.bound(total, reference, wanted & (total > 0), pairs, 1e4)
    assert not some
    assert not none.any()


@built
@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_single_sums_and_their_gradients(layout: str) -> None:
    a, b = lay_out(torch.randn(2, 20, 70) * 30, layout), lay_out(torch.randn(2, 70, 37) * 30, layout)
    a[0, 0] = -INF
    exact = torch.logsumexp(a.double()[..., None] + b.double()[:, None], 2)
    lost = torch.rand(2, 20, 37) < 0.3
    logs = exact.float().masked_fill(lost, -INF)
    log_native.single_sums(a, b, logs)
    assert torch.allclose(logs.double(), exact, rtol=1e-6, atol=1e-5)
    grad, sums = torch.randn(2, 20, 37), (~lost).float()
    of_a, of_b = torch.zeros(2, 20, 70), torch.zeros(2, 70, 37)
    log_native.single_gradient(a, b, logs, sums, grad, of_b)
    turned = (x.mT for x in (logs, sums, grad, of_a))
    log_native.single_gradient(b.mT, a.mT, *turned)
    shares = shares_of(a, b).nan_to_num(0) * (grad * lost)[:, :, None]
    assert torch.allclose(of_a.double(), shares.sum(3), rtol=1e-4, atol=1e-4)
    assert torch.allclose(of_b.double(), shares.sum(1), rtol=1e-4, atol=1e-4)


@built
def test_threads_change_nothing() -> None:
    a, b = torch.randn(1, 700, 600), torch.randn(1, 600, 800)
    a[:, :70, 300:] -= 400
    b[:, :300, :80] -= 400
    grad = torch.randn(1, 700, 800)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
            out = log.matmul(x, y)
            results.append((out, *torch.autograd.grad(out, (x, y), grad)))
    finally:
        torch.set_num_threads(before)
    for one, more in zip(*results, strict=True):
        assert torch.allclose(one, more, rtol=1e-5, atol=1e-5)
    assert error(results[1][0].detach()[:, :, :90], a, b[:, :, :90]) <= 6


@pytest.fixture
def without_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_native, "takes", lambda *_: False)
    monkeypatch.setattr(log_sums, "SMALL", -1)


@pytest.mark.usefixtures("without_c")
@pytest.mark.parametrize("case", CASES)
def test_products_without_it_are_as_exact(case: str) -> None:
    a, b = CASES[case](torch.float32)
    assert error(log.matmul(a, b), a, b) <= 6


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("case", [case for case in CASES if "-inf" not in case and case != "nothing at all"])
def test_gradients_with_and_without_it_agree(
    case: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_sums, "SMALL", -1)
    monkeypatch.setattr(log_rescue, "NATIVE_SHARE", share)
    a, b = (x.requires_grad_() for x in CASES[case](torch.float32))
    grad = torch.randn(a.shape[0], a.shape[1], b.shape[2])
    found = torch.autograd.grad(log.matmul(a, b), (a, b), grad)
    monkeypatch.setattr(log_native, "takes", lambda *_: False)
    wanted = torch.autograd.grad(log.matmul(a, b), (a, b), grad)
    # Term by term, a rounding error of a + b changes a share by as much.
    rounding = float(a.detach().abs().amax() + b.detach().abs().amax()) * EPS
    for x, y in zip(found, wanted, strict=True):
        assert rounding > 2e-3 or torch.allclose(x, y, rtol=40 * rounding, atol=40 * rounding + 1e-4)


@pytest.mark.usefixtures("without_c")
@pytest.mark.parametrize("linear", [(0,), (1,), (0, 1)])
def test_linear_operands_without_it(linear: tuple[int, ...]) -> None:
    a = torch.rand(2, 20, 30) if 0 in linear else torch.randn(2, 20, 30) * 50
    b = torch.rand(2, 30, 10) if 1 in linear else torch.randn(2, 30, 10) * 50
    left, right = (x.double().log() if p in linear else x.double() for p, x in enumerate((a, b)))
    wanted = torch.logsumexp(left[..., None] + right[:, None], 2)
    assert torch.allclose(log.matmul(a, b, linear_operands=linear).double(), wanted, rtol=1e-6, atol=1e-6)


def test_it_says_which_instructions_it_uses() -> None:
    assert log_native.describe() in {"not built", *(f"C, {name}" for name in LEVELS)}
    assert not log_native.takes(torch.rand(1, 2, 2, dtype=torch.float64))
    assert math.isfinite(log.matmul(torch.rand(1, 2, 2), torch.rand(1, 2, 2)).sum())
