"""Plans in blocks as data: kept as text, run, derived, cut into jobs."""

from __future__ import annotations

import copy
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import einfx
from einfx import SlicedPlan
from einfx.errors import EinfxError, MemoryLimitError, OperandError, PlanError, UsageError
from einfx.slicing.plans.jobs import Job
from tests.slicing.networks import network

CHAIN = "ij,jk,kl,lm->im"
SHAPES = [(30, 20), (20, 40), (40, 50), (50, 10)]


def _operands(shapes: Any = SHAPES, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]


def _plan(limit: Any = "5 KB", semiring: str = "real", **options: Any) -> SlicedPlan:
    made = einfx.contract_path(
        CHAIN, *SHAPES, dtype=torch.float64, memory_limit=limit, semiring=semiring, **options
    )
    assert isinstance(made, SlicedPlan)
    return made


def _limited(seed: int, semiring: str = "real") -> tuple[str, list[Tensor], SlicedPlan]:
    """A random contraction, within the least limit that its plan keeps."""
    made = network(seed)
    plan: Any
    try:
        plan = einfx.contract_path(made.text, *made.operands, semiring=semiring, memory_limit=0)
    except MemoryLimitError as error:
        limit = error.needed_bytes
        plan = einfx.contract_path(made.text, *made.operands, semiring=semiring, memory_limit=limit)
    return made.text, made.operands, plan


def test_a_plan_says_what_it_takes_and_where() -> None:
    plan = _plan()
    assert plan.peak_bytes <= 5000
    assert plan.slices > 1
    assert plan.flops >= plan.unlimited_flops > 0
    assert plan.naive_flops == 4 * 30 * 20 * 40 * 50 * 10
    assert {loop.label for loop in plan.loops} <= set("ijklm")
    shown = str(plan)
    assert shown.startswith(f"{CHAIN}  (30x20, 20x40, 40x50, 50x10; float64 on cpu)\n")
    assert shown.count("<- peak") == 1
    assert "of 4.883 KiB" in shown


def test_flops_of_a_plan_without_loops_are_those_of_its_steps() -> None:
    plan = einfx.contract_path("ij,jk,kl->il", (10, 20), (20, 30), (30, 5), memory_limit="1 MiB")
    assert plan.flops == plan.unlimited_flops == 2 * (20 * 30 * 5 + 10 * 20 * 5)
    assert plan.path == ((1, 2), (0, 1))


@pytest.mark.parametrize("seed", range(8))
def test_a_plan_and_its_gradients_are_the_same_after_a_round_trip_through_text(seed: int) -> None:
    text, operands, plan = _limited(seed)
    for made in (plan, einfx.contract_path(text, *operands).vjp()):
        again = SlicedPlan.from_text(made.to_text())
        assert again == made
        assert hash(again) == hash(made)
        assert str(again) == str(made)
        assert pickle.loads(pickle.dumps(made)) == made
        assert copy.deepcopy(made) == made


@pytest.mark.parametrize("seed", range(15))
def test_a_plan_within_the_least_limit_computes_what_numpy_does(seed: int) -> None:
    text, operands, plan = _limited(seed)
    expected = torch.as_tensor(np.einsum(text, *[x.numpy() for x in operands]))
    torch.testing.assert_close(plan.run(*operands), expected)
    torch.testing.assert_close(einfx.einsum(text, *operands, optimize=plan.to_text()), expected)


@pytest.mark.parametrize("seed", range(15))
def test_plans_of_gradients_agree_with_autograd(seed: int) -> None:
    made = network(seed)
    leaves = [x.clone().requires_grad_() for x in made.operands]
    result = torch.einsum(made.text, leaves)
    gradient = torch.randn_like(result)
    wanted = [random.Random(seed + i).random() < 0.7 for i in range(len(leaves))]
    wanted[seed % len(leaves)] = True
    expected = torch.autograd.grad(result, [x for x, w in zip(leaves, wanted, strict=True) if w], gradient)
    whole = einfx.contract_path(made.text, *made.operands)
    limited = einfx.contract_path(made.text, *made.operands, memory_limit="1 MiB")
    for plan in (whole, limited):
        found = plan.vjp(wanted).run(*made.operands, gradient)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("semiring", ["log", "max_plus"])
