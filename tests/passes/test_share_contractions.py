"""What is computed twice is computed once, unless somebody could tell the difference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

import einfx
from einfx.capture import capture
from einfx.graphs.shapes import propagate
from einfx.passes import ShareContractions
from einfx.rewrite import readable_code
from tests.rewriting import check_declined, check_rewrite

E = torch.einsum
A, B = torch.rand(3, 3), torch.rand(3, 3)
Program = Callable[..., torch.Tensor]


@pytest.mark.parametrize(
    ("program", "first"),
    [
        (lambda a, b: E("ij,jk->ik", a, b).exp() + E("ij,jk->ik", a, b).sin(), "einsum"),
        (lambda a, b: E("ij,jk->ik", a, b).exp() + E("xy,yz->xz", a, b).sin(), "einsum"),
        (lambda a, b: E("ij,jk->ik", a, b).exp() + E("jk,ij->ik", b, a).sin(), "einsum"),
        (lambda a, b: E("ij,jk->ik", a, b).exp() + (a @ b).sin(), "einsum"),
        (lambda a, b: (a @ b).exp() + torch.mm(a, b).sin(), "matmul"),
    ],
)
def test_equal_contractions_are_computed_once_whatever_their_spelling(program: Program, first: str) -> None:
    call = {"einsum": "torch.functional.einsum('ij,jk->ik', a, b)", "matmul": "a @ b"}[first]
    check_rewrite(
        ShareContractions(),
        program,
        f"{first} = {call}\nexp = {first}.exp()\nsin = {first}.sin()\nadd = exp + sin\nreturn add",
        (A, B),
        rewrites=1,
    )


def test_what_becomes_equal_by_sharing_is_shared_too() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        first = E("ij,jk->ik", E("ij,jk->ik", a, b), b)
        second = E("ij,jk->ik", E("ij,jk->ik", a, b), b)
        return first.exp() + second.sin()

    check_rewrite(
        ShareContractions(),
        program,
        """
        einsum = torch.functional.einsum('ij,jk->ik', a, b)
        einsum_1 = torch.functional.einsum('ij,jk->ik', einsum, b)
        exp = einsum_1.exp()
        sin = einsum_1.sin()
        add = exp + sin
        return add
        """,
        (A, B),
        rewrites=2,
    )


def test_an_attribute_read_twice_is_one_operand() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return E("ij,jk->ik", x, self.weight).exp() + E("ij,jk->ik", x, self.weight).sin()

    traced = capture(Model())
    propagate(traced, (A,))
    assert ShareContractions().apply(traced) == 1
    assert readable_code(traced.graph).count("einsum(") == 1


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(
            lambda a, b: E("ij,jk->ik", a, b).exp() + E("ij,jk->ki", a, b).sin(), id="another output"
        ),
        pytest.param(
            lambda a, b: E("ij,jk->ik", a, b).exp() + E("ij,jk->ik", b, a).sin(), id="operands in other roles"
        ),
        pytest.param(lambda a, b: E("ij->i", a).exp() + E("ij->j", a).sin(), id="another sum"),
        pytest.param(lambda a, b: a.sum(0).exp() + a.sum(0, dtype=torch.float64).sin(), id="another dtype"),
    ],
)
def test_contractions_that_differ_stay_apart(program: Program) -> None:
    check_declined(ShareContractions(), program, (A, B))


def test_two_values_that_the_caller_gets_stay_two() -> None:
    check_declined(
        ShareContractions(),
        lambda a, b: (E("ij,jk->ik", a, b), E("ij,jk->ik", a, b)),
        (A, B),
        "the caller gets both",
    )


def test_one_value_that_the_caller_gets_may_be_read_by_the_program() -> None:
    check_rewrite(
        ShareContractions(),
        lambda a, b: (E("ij,jk->ik", a, b), E("ij,jk->ik", a, b).sin()),
        """
        einsum = torch.functional.einsum('ij,jk->ik', a, b)
        sin = einsum.sin()
        return (einsum, sin)
        """,
        (A, B),
    )


def test_a_value_that_something_writes_to_stays_apart() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        first = E("ij,jk->ik", a, b)
        first.add_(1)
        return first.exp() + E("ij,jk->ik", a, b).sin()

    check_declined(ShareContractions(), program, (A, B), "something writes to one of them")


@pytest.mark.parametrize("alias", [lambda a: a, lambda a: a.view(-1), lambda a: a[0], lambda a: a.detach()])
def test_an_operand_that_is_written_between_is_read_twice(alias: Callable[..., torch.Tensor]) -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        first = E("ij,jk->ik", a, b).exp()
        alias(a).add_(1)
        return first + E("ij,jk->ik", a, b).sin()

    check_declined(ShareContractions(), program, (A, B), "something writes to its operands between them")


@fx.wrap
def unknown_function(a: torch.Tensor) -> torch.Tensor:
    """Could write to anything."""
    return a.mul_(2)


def test_a_function_that_einfx_does_not_know_may_write_to_an_operand() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        first = E("ij,jk->ik", a, b).exp()
        return first + unknown_function(a) + E("ij,jk->ik", a, b).sin()

    check_declined(ShareContractions(), program, (A, B), "something writes to")


def log(equation: str, *operands: torch.Tensor, **options: Any) -> torch.Tensor:
    result: torch.Tensor = einfx.einsum(equation, *operands, semiring="log", **options)
    return result


@pytest.mark.parametrize(
    ("program", "call"),
    [
        (lambda a, b: log("ij,jk->ik", a, b).exp() + log("jk,ij->ik", b, a).sin(), ""),
        (
            lambda a, b: (
                log("ij,jk->ik", a, b, linear_operands=(1,)).exp()
                + log("yz,xy->xz", b, a, linear_operands=(0,)).sin()
            ),
            ", linear_operands = (1,)",
        ),
    ],
)
def test_equal_contractions_over_a_semiring_are_computed_once(program: Program, call: str) -> None:
    check_rewrite(
        ShareContractions(),
        program,
        f"einsum = einfx_contract_einsum('ij,jk->ik', a, b, semiring = 'log'{call})\n"
        "exp = einsum.exp()\nsin = einsum.sin()\nadd = exp + sin\nreturn add",
        (A, B),
        rewrites=1,
    )


@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: log("ij,jk->ik", a, b).exp() + E("ij,jk->ik", a, b),
        lambda a, b: log("ij,jk->ik", a, b) + log("ij,jk->ik", a, b, linear_operands=(1,)),
        lambda a, b: (
            log("ij,jk->ik", a, b, linear_operands=(0,)) + log("jk,ij->ik", b, a, linear_operands=(0,))
        ),
        lambda a, b: log("ij,jk->ik", a, b) + log("ij,jk->ik", a, b, grad_of_neg_inf=0.0),
        lambda a, b: log("ij,jk->ik", a, b) + log("ij,jk->ik", a, b, zero_annihilates=True),
        lambda a, b: log("ij,jk->ik", a, b) + log("ij,jk->ik", a, b, block_size=2),
    ],
)
def test_contractions_that_mean_something_else_are_both_computed(program: Program) -> None:
    check_declined(ShareContractions(), program, (A, B))


def test_integers_that_may_overflow_are_shared_in_the_same_order_alone() -> None:
    a, b = torch.arange(9).reshape(3, 3), torch.arange(9).reshape(3, 3) - 4

    def same(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        one, two = (einfx.einsum("ij,jk,kl->il", a, b, b, semiring="max_plus") for _ in range(2))
        return one.abs() + two.sign()

    check_rewrite(
        ShareContractions(),
        same,
        """
        einsum = einfx_contract_einsum('ij,jk,kl->il', a, b, b, semiring = 'max_plus')
        abs_1 = einsum.abs()
        sign = einsum.sign()
        add = abs_1 + sign
        return add
        """,
        (a, b),
    )
    check_declined(
        ShareContractions(),
        lambda a, b: (
            einfx.einsum("ij,jk->ik", a, b, semiring="max_plus").abs()
            + einfx.einsum("jk,ij->ik", b, a, semiring="max_plus").sign()
        ),
        (a, b),
    )
