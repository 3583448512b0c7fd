"""Calls around limits, plans, jobs, arrays and devices that can't be used: each says what is wrong."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import einfx
from einfx import EinfxError, IndexPattern
from einfx.compat import opt_einsum_torch
from einfx.slicing.plans.jobs import Job

PRODUCT = "ij,jk->ik"
A, B = torch.rand(20, 30), torch.rand(30, 40)
SIGNAL, PATTERN = torch.rand(2, 8), IndexPattern(8, 3)
LIMITED = einfx.contract_path(PRODUCT, A, B, memory_limit="10KiB")
PLAN = einfx.contract_path(PRODUCT, A, B)
JOBS = LIMITED.jobs(3)


def _product(*operands: Any, **options: Any) -> Any:
    return einfx.einsum(PRODUCT, *(operands or (A, B)), **options)


def _peer(*operands: Any, **options: Any) -> Any:
    return opt_einsum_torch.einsum(PRODUCT, *(operands or (A, B)), **{"cuda_device": "cpu", **options})


def _array(**changes: Any) -> Any:
    return _product(np.ones((20, 30), **changes), B, memory_limit="1MiB")


WRONG: list[tuple[Callable[[], Any], str, str]] = [
    # Limits.
    (lambda: _product(memory_limit=float("nan")), "UsageError", "memory_limit=nan: it is a number of bytes"),
    (lambda: _product(memory_limit=float("inf")), "UsageError", "memory_limit=inf: it is a number of bytes"),
    (lambda: _product(memory_limit="inf"), "UsageError", "memory_limit='inf': .* such as '512MiB'"),
    (lambda: _product(memory_limit=""), "UsageError", "memory_limit='': it is a number of bytes"),
    (lambda: _product(memory_limit="1e9"), "UsageError", "memory_limit='1e9': it is a number of bytes"),
    (lambda: _product(memory_limit="-5MiB"), "UsageError", "memory_limit='-5MiB': it is a number of bytes"),
    (lambda: _product(memory_limit="5XB"), "UsageError", "memory_limit='5XB': it is a number of bytes"),
    (lambda: _product(memory_limit=b"1MiB"), "UsageError", "memory_limit=b'1MiB': it is a number of bytes"),
    (lambda: _product(memory_limit=(1, 2)), "UsageError", r"memory_limit=\(1, 2\): it is a number of bytes"),
    (lambda: _product(memory_limit=torch.tensor(9)), "UsageError", r"memory_limit=tensor\(9\)"),
    (lambda: _product(memory_limit=np.float64(9)), "UsageError", r"memory_limit=np.float64\(9.0\)"),
    (lambda: _product(block_size=0), "UsageError", "block_size=0: .* a number from 1 up"),
    (lambda: _product(mem_limit=5), "UsageError", "einsum has no keyword 'mem_limit'"),
    (lambda: _product(progress=1, memory_limit=10**6), "UsageError", "progress=1: it is True, False, None"),
    (lambda: _product(strip_exponent=True, memory_limit=10), "MemoryLimitError", "it needs 3200 bytes"),
    (lambda: _product(strip_exponent=True, semiring="log"), "UsageError", "overflow come as logarithms"),
    (lambda: _product(strip_exponent=True, return_argmax=True), "UsageError", "has no exponent to strip"),
    (
        lambda: _product(A.int(), B.int(), strip_exponent=True, memory_limit="1MiB"),
        "OperandError",
        "floating-point or complex operands, not torch.int32",
    ),
    (
        lambda: _product(semiring="max_plus", return_argmax=True, memory_limit=100),
        "MemoryLimitError",
        "over 'max_plus'.* memory_limit=100 .* it needs",
    ),
    (
        lambda: einfx.einsum("ni,koi->nko", SIGNAL, PATTERN, memory_limit=5),
        "MemoryLimitError",
        "the smallest limit that is enough is 144 bytes",
    ),
    (
        lambda: einfx.einsum("ni,koi->nko", SIGNAL, PATTERN, strip_exponent=True),
        "UsageError",
        "operand 1 is an index pattern",
    ),
    (lambda: einfx.einsum(PRODUCT, memory_limit=100), "OperandError", "there are no operands"),
    (lambda: einfx.einsum(PRODUCT, device="cpu"), "OperandError", "0 were given"),
    # Devices.
    (lambda: _product(device=0), "UsageError", "device=0: it is text such as 'cpu'"),
    (lambda: _product(device="mps"), "UsageError", "device='mps': torch can't compute there"),
    (lambda: _peer(cuda_mem_limit=float("nan")), "UsageError", "cuda_mem_limit=nan: it is a number of bytes"),
    (lambda: _peer(cuda_mem_limit=0), "UsageError", "cuda_mem_limit=0: it is a number of bytes"),
    (lambda: _peer(cuda_mem_limit=2.0), "UsageError", "cuda_mem_limit=2.0: .* up to 1.0"),
    (lambda: _peer(cuda_mem_limit="1GiB"), "UsageError", "cuda_mem_limit='1GiB': it is a number"),
    (lambda: _peer(cuda_mem_limit=2000), "_NoSplitError", "'ij,jk->ik'.* cuda_mem_limit=1024 .* 3200 bytes"),
    (lambda: _peer(A.tolist(), B), "OperandError", "operand 0 is a list"),
    # Arrays.
    (
        lambda: _product(np.ma.masked_array(A.numpy(), mask=A.numpy() > 0.5), B),
        "OperandError",
        r"operand 0 is a masked array, .* array.filled\(0\)",
    ),
    (lambda: _array(dtype=object), "OperandError", "operand 0 is an array of object"),
    (lambda: _array(dtype=[("a", "f4")]), "OperandError", r"operand 0 is an array of \[\('a'"),
    (lambda: _array(dtype=">f4"), "OperandError", "whose bytes are in the other order"),
    (lambda: _product(A.numpy()[::-1], B, memory_limit=9999), "OperandError", "tensors have none below 0"),
    (lambda: _product("x.npy", B, memory_limit=9999), "OperandError", "operand 0 is a str"),
    (
        lambda: _product(A.numpy().astype("f2"), B),
        "OperandError",
        "of float16, float32: torch doesn't multiply these",
    ),
    # Shapes that nothing has.
    (
        lambda: einfx.contract_path(PRODUCT, (10**18, 10), (10, 10)),
        "OperandError",
        r"contract_path: a tensor of the shape \(1000000000000000000, 10\) has more elements",
    ),
    (
        lambda: einfx.contract_path(PRODUCT, (0, 10**18), (10**18, 10), memory_limit="1GiB"),
        "OperandError",
        "has more elements",
    ),
    (
        lambda: einfx.contract_path(PRODUCT, (10**9, 10), (10, 10**9), memory_limit="1GiB"),
        "MemoryLimitError",
        "it needs 4000000000000000000 bytes",
    ),
    # Plans.
    (lambda: _product(optimize='{"a":1}'), "PlanError", "isn't the text of a plan"),
    (lambda: _product(optimize='{"schedule":1}'), "PlanError", "isn't the text of a plan"),
    (lambda: einfx.einsum("ij,jk->ki", A, B, optimize=LIMITED), "PlanError", "was asked for 'ij,jk->ki'"),
    (lambda: _product(A[:5], B, optimize=LIMITED), "PlanError", r"not of \(5, 30\): plan again"),
    (lambda: _product(A.double(), B.double(), optimize=LIMITED), "PlanError", "not of torch.float64"),
    (lambda: _product(optimize=LIMITED, memory_limit=100), "MemoryLimitError", "less than the plan takes"),
    (lambda: _product(optimize=LIMITED, semiring="log"), "PlanError", "over 'real', .* over 'log'"),
    (lambda: _product(optimize=LIMITED, block_size=4), "PlanError", "was given {'block_size': 4}"),
    (lambda: _product(optimize=PLAN.vjp()), "PlanError", "this is the plan of the gradients"),
    (lambda: LIMITED.run(A), "OperandError", r"takes 2 operand\(s\): 2 tensor\(s\), but 1 were given"),
    (lambda: LIMITED.run(A, A), "PlanError", "is for an operand 1 of shape"),
    (lambda: LIMITED.run(A.numpy(), B), "OperandError", "operand 0 is a ndarray"),
    (lambda: LIMITED.vjp(5), "PlanError", r"needs_grad=5: .* 2 operand\(s\)"),
    (lambda: LIMITED.vjp("ab"), "PlanError", "needs_grad='ab': .* as many truth values"),
    (lambda: LIMITED.vjp((False, False)), "PlanError", "one of them true"),
    (lambda: PLAN.vjp().vjp(), "PlanError", "is of the gradients of .* already"),
    (lambda: PLAN.vjp().run(A, B), "OperandError", "then the gradient of the result: 3 tensor"),
    (
        lambda: PLAN.vjp().run(A, B, None),
        "OperandError",
        "as a torch.Tensor, not a NoneType",
    ),
    (
        lambda: PLAN.vjp().run(A, B, A),
        "OperandError",
        r"not torch.float32 of \(20, 30\)",
    ),
    (lambda: einfx.SlicedPlan.from_text(5), "PlanError", "isn't the text of a plan in blocks"),  # type: ignore[arg-type]
    (lambda: einfx.Plan.from_text(None), "PlanError", "isn't the text of a plan"),  # type: ignore[arg-type]
    (lambda: einfx.SlicedPlan.from_text(PLAN.to_text()), "PlanError", "isn't the text of a plan in blocks"),
    # Jobs.
    (lambda: LIMITED.jobs(0), "UsageError", "count=0: it is the number of jobs, from 1 up"),
    (lambda: LIMITED.jobs(2.0), "UsageError", "count=2.0: it is the number of jobs"),
    (lambda: JOBS["a"], "UsageError", r"jobs\['a'\]: it is the number of a job, from 0 to 2"),
    (lambda: JOBS[0].run(A), "OperandError", "2 tensors, but 1 were given"),
    (lambda: JOBS[0].run(None, B), "OperandError", "operand 0 is a NoneType"),
    (lambda: JOBS[0].run(A, A), "PlanError", "is for an operand 1 of shape"),
    (lambda: JOBS.merge([A]), "OperandError", "into 3 jobs, but results of 1 were given"),
    (lambda: JOBS.merge(5), "OperandError", "in a list or by their numbers, not a int"),
    (lambda: JOBS.merge([None] * 3), "OperandError", r"job 0 .* gives 1 tensor\(s\), not a NoneType"),
    (lambda: JOBS.merge([(A, B)] * 3), "OperandError", r"job 0 .* gives 1 tensor\(s\), not 2 values"),
    (lambda: JOBS.merge([A[:3, :3]] * 3), "OperandError", r"job 0 .* gives \(\d+, \d+\), not \(3, 3\)"),
    (lambda: Job.from_text("x"), "PlanError", "isn't the text of a job"),
    (lambda: Job.from_text(LIMITED.to_text()), "PlanError", "isn't the text of a job"),
    (lambda: Job.from_text(JOBS[0].to_text()[:-50]), "PlanError", "isn't the text of a job"),
]


@pytest.mark.parametrize(("call", "kind", "message"), WRONG)
def test_a_wrong_call_says_what_is_wrong(call: Callable[[], Any], kind: str, message: str) -> None:
    before = A.clone(), B.clone()
    for _ in range(2):  # what is remembered of a call says the same
        with pytest.raises(EinfxError, match=f"(?s){message}") as caught:
            call()
        assert type(caught.value).__name__ == kind
    assert torch.equal(A, before[0])
    assert torch.equal(B, before[1])


@pytest.mark.parametrize("limit", [10**30, "999999999999TiB", "1.5GiB", np.int64(10**6)])
def test_limits_beyond_any_machine_and_parts_of_units_are_limits(limit: Any) -> None:
    torch.testing.assert_close(_product(memory_limit=limit), A @ B)


def test_more_jobs_than_a_label_is_long_are_as_many_as_it_is_long() -> None:
    jobs = LIMITED.jobs(10**12)
    assert len(jobs) <= max(A.shape[0], *B.shape)
    torch.testing.assert_close(jobs.merge([job.run(A, B) for job in jobs]), A @ B)


def test_jobs_are_sent_to_processes_by_pickle_and_come_back_in_any_order() -> None:
    sent = [pickle.loads(pickle.dumps(job)) for job in JOBS]
    results = {number: sent[number].run(A, B) for number in (2, 0, 1)}
    torch.testing.assert_close(JOBS.merge(results), A @ B)


def test_a_plan_reads_as_json() -> None:
    assert isinstance(json.loads(LIMITED.to_text()), dict)


def test_a_masked_array_that_is_filled_is_an_array() -> None:
    masked: Any = np.ma.masked_array(A.numpy(), mask=A.numpy() > 0.5)
    filled = masked.filled(0)
    torch.testing.assert_close(_product(filled, B), torch.where(A > 0.5, 0.0, A) @ B)
