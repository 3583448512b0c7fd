"""A contraction of many becomes pairs, in the order that is predicted to be fastest."""

from __future__ import annotations

from typing import Any

import opt_einsum
import pytest
import torch
from torch import Tensor, fx

import einfx
from einfx import IndexPattern
from einfx.errors import PlanError
from einfx.graphs.estimate import estimate
from einfx.graphs.nodes import value_of
from einfx.graphs.shapes import propagate
from einfx.passes import ChoosePaths
from einfx.rewrite import collect_declined, readable_code
from tests.rewriting import check_declined, check_rewrite
from tests.semiring_judge import OWN

E = torch.einsum
TALL, SQUARE, THIN = torch.rand(50, 60), torch.rand(60, 70), torch.rand(70, 5)


def chain(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return E("ij,jk,kl->il", a, b, c)


def test_a_chain_starts_at_its_thin_end() -> None:
    check_rewrite(
        ChoosePaths(),
        chain,
        """
        einsum_1 = torch.functional.einsum('ab,bc->ac', b, c)
        einsum_2 = torch.functional.einsum('ab,bc->ac', a, einsum_1)
        return einsum_2
        """,
        (TALL, SQUARE, THIN),
        rewrites=1,
    )


def test_the_same_chain_starts_at_the_other_end_where_that_is_thin() -> None:
    check_rewrite(
        ChoosePaths(),
        chain,
        """
        einsum_1 = torch.functional.einsum('ab,bc->ac', a, b)
        einsum_2 = torch.functional.einsum('ab,ca->cb', c, einsum_1)
        return einsum_2
        """,
        (THIN.t(), SQUARE.t(), TALL.t()),
        rewrites=1,
    )


@pytest.mark.parametrize("path", [((0, 1), (0, 1)), [(0, 1), (0, 1)]], ids=["tuple", "list"])
def test_a_path_that_the_caller_gives_is_taken(path: Any) -> None:
    rewritten = check_rewrite(
        ChoosePaths(optimize=path),
        chain,
        """
        einsum_1 = torch.functional.einsum('ab,bc->ac', a, b)
        einsum_2 = torch.functional.einsum('ab,ca->cb', c, einsum_1)
        return einsum_2
        """,
        (TALL, SQUARE, THIN),
    )
    assert estimate(rewritten.graph).flops == 2 * 50 * 60 * 70 + 2 * 50 * 70 * 5


@pytest.mark.parametrize("optimize", ["auto", "optimal", "greedy", opt_einsum.paths.DynamicProgramming()])
def test_strategies_and_optimizers_of_opt_einsum_are_taken(optimize: Any) -> None:
    traced = fx.symbolic_trace(chain)
    propagate(traced, (TALL, SQUARE, THIN))
    assert ChoosePaths(optimize=optimize).apply(traced) == 1
    assert estimate(traced.graph).flops == 2 * 60 * 70 * 5 + 2 * 50 * 60 * 5


def test_a_path_that_is_none_is_refused() -> None:
    traced = fx.symbolic_trace(chain)
    propagate(traced, (TALL, SQUARE, THIN))
    with pytest.raises(PlanError):
        ChoosePaths(optimize=((0, 5),)).apply(traced)


def test_contractions_of_one_or_two_have_no_path() -> None:
    check_declined(ChoosePaths(), lambda a, b: E("ij,jk->ik", a, b).sum() + E("ij->", a), (TALL, SQUARE))


def test_each_step_keeps_only_the_labels_that_are_still_needed() -> None:
    n = 30
    a, b, c, d = (torch.rand(n, n) for _ in range(4))
    traced = fx.symbolic_trace(lambda a, b, c, d: E("ij,jk,kl,lm->im", a, b, c, d))
    propagate(traced, (a, b, c, d))
    ChoosePaths().apply(traced)
    equations = [node.args[0] for node in traced.graph.nodes if node.op == "call_function"]
    assert len(equations) == 3
    assert all(equation.count(",") == 1 and len(set(equation) - set(",->")) == 3 for equation in equations)


def test_operands_of_several_dtypes_are_left_with_the_reason() -> None:
    mask = torch.ones(3, dtype=torch.int64)
    check_declined(
        ChoosePaths(), lambda x, m, y: E("i,i,i->i", x, m, y), (torch.rand(3), mask, torch.rand(3)), "dtype"
    )


def test_without_shapes_nothing_is_chosen_and_the_reason_is_said() -> None:
    traced = fx.symbolic_trace(chain)
    before = readable_code(traced.graph)
    with collect_declined() as declined:
        assert ChoosePaths().apply(traced) == 0
    assert declined[0].reason == "the shapes of its operands aren't known"
    assert readable_code(traced.graph) == before


def test_steps_say_which_line_they_come_from() -> None:
    traced = fx.symbolic_trace(chain)
    propagate(traced, (TALL, SQUARE, THIN))
    next(node for node in traced.graph.nodes if node.name == "einsum").meta["stack_trace"] = "here"
    ChoosePaths().apply(traced)
    assert [n.meta["stack_trace"] for n in traced.graph.nodes if n.op == "call_function"] == ["here", "here"]


def over(semiring: str, equation: str, *operands: torch.Tensor, **options: Any) -> torch.Tensor:
    result: torch.Tensor = einfx.einsum(equation, *operands, semiring=semiring, **options)
    return result


@pytest.mark.parametrize("semiring", ["max_plus", "max_times", "base_two"])
def test_a_chain_over_a_semiring_starts_at_its_thin_end(semiring: str) -> None:
    assert OWN[0].name == "base_two"
    check_rewrite(
        ChoosePaths(),
        lambda a, b, c: over(semiring, "ij,jk,kl->il", a, b, c),
        f"""
        einsum_1 = einfx_contract_einsum('ab,bc->ac', b, c, semiring = '{semiring}')
        einsum_2 = einfx_contract_einsum('ab,bc->ac', a, einsum_1, semiring = '{semiring}')
        return einsum_2
        """,
        (TALL, SQUARE, THIN),
        rewrites=1,
    )


def test_a_step_takes_its_operands_as_linear_where_the_whole_does_and_its_results_as_logarithms() -> None:
    check_rewrite(
        ChoosePaths(),
        lambda a, b: over("log", "ij,jk,kl->il", a, b, THIN, linear_operands=(1, 2)),
        """
        _tensor_constant0 = self._tensor_constant0
        einsum_1 = einfx_contract_einsum('ab,bc->ac', b, _tensor_constant0, semiring = 'log', linear_operands = (0, 1))
        einsum_2 = einfx_contract_einsum('ab,bc->ac', a, einsum_1, semiring = 'log')
        return einsum_2
        """,  # noqa: E501
        (TALL, SQUARE),
    )


def test_a_chain_over_log_stays_whole_where_its_exponentials_are_contracted_at_once() -> None:
    def program(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return over("log", "ij,jk,kl->il", a, b, c)

    reason = "computed along its path without a logarithm for every step"
    check_declined(ChoosePaths(), program, (TALL, SQUARE, THIN), reason)


def test_a_path_that_the_caller_gives_is_taken_over_log_too() -> None:
    check_rewrite(
        ChoosePaths(optimize=((0, 1), (0, 1))),
        lambda a, b, c: over("log", "ij,jk,kl->il", a, b, c),
        """
        einsum_1 = einfx_contract_einsum('ab,bc->ac', a, b, semiring = 'log')
        einsum_2 = einfx_contract_einsum('ab,ca->cb', c, einsum_1, semiring = 'log')
        return einsum_2
        """,
        (TALL, SQUARE, THIN),
    )


def test_what_no_pair_makes_smaller_stays_whole() -> None:
    a = torch.rand(8, 200_000)
    check_declined(ChoosePaths(), lambda a: over("log", "ak,ak,ak->a", a, a, a), (a,))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"block_size": 8}, "memory is limited"),
        ({"memory_limit": "64MiB"}, "memory is limited"),
        ({"grad_of_neg_inf": "uniform"}, "grad_of_neg_inf"),
    ],
)
def test_what_is_limited_as_a_whole_stays_whole(options: dict[str, Any], reason: str) -> None:
    check_declined(
        ChoosePaths(),
        lambda a, b, c: over("log", "ij,jk,kl->il", a, b, c, **options),
        (TALL, SQUARE, THIN),
        reason,
    )


