"""What contract_path returns, and what einsum does with it."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import einfx
from einfx import Plan, SlicedPlan
from einfx.errors import EquationError, MemoryLimitError, OperandError, PlanError, UsageError

CHAIN = "ij,jk,kl,lm->im"
SHAPES = [(60, 50), (50, 80), (80, 70), (70, 40)]
LIMIT = 25_000


def _operands(requires_grad: bool = False) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_(requires_grad)
        for shape in SHAPES
    ]


def _taken(work: Any) -> int:
    """The most that torch allocates at once."""
    work()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        kept = work()
    now = most = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    del kept
    return most


def test_without_a_limit_it_is_a_plan_of_steps_and_with_one_the_program_of_loops() -> None:
    operands = _operands()
    assert isinstance(einfx.contract_path(CHAIN, *operands), Plan)
    plan = einfx.contract_path(CHAIN, *operands, memory_limit=LIMIT)
    assert isinstance(plan, SlicedPlan)
    assert plan.loops
    assert plan.peak_bytes <= LIMIT


def test_the_peak_of_a_plan_is_what_einsum_takes() -> None:
    operands = _operands()
    plan = einfx.contract_path(CHAIN, *operands, memory_limit=LIMIT)
    for words in ({"memory_limit": LIMIT}, {"optimize": plan}):
        taken = _taken(partial(einfx.einsum, CHAIN, *operands, **words))
        assert plan.peak_bytes <= taken <= plan.peak_bytes + 200


def test_the_letters_of_a_printed_plan_are_the_users() -> None:
    plan = einfx.contract_path("...q, qz -> ...z", (2, 3, 4), (4, 5), memory_limit="1 KiB")
    assert str(plan).splitlines()[0].startswith("abq,qz->abz  (2x3x4, 4x5;")


def test_a_plan_runs_again_in_another_process(tmp_path: Path) -> None:
    operands = _operands()
    plan = einfx.contract_path(CHAIN, *operands, memory_limit=LIMIT)
    (tmp_path / "plan.json").write_text(plan.to_text())
    torch.save([*operands, plan.jobs(2)[1].to_text()], tmp_path / "operands.pt")
    program = (
        "import einfx, torch; from einfx.slicing.plans.jobs import Job; from pathlib import Path\n"
        "*operands, job = torch.load('operands.pt')\n"
        f"whole = einfx.einsum({CHAIN!r}, *operands, optimize=Path('plan.json').read_text())\n"
        "torch.save((whole, Job.from_text(job).run(*operands)), 'results.pt')"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, env=_environment())
    whole, part = torch.load(tmp_path / "results.pt")
    expected = torch.linalg.multi_dot(operands)
    torch.testing.assert_close(whole, expected)
    jobs = plan.jobs(2)
    torch.testing.assert_close(jobs.merge([jobs[0].run(*operands), part]), expected)


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


@pytest.mark.parametrize("semiring", ["real", "log", "max_plus"])
def test_gradients_of_a_plan_that_was_given_agree_and_stay_within_its_limit(semiring: str) -> None:
    limit = 400_000 if semiring == "log" else 200_000
    plan = einfx.contract_path(CHAIN, *_operands(), semiring=semiring, memory_limit=limit)
    leaves, others = _operands(True), _operands(True)
    found = einfx.einsum(CHAIN, *leaves, semiring=semiring, optimize=plan)
    expected = einfx.einsum(CHAIN, *others, semiring=semiring)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), leaves),
        torch.autograd.grad(expected.square().sum(), others),
    )


def test_second_derivatives_and_torch_func_go_through_a_plan() -> None:
    plan = einfx.contract_path("ij,jk->ik", (3, 4), (4, 5), dtype=torch.float64, memory_limit="4 KiB")
    x, y = torch.randn(3, 4, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)

    def run(a: Tensor, b: Tensor) -> Tensor:
        result: Tensor = einfx.einsum("ij,jk->ik", a, b, optimize=plan)
        return result.square().sum()

    assert torch.autograd.gradgradcheck(run, (x.requires_grad_(), y.requires_grad_()))
    batch = torch.randn(6, 3, 4, dtype=torch.float64)
    found = torch.func.vmap(lambda a: einfx.einsum("ij,jk->ik", a, y.detach(), optimize=plan))(batch)
    torch.testing.assert_close(found, batch @ y.detach())


def test_a_plan_without_a_limit_gives_its_path() -> None:
    operands = _operands()
    plan = einfx.contract_path(CHAIN, *operands, optimize=[(0, 1), (0, 2), (0, 1)])
    torch.testing.assert_close(
        einfx.einsum(CHAIN, *operands, optimize=plan.to_text()), torch.linalg.multi_dot(operands)
    )
    limited = einfx.contract_path(CHAIN, *operands, optimize=plan, memory_limit=60_000)
    assert limited.path == plan.path


def test_a_traced_program_keeps_the_path_and_the_limit_of_a_plan() -> None:
    operands = _operands()
    plan = einfx.contract_path(CHAIN, *operands, memory_limit=LIMIT)

    def program(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        result: Tensor = einfx.einsum(CHAIN, a, b, c, d, optimize=plan)
        return result

    graph = torch.fx.symbolic_trace(program)
    node = next(node for node in graph.graph.nodes if node.op == "call_function")
    assert node.kwargs == {"optimize": plan.path, "memory_limit": LIMIT}
    torch.testing.assert_close(graph(*operands), torch.linalg.multi_dot(operands))


def test_a_compiled_program_keeps_the_path_and_the_limit_of_a_plan() -> None:
    operands = _operands()
    plan = einfx.contract_path(CHAIN, *operands, memory_limit="1 MiB")
    for optimize in (plan, plan.to_text(), einfx.contract_path(CHAIN, *operands)):
        compiled = torch.compile(
            partial(einfx.einsum, CHAIN, optimize=optimize), backend="eager", fullgraph=True
        )
        torch.testing.assert_close(compiled(*operands), torch.linalg.multi_dot(operands))


def _tree(cotengra: Any) -> Any:
    sizes = {"i": 60, "j": 50, "k": 80, "l": 70, "m": 40}
    inputs = [("i", "j"), ("j", "k"), ("k", "l"), ("l", "m")]
    return cotengra.array_contract_tree(inputs, ("i", "m"), sizes, optimize="greedy", canonicalize=False)


def test_the_slices_of_a_cotengra_tree_are_loops() -> None:
    cotengra = pytest.importorskip("cotengra")
    operands = _operands()
    tree = _tree(cotengra)
    tree.remove_ind_("k")
    tree.remove_ind_("m")
    plan = einfx.contract_path(CHAIN, *operands, optimize=tree)
    assert {(loop.label, loop.block) for loop in plan.loops} == {("k", 1), ("m", 1)}
    assert plan.slices == 80 * 40
    tree = _tree(cotengra)
    tree.remove_ind_("m")
    expected = torch.linalg.multi_dot(operands)
    torch.testing.assert_close(einfx.einsum(CHAIN, *operands, optimize=tree), expected)
    leaves = _operands(True)
    einfx.einsum(CHAIN, *leaves, optimize=tree).sum().backward()
    others = _operands(True)
    torch.linalg.multi_dot(others).sum().backward()
    for x, y in zip(leaves, others, strict=True):
        torch.testing.assert_close(x.grad, y.grad)
    with pytest.raises(PlanError, match="cotengra tree of 4 operand"):
        einfx.einsum("ij,jk,kl->il", *operands[:3], optimize=tree)


@pytest.mark.parametrize("semiring", ["real", "log"])
def test_expressions_keep_a_plan_and_its_constants(semiring: str) -> None:
    operands = _operands()
    expected = einfx.einsum(CHAIN, *operands, semiring=semiring)
    limit = LIMIT if semiring == "real" else 120_000
    plan = einfx.contract_path(CHAIN, *operands, semiring=semiring, memory_limit=limit)
    for optimize in ("auto", plan, plan.to_text()):
        words: dict[str, Any] = {"semiring": semiring, "optimize": optimize}
        if optimize == "auto":
            words["memory_limit"] = limit
        expression = einfx.contract_expression(
            CHAIN, *operands, constants=[1, 2], dtype=torch.float64, **words
        )
        assert expression.plan == plan
        torch.testing.assert_close(expression(operands[0], operands[3]), expected)
        other = operands[3][:, :7]
        torch.testing.assert_close(expression(operands[0], other), expected[:, :7])


def test_expressions_of_a_plan_search_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    operands = _operands()
    expression = einfx.contract_expression(CHAIN, *operands, memory_limit=LIMIT)

    def searched(*_: Any, **__: Any) -> None:
        raise AssertionError("a plan that is there is not searched for")

    monkeypatch.setattr("einfx.slicing.plans.contraction.find_schedule", searched)
    monkeypatch.setattr("einfx.slicing.plans.contraction.find_paths", searched)
    torch.testing.assert_close(expression(*operands), torch.linalg.multi_dot(operands))


def test_explain_takes_plans_and_expressions_within_a_limit(capsys: pytest.CaptureFixture[str]) -> None:
    plan = einfx.contract_path(CHAIN, *SHAPES, memory_limit=LIMIT)
    assert einfx.explain(plan) is plan
    einfx.explain(einfx.contract_expression(CHAIN, *SHAPES, memory_limit=LIMIT))
    assert capsys.readouterr().out.count(f"{CHAIN}  (60x50") == 2


def test_arrays_of_numpy_are_taken_by_their_shape_and_dtype() -> None:
    plan = einfx.contract_path("ij,jk->ik", np.ones((3, 4)), np.ones((4, 5)), memory_limit="1 KiB")
    assert plan.dtype == torch.float64


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (
            {"memory_limit": 0},
            MemoryLimitError,
            r"'ij,jk,kl,lm->im', read as .*memory_limit=0 .* it needs \d+",
        ),
        ({"memory_limit": -1}, UsageError, "memory_limit=-1: it is a number of bytes"),
        ({"memory_limit": "12 parsecs"}, UsageError, "memory_limit='12 parsecs': it is a number of bytes"),
        ({"memory_limit": 2.5}, UsageError, "memory_limit=2.5"),
        ({"memory_limit": True}, UsageError, "memory_limit=True"),
        ({"memory_limit": 19_199}, MemoryLimitError, "memory_limit=19199 .* is too little"),
        ({"semiring": "fuzzy"}, UsageError, "fuzzy"),
        ({"optimize": "best"}, PlanError, "optimize='best' isn't a strategy"),
        ({"optimize": "{}"}, PlanError, "isn't the text of a plan"),
    ],
)
def test_bad_words_are_told(words: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        einfx.contract_path(CHAIN, *_operands(), **words)
    with pytest.raises(kind, match=message):
        einfx.einsum(CHAIN, *_operands(), **words)
    with pytest.raises(kind, match=message):
        einfx.contract_expression(CHAIN, *_operands(), **words)


def test_bad_shapes_are_told() -> None:
    with pytest.raises(OperandError, match="shapes such as"):
        einfx.contract_path("ij->", 3)
    with pytest.raises(OperandError, match="shapes such as"):
        einfx.contract_path("ij->", (2, -3))
    with pytest.raises(OperandError, match="label"):
        einfx.contract_path("ij,jk->ik", (2, 3), (4, 5), memory_limit=100)
    with pytest.raises(EquationError, match="character"):
        einfx.contract_path("i!->", (2,), memory_limit=100)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda p, x: einfx.einsum("ij,jk,kl,lm->mi", *x, optimize=p),
            PlanError,
            "asked for 'ij,jk,kl,lm->mi'",
        ),
        (
            lambda p, x: einfx.einsum(CHAIN, *x, semiring="log", optimize=p),
            PlanError,
            "over 'log': give semiring",
        ),
        (
            lambda p, x: einfx.einsum(CHAIN, *[y.float() for y in x], optimize=p),
            PlanError,
            "torch.float64, not",
        ),
        (
            lambda p, x: einfx.einsum(CHAIN, x[0][:9], *x[1:], optimize=p),
            PlanError,
            r"operand 0 of shape \(60, 50\), not of \(9, 50\): .*optimize=plan.path",
        ),
        (lambda p, x: einfx.einsum(CHAIN, *x, optimize=p, block_size=3), PlanError, "block_size"),
    ],
)
@pytest.mark.parametrize("limit", [None, LIMIT])
def test_a_plan_fits_what_it_was_made_for_and_nothing_else(
    call: Any, kind: type[Exception], message: str, limit: int | None
) -> None:
    operands = _operands()
    if limit is None and "over 'log'" in message:
        message = "over 'real'"
    with pytest.raises(kind, match=message.replace("over 'log': give", "over 'real', but .* give")):
        call(einfx.contract_path(CHAIN, *operands, memory_limit=limit), operands)


def test_a_plan_that_takes_more_than_a_call_allows_is_refused() -> None:
    operands = _operands()
    plan = einfx.contract_path(CHAIN, *operands, memory_limit=LIMIT)
    with pytest.raises(MemoryLimitError, match=r"memory_limit=20000 .* is less than the plan takes"):
        einfx.einsum(CHAIN, *operands, optimize=plan, memory_limit=20_000)
