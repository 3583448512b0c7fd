"""Log contractions by one real contraction: right wherever they don't refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import einfx
from einfx import dispatch, shifted_log
from einfx.equation import Equation
from einfx.options import Options
from einfx.planning import plan
from einfx.shifted_log import ShiftedLog
from tests.semiring_oracle import brute_force

CHAIN = "ab,bc,cd->ad"


def shifted(text: str, operands: list[Tensor], linear: tuple[int, ...] = ()) -> ShiftedLog:
    shapes = [tuple(x.shape) for x in operands]
    options = Options.read("log", linear_operands=linear)
    return ShiftedLog(plan(Equation.parse(text), shapes, dtype=operands[0].dtype, options=options))


def chain(spread: float, seed: int = 0, n: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, n, generator=generator, dtype=torch.float64) * spread for _ in range(3)]


@settings(max_examples=200, deadline=None)
@given(
    spread=st.sampled_from([0.1, 5.0, 30.0, 60.0, 100.0, 300.0]),
    offset=st.sampled_from([0.0, -1e4, 700.0]),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    absent=st.booleans(),
)
def test_what_isnt_refused_is_right(
    spread: float, offset: float, seed: int, dtype: torch.dtype, absent: bool
) -> None:
    operands = [(x + offset).to(dtype) for x in chain(spread, seed)]
    if absent:
        operands[1][:, 0] = -1e5
        operands[2][seed % 6] = -math.inf
    got = shifted(CHAIN, operands)(operands)
    if got is None:
        return
    wanted = brute_force(CHAIN, operands, "log")
    scale = max(1.0, *(float(x[x > -math.inf].abs().max()) for x in operands))
    assert got.dtype == dtype
    assert float((got.double() - wanted).abs().max()) <= 16 * torch.finfo(dtype).eps * scale


def test_sums_that_underflow_are_refused() -> None:
    a = torch.tensor([[0.0, -200.0]])
    b = torch.tensor([[-200.0, 0.0], [0.0, -200.0]])
    operands = [a, b, torch.zeros(2, 2)]
    program = shifted(CHAIN, operands)
    assert program([a, torch.tensor([[-200.0, -200.0], [0.0, 0.0]]), torch.zeros(2, 2)]) is None
    got = einfx.einsum(
        CHAIN, a, torch.tensor([[-200.0, -200.0], [0.0, 0.0]]), torch.zeros(2, 2), semiring="log"
    )
    torch.testing.assert_close(got, torch.full((1, 2), -200 + math.log(4)))


@pytest.mark.parametrize("special", [-math.inf, math.inf, math.nan])
def test_what_isnt_finite_is_refused(special: float) -> None:
    operands = chain(1.0)
    operands[0][2] = special
    assert shifted(CHAIN, operands)(operands) is None


def test_first_and_second_derivatives_are_right() -> None:
    operands = [x.requires_grad_() for x in chain(2.0, n=3)]
    program = shifted(CHAIN, operands)

    def function(*tensors: Tensor) -> Tensor:
        result = program(tensors)
        assert result is not None
        return result

    assert torch.autograd.gradcheck(function, operands)
    assert torch.autograd.gradgradcheck(function, operands)


def test_weights_are_taken_as_they_are_with_zeros_and_of_any_size() -> None:
    x, y, _ = chain(2.0)
    weights = torch.rand(6, 6, dtype=torch.float64) * 1e-30
    weights[2] = 0
    weights.requires_grad_()
    text = "ab,cb,bd->acd"
    program = shifted(text, [x, y, weights], (2,))
    got = program([x, y, weights])
    assert got is not None
    torch.testing.assert_close(got, brute_force(text, [x, y, weights], "log", (2,)))
    (grad,) = torch.autograd.grad(got.sum(), weights)
    wanted = torch.exp(x[:, None, :, None] + y[None, :, :, None] - got.detach()[:, :, None]).sum((0, 1))
    torch.testing.assert_close(grad, wanted)


def test_dimensions_that_broadcast_and_operands_without_labels() -> None:
    x, y, _ = chain(2.0)
    operands = [x[:1], y, torch.tensor(3.0, dtype=torch.float64), x[:, :1]]
    text = "ab,bc,,ac->ca"
    got = shifted(text, operands)(operands)
    assert got is not None
    torch.testing.assert_close(got, brute_force(text, operands, "log"))


def test_it_is_not_tried_forever_where_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    operands = [x - 300 * torch.eye(6, dtype=torch.float64) for x in chain(400.0)]
    program = shifted(CHAIN, operands)
    tried = []

    def contract(*args: Any) -> Tensor:
        tried.append(args)
        return dispatch.contract(*args)

    monkeypatch.setattr(shifted_log, "contract", contract)
    for _ in range(3 + 2 * shifted_log.RARELY):
        assert program(operands) is None
    assert shifted_log.PATIENCE <= len(tried) <= shifted_log.PATIENCE + 3
    assert program(chain(1.0)) is None or len(tried) > shifted_log.PATIENCE
    while (got := program(chain(1.0))) is None:
        pass
    torch.testing.assert_close(got, brute_force(CHAIN, chain(1.0), "log"))


def test_only_plans_of_several_steps_without_limits_have_one() -> None:
    def of(text: str, shapes: list[tuple[int, ...]], **words: object) -> ShiftedLog | None:
        options = Options.read(**{"semiring": "log", **words})  # type: ignore[arg-type]
        return ShiftedLog.of(plan(Equation.parse(text), shapes, options=options))

    square = (200, 200)
    assert of(CHAIN, [square] * 3) is not None
    assert of("ab,bc->ac", [square] * 2) is None
    assert of(CHAIN, [square] * 3, memory_limit="1GiB") is None
    assert of(CHAIN, [square] * 3, semiring="max_plus") is None
    assert of("aa,ab,bc->ac", [square] * 3) is None


def test_what_would_take_more_than_the_default_budget_has_none() -> None:
    options = Options.read("log")
    for n, fits in ((2000, True), (20_000, False)):
        chosen = plan(Equation.parse(CHAIN), [(n, n)] * 3, options=options)
        assert (ShiftedLog.of(chosen) is not None) == fits


def test_a_path_that_the_caller_chose_is_taken_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> Tensor:
        raise AssertionError("the exponentials were contracted at once")

    monkeypatch.setattr(shifted_log, "contract", refuse)
    operands = [x.float() for x in chain(1.0, n=61)]
    for path in ([(0, 1), (0, 1)], [(1, 2), (0, 1)]):
        got = einfx.einsum(CHAIN, *operands, semiring="log", optimize=path)
        torch.testing.assert_close(got.double(), brute_force(CHAIN, operands, "log"), rtol=1e-5, atol=1e-5)
    with pytest.raises(AssertionError, match="at once"):
        einfx.einsum(CHAIN, *operands, semiring="log")
