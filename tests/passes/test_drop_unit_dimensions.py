"""Dimensions of size 1 that the program itself inserts are left out of contractions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import einfx
from einfx.passes import DropUnitDimensions
from tests.rewriting import check_declined, check_rewrite

E = torch.einsum
A, B = torch.rand(2, 3), torch.rand(3, 4)
MATRIX_PRODUCT = "einsum_{} = torch.functional.einsum('ab,bc->ac', a, b)\nreturn einsum_{}"
Program = Callable[..., torch.Tensor]


@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: E("ijk,ijk->ik", a[:, :, None], b[None]),
        lambda a, b: E("ijk,ijk->ik", a[..., None], b[None, :, :]),
        lambda a, b: E("ijk,ijk->ik", a.unsqueeze(-1), b.unsqueeze(0)),
        lambda a, b: E("ijk,ijk->ik", torch.unsqueeze(a, 2), b.unsqueeze(dim=0)),
    ],
)
def test_a_broadcast_product_becomes_a_matrix_product(program: Program) -> None:
    check_rewrite(DropUnitDimensions(), program, MATRIX_PRODUCT.format(2, 2), (A, B), rewrites=2)


def test_a_unit_dimension_that_is_summed_alone_goes() -> None:
    check_rewrite(
        DropUnitDimensions(),
        lambda a, b: E("ixj,jk->ik", a[:, None], b),
        MATRIX_PRODUCT.format(1, 1),
        (A, B),
        rewrites=1,
    )


def test_a_unit_dimension_that_only_this_operand_brings_to_the_output_stays() -> None:
    check_declined(DropUnitDimensions(), lambda a, b: E("ixj,jk->ixk", a[:, None], b), (A, B))


def test_an_inserted_dimension_that_something_else_reads_stays_there() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        inserted = a.unsqueeze(1)
        return E("ixj,jk->ik", inserted, b) + inserted.sum()

    check_rewrite(
        DropUnitDimensions(),
        program,
        """
        unsqueeze = a.unsqueeze(1)
        einsum_1 = torch.functional.einsum('ab,bc->ac', a, b)
        sum_1 = unsqueeze.sum()
        add = einsum_1 + sum_1
        return add
        """,
        (A, B),
    )


@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: E("ij,jk->ik", a[:, :], b),
        lambda a, b: E("j,jk->k", a[0], b),
        lambda a, b: E("xij,jk->ik", a[None, :1], b),
        lambda a, b: E("ij,jk->ik", a[:, [0, 1, 2]], b),
    ],
)
def test_other_ways_of_indexing_are_left_alone(program: Program) -> None:
    check_declined(DropUnitDimensions(), program, (A, B))


def test_a_dimension_that_happens_to_have_size_one_stays() -> None:
    check_declined(DropUnitDimensions(), lambda a, b: E("xij,jk->ik", a, b), (A[None], B))


def test_a_diagonal_of_an_inserted_dimension_stays() -> None:
    check_declined(DropUnitDimensions(), lambda a: E("iij->ij", a[:, None]), (torch.rand(1, 3),))


def test_a_tensor_that_is_written_between_stays_read_where_it_was() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        inserted = a.unsqueeze(1)
        a.add_(1)
        return E("ixj,jk->ik", inserted, b)

    check_declined(DropUnitDimensions(), program, (A, B))


def test_a_broadcast_product_over_a_semiring_becomes_a_matrix_product() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = einfx.einsum(
            "ijk,ijk->ik", a[:, :, None], b[None], semiring="log", linear_operands=(1,)
        )
        return result

    check_rewrite(
        DropUnitDimensions(),
        program,
        """
        einsum_2 = einfx_contract_einsum('ab,bc->ac', a, b, semiring = 'log', linear_operands = (1,))
        return einsum_2
        """,
        (A, B),
        rewrites=2,
    )


@pytest.mark.parametrize("program", [
    lambda a, b: E("ab->a", a[:, 0][:, None]),
    lambda a, b: einfx.einsum("ab->a", a[:, 0].unsqueeze(1), semiring="max_plus"),
])  # fmt: skip
def test_a_sum_of_one_element_does_not_become_a_view(program: Program) -> None:
    check_declined(DropUnitDimensions(), program, (A, B), "share its memory")