def test_plans_of_gradients_over_semirings_agree_with_autograd(semiring: str) -> None:
    operands = _operands()
    leaves = [x.clone().requires_grad_() for x in operands]
    result = einfx.einsum(CHAIN, *leaves, semiring=semiring)
    gradient = torch.randn_like(result)
    expected = torch.autograd.grad(result, leaves, gradient)
    plan = _plan("60 KB", semiring)
    found = plan.vjp().run(*operands, gradient, plan.run(*operands))
    torch.testing.assert_close(found, expected)


def test_gradients_of_operands_that_repeat_or_broadcast_have_their_shapes() -> None:
    operands = _operands([(3, 3, 4), (1, 5), (6, 5)])
    leaves = [x.clone().requires_grad_() for x in operands]
    result = torch.einsum("iij,jk,lk->il", leaves)
    gradient = torch.randn_like(result)
    expected = torch.autograd.grad(result, leaves, gradient)
    plan = einfx.contract_path("iij,jk,lk->il", *operands, memory_limit="1 MiB")
    torch.testing.assert_close(plan.vjp().run(*operands, gradient), expected)
    for jobs in (plan.jobs(2), plan.vjp().jobs(2)):
        assert len(jobs) == 2


def test_complex_gradients_agree_with_autograd() -> None:
    operands = [torch.complex(x, y) for x, y in zip(_operands(), _operands(seed=1), strict=True)]
    leaves = [x.clone().requires_grad_() for x in operands]
    result = torch.einsum(CHAIN, leaves)
    gradient = torch.randn_like(result)
    plan = einfx.contract_path(CHAIN, *operands, memory_limit="70 KB")
    expected = torch.autograd.grad(result, leaves, gradient)
    torch.testing.assert_close(plan.vjp().run(*operands, gradient), expected)


@pytest.mark.parametrize("semiring", ["real", "log", "max_plus"])
@pytest.mark.parametrize("count", [None, 3])
def test_jobs_in_any_order_give_the_whole(semiring: str, count: int | None) -> None:
    operands, plan = _operands(), _plan(semiring=semiring)
    jobs = plan.jobs(count)
    assert len(jobs) == (count or plan.slices) > 1
    order = random.Random(0).sample(range(len(jobs)), len(jobs))
    found = jobs.merge({i: Job.from_text(jobs[i].to_text()).run(*operands) for i in order})
    torch.testing.assert_close(found, einfx.einsum(CHAIN, *operands, semiring=semiring))


@pytest.mark.parametrize("seed", range(10))
def test_jobs_of_random_contractions_and_of_their_gradients_give_the_whole(seed: int) -> None:
    text, operands, plan = _limited(seed, ["real", "log", "max_plus"][seed % 3])
    result = plan.run(*operands)
    back = einfx.contract_path(text, *operands, semiring=plan.options.semiring.name).vjp()
    given = (*operands, torch.randn_like(result), result)[: back.schedule.count]
    for made, tensors in ((plan, operands), (back, given)):
        whole = made.run(*tensors)
        for count in (None, 2, 3):
            jobs = made.jobs(count)
            if len(jobs) <= 12:
                torch.testing.assert_close(jobs.merge([job.run(*tensors) for job in jobs]), whole)


def test_what_a_job_says_of_its_ranges_and_of_the_merge() -> None:
    plan = einfx.contract_path("ij,jk->ik", (4, 9), (9, 5), memory_limit="1 MiB")
    jobs = plan.jobs(3)
    assert [job.ranges for job in jobs] == [{"j": (0, 3)}, {"j": (3, 6)}, {"j": (6, 9)}]
    assert jobs.merges == ({"j": "add"},)
    assert plan.vjp().jobs(3).merges == ({"j": "concatenate"}, {"j": "concatenate"})
    assert str(plan.jobs()) == "1 job, the whole"
    assert len(plan.jobs(1)) == 1
    assert [x.shape for x in jobs[0].narrow(torch.ones(4, 9), torch.ones(9, 5))] == [(4, 3), (3, 5)]


def test_equal_best_terms_in_different_jobs_have_one_gradient() -> None:
    x, y = torch.zeros(2, 8), torch.zeros(8, 3)
    plan = einfx.contract_path("ij,jk->ik", x, y, semiring="max_plus", memory_limit="1 MiB")
    back = plan.vjp()
    jobs = back.jobs(4)
    assert "j" not in jobs.merges[0]
    given = (x, y, torch.ones(2, 3), plan.run(x, y))
    gradients = jobs.merge([job.run(*given) for job in jobs])
    assert gradients[0].sum() == gradients[1].sum() == 6
    torch.testing.assert_close(gradients, back.run(*given))


