"""Contractions under a limit: right, within it, and differentiable within it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.profiler import ProfilerActivity, profile

import einfx
from einfx import mapped_memory
from einfx.errors import MemoryLimitError

CHAIN = "ij,jk,kl,lm->im"
SHAPES = [(300, 200), (200, 400), (400, 500), (500, 100)]


@pytest.fixture(autouse=True)
def _everything_is_the_allocators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large blocks too, so that torch's profiler counts them."""
    monkeypatch.setattr(mapped_memory, "LEAST_BYTES", 1 << 60)


def _operands(shapes: Sequence[tuple[int, ...]], requires_grad: bool = False) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_(requires_grad)
        for shape in shapes
    ]


def _taken(operands: list[Tensor], text: str, limit: int, gradients: bool, semiring: str) -> int:
    """The most that torch allocates at once."""

    def work() -> object:
        result = einfx.einsum(text, *operands, memory_limit=limit, semiring=semiring)
        return torch.autograd.grad(result.sum(), operands) if gradients else result

    work()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        kept = work()
    now = most = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    del kept
    return most


@pytest.mark.parametrize("semiring", ["real", "log"])
@pytest.mark.parametrize("limit", [4_000_000, 1_000_000])
def test_a_limit_is_kept(limit: int, semiring: str) -> None:
    operands = _operands(SHAPES)
    assert _taken(operands, CHAIN, limit, False, semiring) <= limit * 1.05
    expected = einfx.einsum(CHAIN, *operands, semiring=semiring)
    found = einfx.einsum(CHAIN, *operands, semiring=semiring, memory_limit=limit)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("semiring", ["real", "log"])
@pytest.mark.parametrize("limit", [12_000_000, 6_000_000])
def test_gradients_are_kept_within_it_too(limit: int, semiring: str) -> None:
    operands = _operands(SHAPES, requires_grad=True)
    # The sum, its ones and the first result stay while the gradients are made.
    assert _taken(operands, CHAIN, limit, True, semiring) <= limit * 1.05 + 600_000
    expected = torch.autograd.grad(einfx.einsum(CHAIN, *operands, semiring=semiring).sum(), operands)
    limited = einfx.einsum(CHAIN, *operands, semiring=semiring, memory_limit=limit)
    torch.testing.assert_close(torch.autograd.grad(limited.sum(), operands), expected, rtol=1e-9, atol=1e-9)


def test_a_limit_that_the_gradients_could_not_keep_is_refused_before_anything_is_computed() -> None:
    operands = _operands(SHAPES)
    assert einfx.einsum(CHAIN, *operands, memory_limit=500_000).shape == (300, 100)
    with pytest.raises(
        MemoryLimitError, match=r"with its gradients: memory_limit=500000 .* it needs \d+ bytes"
    ):
        einfx.einsum(CHAIN, *[x.requires_grad_() for x in operands], memory_limit=500_000)


def test_the_limit_that_an_error_names_is_enough() -> None:
    operands = _operands([(6, 5), (5, 7), (7, 4)])
    with pytest.raises(MemoryLimitError) as caught:
        einfx.einsum("ij,jk,kl->il", *operands, memory_limit=100)
    needed = int(str(caught.value).split("it needs ")[1].split()[0])
    found = einfx.einsum("ij,jk,kl->il", *operands, memory_limit=needed)
    torch.testing.assert_close(found, torch.einsum("ij,jk,kl->il", *operands))


@pytest.mark.parametrize("text", ["ii->i", "iij,j->i", "ij,ij,ij->i", "ij,k->", "...i,ij", "ij,ij->ji"])
def test_equations_of_every_kind(text: str) -> None:
    operands = _operands([(7, 7) if part != "k" else (7,) for part in text.split("->")[0].split(",")])
    if text == "iij,j->i":
        operands = _operands([(7, 7, 7), (7,)])
    torch.testing.assert_close(
        einfx.einsum(text, *operands, memory_limit=2000), torch.einsum(text, *operands)
    )


