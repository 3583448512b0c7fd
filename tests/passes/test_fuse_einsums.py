"""Contractions that feed one another become one, whose path is then free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

import einfx
from einfx.equation import LETTERS
from einfx.graphs.shapes import propagate
from einfx.passes import FuseEinsums
from einfx.rewrite import collect_declined, readable_code
from tests.rewriting import check_declined, check_rewrite
from tests.semiring_judge import OWN

E = torch.einsum
A, B, C = torch.rand(2, 3), torch.rand(3, 4), torch.rand(4, 5)
Program = Callable[..., torch.Tensor]

CHAINS: list[tuple[Program, int, str]] = [
    (lambda a, b, c: E("ij,jk->ik", E("ij,jk->ik", a, b), c), 1, "einsum_2"),
    (lambda a, b, c: E("ij,jk->ik", a, E("ij,jk->ik", b, c)), 1, "einsum_2"),
    (lambda a, b, c: E("xy,yz->xz", E("ij,jk->ki", a, b).t(), c), 2, "einsum_3"),
    (lambda a, b, c: E("xy,yz->xz", E("ij,jk->ki", a, b).permute(1, 0), c), 2, "einsum_3"),
    (lambda a, b, c: E("xy,yz->xz", E("ij,jk->ki", a, b).mT, c), 2, "einsum_3"),
    (lambda a, b, c: E("xy,yz->xz", torch.swapaxes(E("ij,jk->ki", a, b), 0, 1), c), 2, "einsum_3"),
    (lambda a, b, c: E("xy,yz->xz", (a @ b), c), 1, "einsum_1"),
]


@pytest.mark.parametrize(("program", "rewrites", "name"), CHAINS)
def test_a_chain_becomes_one_contraction(program: Program, rewrites: int, name: str) -> None:
    check_rewrite(
        FuseEinsums(),
        program,
        f"{name} = torch.functional.einsum('ab,bc,cd->ad', a, b, c)\nreturn {name}",
        (A, B, C),
        rewrites=rewrites,
    )


def test_a_sum_of_a_contraction_goes_into_the_contraction_that_reads_it() -> None:
    check_rewrite(
        FuseEinsums(),
        lambda a, b, c: E("i,ij->j", E("ij,jk->ik", a, b).sum(0), c),
        "einsum_3 = torch.functional.einsum('ab,bc,cd->d', a, b, c)\nreturn einsum_3",
        (A, B, C),
    )


def test_labels_that_mean_different_things_are_kept_apart() -> None:
    check_rewrite(
        FuseEinsums(),
        lambda a, b: E("ij,kl->ijkl", E("ij,jk->ik", a, b), E("ij,jk->ik", a, b)).sum(0),
        """
        einsum_4 = torch.functional.einsum('ab,bc,de,ef->acdf', a, b, a, b)
        sum_1 = einsum_4.sum(0)
        return sum_1
        """,
        (A, B),
    )


def test_a_diagonal_of_an_outer_product_is_a_product() -> None:
    check_rewrite(
        FuseEinsums(),
        lambda x, y: E("ii->i", E("i,j->ij", x, y)),
        "einsum_2 = torch.functional.einsum('a,a->a', x, y)\nreturn einsum_2",
        (A[0], B[:, 0]),
    )


def test_a_diagonal_of_operands_that_could_broadcast_is_left_with_the_reason() -> None:
    square = torch.rand(3, 3)
    check_declined(
        FuseEinsums(), lambda x, y: E("ii->i", E("ij,ij->ij", x, y)), (square, square), "takes a diagonal"
    )


def test_a_producer_that_something_else_reads_too_stays() -> None:
    def program(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        product = E("ij,jk->ik", a, b)
        return E("ij,jk->ik", product, c).sum() + product.exp().sum()

    check_declined(FuseEinsums(), program, (A, B, C))


def test_a_producer_with_two_uses_is_computed_once_where_that_is_faster() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        product = E("ij,jk->ik", a, b)
        return E("ij,ij->", product, product)

    check_declined(FuseEinsums(), program, (torch.rand(20, 30), torch.rand(30, 40)), "several uses")


def test_a_producer_with_two_uses_is_computed_twice_where_that_is_faster() -> None:
    def program(x: torch.Tensor, y: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        outer = E("i,j->ij", x, y)
        return E("ij,j->i", outer, v) + E("ij,i->j", outer, v)

    n = 1000
    vectors = [torch.rand(n) for _ in range(3)]
    check_rewrite(
        FuseEinsums(),
        program,
        """
        einsum_3 = torch.functional.einsum('a,b,b->a', x, y, v)
        einsum_4 = torch.functional.einsum('a,b,a->b', x, y, v)
        add = einsum_3 + einsum_4
        return add
        """,
        vectors,
        rewrites=1,
    )


def test_operands_of_two_dtypes_are_left_with_the_reason() -> None:
    mask = torch.ones(3, dtype=torch.int64)
    check_declined(
        FuseEinsums(),
        lambda x, m: E("i,i->i", E("i,i->i", x, m), x),
        (torch.rand(3), mask),
        "one floating dtype",
    )


@pytest.mark.parametrize("through_a_view", [False, True])
def test_operands_that_are_written_between_are_left_with_the_reason(through_a_view: bool) -> None:
    def program(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        product = E("ij,jk->ik", a, b)
        (a.view(-1) if through_a_view else a).add_(1)
        return E("ij,jk->ik", product, c)

    check_declined(FuseEinsums(), program, (A, B, C), "something writes")


def test_more_labels_than_there_are_letters_are_left_with_the_reason() -> None:
    half = len(LETTERS) // 2 + 1
    labels = LETTERS[:half]
    first, second = f"{labels}->{labels[0]}", f"{labels},{labels[0]}->{labels[0]}"

    def program(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return E(second, y, E(first, x))

    ones = torch.ones([1] * half)
    check_declined(FuseEinsums(), program, (ones, ones), f"more than {len(LETTERS)} labels")


def test_without_dtypes_nothing_fuses_unless_the_caller_says_that_there_is_one() -> None:
    traced = fx.symbolic_trace(CHAINS[0][0])
    with collect_declined() as declined:
        assert FuseEinsums().apply(traced) == 0
    assert "one floating dtype" in declined[0].reason
    assert FuseEinsums(assume_same_dtype=True).apply(traced) == 1
    assert "'ab,bc,cd->ad', a, b, c" in readable_code(traced.graph)


def test_the_node_that_stays_keeps_the_metadata_of_the_one_it_replaces() -> None:
    traced = fx.symbolic_trace(CHAINS[0][0])
    propagate(traced, (A, B, C))
    last = next(node for node in traced.graph.nodes if node.name == "einsum_1")
    last.meta["stack_trace"] = "here"
    FuseEinsums().apply(traced)
    assert [node.meta.get("stack_trace") for node in traced.graph.nodes if "einsum" in node.name] == ["here"]


def over(semiring: str, equation: str, *operands: torch.Tensor, **options: Any) -> torch.Tensor:
    result: torch.Tensor = einfx.einsum(equation, *operands, semiring=semiring, **options)
    return result


@pytest.mark.parametrize("semiring", ["log", "max_plus", "min_plus", "max_times", "max_min"])
def test_a_chain_over_any_semiring_becomes_one_contraction(semiring: str) -> None:
    check_rewrite(
        FuseEinsums(),
        lambda a, b, c: over(semiring, "ij,jk->ik", over(semiring, "ij,jk->ki", a, b).t(), c),
        f"""
        einsum_3 = einfx_contract_einsum('ab,bc,cd->ad', a, b, c, semiring = '{semiring}')
        return einsum_3
        """,
        (A, B, C),
        rewrites=2,
    )


def test_a_sum_over_a_semiring_goes_into_the_contraction_that_reads_it() -> None:
    check_rewrite(
        FuseEinsums(),
        lambda a, b: over("max_plus", "i,ij->j", over("max_plus", "ji->i", a), b),
        "einsum_2 = einfx_contract_einsum('ab,bc->c', a, b, semiring = 'max_plus')\nreturn einsum_2",
        (A, B),
    )


def test_views_and_diagonals_by_torch_go_into_any_semiring() -> None:
    check_rewrite(
        FuseEinsums(),
        lambda a, b: over("log", "ij,jk->ik", E("ii->i", a)[None].permute(1, 0).T, b),
        """
        einsum = torch.functional.einsum('ii->i', a)
        getitem = einsum[None]
        einsum_3 = einfx_contract_einsum('ab,bc->ac', getitem, b, semiring = 'log')
        return einsum_3
        """,
        (torch.rand(3, 3), B),
    )
    check_rewrite(
        FuseEinsums(),
        lambda a: over("log", "i,i->i", E("ii->i", a), E("jj->j", a)),
        "einsum_4 = einfx_contract_einsum('aa,aa->a', a, a, semiring = 'log')\nreturn einsum_4",
        (torch.rand(3, 3),),
    )


def test_a_result_over_a_semiring_keeps_the_view_of_it_that_somebody_sees() -> None:
    def seen(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        view = E("ik->ki", over("log", "ij,jk->ik", a, b))
        copied = view.reshape(-1)
        copied.mul_(0.0)
        return view, copied

    check_declined(FuseEinsums(), lambda a, b: E("ik->ki", over("log", "ij,jk->ik", a, b)), (A, B), "strides")
    check_declined(FuseEinsums(), seen, (A, B), "writes to its result")


def test_a_result_over_a_semiring_goes_into_a_view_of_it_that_only_contractions_read() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        view = E("ik->ki", over("log", "ij,jk->ik", a, b))
        return over("max_plus", "ki,kj->ij", view, view)

    traced = check_rewrite(
        FuseEinsums(),
        program,
        """
        einsum_3 = einfx_contract_einsum('ab,bc->ca', a, b, semiring = 'log')
        einsum_2 = einfx_contract_einsum('ki,kj->ij', einsum_3, einsum_3, semiring = 'max_plus')
        return einsum_2
        """,
        (A, B),
    )
    assert len(traced.graph.nodes) == 5


def test_linear_operands_stay_linear_where_they_get_to() -> None:
    check_rewrite(
        FuseEinsums(),
        lambda a, b, c: over(
            "log", "ij,jk->ik", over("log", "ij,jk->ik", a, b, linear_operands=(1,)), c, linear_operands=(1,)
        ),
        """
        einsum_2 = einfx_contract_einsum('ab,bc,cd->ad', a, b, c, semiring = 'log', linear_operands = (1, 2))
        return einsum_2
        """,
        (A, B, C),
    )
    check_rewrite(
        FuseEinsums(),
        lambda a, b: over("log", "ij,jk->ik", a, b.t(), linear_operands=(1,)),
        """
        einsum_1 = einfx_contract_einsum('ab,cb->ac', a, b, semiring = 'log', linear_operands = (1,))
        return einsum_1
        """,
        (A, torch.rand(4, 3)),
    )


APART: list[tuple[Program, str]] = [
    (lambda a, b, c: over("log", "ij,jk->ik", over("max_plus", "ij,jk->ik", a, b), c), "over max_plus, and"),
    (lambda a, b, c: over("log", "ij,jk->ik", E("ij,jk->ik", a, b), c), "over real, and"),
    (lambda a, b, c: E("ij,jk->ik", over("log", "ij,jk->ik", a, b), c), "over log, and"),
    (lambda a, b, c: over("log", "ij,jk->ik", a, over("log", "ij,jk->ik", b, c), linear_operands=(1,)),
     "it is a logarithm"),
    (lambda a, b, c: over("log", "ij,jk->ik", over("log", "ij,jk->ik", a, b, block_size=2), c),
     "memory is limited"),
    (lambda a, b, c: over("log", "ij,jk->ik", over("log", "ij,jk->ik", a, b), c, memory_limit="1MiB"),
     "memory is limited"),
    (lambda a, b, c: over("log", "ij,jk->ik", over("log", "ij,jk->ik", a, b), c, grad_of_neg_inf=0.0),
     "other options"),
    (lambda a, b, c: over("log", "ij,jk->ik", over("log", "ij,jk->ik", a, b, zero_annihilates=True), c),
     "other options"),
    (lambda a, b, c: over("log", "ij,jk->ik", over("log", "ij,jk->ik", a, b, grad_of_neg_inf="uniform"), c,
                          grad_of_neg_inf="uniform"), "grad_of_neg_inf"),
    (lambda a, b, c: over("log", "jk->kj", over("log", "ij->ji", b)), "share the memory"),
]  # fmt: skip


@pytest.mark.parametrize(("program", "reason"), APART)
def test_what_means_something_else_stays_apart(program: Program, reason: str) -> None:
    check_declined(FuseEinsums(), program, (A, B, C), reason)


def test_a_sum_by_torch_is_no_sum_over_another_semiring() -> None:
    check_declined(FuseEinsums(), lambda a, b: over("log", "j,jk->k", a.sum(0), b), (A, B), "over real, and")


def test_integers_fuse_where_their_arithmetic_is_exact() -> None:
    a, b, c = (x.mul(10).to(torch.int64) for x in (A, B, C))
    for semiring in ("max_plus", "min_plus", "max_times"):
        check_declined(
            FuseEinsums(),
            lambda a, b, c: over(semiring, "ij,jk->ik", over(semiring, "ij,jk->ik", a, b), c),  # noqa: B023
            (a, b, c),
            "overflow",
        )
    check_rewrite(
        FuseEinsums(),
        lambda a, b, c: over("max_min", "ij,jk->ik", over("max_min", "ij,jk->ik", a, b), c),
        "einsum_2 = einfx_contract_einsum('ab,bc,cd->ad', a, b, c, semiring = 'max_min')\nreturn einsum_2",
        (a, b, c),
    )
    check_rewrite(
        FuseEinsums(),
        lambda a, b, c: over("boolean", "ij,jk->ik", over("boolean", "ij,jk->ik", a, b), c),
        "einsum_2 = einfx_contract_einsum('ab,bc,cd->ad', a, b, c, semiring = 'boolean')\nreturn einsum_2",
        (a > 4, b > 4, c > 4),
    )


def test_a_semiring_of_ones_own_fuses_by_its_name() -> None:
    assert "base_two" in [semiring.name for semiring in OWN]
    check_rewrite(
        FuseEinsums(),
        lambda a, b, c: over("base_two", "ij,jk->ik", over("base_two", "ij,jk->ik", a, b), c),
        "einsum_2 = einfx_contract_einsum('ab,bc,cd->ad', a, b, c, semiring = 'base_two')\nreturn einsum_2",
        (A, B, C),
    )
