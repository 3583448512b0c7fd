"""Factors, dtypes, strides and random numbers: what must survive every rewrite."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import einfx
from tests.equivalence import check_optimised
from tests.program import tensor
from tests.rewriting import ROUNDING, assert_same, error_of

E = torch.einsum
A, B = tensor((3, 3), seed=1), tensor((3, 3), seed=2)


@pytest.mark.parametrize(
    ("dtype", "large", "small"),
    [
        (torch.float32, 1e20, 1e-25),
        (torch.float64, 1e100, 1e-100),
        (torch.bfloat16, 1e20, 1e-25),
        (torch.float16, 300.0, 1e-3),
    ],
)
def test_factors_whose_product_is_no_normal_number_are_not_joined(
    dtype: torch.dtype, large: float, small: float
) -> None:
    a, b = (x.to(dtype) for x in (A, B))
    programs: list[Callable[..., torch.Tensor]] = [
        lambda a, b: E("ij,jk->ik", a / large, b) * large * large / large,
        lambda a, b: E("ij,jk->ik", a * small, b / small) * 2,
        lambda a, b: E("ij,jk->ik", a * small, b * small) / small / small,
        lambda a, b: (large * (a / large / large)) @ b * large,
        lambda a, b: E("ij,jk->ik", (a * large) / large, b),
        lambda a, b: large * (E("ij,jk->ik", a / large, b / large) * large),
    ]
    for program in programs:
        exact = program(a.double(), b.double())
        got, expected = einfx.optimize(program, (a, b))(a, b), program(a, b)
        assert got.dtype is dtype
        assert error_of(got, exact) <= max(ROUNDING[dtype], error_of(expected, exact))


@pytest.mark.parametrize("factor", [1e40, 1e-46, 65536.0, 2.0**-26])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_factor_out_of_the_range_of_its_tensors_stays_where_it_is(
    factor: float, dtype: torch.dtype
) -> None:
    a, b = A.to(dtype), B.to(dtype)
    for program in (
        lambda a, b: E("ij,jk->ik", a * factor, b) / 3,
        lambda a, b: factor * E("ij,jk->ik", a, b) * 2,
        lambda a, b: E("ij,jk->ik", a, b / factor) * factor,
    ):
        assert_same(einfx.optimize(program, (a, b))(a, b), program(a, b))


def test_an_overflow_that_eager_mode_avoids_by_its_order_does_not_appear() -> None:
    a = torch.full((64, 64), 100.0, dtype=torch.float16)

    def program(a: torch.Tensor) -> torch.Tensor:
        return E("ij,jk->ik", a / 64, a / 100)

    assert bool(einfx.optimize(program, (a,))(a).isfinite().all())


@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: (a * 7) // 2 * 3,
        lambda a, b: E("ij,jk->ik", a // 2, b) // 3,
        lambda a, b: torch.div(E("ij,jk->ik", a, b) * 5, 2, rounding_mode="trunc"),
        lambda a, b: (2 * a).div(3) * 3,
        lambda a, b: E("ij,jk->ik", a, b) / 2 * 2,
        lambda a, b: 3 * a % 2,
        lambda a, b: (a * 2) >> 1,
        lambda a, b: -E("ij,jk->ik", a, b) * 2 + a,
    ],
)
def test_integers_divide_and_round_as_in_eager_mode(program: Callable[..., torch.Tensor]) -> None:
    check_optimised(program, *(tensor((3, 3), torch.int64, seed=i) for i in (1, 2)))


@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: E("ij,jk->ik", a, b).mul(2).view(-1),
        lambda a, b: E("ij,jk->ki", a, b).T.reshape(-1),
        lambda a, b: (2 * a).T.reshape(-1).as_strided((2, 2), (2, 1)),
        lambda a, b: (3 * a.T) @ b,
        lambda a, b: (3 * a.T).stride(0) * a,
        lambda a, b: torch.as_strided(a @ b, (2, 2), (3, 1)) * 2,
        lambda a, b: E("ij->ji", 2 * a),
        lambda a, b: E("ij,jk->ki", a, b),
        lambda a, b: (a @ b).T.contiguous().view(-1),
        lambda a, b: (a @ b).is_contiguous() * (a @ b),
        lambda a, b: E("ij,kj->ki", a, b).view(9) @ E("ij,kj->ki", a, b).reshape(9, 1),
        lambda a, b: E("i...,j...->...ij", a, b).movedim(0, 2).view(9, 3),
    ],
)
def test_strides_that_somebody_sees_are_those_of_eager_mode_or_contiguous(
    program: Callable[..., torch.Tensor],
) -> None:
    a, b = tensor((3, 3), seed=1), tensor((3, 3), seed=2)
    check_optimised(program, a, b)


class Noisy(nn.Module):
    """Draws random numbers between equal contractions."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> Any:
        first = self.dropout(2 * E("ij,jk->ik", a, b))
        second = F.dropout(E("ij,jk->ik", a, b), 0.5)
        third = torch.rand_like(a) @ b
        unused = torch.rand_like(a)
        fourth = torch.rand_like(a) @ b
        fifth = E("ij,jk->ik", self.dropout(a), self.dropout(a))
        del unused
        return first, 3 * second, third, fourth, fifth


def test_random_operations_draw_the_same_numbers_in_the_same_order() -> None:
    for model in (Noisy(), Noisy().eval()):
        optimised = copy.deepcopy(einfx.optimize(model, (A, B)))
        torch.manual_seed(7)
        expected = model(A, B), torch.rand(3)
        torch.manual_seed(7)
        assert_same((optimised(A, B), torch.rand(3)), expected)


def test_optimising_draws_no_random_numbers() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    einfx.optimize(Noisy(), (A, B))
    assert_same(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float64),
        (torch.float32, torch.complex64),
        (torch.bool, torch.float16),
        (torch.int64, torch.float32),
    ],
)
def test_a_product_of_two_dtypes_is_computed_in_the_dtype_of_eager_mode(
    first: torch.dtype, second: torch.dtype
) -> None:
    a, b = tensor((4, 4), first, seed=1), tensor((4, 4), second, seed=2)
    check_optimised(lambda a, b: (a[:, :, None] * b).sum(1), a, b)
    check_optimised(lambda a, b: 2 * (a * b).sum(0) / 3, a, b)
    check_optimised(lambda a, b: E("ij,jk->ik", 2 * (a * b), a * b), a, b)
    check_optimised(lambda a, b: E("ij,jk->ik", b, b) * 0.1 + a, a, b)


def test_a_sum_in_another_dtype_is_made_in_that_dtype() -> None:
    a = (A * 1000).to(torch.float16)
    check_optimised(lambda a: (a * a).sum(-1, dtype=torch.float32) * 2, a)
    check_optimised(lambda a: torch.sum(a * 2, dim=0, dtype=torch.float64), a)
    check_optimised(lambda a: E("ij,ij->i", a.float() / 2, a.float()).half(), a)


def test_a_tensor_without_dimensions_gives_its_dtype_only_where_eager_mode_lets_it() -> None:
    half, double = A.to(torch.float16), torch.tensor(0.1, dtype=torch.float64)
    check_optimised(lambda a, c: c * a, half, double)
    check_optimised(lambda a, c: E("ij,jk->ik", c * a, a), half, double)
    check_optimised(lambda a, c: E("ij,jk->ik", a, a) / c, half, double)
    check_optimised(lambda a, c: c * E("ij,jk->ik", a, a), tensor((3, 3), torch.int64, seed=1), double)
    check_optimised(lambda a, c: (c * a).sum(), tensor((), torch.float32, seed=1), double)