def test_dimensions_of_size_1_broadcast() -> None:
    a, b = _operands([(5, 1), (6, 7)], requires_grad=True)
    found = einfx.einsum("ij,jk->ik", a, b, memory_limit=4000)
    expected = torch.einsum("ij,jk->ik", a, b)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), (a, b)), torch.autograd.grad(expected.sum(), (a, b))
    )


@pytest.mark.parametrize("semiring", ["real", "log"])
def test_it_can_be_differentiated_twice(semiring: str) -> None:
    operands = _operands([(3, 4), (4, 5), (5,)], requires_grad=True)

    def function(*tensors: Tensor) -> Tensor:
        result: Tensor = einfx.einsum("ij,jk,k->i", *tensors, semiring=semiring, memory_limit=2000)
        return result

    assert torch.autograd.gradcheck(function, operands)
    assert torch.autograd.gradgradcheck(function, operands)


def test_the_gradient_of_a_sum_that_is_minus_infinity_is_nan_as_without_a_limit() -> None:
    a = torch.zeros(2, 6, dtype=torch.float64)
    a[0] = -math.inf
    a.requires_grad_()
    found = einfx.einsum(
        "ij,jk->ik", a, torch.zeros(6, 3, dtype=torch.float64), semiring="log", memory_limit=2000
    )
    (gradient,) = torch.autograd.grad(found.sum(), a)
    assert gradient[0].isnan().all()
    torch.testing.assert_close(gradient[1], torch.full((6,), 0.5, dtype=torch.float64))


def test_a_nan_that_is_selected_has_the_gradient_as_without_a_limit() -> None:
    a = torch.zeros(2, 6)
    a[0, 3] = math.nan
    a.requires_grad_()
    found = einfx.einsum("ij,j->i", a, torch.zeros(6), semiring="max_plus", memory_limit=600)
    (gradient,) = torch.autograd.grad(found.sum(), a)
    assert gradient.tolist() == [[0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("semiring", ["real", "log", "max_plus"])
def test_forward_derivatives_are_those_without_a_limit(semiring: str) -> None:
    x, tangent, y = _operands([(4, 5), (4, 5), (5, 6)])
    found = []
    for limit in (None, 1 << 20):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, tangent)
            result = einfx.einsum("ij,jk->ik", dual, y, semiring=semiring, memory_limit=limit)
            found.append(forward_ad.unpack_dual(result).tangent.clone())
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("text", ["ak,ak,ak->a", "ak,ak,k->a", "abk,ak,bk,k->ba"])
@pytest.mark.parametrize("limit", [4_000_000, 300_000, 60_000])
def test_products_of_all_operands_at_once_stay_within_it(text: str, limit: int) -> None:
    size = {"a": 60, "b": 20, "k": 700}
    operands = _operands([tuple(size[x] for x in labels) for labels in text.split("->")[0].split(",")])
    assert _taken(operands, text, limit, False, "real") <= limit * 1.05
    found = einfx.einsum(text, *operands, memory_limit=limit)
    torch.testing.assert_close(found, torch.einsum(text, *operands), rtol=1e-10, atol=1e-9)


def test_what_is_multiplied_at_once_without_a_limit_is_within_one_too() -> None:
    shapes = [(4096, 8192)] * 3
    plan = einfx.contract_path("ak,ak,ak->a", *shapes, memory_limit="4 MiB")
    assert plan.path == ((0, 1, 2),)
    assert not plan.loops
    chain = einfx.contract_path("ij,jk,kl->il", *[(300, 300)] * 3, memory_limit="4 MiB")
    assert all(len(step) == 2 for step in chain.path)


def test_gradients_by_a_plan_of_one_step_agree_with_those_of_torch() -> None:
    operands = _operands([(400, 3000)] * 3, requires_grad=True)
    plan = einfx.contract_path("ak,ak,ak->a", *operands, memory_limit="64 MiB")
    assert plan.path == ((0, 1, 2),)
    expected = torch.autograd.grad(torch.einsum("ak,ak,ak->a", *operands).square().sum(), operands)
    found = torch.autograd.grad(
        einfx.einsum("ak,ak,ak->a", *operands, optimize=plan).square().sum(), operands
    )
    torch.testing.assert_close(found, expected)
