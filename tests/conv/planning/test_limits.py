"""Contractions with patterns keep to a memory limit, and give the same result block by block."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import einfx
from einfx.conv.contraction import network_of
from einfx.conv.planning import ConvPlan
from einfx.conv.planning.cut_plan import CutPlan
from einfx.conv.planning.limits import plan_within
from einfx.errors import MemoryLimitError, UsageError
from einfx.pattern import IndexPattern
from tests.conv.reference import close

SAME = IndexPattern(16, 3, padding=1)
HALF = IndexPattern(16, 3, 2, 1)


def tensor(*shape: int) -> Tensor:
    """A random tensor of float64."""
    return torch.randn(shape, dtype=torch.float64)


CASES: dict[str, tuple[str, Callable[[], tuple[Tensor | IndexPattern, ...]]]] = {
    "forward": (
        "ncij,koi,lpj,dckl->ndop",
        lambda: (tensor(6, 8, 16, 16), SAME, HALF, tensor(8, 8, 3, 3)),
    ),
    "input vjp": (
        "ndop,koi,lpj,dckl->ncij",
        lambda: (tensor(6, 8, 16, 8), SAME, HALF, tensor(8, 8, 3, 3)),
    ),
    "weight vjp": (
        "ncij,koi,lpj,ndop->dckl",
        lambda: (tensor(6, 8, 16, 16), SAME, HALF, tensor(6, 8, 16, 8)),
    ),
    "unfold": ("ncij,koi,lpj->ncklop", lambda: (tensor(6, 4, 16, 16), SAME, HALF)),
    "fold": ("ncklop,koi,lpj->ncij", lambda: (tensor(6, 4, 3, 3, 16, 8), SAME, HALF)),
    "averages": ("ncij,koi,lpj->nckl", lambda: (tensor(6, 32, 16, 16), SAME, HALF)),
    "pooling": ("ncij,koi,lpj->ncop", lambda: (tensor(6, 32, 16, 16), SAME, HALF)),
    "factors": (
        "ncij,koi,lpj,dr,cr,kr,lr->ndop",
        lambda: (tensor(6, 8, 16, 16), SAME, HALF, tensor(8, 4), tensor(8, 4), tensor(3, 4), tensor(3, 4)),
    ),
}


def kfc() -> tuple[str, tuple[Tensor | IndexPattern, ...]]:
    """A Kronecker factor: one tensor twice."""
    x = tensor(6, 4, 16, 16)
    return "ncij,koi,lpj,ndxy,qox,rpy->ckldqr", (x, SAME, HALF, x, SAME, HALF)


def measured(function: Callable[[], Tensor]) -> int:
    """The most bytes that torch has allocated at any time during a call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        result = function()
    events = [event for event in run.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    del result
    return most


@pytest.mark.parametrize("part", [0.8, 0.4, 0.0])
@pytest.mark.parametrize("name", [*CASES, "kfc"])
def test_what_is_allocated_stays_within_the_limit(name: str, part: float) -> None:
    equation, operands = kfc() if name == "kfc" else (CASES[name][0], CASES[name][1]())
    expected = einfx.einsum(equation, *operands)
    whole = plan_within(network_of(equation, operands), torch.float64, "cpu", 1 << 40)
    least = int(1.1 * expected.numel() * expected.element_size()) + 40_000
    limit = max(int(part * whole.peak_bytes), least)
    got = einfx.einsum(equation, *operands, memory_limit=limit)
    assert close(got, expected, 1e-12)
    assert measured(lambda: einfx.einsum(equation, *operands, memory_limit=limit)) <= limit


def test_a_limit_that_is_large_enough_changes_nothing() -> None:
    operands = CASES["forward"][1]()
    made = plan_within(network_of(CASES["forward"][0], operands), torch.float64, "cpu", 1 << 30)
    assert isinstance(made, ConvPlan)
    assert [step.kind for step in made.steps] == ["conv2d"]


def test_a_batch_is_cut_before_positions_and_positions_before_sums() -> None:
    equation, make = CASES["averages"]
    operands = make()
    network = network_of(equation, operands)
    result = 8 * 6 * 32 * 9
    made = plan_within(network, torch.float64, "cpu", 2 * result)
    assert isinstance(made, CutPlan)
    assert {label for label, _ in made.cuts} <= {0, 1}
    assert "in blocks of" in str(made)
    assert made.peak_bytes <= 2 * result
    dense = network_of("i,koi->o", (tensor(16), SAME))
    alone = plan_within(dense, torch.float64, "cpu", 8 * 16 + 100)
    assert alone.peak_bytes <= 8 * 16 + 100


def test_where_nothing_fits_the_error_says_what_would() -> None:
    equation, make = CASES["unfold"]
    operands = make()
    with pytest.raises(MemoryLimitError, match="smallest limit that is enough is") as raised:
        einfx.einsum(equation, *operands, memory_limit="10 KiB")
    needed = int(str(raised.value).split("enough is ")[1].split(" ")[0])
    expected = einfx.einsum(equation, *operands)
    assert close(einfx.einsum(equation, *operands, memory_limit=needed), expected)
    with pytest.raises(UsageError, match="block_size"):
        einfx.einsum(equation, *operands, block_size=3)


def test_blocks_differentiate_and_map() -> None:
    equation, operands = "nci,koi,dck->ndo", (tensor(4, 2, 16), SAME, tensor(3, 2, 3))
    x, _, weight = operands
    limit = 8 * 4 * 3 * 16 + 3000

    def limited(x: Tensor, weight: Tensor) -> Tensor:
        result: Tensor = einfx.einsum(equation, x, SAME, weight, memory_limit=limit)
        return result

    network = network_of(equation, operands)
    assert isinstance(plan_within(network, torch.float64, "cpu", limit), CutPlan)
    assert torch.autograd.gradcheck(limited, (x.requires_grad_(), weight.requires_grad_()))
    many = torch.stack([x.detach(), 2 * x.detach()])
    mapped = torch.func.vmap(lambda each: limited(each, weight.detach()))(many)
    assert close(mapped[1], 2 * limited(x.detach(), weight.detach()))


def test_low_precision_is_summed_in_float32() -> None:
    x, v = torch.ones(4096, 1, 8), torch.ones(4096, 1, 8)
    got = einfx.einsum(
        "nci,koi,ndo->dck", x.bfloat16(), IndexPattern(8, 3, padding=1), v.bfloat16(), memory_limit=30_000
    )
    assert got.dtype == torch.bfloat16
    assert got.flatten().tolist() == [4096 * 7, 4096 * 8, 4096 * 7]


def test_what_costs_least_time_is_cut_first() -> None:
    same = IndexPattern(32, 3, padding=1)
    operands = torch.empty(8, 64, 32, 32), same, same, torch.empty(64, 64, 3, 3)
    network = network_of("ncij,koi,lpj,dckl->ndop", operands)
    batch, channels = network.equation.output[:2]
    roomy = plan_within(network, torch.float32, "cpu", 6 << 20)
    assert isinstance(roomy, CutPlan)
    assert [label for label, _ in roomy.cuts] == [batch]
    for limit in (3 << 20, 2200 << 10):
        tight = plan_within(network, torch.float32, "cpu", limit)
        assert isinstance(tight, CutPlan)
        assert channels not in [label for label, _ in tight.cuts]


def test_operands_that_are_not_contiguous_count_as_their_copies() -> None:
    x, weight = tensor(16, 8, 64).transpose(0, 1), tensor(3, 16, 3)
    operands = x, IndexPattern(64, 3), weight
    expected = einfx.einsum("nci,koi,dck->ndo", *operands)
    limit = expected.numel() * 8 + 32_000
    assert limit < x.numel() * 8 + expected.numel() * 8
    got = einfx.einsum("nci,koi,dck->ndo", *operands, memory_limit=limit)
    assert close(got, expected)
    assert measured(lambda: einfx.einsum("nci,koi,dck->ndo", *operands, memory_limit=limit)) <= limit
