"""A factor goes to the smallest tensor of the contractions that it could stand at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import einfx
from einfx.passes import PlaceScalars
from tests.rewriting import check_declined, check_rewrite

E = torch.einsum
X, W, V = torch.rand(20, 3), torch.rand(3, 4), torch.rand(4, 50)
Program = Callable[..., torch.Tensor]


def test_a_factor_of_the_result_goes_to_the_smaller_operand() -> None:
    check_rewrite(
        PlaceScalars(),
        lambda x, w: E("ij,jk->ik", x, w) * 2.0,
        """
        mul_1 = w * 2.0
        einsum = torch.functional.einsum('ij,jk->ik', x, mul_1)
        return einsum
        """,
        (X, W),
        rewrites=1,
    )


def test_it_goes_through_a_chain_to_the_smallest_tensor_of_all() -> None:
    check_rewrite(
        PlaceScalars(),
        lambda x, w, v: E("ij,jk->ik", E("ij,jk->ik", x, w), v) * 2.0,
        """
        mul_1 = w * 2.0
        einsum = torch.functional.einsum('ij,jk->ik', x, mul_1)
        einsum_1 = torch.functional.einsum('ij,jk->ik', einsum, v)
        return einsum_1
        """,
        (X, W, V),
    )


def test_it_goes_through_transposes_and_products_in_other_spellings() -> None:
    check_rewrite(
        PlaceScalars(),
        lambda x, w: (x @ w).t() / 4,
        """
        truediv_1 = w / 4
        matmul = x @ truediv_1
        t = matmul.t()
        return t
        """,
        (X, W),
    )


def test_a_division_stays_a_division() -> None:
    check_rewrite(
        PlaceScalars(),
        lambda x, w: E("ij,jk->ik", x, w) / 3,
        """
        truediv_1 = w / 3
        einsum = torch.functional.einsum('ij,jk->ik', x, truediv_1)
        return einsum
        """,
        (X, W),
    )


def test_a_factor_of_one_goes() -> None:
    check_rewrite(
        PlaceScalars(),
        lambda x, w: E("ij,jk->ik", x, w) * 1.0,
        "einsum = torch.functional.einsum('ij,jk->ik', x, w)\nreturn einsum",
        (X, W),
        rewrites=1,
    )


def test_a_factor_of_one_that_makes_a_copy_stays() -> None:
    check_declined(PlaceScalars(), lambda x: x * 1.0, (X,))


def _used_twice(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    product = E("ij,jk->ik", x, w)
    return product.exp() + 2 * product


def _written(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    product = E("ij,jk->ik", x, w)
    scaled = product * 2
    product.add_(1)
    return scaled


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(lambda x, w: E("ij,ij->i", x, x) * 2.0, id="the result is the smallest already"),
        pytest.param(lambda x, w: E("ij,kj->ik", x, x) * 2.0, id="the smaller tensor stands there twice"),
        pytest.param(lambda x, w: E("ij,jk->ik", x, w) * 1e30, id="partial sums could overflow"),
        pytest.param(lambda x, w: E("ij,jk->ik", x, w).exp() * 2, id="what is between isn't linear"),
        pytest.param(_used_twice, id="something else reads the result"),
        pytest.param(_written, id="something writes to the result"),
    ],
)
def test_a_factor_stays_where(program: Program) -> None:
    check_declined(PlaceScalars(), program, (X, W))


def test_integers_keep_their_factor() -> None:
    ones = torch.ones(20, 3, dtype=torch.int64)
    check_declined(PlaceScalars(), lambda x, w: E("ij,jk->ik", x, w) * 2, (ones, ones[:3]))


def over(semiring: str, equation: str, *operands: torch.Tensor, **options: Any) -> torch.Tensor:
    result: torch.Tensor = einfx.einsum(equation, *operands, semiring=semiring, **options)
    return result


@pytest.mark.parametrize("semiring", ["log", "max_plus", "min_plus"])
def test_an_added_constant_goes_to_the_smallest_tensor_of_a_chain_over_a_semiring(semiring: str) -> None:
    check_rewrite(
        PlaceScalars(),
        lambda x, w, v: over(semiring, "ij,jk->ik", over(semiring, "ij,jk->ik", x, w).t().t(), v) + 2.0,
        f"""
        add_1 = w + 2.0
        einsum = einfx_contract_einsum('ij,jk->ik', x, add_1, semiring = '{semiring}')
        t = einsum.t()
        t_1 = t.t()
        einsum_1 = einfx_contract_einsum('ij,jk->ik', t_1, v, semiring = '{semiring}')
        return einsum_1
        """,
        (X, W, V),
        rewrites=1,
    )


def test_it_passes_by_operands_that_are_linear() -> None:
    check_rewrite(
        PlaceScalars(),
        lambda x, w: over("log", "ij,jk->ik", x, w, linear_operands=(1,)) + 2.0,
        """
        add_1 = x + 2.0
        einsum = einfx_contract_einsum('ij,jk->ik', add_1, w, semiring = 'log', linear_operands = (1,))
        return einsum
        """,
        (X, W),
    )


def test_a_positive_factor_of_max_times_goes_there_too() -> None:
    check_rewrite(
        PlaceScalars(),
        lambda x, w: over("max_times", "ij,jk->ik", x, w) * 2.0,
        """
        mul_1 = w * 2.0
        einsum = einfx_contract_einsum('ij,jk->ik', x, mul_1, semiring = 'max_times')
        return einsum
        """,
        (X, W),
    )


def test_a_constant_of_nothing_goes() -> None:
    check_rewrite(
        PlaceScalars(),
        lambda x, w: over("log", "ij,jk->ik", x, w) + 0,
        "einsum = einfx_contract_einsum('ij,jk->ik', x, w, semiring = 'log')\nreturn einsum",
        (X, W),
    )


@pytest.mark.parametrize(
    "program",
    [
        lambda x, w: over("log", "ij,jk->ik", x, w) * 2.0,
        lambda x, w: over("max_times", "ij,jk->ik", x, w) * -2.0,
        lambda x, w: over("max_times", "ij,jk->ik", x, w) + 2.0,
        lambda x, w: over("max_min", "ij,jk->ik", x, w) + 2.0,
        lambda x, w: over("log", "ij,jk->ik", x, w) + 1e5,
        lambda x, w: E("ij,jk->ik", x, w) + 2.0,
    ],
)
def test_what_is_no_factor_in_the_semiring_stays(program: Program) -> None:
    check_declined(PlaceScalars(), program, (X, W))
