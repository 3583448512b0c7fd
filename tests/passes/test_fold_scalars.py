"""Numbers move behind linear operations and meet there, wherever that changes no value, dtype or effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx

import einfx
from einfx.graphs.shapes import propagate
from einfx.passes import FoldScalars
from einfx.rewrite import readable_code
from tests.rewriting import check_declined, check_rewrite
from tests.semiring_judge import OWN

E = torch.einsum
A = torch.rand(3, 3) + 0.5
B = torch.rand(3, 3) + 0.5
Program = Callable[..., torch.Tensor]

RULES: list[tuple[Program, str]] = [
    # numbers that meet
    (lambda a: 3 * (2 * a), "mul_2 = a * 6"),
    (lambda a: (a * 3) / 2, "mul_1 = a * 1.5"),
    (lambda a: (a / 3) / 7, "truediv_2 = a / 21"),
    (lambda a: -(2 * a), "mul_1 = a * -2"),
    (lambda a: -(a.neg()), "mul = a * 1"),
    (lambda a: a.mul(3).div(2.0), "mul_1 = a * 1.5"),
    (lambda a: a.multiply(other=3).divide(2.0), "mul = a * 1.5"),
    (lambda a: torch.mul(3, torch.neg(a)), "mul_1 = a * -3"),
    (lambda a: torch.div(torch.multiply(a, 2.0), 8), "mul = a * 0.25"),
    (lambda a: 3 * a.true_divide(2), "mul_1 = a * 1.5"),
]


@pytest.mark.parametrize(("program", "line"), RULES)
def test_numbers_that_meet_become_one(program: Program, line: str) -> None:
    check_rewrite(FoldScalars(), program, f"{line}\nreturn {line.split()[0]}", (A,), rewrites=1)


LINEAR: list[tuple[Program, str]] = [
    (lambda a, b: E("ij,jk->ik", 2 * a, b), "x = torch.functional.einsum('ij,jk->ik', a, b)"),
    (lambda a, b: E("ij,jk->ik", a, 2 * b), "x = torch.functional.einsum('ij,jk->ik', a, b)"),
    (lambda a, b: E("ii->i", 2 * a), "x = torch.functional.einsum('ii->i', a)"),
    (lambda a, b: (2 * a) @ b, "x = a @ b"),
    (lambda a, b: torch.mm(a, 2 * b), "x = torch.mm(a, b)"),
    (
        lambda a, b: torch.tensordot(2 * a, b, dims=1),
        "x = torch.functional.tensordot(a, b, dims = 1, out = None)",
    ),
    (lambda a, b: F.linear(2 * a, b), "x = torch._C._nn.linear(a, b)"),
    (lambda a, b: (2 * a).permute(1, 0), "x = a.permute(1, 0)"),
    (lambda a, b: (2 * a).transpose(0, 1), "x = a.transpose(0, 1)"),
    (lambda a, b: (2 * a).t(), "x = a.t()"),
    (lambda a, b: (2 * a).mT, "x = a.mT"),
    (lambda a, b: (2 * a).sum(), "x = a.sum()"),
    (lambda a, b: torch.sum(2 * a, dim=1), "x = torch.sum(a, dim = 1)"),
    (lambda a, b: (2 * a).reshape(-1), "x = a.reshape(-1)"),
    (lambda a, b: (2 * a).unsqueeze(0), "x = a.unsqueeze(0)"),
    (lambda a, b: (2 * a).flatten(), "x = a.flatten()"),
    (lambda a, b: (2 * a) * b, "x = a * b"),
    (lambda a, b: torch.mul(b, 2 * a), "x = torch.mul(b, a)"),
    (lambda a, b: (2 * a) / b, "x = a / b"),
    (lambda a, b: 2 * a + 2 * b, "x = a + b"),
    (lambda a, b: 2 * a - 2 * b, "x = a - b"),
]


@pytest.mark.parametrize(("program", "line"), LINEAR)
def test_a_number_moves_behind_what_is_linear_in_its_tensor(program: Program, line: str) -> None:
    traced = fx.symbolic_trace(program)
    name = [node.name for node in traced.graph.nodes if node.op not in ("placeholder", "output")][-1]
    factor = {"mul_1": "mul_2", "add": "mul_2", "sub": "mul_2"}.get(name, "mul_1")
    expected = f"{line.replace('x =', f'{name} =')}\n{factor} = {name} * 2\nreturn {factor}"
    if name == "getattr_1":
        expected = f"getattr_1 = a.mT\n{factor} = getattr_1 * 2\nreturn {factor}"
    check_rewrite(FoldScalars(), program, expected, (A, B), rewrites=1)


def test_numbers_are_gathered_along_a_whole_chain() -> None:
    check_rewrite(
        FoldScalars(),
        lambda a, b: E("ij,jk->ik", 3 * a, -b).t() / 2,
        """
        einsum = torch.functional.einsum('ij,jk->ik', a, b)
        t = einsum.t()
        mul_5 = t * -1.5
        return mul_5
        """,
        (A, B),
        rewrites=5,
    )


def test_numbers_that_cancel_leave_the_tensor_alone() -> None:
    check_rewrite(FoldScalars(), lambda a: (2 * a.sin()) / 2, "sin = a.sin()\nreturn sin", (A,), rewrites=1)


def test_a_number_that_stands_at_two_operands_counts_twice() -> None:
    check_rewrite(
        FoldScalars(),
        lambda a: E("ij,ij->i", 3 * a, 3 * a),
        """
        einsum = torch.functional.einsum('ij,ij->i', a, a)
        mul_4 = einsum * 9
        return mul_4
        """,
        (A,),
    )


LEFT: list[tuple[Program, tuple[str, ...]]] = [
    (lambda a, b: b / (2 * a), ("denominator",)),
    (lambda a, b: b.div(2 * a), ("denominator",)),
    (lambda a, b: 2 * a + 3 * b, ()),
    (lambda a, b: 2 * a + b, ()),
    (lambda a, b: torch.add(2 * a, 2 * b, alpha=3), ()),
    (lambda a, b: (2 * a).exp(), ()),
    (lambda a, b: 3 / a, ()),
    (lambda a, b: E("ij,jk->ik", 0 * a, b), ()),
    (lambda a, b: E("ij,jk->ik", a * float("inf"), b), ()),
    (lambda a, b: (3 * a).div(2, rounding_mode="floor"), ()),
    (lambda a, b: (3 * a).sum(0, dtype=torch.float64), ()),
    (lambda a, b: 1e20 * (1e20 * a), ("no normal number",)),
    (lambda a, b: 1e-30 * (a / 1e30), ("no normal number",)),
    (lambda a, b: E("ij,jk->ik", 1e20 * a, b), ("overflow",)),
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("program", "reasons"), LEFT)
def test_what_could_change_a_value_is_left_as_it_is(program: Program, reasons: tuple[str, ...]) -> None:
    check_declined(FoldScalars(), program, (A, B), *reasons)


def test_a_scaled_value_with_two_uses_keeps_its_factor() -> None:
    def program(a: torch.Tensor) -> torch.Tensor:
        scaled = 2 * a
        return scaled * scaled

    check_declined(FoldScalars(), program, (A,))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool])
def test_integers_and_booleans_are_left_alone(dtype: torch.dtype) -> None:
    check_declined(FoldScalars(), lambda a: 3 * (2 * a), (torch.ones(3, dtype=dtype),))


def test_a_number_that_changes_the_dtype_stays() -> None:
    check_declined(FoldScalars(), lambda a: 2 * (1j * a), (A,))


def test_a_number_in_front_of_a_product_in_float16_stays_against_overflow() -> None:
    half = torch.ones(3, 3, dtype=torch.float16)
    check_declined(FoldScalars(), lambda a, b: E("ij,jk->ik", a / 8, b), (half, half), "overflow")


def test_a_tensor_that_is_written_before_it_is_read_is_read_where_it_was() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        scaled = 2 * a
        a.add_(1)
        return E("ij,jk->ik", scaled, b)

    check_declined(FoldScalars(), program, (A, B))


def test_a_submodule_named_mul_is_no_multiplication() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mul = torch.nn.Linear(3, 3)

        def forward(self, a: torch.Tensor) -> torch.Tensor:
            return self.mul(2 * a)

    check_declined(FoldScalars(), Model(), (A,))


def test_without_shapes_nothing_moves_unless_the_caller_says_that_tensors_are_floating() -> None:
    traced = fx.symbolic_trace(lambda a, b: E("ij,jk->ik", 2 * a, b) * 3)
    before = readable_code(traced.graph)
    assert FoldScalars().apply(traced) == 0
    assert readable_code(traced.graph) == before
    assert FoldScalars(assume_floating=True).apply(traced) == 2
    assert "mul_3 = einsum * 6" in readable_code(traced.graph)


def over(semiring: str, equation: str, *operands: torch.Tensor, **options: Any) -> torch.Tensor:
    result: torch.Tensor = einfx.einsum(equation, *operands, semiring=semiring, **options)
    return result


SHIFTED: list[Program] = [
    lambda a, b: over("log", "ij,jk->ik", a + 3.0, b),
    lambda a, b: over("log", "ij,jk->ik", a, 3.0 + b),
    lambda a, b: over("log", "ij,jk->ik", torch.add(a, 1), b.sub(-2.0)),
    lambda a, b: over("log", "ij,jk->ik", a.add(4.0), torch.sub(b, 1)),
    lambda a, b: over("log", "ij,jk->ik", a.add(4.0) - 1, b),
    lambda a, b: over("log", "ij,jk->ik", a, b) + 1 + 2.0,
    lambda a, b: over("log", "ij,jk->ik", a + 1, b) + 2.0,
]


@pytest.mark.parametrize("program", SHIFTED)
def test_an_added_constant_is_a_factor_over_log(program: Program) -> None:
    traced = fx.symbolic_trace(program)
    propagate(traced, (A, B))
    assert FoldScalars().apply(traced) > 0
    names = [node.name for node in traced.graph.nodes]
    assert names[:3] == ["a", "b", "einsum"]
    last = names[3]
    check_rewrite(
        FoldScalars(),
        program,
        f"""
        einsum = einfx_contract_einsum('ij,jk->ik', a, b, semiring = 'log')
        {last} = einsum + 3.0
        return {last}
        """,
        (A, B),
    )


@pytest.mark.parametrize("semiring", ["log", "max_plus", "min_plus"])
def test_constants_meet_behind_the_views_and_contractions_that_follow(semiring: str) -> None:
    check_rewrite(
        FoldScalars(),
        lambda a, b: over(semiring, "ij,jk->ik", (a + 1.5).t(), over(semiring, "ij,jk->ik", b - 1, a)) + 2,
        f"""
        t = a.t()
        einsum = einfx_contract_einsum('ij,jk->ik', b, a, semiring = '{semiring}')
        einsum_1 = einfx_contract_einsum('ij,jk->ik', t, einsum, semiring = '{semiring}')
        add_7 = einsum_1 + 2.5
        return add_7
        """,
        (A, B),
    )


def test_constants_that_undo_one_another_go() -> None:
    check_rewrite(
        FoldScalars(),
        lambda a, b: over("max_plus", "ij,jk->ik", a + 2, b) - 2,
        "einsum = einfx_contract_einsum('ij,jk->ik', a, b, semiring = 'max_plus')\nreturn einsum",
        (A, B),
        rewrites=2,
    )


def test_a_positive_factor_moves_over_max_times() -> None:
    check_rewrite(
        FoldScalars(),
        lambda a, b: over("max_times", "ij,jk->ik", a * 2.0, b / 4) * 3,
        """
        einsum = einfx_contract_einsum('ij,jk->ik', a, b, semiring = 'max_times')
        mul_4 = einsum * 1.5
        return mul_4
        """,
        (A, B),
    )


STAYING: list[tuple[Program, str]] = [
    (lambda a, b: over("log", "ij,jk->ik", a * 2.0, b), "over log a factor"),
    (lambda a, b: over("max_plus", "ij,jk->ik", a * 2.0, b), "over max_plus a factor"),
    (lambda a, b: over("log", "ij,jk->ik", a, b * 2.0, linear_operands=(1,)), "over log a factor"),
    (lambda a, b: over("log", "ij,jk->ik", a, b + 2.0, linear_operands=(1,)), "linear operand"),
    (lambda a, b: over("max_times", "ij,jk->ik", a + 2.0, b), "over max_times an added constant"),
    (lambda a, b: over("max_min", "ij,jk->ik", a + 2.0, b), "over max_min an added constant"),
    (lambda a, b: over("max_min", "ij,jk->ik", a * 2.0, b), "over max_min a factor"),
    (lambda a, b: over("base_two", "ij,jk->ik", a + 2.0, b), "over base_two an added constant"),
    (lambda a, b: over("log", "ij,jk->ik", a - 1e5, b), "could cost digits"),
]


@pytest.mark.parametrize(("program", "reason"), STAYING)
def test_what_is_no_factor_in_the_semiring_stays(program: Program, reason: str) -> None:
    assert OWN[0].name == "base_two"
    check_declined(FoldScalars(), program, (A, B), reason)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_constants_stay_in_half_precision(dtype: torch.dtype) -> None:
    traced = fx.symbolic_trace(lambda a, b: over("log", "ij,jk->ik", a + 1.0, b))
    propagate(traced, (A.to(dtype), B.to(dtype)))
    assert FoldScalars().apply(traced) == 0


@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: E("ij,jk->ik", a + 3.0, b),
        lambda a, b: over("log", "ij,jk->ik", 3.0 - a, b),
        lambda a, b: over("log", "ij,jk->ik", torch.add(a, 3.0, alpha=2), b),
        lambda a, b: over("log", "ij,jk->ik", torch.add(a, b, alpha=2), b),
        lambda a, b: over("log", "ij,jk->ik", a, b).sum(0) + 1,
        lambda a, b: (a + 1 - 1).t() + 2,
    ],
)
def test_constants_elsewhere_stay_where_they_are(program: Program) -> None:
    check_declined(FoldScalars(), program, (A, B))


def test_an_operand_that_stands_twice_keeps_its_constant() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        shifted = a + 1.0
        return over("log", "ij,jk->ik", shifted, shifted)

    check_declined(FoldScalars(), program, (A, B))


def test_integers_keep_their_constants_over_max_plus() -> None:
    a = torch.arange(9).reshape(3, 3)
    check_declined(FoldScalars(), lambda a, b: over("max_plus", "ij,jk->ik", a + 1, b), (a, a))