def test_sums_of_jobs_over_logarithms_that_are_minus_infinity_stay_so() -> None:
    x = torch.full((2, 6), -torch.inf)
    plan = einfx.contract_path("ij->i", x, semiring="log", memory_limit="1 KiB")
    jobs = plan.jobs(3)
    assert jobs.merge([job.run(x) for job in jobs]).tolist() == [-torch.inf] * 2


def test_operands_that_lie_otherwise_than_planned_for_stay_within_the_limit() -> None:
    operands = _operands()
    turned = [x.t().contiguous().t() for x in operands]
    plan = _plan()
    expected = einfx.einsum(CHAIN, *operands)
    torch.testing.assert_close(plan.run(*turned), expected)
    torch.testing.assert_close(einfx.einsum(CHAIN, *turned, optimize=plan), expected)


def test_half_precision_has_a_plan_that_runs_and_none_of_gradients() -> None:
    operands = [x.to(torch.bfloat16) for x in _operands()]
    plan = einfx.contract_path(CHAIN, *operands, memory_limit="20 KB")
    found = plan.run(*operands)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, einfx.einsum(CHAIN, *operands, memory_limit="20 KB"))
    with pytest.raises(PlanError, match="has no plan of gradients"):
        plan.vjp()
    with pytest.raises(PlanError, match="can't be cut into jobs"):
        plan.jobs()


@pytest.mark.parametrize(
    ("misuse", "kind", "message"),
    [
        (lambda p, x: p.run(*x[1:]), OperandError, r"takes 4 operand\(s\): 4 tensor\(s\), but 3 were given"),
        (
            lambda p, x: p.run(x[0].float(), *x[1:]),
            PlanError,
            r"operand 0 of torch.float64, not of torch.float32",
        ),
        (
            lambda p, x: p.run(x[0][1:], *x[1:]),
            PlanError,
            r"operand 0 of shape \(30, 20\), not of \(29, 20\)",
        ),
        (lambda p, x: p.vjp((True,)), PlanError, r"needs_grad=\(True,\): .* has 4 operand\(s\)"),
        (lambda p, x: p.vjp((False,) * 4), PlanError, "one of them true"),
        (lambda p, x: p.jobs(0), UsageError, "count=0"),
        (lambda p, x: p.jobs(2).merge([]), OperandError, "cut into 2 jobs, but results of 0"),
        (lambda p, x: p.jobs(2).merge([torch.ones(3)] * 2), OperandError, r"job 0 .* gives \("),
        (lambda p, x: p.jobs(2)[2], IndexError, "none is number 2"),
        (lambda p, x: SlicedPlan.from_text("{}"), PlanError, "isn't the text of a plan in blocks"),
        (lambda p, x: SlicedPlan.from_text("nothing"), PlanError, "isn't the text of a plan in blocks"),
        (lambda p, x: Job.from_text("[1]"), PlanError, "isn't the text of a job"),
        (
            lambda p, x: SlicedPlan.from_text(p.to_text().replace('"shapes": [[30', '"shapes": [[31')),
            EinfxError,
            "broken",
        ),
    ],
)
def test_misuse_is_told(misuse: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        misuse(_plan(), _operands())


def test_plans_of_gradients_are_not_derived_again_and_take_what_they_say() -> None:
    operands, back = _operands(), _plan("40 KB").vjp()
    with pytest.raises(PlanError, match="of the gradients of 'ij,jk,kl,lm->im' already"):
        back.vjp()
    with pytest.raises(OperandError, match="then the gradient of the result: 5 tensor"):
        back.run(*operands)
    with pytest.raises(OperandError, match=r"takes the gradient of the result as .* of shape \(30, 10\)"):
        back.run(*operands, torch.ones(3, dtype=torch.float64))
    with pytest.raises(PlanError, match="plan of the gradients"):
        einfx.einsum(CHAIN, *operands, optimize=back)


def test_a_limit_too_small_for_the_gradients_is_refused_with_one_that_is_enough() -> None:
    plan = _plan("5 KB")
    with pytest.raises(
        MemoryLimitError, match=r"'ij,jk,kl,lm->im', .* gradients: memory_limit=5000"
    ) as caught:
        plan.vjp()
    assert caught.value.needed_bytes is not None
    assert _plan(caught.value.needed_bytes).vjp().peak_bytes <= caught.value.needed_bytes
