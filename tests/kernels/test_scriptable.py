"""Contractions over semirings by torch functions alone: numbers and gradients of einfx.einsum, scripted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import einfx
from einfx.equation import Equation
from einfx.kernels.scriptable import contract_semiring
from einfx.kernels.scriptable_choice import choice_product
from tests.semiring_oracle import LAWS, brute_force

SEMIRINGS = sorted(set(LAWS) - {"real"})
SELECTING = ("max_plus", "min_plus", "max_times", "max_min")
EQUATIONS = (
    "ij,jk->ik",
    "bij,bjk->bki",
    "ii->i",
    "ii,ij->j",
    "iij,jk->k",
    "ij->",
    "ij->ji",
    "i,j->ij",
    "i,i->",
    "ij,ij->i",
    "ak,ak,ak->a",
    "ab,bc,cd,de->ae",
    "ij,jk,ki->",
    "ijk,jl,kl->il",
    "ij,kl->i",
    "zabc,znwb,znwc->zna",
    ",ij->j",
    "ij,j,i,->",
)
SCRIPTED: Any = torch.jit.script(contract_semiring)
FORMS: dict[str, Callable[..., Tensor]] = {"eager": contract_semiring, "scripted": SCRIPTED}


def numbers(semiring: str, shape: tuple[int, ...], seed: int, scale: float = 4.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if semiring == "boolean":
        return torch.rand(shape, generator=generator) < 0.3
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
    return drawn.abs() if semiring == "max_times" else drawn


def operands_for(text: str, semiring: str, sizes: dict[str, int], scale: float = 4.0) -> list[Tensor]:
    parts = text.partition("->")[0].split(",")
    return [numbers(semiring, tuple(sizes.get(x, 3) for x in part), i, scale) for i, part in enumerate(parts)]


def contracted(
    text: str,
    operands: list[Tensor],
    semiring: str,
    form: str = "scripted",
    *,
    linear: tuple[int, ...] = (),
    annihilates: bool = False,
    gradient: str = "nan",
) -> Tensor:
    return FORMS[form](text, operands, semiring, list(linear), annihilates, gradient)


def agree(got: Tensor, wanted: Tensor, tolerance: float = 1e-12) -> None:
    assert got.shape == wanted.shape
    torch.testing.assert_close(got.to(wanted.dtype), wanted, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("semiring", SEMIRINGS)
@pytest.mark.parametrize("text", EQUATIONS)
def test_every_equation_over_every_semiring_is_brute_force(text: str, semiring: str, form: str) -> None:
    operands = operands_for(text, semiring, {"j": 4, "k": 5, "b": 2})
    got = contracted(text, operands, semiring, form)
    agree(got, brute_force(text, operands, semiring))
    assert got.is_contiguous()


@pytest.mark.parametrize("semiring", SEMIRINGS)
@pytest.mark.parametrize("sizes", [{"j": 0}, {"i": 0}, {"k": 0}])
def test_a_sum_of_nothing_is_the_identity_of_addition(semiring: str, sizes: dict[str, int]) -> None:
    for text in ("ij,jk->ik", "ij->i", "ij,jk,kl->il", "ij,kj->"):
        operands = operands_for(text, semiring, sizes)
        agree(contracted(text, operands, semiring), brute_force(text, operands, semiring))


@pytest.mark.parametrize("semiring", SEMIRINGS)
@pytest.mark.parametrize("shapes", [((1, 4), (4, 5)), ((3, 1), (4, 5)), ((3, 4), (1, 5)), ((1, 1), (4, 1))])
def test_dimensions_of_size_one_broadcast(semiring: str, shapes: Any) -> None:
    operands = [numbers(semiring, shape, i) for i, shape in enumerate(shapes)]
    for text in ("ij,jk->ik", "ij,jk->ijk", "ij,jk->k"):
        agree(contracted(text, operands, semiring), brute_force(text, operands, semiring))


@pytest.mark.parametrize("semiring", SEMIRINGS)
def test_a_long_sum_is_found_in_pieces(semiring: str) -> None:
    operands = operands_for("ij,jk->ik", semiring, {"i": 70, "j": 900, "k": 60}, 1.0)
    agree(contracted("ij,jk->ik", operands, semiring), brute_force("ij,jk->ik", operands, semiring), 1e-11)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
@pytest.mark.parametrize("semiring", SELECTING)
def test_integers_have_infinities_where_einfx_has_them(semiring: str, dtype: torch.dtype) -> None:
    limits = torch.iinfo(dtype)
    if semiring == "max_plus" and dtype == torch.uint8:
        pytest.skip("max_plus has no unsigned numbers")
    a = torch.tensor([[1, 2, limits.max], [limits.min, 0, 3]]).to(dtype)
    if semiring == "max_times":
        a = a.clamp(0, 5)
    b = torch.tensor([[1, 0], [2, 1], [1, 3]]).to(dtype)
    for left, right in ((a, b), (a[:, :0], b[:0])):
        expected = einfx.einsum("ij,jk->ik", left, right, semiring=semiring)
        agree(contracted("ij,jk->ik", [left, right], semiring), expected, 0.0)


@pytest.mark.parametrize("semiring", ["max_times", "max_min"])
def test_bool_is_ordered_too(semiring: str) -> None:
    a, b = torch.rand(4, 5) < 0.4, torch.rand(5, 6) < 0.4
    agree(contracted("ij,jk->ik", [a, b], semiring), brute_force("ij,jk->ik", [a, b], "boolean"))
    agree(contracted("ij->i", [a], semiring), a.any(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("semiring", sorted(set(SEMIRINGS) - {"boolean"}))
def test_short_numbers_are_rounded_once(semiring: str, dtype: torch.dtype) -> None:
    operands = [x.to(dtype) for x in operands_for("ij,jk->ik", semiring, {"j": 40})]
    got = contracted("ij,jk->ik", operands, semiring)
    assert got.dtype == dtype
    agree(got.double(), brute_force("ij,jk->ik", operands, semiring), 4 * torch.finfo(dtype).eps)


def test_dtypes_promote() -> None:
    a, b = numbers("log", (3, 4), 0), numbers("log", (4, 5), 1).float()
    single = numbers("log", (), 2)
    for form in FORMS:
        assert contracted("ij,jk->ik", [a, b], "log", form).dtype == torch.float64
        for operands in ([b, single], [single, single.float()], [single.float(), b, a], [b, single, b]):
            text = ",".join("ij" if x.dim() else "" for x in operands)
            sized = [x[:3, :3] if x.dim() else x for x in operands]
            got = contracted(f"{text}->", sized, "log", form)
            assert got.dtype == einfx.einsum(f"{text}->", *sized, semiring="log").dtype


@pytest.mark.parametrize("spread", [10.0, 300.0, 1e4, 1e9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_sums_hold_at_any_spread(spread: float, dtype: torch.dtype) -> None:
    a, b = (numbers("log", (20, 20), i, spread).to(dtype) for i in range(2))
    got = contracted("ij,jk->ik", [a, b], "log").double()
    wanted = brute_force("ij,jk->ik", [a, b], "log")
    largest = max(1.0, float(a.abs().max()), float(b.abs().max()))
    assert float((got - wanted).abs().max()) <= 8 * torch.finfo(dtype).eps * largest


SPECIAL = torch.tensor([[0.0, -math.inf, 1.0], [-math.inf] * 3, [math.inf, 0.0, -1.0], [math.nan, 0.0, 2.0]])


@pytest.mark.parametrize("semiring", ["log", "max_plus", "min_plus", "max_min"])
def test_infinities_and_nan_are_those_of_einfx(semiring: str) -> None:
    a, b = SPECIAL.double(), SPECIAL.double().t().contiguous()
    for annihilates in (False, True):
        got = contracted("ij,jk->ik", [a, b], semiring, annihilates=annihilates)
        agree(got, einfx.einsum("ij,jk->ik", a, b, semiring=semiring, zero_annihilates=annihilates))
    agree(contracted("ij,jk->ik", [a, b], semiring), brute_force("ij,jk->ik", [a, b], semiring))


@pytest.mark.parametrize("linear", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("text", ["ij,jk->ik", "ij,ij->i", "ijk,jl->l", "ij,jk->ijk"])
def test_linear_operands_are_not_logarithms(text: str, linear: tuple[int, ...]) -> None:
    operands = operands_for(text, "log", {"j": 5})
    for position in linear:
        operands[position] = operands[position].exp()
        operands[position][0] = 0.0
    got = contracted(text, operands, "log", linear=linear)
    agree(got, brute_force(text, operands, "log", linear))


def test_a_linear_operand_alone_and_one_of_many() -> None:
    w = numbers("log", (3, 4), 0).exp()
    agree(contracted("ij->i", [w], "log", linear=(0,)), w.sum(1).log())
    agree(contracted("ij->ji", [w], "log", linear=(0,)), w.t().log())
    operands = operands_for("fbi,fbj,foij->fbo", "log", {})
    operands[2] = operands[2].exp()
    got = contracted("fbi,fbj,foij->fbo", operands, "log", linear=(2,))
    agree(got, brute_force("fbi,fbj,foij->fbo", operands, "log", (2,)))


def test_weights_far_from_the_logarithms_stay_exact() -> None:
    a = torch.tensor([[-800.0, 0.0]], dtype=torch.float64)
    w = torch.tensor([[1.0], [0.0]], dtype=torch.float64, requires_grad=True)
    agree(contracted("ij,jk->ik", [a, w.detach()], "log", linear=(1,)), torch.full((1, 1), -800.0).double())
    contracted("ij,jk->ik", [a.clamp(min=-30), w], "log", linear=(1,)).sum().backward()
    assert w.grad is not None
    agree(w.grad, torch.tensor([[1.0], [math.exp(30.0)]], dtype=torch.float64))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("semiring", sorted(set(SEMIRINGS) - {"boolean"}))
def test_gradients_are_those_of_einfx(semiring: str, form: str) -> None:
    for text in ("ij,jk->ik", "ij,jk,kl->il", "ij->i", "iij,jk->k"):
        mine = [x.requires_grad_() for x in operands_for(text, semiring, {"j": 4})]
        theirs = [x.detach().clone().requires_grad_() for x in mine]
        got, expected = contracted(text, mine, semiring, form), einfx.einsum(text, *theirs, semiring=semiring)
        weights = torch.rand_like(expected.detach())
        (got * weights).sum().backward()
        (expected * weights).sum().backward()
        for x, y in zip(mine, theirs, strict=True):
            assert x.grad is not None
            assert y.grad is not None
            agree(x.grad, y.grad)


@pytest.mark.parametrize("spread", [1.0, 1e3])
def test_gradients_of_log_sums_are_the_posteriors_of_the_terms(spread: float) -> None:
    a, b = (numbers("log", (4, 4), i, spread).requires_grad_() for i in range(2))
    contracted("ij,jk->ik", [a, b], "log").sum().backward()
    c, d = (x.detach().requires_grad_() for x in (a, b))
    torch.logsumexp(c[:, :, None] + d[None], 1).sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    assert c.grad is not None
    assert d.grad is not None
    agree(a.grad, c.grad, 1e-9)
    agree(b.grad, d.grad, 1e-9)


def test_the_gradient_goes_to_the_first_of_equal_terms() -> None:
    a = torch.zeros(2, 3, requires_grad=True)
    for semiring in ("max_plus", "min_plus"):
        a.grad = None
        contracted("ij,jk->ik", [a, torch.zeros(3, 1)], semiring).sum().backward()
        assert a.grad is not None
        agree(a.grad, torch.tensor([[1.0, 0.0, 0.0]] * 2))


@pytest.mark.parametrize(
    ("gradient", "share"), [("0.0", 0.0), ("1.0", 1.0), ("0.5", 0.5), ("uniform", 1 / 3)]
)
def test_the_gradient_of_an_empty_sum_is_the_one_asked_for(gradient: str, share: float) -> None:
    a = torch.full((1, 3), -math.inf, requires_grad=True)
    out = contracted("ij,jk->ik", [a, torch.zeros(3, 2)], "log", gradient=gradient)
    agree(out, torch.full((1, 2), -math.inf))
    out.sum().backward()
    assert a.grad is not None
    agree(a.grad, torch.full((1, 3), 2 * share))
    a.grad = None
    contracted("ij,jk->ik", [a, torch.zeros(3, 2)], "log").sum().backward()
    assert a.grad is not None
    assert a.grad.isnan().all()


@pytest.mark.parametrize("form", FORMS)
def test_what_a_semiring_has_no_place_for_is_refused(form: str) -> None:
    x = torch.ones(2, 2)
    refused: list[tuple[str, list[Tensor], str]] = [
        ("ij,jk->ik", [x, -x], "max_times"),
        ("ij,jk->ik", [x, x], "boolean"),
        ("ij,jk->ik", [x.to(torch.int64), x], "log"),
        ("ij,jk->ik", [x, x * 1j], "max_plus"),
        ("ij,jk->ik", [x, torch.ones(3, 2)], "max_plus"),
        ("ij,jk->ik", [x], "max_plus"),
        ("ii->i", [torch.ones(1, 2)], "max_plus"),
    ]
    for text, operands, semiring in refused:
        with pytest.raises((ValueError, torch.jit.Error)):
            contracted(text, operands, semiring, form)


def test_a_large_product_takes_memory_in_pieces() -> None:
    a = torch.rand(2, 300, 200)
    got = choice_product(a, a.mT, "max_plus", False)
    agree(got, (a[:, :, None] + a[:, None]).amax(3), 0.0)


@st.composite
def calls(draw: Callable[[st.SearchStrategy[Any]], Any]) -> tuple[str, list[Tensor], str]:
    """Random equations of one to four operands, with sizes 0 to 3 and 1s that broadcast."""
    semiring = draw(st.sampled_from(SEMIRINGS))
    sizes = {x: draw(st.sampled_from((2, 3, 1, 0, 2))) for x in "abcde"}
    parts = draw(st.lists(st.text("abcde", max_size=3), min_size=1, max_size=4))
    used = sorted(set("".join(parts)))
    output = "".join(draw(st.permutations(used))[: draw(st.integers(0, len(used)))])
    operands = []
    for i, part in enumerate(parts):
        ones = {x for x in part if draw(st.integers(0, 9)) == 0}
        operands.append(numbers(semiring, tuple(1 if x in ones else sizes[x] for x in part), i))
    return f"{','.join(parts)}->{output}", operands, semiring


@settings(max_examples=300, deadline=None)
@given(calls())
def test_random_contractions_are_brute_force(call: tuple[str, list[Tensor], str]) -> None:
    text, operands, semiring = call
    try:
        Equation.parse(text, [x.dim() for x in operands]).sizes([tuple(x.shape) for x in operands])
    except einfx.EinfxError:
        return
    agree(contracted(text, operands, semiring), brute_force(text, operands, semiring))
