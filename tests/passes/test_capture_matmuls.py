"""Products that don't say einsum become einsums where that lets them join others, and only there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import fx

import einfx
from einfx.graphs.shapes import propagate
from einfx.passes import CaptureMatmuls
from einfx.rewrite import collect_declined
from tests.rewriting import check_declined, check_rewrite

E = torch.einsum
X = torch.rand(5, 3)
W = torch.rand(3, 4)
V = torch.rand(4, 2)
BATCHED, STACK = torch.rand(7, 5, 3), torch.rand(7, 3, 4)
Program = Callable[..., torch.Tensor]

BESIDE_A_CONTRACTION: list[tuple[Program, str]] = [
    (lambda x, w, v: (x @ w) @ v, "'ab,bc->ac', x, w"),
    (lambda x, w, v: torch.matmul(x, w) @ v, "'ab,bc->ac', x, w"),
    (lambda x, w, v: x.matmul(other=w) @ v, "'ab,bc->ac', x, w"),
    (lambda x, w, v: x.mm(w) @ v, "'ab,bc->ac', x, w"),
    (lambda x, w, v: torch.mm(input=x, mat2=w) @ v, "'ab,bc->ac', x, w"),
    (lambda x, w, v: F.linear(x, w.t()) @ v, "'ab,cb->ac', x, t"),
]


@pytest.mark.parametrize(("program", "equation"), BESIDE_A_CONTRACTION)
def test_a_matrix_product_beside_another_becomes_an_einsum(program: Program, equation: str) -> None:
    transposed = "t = w.t()\n" if ", t" in equation else ""
    check_rewrite(
        CaptureMatmuls(),
        program,
        f"{transposed}einsum = torch.functional.einsum({equation})\n"
        "einsum_1 = torch.functional.einsum('ab,bc->ac', einsum, v)\n"
        "return einsum_1",
        (X, W, V),
        rewrites=2,
    )


@pytest.mark.parametrize(
    "program",
    [
        lambda x, w: x @ w,
        lambda x, w: torch.mm(x, w).exp(),
        lambda x, w: F.linear(x, w.t(), x[0, :1]),
        lambda x, w: (x @ w).exp() @ w.t(),
    ],
)
def test_a_matrix_product_alone_stays_as_it_is(program: Program) -> None:
    check_declined(CaptureMatmuls(), program, (X, W))


def test_a_tensordot_becomes_an_einsum_even_alone() -> None:
    check_rewrite(
        CaptureMatmuls(),
        lambda x, w: torch.tensordot(x, w, dims=([0, 2], [0, 1])),
        "einsum = torch.functional.einsum('abc,acd->bd', x, w)\nreturn einsum",
        (BATCHED, STACK),
        rewrites=1,
    )


def test_a_bilinear_form_becomes_an_einsum_of_three_and_keeps_its_bias() -> None:
    check_rewrite(
        CaptureMatmuls(),
        lambda x, y, w, b: F.bilinear(x, y, w, b),
        """
        einsum = torch.functional.einsum('ab,ac,dbc->ad', x, y, w)
        add = einsum + b
        return add
        """,
        (X, torch.rand(5, 2), torch.rand(6, 3, 2), torch.rand(6)),
    )


def test_a_bias_is_added_after_the_contraction() -> None:
    check_rewrite(
        CaptureMatmuls(),
        lambda x, w, v, b: F.linear(x @ w, v, b),
        """
        einsum = torch.functional.einsum('ab,bc->ac', x, w)
        einsum_1 = torch.functional.einsum('ab,cb->ac', einsum, v)
        add = einsum_1 + b
        return add
        """,
        (X, W, torch.rand(2, 4), torch.rand(2)),
        rewrites=2,
    )


def test_a_sum_of_a_product_becomes_a_contraction() -> None:
    check_rewrite(
        CaptureMatmuls(),
        lambda x, y: (x * y).sum(-1),
        """
        einsum = torch.functional.einsum('ab,ab->ab', x, y)
        einsum_1 = torch.functional.einsum('ab->a', einsum)
        return einsum_1
        """,
        (X, torch.rand(5, 3)),
    )


def test_a_product_that_nothing_sums_stays_as_it_is() -> None:
    check_declined(CaptureMatmuls(), lambda x, y: (x * y).exp(), (X, torch.rand(5, 3)))


def test_a_factor_without_dimensions_joins_the_contraction_that_it_scales() -> None:
    check_rewrite(
        CaptureMatmuls(),
        lambda x, w, s: E("ij,jk->ik", x, w) * s,
        """
        einsum = torch.functional.einsum('ij,jk->ik', x, w)
        einsum_1 = torch.functional.einsum('ab,->ab', einsum, s)
        return einsum_1
        """,
        (X, W, torch.tensor(2.0)),
    )


def test_products_see_each_other_through_transposes_and_factors() -> None:
    check_rewrite(
        CaptureMatmuls(),
        lambda x, w: (2 * (x @ w)).t() @ x,
        """
        einsum = torch.functional.einsum('ab,bc->ac', x, w)
        mul = 2 * einsum
        t = mul.t()
        einsum_1 = torch.functional.einsum('ab,bc->ac', t, x)
        return einsum_1
        """,
        (X, W),
    )


def test_batches_of_matrices_keep_their_batch_label() -> None:
    check_rewrite(
        CaptureMatmuls(),
        lambda x, w, v: torch.bmm(x, w) @ v,
        """
        einsum = torch.functional.einsum('abc,acd->abd', x, w)
        einsum_1 = torch.functional.einsum('abc,cd->abd', einsum, v)
        return einsum_1
        """,
        (BATCHED, STACK, V),
    )


def test_integers_are_left_alone_with_the_reason() -> None:
    ones = torch.ones(3, 3, dtype=torch.int64)
    reason = "one floating dtype"
    check_declined(CaptureMatmuls(), lambda x, w: (x @ w) @ x, (ones, ones), reason, reason)


def test_a_result_that_is_written_to_is_left_alone_with_the_reason() -> None:
    def program(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        product = x @ w
        product.add_(1)
        return E("ij,jk->ik", product, v)

    check_declined(CaptureMatmuls(), program, (X, W, V))
    traced = fx.symbolic_trace(lambda x, w: torch.tensordot(x, w, 1).add_(1))
    propagate(traced, (X, W))
    with collect_declined() as declined:
        assert CaptureMatmuls().apply(traced) == 0
    assert declined[0].reason == "something writes to its result"


def test_without_shapes_nothing_is_captured() -> None:
    traced = fx.symbolic_trace(lambda x, w, v: (x @ w) @ v)
    assert CaptureMatmuls().apply(traced) == 0


@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: einfx.einsum("ij,jk->ik", a @ b, b, semiring="log"),
        lambda a, b: einfx.einsum("ij,jk->ik", a, b, semiring="log") @ b,
        lambda a, b: einfx.einsum("ij,jk->ik", a, b, semiring="max_plus").sum(0),
        lambda a, b: einfx.einsum("ij,jk->ik", a * b, b, semiring="log"),
    ],
)
def test_contractions_over_another_semiring_are_no_company(program: Callable[..., torch.Tensor]) -> None:
    check_declined(CaptureMatmuls(), program, (torch.rand(3, 3), torch.rand(3, 3)))
