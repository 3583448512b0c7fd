"""Plans take along patterns where they become contractible, and choose the order of what is left."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import einfx
from einfx.conv.contraction import network_of
from einfx.conv.planning import ConvPlan, plan_network
from einfx.conv.planning.cut_plan import CutPlan
from einfx.conv.steps.step import lowerings
from einfx.conv.symbolic.composition import composed
from einfx.conv.symbolic.network import Network, network
from einfx.conv.symbolic.views import View
from einfx.errors import OperandError, PlanError, UsageError
from einfx.pattern import IndexPattern
from tests.conv.reference import close
from tests.conv.symbolic.test_simplify import networks, value

SAME = IndexPattern(16, 3, padding=1)
IMAGE = (8, 64, 16, 16)


def kinds(plan: ConvPlan) -> list[str]:
    """What the steps are lowered to."""
    return [step.kind for step in plan.steps]


def made(equation: str, *operands: tuple[int, ...] | IndexPattern) -> Network:
    """The network of an equation over shapes and patterns."""
    left, output = equation.split("->")
    symbols = [x if isinstance(x, IndexPattern) else View(i, x) for i, x in enumerate(operands)]
    return network([list(part) for part in left.split(",")], list(output), *symbols)


def dense(equation: str, operands: Sequence[Tensor | IndexPattern]) -> Tensor:
    """The contraction of patterns as tensors."""
    built = [x if isinstance(x, Tensor) else x.tensor(torch.float64) for x in operands]
    return torch.einsum(equation, *built)


@settings(max_examples=150, deadline=None)
@given(networks())
def test_every_way_to_lower_a_step_gives_its_result(case: tuple[Network, list[Tensor]]) -> None:
    network, tensors = case
    if not tensors:
        return
    expected = value(network, tensors)
    for lowering in lowerings(network, torch.float64, "cpu"):
        got = lowering.run(tensors)
        assert got.shape == expected.shape
        assert close(got, expected, 1e-10), str(lowering)


@settings(max_examples=100, deadline=None)
@given(networks())
def test_any_path_over_all_operands_gives_the_result(case: tuple[Network, list[Tensor]]) -> None:
    network, tensors = case
    if not tensors:
        return
    path = [(0, 1)] * (len(network.operands) - 1) if len(network.operands) > 1 else [(0,)]
    plan = plan_network(network, torch.float64, optimize=path)
    assert len(plan.steps) == len(path)
    got = plan.run(network.bind(tensors))
    assert close(got, value(network, tensors), 1e-10)


def test_a_convolution_and_its_gradients_are_one_native_step() -> None:
    weight = (64, 64, 3, 3)
    forward = plan_network(made("ncij,koi,lpj,dckl->ndop", IMAGE, SAME, SAME, weight))
    assert kinds(forward) == ["conv2d"]
    assert forward.flops == 2 * 8 * 64 * 64 * 9 * 256
    assert kinds(plan_network(made("ndop,koi,lpj,dckl->ncij", IMAGE, SAME, SAME, weight))) == [
        "conv2d input VJP"
    ]
    assert kinds(plan_network(made("ncij,koi,lpj,ndop->dckl", IMAGE, SAME, SAME, IMAGE))) == [
        "conv2d weight VJP"
    ]
    depthwise = plan_network(made("ncij,koi,lpj,ckl->ncop", IMAGE, SAME, SAME, (64, 3, 3)))
    assert kinds(depthwise) == ["conv2d of 64 groups"]


def test_factorised_kernels_meet_the_image_factor_by_factor() -> None:
    factors = [(64, 8), (64, 8), (3, 8), (3, 8)]
    cp = plan_network(made("ncij,koi,lpj,dr,cr,kr,lr->ndop", IMAGE, SAME, SAME, *factors))
    assert "conv2d of 8 groups" in kinds(cp)
    tucker = plan_network(
        made("ncij,koi,lpj,dr,cs,rskl->ndop", IMAGE, SAME, SAME, (64, 16), (64, 16), (16, 16, 3, 3))
    )
    assert kinds(tucker) == ["GEMM", "conv2d", "GEMM"]
    assert (
        tucker.flops < plan_network(made("ncij,koi,lpj,dckl->ndop", IMAGE, SAME, SAME, (64, 64, 3, 3))).flops
    )


def test_a_linear_map_goes_into_the_kernel_where_that_is_smaller() -> None:
    shrinking = plan_network(made("ncij,koi,lpj,mckl,dm->ndop", IMAGE, SAME, SAME, (64, 64, 3, 3), (16, 64)))
    assert shrinking.steps[0].operands == (3, 4)
    growing = plan_network(made("ncij,koi,lpj,mckl,dm->ndop", IMAGE, SAME, SAME, (16, 64, 3, 3), (256, 16)))
    assert growing.steps[0].kind == "conv2d"


def test_two_convolutions_in_a_row_are_two_steps() -> None:
    plan = plan_network(
        made(
            "ncij,koi,lpj,mckl,qao,rbp,dmqr->ndab",
            (8, 16, 16, 16), SAME, SAME, (64, 16, 3, 3), SAME, SAME, (16, 64, 3, 3),
        )
    )  # fmt: skip
    assert kinds(plan) == ["conv2d", "conv2d"]


def test_pooling_after_a_convolution_goes_into_its_kernel() -> None:
    pool = IndexPattern(16, 2, stride=2)
    equation = "ncij,koi,lpj,dckl,mqo,rsp->ndqs"
    plan = plan_network(made(equation, IMAGE, SAME, SAME, (64, 64, 3, 3), pool, pool))
    assert kinds(plan)[-1] == "conv2d"
    assert plan.network.patterns[0] == IndexPattern(4, 3)
    x, weight = torch.randn(IMAGE, dtype=torch.float64), torch.randn(64, 64, 3, 3, dtype=torch.float64)
    expected = 4 * torch.nn.functional.avg_pool2d(torch.nn.functional.conv2d(x, weight, padding=1), 2)
    assert close(einfx.einsum(equation, x, SAME, SAME, weight, pool, pool), expected, 1e-12)


def test_patterns_in_a_row_compose() -> None:
    torch.manual_seed(0)
    for first in (IndexPattern(13, 3, 2, (1, 2)), IndexPattern(13, 2, 1, 1, 3), IndexPattern(13, 1, 2)):
        for second in (IndexPattern(first.output_size, 2, 2), IndexPattern(first.output_size, 2, 1, 0, 2)):
            x, a, b = (torch.randn(n, dtype=torch.float64) for n in (13, first.kernel_size, 2))
            whole = network_of("i,kmi,k,lom,l->o", (x, first, a, second, b))
            longer = composed(whole)
            assert longer is not None
            expected = dense("i,kmi,k,lom,l->o", (x, first, a, second, b))
            got = plan_network(longer, torch.float64).run(longer.bind([x, None, a, None, b]))  # type: ignore[list-item]
            assert close(got, expected, 1e-12), (first, second)
    # Padding between them is no part of a longer kernel.
    padded = network_of(
        "i,kmi,k,lom,l->o",
        (
            torch.ones(13),
            SAME.narrow("input", 0, 13),
            torch.ones(3),
            IndexPattern(16, 3, 1, 1),
            torch.ones(3),
        ),
    )
    assert composed(padded) is None


def test_averaged_patches_and_pooling_are_sums_of_slices() -> None:
    averaged = plan_network(made("ncij,koi,lpj->nckl", IMAGE, SAME, SAME))
    pooled = plan_network(made("ncij,koi,lpj->ncop", IMAGE, SAME, SAME))
    assert kinds(averaged) == kinds(pooled) == ["sums of slices"]
    assert averaged.peak_bytes < 4 * 8 * 64 * 256


def test_a_boolean_tensor_is_built_only_where_nothing_else_is_left() -> None:
    alone = plan_network(made("i,koi,lpi->klop", (64,), IndexPattern(64, 3), IndexPattern(64, 5)))
    assert "dense pattern" in kinds(alone)[0]
    row = plan_network(made("i,koi,lpo->klp", (64,), IndexPattern(64, 3), IndexPattern(62, 5)))
    assert "dense pattern" not in kinds(row)[0]


def test_plans_are_data_and_print() -> None:
    net = made("ncij,koi,lpj,dckl->ndop", IMAGE, SAME, SAME, (64, 64, 3, 3))
    plan = plan_network(net)
    assert plan is plan_network(net)
    assert hash(plan) == hash(plan_network(net, torch.float32, torch.device("cpu")))
    assert "conv2d" in str(plan)
    assert str(plan).count("\n") == 3


def test_many_tensors_are_planned_greedily() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    factors = [torch.randn(2, 3, dtype=torch.float64)] + [torch.randn(2, 2, dtype=torch.float64)] * 5
    kernel = torch.randn(2, 3, dtype=torch.float64)
    equation = "nci,koi,ac,ba,db,ed,fe,gf,gk->no"
    operands: list[Tensor | IndexPattern] = [x, IndexPattern(8, 3), *factors, kernel]
    assert close(einfx.einsum(equation, *operands), dense(equation, operands), 1e-12)


def test_paths_that_make_no_sense_are_refused() -> None:
    net = made("nci,koi,dck->ndo", (2, 3, 8), IndexPattern(8, 3), (4, 3, 3))
    with pytest.raises(PlanError, match="takes operands"):
        plan_network(net, optimize=[(0, 7)])
    with pytest.raises(PlanError, match="leaves 2 operands"):
        plan_network(net, optimize=[(0, 1)])
    with pytest.raises(PlanError, match="optimize='greedy'"):
        plan_network(net, optimize="greedy")


def test_contract_path_shows_the_plan_of_a_contraction_with_patterns() -> None:
    pattern = IndexPattern(8, 3)
    plan = einfx.contract_path("nci,koi,dck->ndo", (2, 3, 8), pattern, (4, 3, 3))
    assert isinstance(plan, ConvPlan)
    assert plan.network.shape == (2, 4, 6)
    cut = einfx.contract_path("nci,koi->nckoi", (64, 3, 8), pattern, memory_limit="200 KiB")
    assert isinstance(cut, (ConvPlan, CutPlan))
    with pytest.raises(UsageError, match="over real numbers"):
        einfx.contract_path("nci,koi->nck", (2, 3, 8), pattern, semiring="log")


def test_an_expression_holds_its_patterns() -> None:
    pattern, weight = IndexPattern(8, 3), torch.randn(4, 3, 3)
    expression = einfx.contract_expression("nci,koi,dck->ndo", (2, 3, 8), pattern, weight, constants=[2])
    x = torch.randn(2, 3, 8)
    expected = torch.nn.functional.conv1d(x, weight)
    assert torch.equal(expression(x), expected)
    assert torch.allclose(expression(x[:1]), expected[:1], atol=1e-5)
    assert "conv1d" in repr(expression)
    with pytest.raises(OperandError, match="takes 1 operand"):
        expression(x, weight)