def test_integers_keep_the_order_that_einfx_chooses_when_it_runs() -> None:
    operands = [x.mul(10).to(torch.int64) for x in (TALL, SQUARE, THIN)]
    check_declined(
        ChoosePaths(), lambda a, b, c: over("min_plus", "ij,jk,kl->il", a, b, c), operands, "overflow"
    )


def test_the_steps_of_a_boolean_chain_are_bool() -> None:
    traced = check_rewrite(
        ChoosePaths(),
        lambda a, b, c: over("boolean", "ij,jk,kl->il", a, b, c),
        """
        einsum_1 = einfx_contract_einsum('ab,bc->ac', b, c, semiring = 'boolean')
        einsum_2 = einfx_contract_einsum('ab,bc->ac', a, einsum_1, semiring = 'boolean')
        return einsum_2
        """,
        tuple(x > 0.9 for x in (TALL, SQUARE, THIN)),
    )
    values = [value_of(node) for node in traced.graph.nodes if node.op == "call_function"]
    assert [value.dtype for value in values if value is not None] == [torch.bool] * 2


def test_patterns_that_are_taken_as_one_are_written_as_the_one() -> None:
    """A convolution and a pooling in a row are planned as one convolution with a stride."""
    inner, outer = IndexPattern(16, 3, padding=1), IndexPattern(16, 2, stride=2)

    def program(x: Tensor, weight: Tensor) -> Tensor:
        result: Tensor = einfx.einsum(
            "ncij,koi,lpj,dckl,mqo,rsp->ndqs", x, inner, inner, weight, outer, outer
        )
        return result

    x, weight = (
        torch.randn(8, 32, 16, 16, dtype=torch.float64),
        torch.randn(32, 32, 3, 3, dtype=torch.float64),
    )
    traced = fx.symbolic_trace(program)
    propagate(traced, (x, weight))
    assert ChoosePaths().apply(traced) == 1
    traced.recompile()
    convolved = torch.nn.functional.conv2d(x, weight, padding=1)
    torch.testing.assert_close(traced(x, weight), 4 * torch.nn.functional.avg_pool2d(convolved, 2))
