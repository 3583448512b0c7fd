"""However an einsum is called, it is written in one way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx

import einfx
from einfx.passes import NormalizeEinsums
from einfx.rewrite import collect_declined, readable_code
from tests.rewriting import check_declined, check_rewrite

E = torch.einsum
A, B = torch.rand(2, 3), torch.rand(3, 4)

SPELLINGS: list[tuple[Callable[..., torch.Tensor], str]] = [
    (lambda a, b: E("xy,yz->xz", a, b), "'ab,bc->ac', a, b"),
    (lambda a, b: E("xy,yz", a, b), "'ab,bc->ac', a, b"),
    (lambda a, b: E("xk,ky", a, b), "'ab,bc->ac', a, b"),
    (lambda a, b: E("yk,kx", a, b), "'ab,bc->ca', a, b"),
    (lambda a, b: E(" x y , y z -> z x ", a, b), "'ab,bc->ca', a, b"),
    (lambda a, b: E("xy,yz->xz", [a, b]), "'ab,bc->ac', a, b"),
    (lambda a, b: E("xy,yz->xz", (a, b)), "'ab,bc->ac', a, b"),
    (lambda a, b: E("...y,yz->...z", a, b), "'ab,bc->ac', a, b"),
    (lambda a, b: E("...y,yz", a, b), "'ab,bc->ac', a, b"),
    (lambda a, b: E("...,...->...", a, a), "'ab,ab->ab', a, a"),
    (lambda a, b: E(a, [0, 1], b, [1, 2]), "'ab,bc->ac', a, b"),
    (lambda a, b: E(a, [7, 3], b, [3, 5], [5, 7]), "'ab,bc->ca', a, b"),
    (lambda a, b: E(a, [..., 3], b, [3, 5], [..., 5]), "'ab,bc->ac', a, b"),
    (lambda a, b: torch.functional.einsum("ij->", a), "'ab->', a"),
    (lambda a, b: einfx.einsum("ij,jk", a, b), "'ab,bc->ac', a, b"),
    (lambda a, b: einfx.einsum(a, ["row", "x"], b, ["x", "column"]), "'ab,bc->ca', a, b"),
]


@pytest.mark.parametrize(("program", "expected"), SPELLINGS)
def test_every_style_of_call_becomes_an_equation_with_its_operands(
    program: Callable[..., torch.Tensor], expected: str
) -> None:
    check_rewrite(
        NormalizeEinsums(),
        program,
        f"einsum = torch.functional.einsum({expected})\nreturn einsum",
        (A, B),
        rewrites=1,
    )


def test_operators_of_aten_are_einsums_too() -> None:
    graph = fx.Graph()
    a, b = graph.placeholder("a"), graph.placeholder("b")
    graph.output(graph.call_function(torch.ops.aten.einsum.default, ("ij,jk", [a, b])))
    check_rewrite(
        NormalizeEinsums(),
        fx.GraphModule(torch.nn.Module(), graph),
        "einsum_default = torch.functional.einsum('ab,bc->ac', a, b)\nreturn einsum_default",
        (A, B),
    )


def test_an_einsum_in_the_canonical_form_is_left_as_it_is() -> None:
    check_declined(NormalizeEinsums(), lambda a, b: E("ab,bc->ac", a, b), (A, B))


def test_letters_follow_the_order_of_appearance_whatever_they_were() -> None:
    programs: list[Callable[..., torch.Tensor]] = [
        lambda a, b: E("ij,jk->ik", a, b),
        lambda a, b: E("zy,yx->zx", a, b),
        lambda a, b: E("Ab,bC->AC", a, b),
    ]
    texts = set()
    for program in programs:
        traced = fx.symbolic_trace(program)
        NormalizeEinsums().apply(traced)
        texts.add(readable_code(traced.graph))
    assert texts == {
        "def forward(self, a, b):\n    einsum = torch.functional.einsum('ab,bc->ac', a, b)\n    return einsum"
    }


def test_without_ranks_an_ellipsis_is_left_with_the_reason() -> None:
    traced = fx.symbolic_trace(lambda a, b: E("...y,yz->...z", a, b))
    with collect_declined() as declined:
        assert NormalizeEinsums().apply(traced) == 0
    assert [entry.node for entry in declined] == ["einsum"]
    assert "ranks" in declined[0].reason


def test_an_equation_that_cannot_be_read_is_left_to_fail_as_it_always_did() -> None:
    traced = fx.symbolic_trace(lambda a, b: E("i?,jk->ik", a, b))
    assert NormalizeEinsums().apply(traced) == 0
    with pytest.raises(RuntimeError):
        traced(A, B)


@pytest.mark.parametrize(
    ("program", "line"),
    [
        (
            lambda a, b: einfx.einsum("xy, yz", [a, b], semiring="log"),
            "einfx_contract_einsum('ab,bc->ac', a, b, semiring = 'log')",
        ),
        (
            lambda a, b: einfx.einsum(a, [3, 7], b, [7, 5], semiring="viterbi", zero_annihilates=False),
            "einfx_contract_einsum('ab,bc->ac', a, b, semiring = 'max_plus')",
        ),
        (
            lambda a, b: einfx.einsum("...j,jk->...k", a, b, semiring="log", linear_operands=[1]),
            "einfx_contract_einsum('ab,bc->ac', a, b, semiring = 'log', linear_operands = (1,))",
        ),
        (
            lambda a, b: einfx.einsum("xy,yz->xz", a, b, memory_limit="1MiB"),
            "einfx_contract_einsum('ab,bc->ac', a, b, memory_limit = 1048576)",
        ),
        (
            lambda a, b: einfx.einsum("xy,yz->xz", a, b, semiring="real", linear_operands=()),
            "torch.functional.einsum('ab,bc->ac', a, b)",
        ),
    ],
)
def test_options_are_written_in_one_way_and_only_where_they_say_something(
    program: Callable[..., torch.Tensor], line: str
) -> None:
    check_rewrite(NormalizeEinsums(), program, f"einsum = {line}\nreturn einsum", (A, B), rewrites=1)


def test_an_argmax_and_an_order_that_the_caller_chose_are_left_as_they_are() -> None:
    check_declined(
        NormalizeEinsums(),
        lambda a, b: einfx.einsum("ij,jk->ik", a, b, semiring="max_plus", return_argmax=True)[0],
        (A, B),
        "argmax",
    )
    check_declined(
        NormalizeEinsums(),
        lambda a, b: einfx.einsum("ij,jk->ik", a, b, semiring="log", optimize="greedy"),
        (A, B),
        "chose the order",
    )
