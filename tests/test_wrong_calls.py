"""Calls with arguments that can't be used: each says what was given, and what is expected."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import einfx
from einfx import EinfxError, IndexPattern, algorithms, compat
from einfx.compat import opt_einsum_torch
from einfx.errors import OperandError

A, B = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(3, 4)
SIGNAL, PATTERN = torch.arange(16.0).view(2, 8), IndexPattern(8, 3)
PLAN = einfx.contract_path("ij,jk->ik", A, B, memory_limit=10_000)
ELSEWHERE = torch.device("meta")


def _product(*operands: Any, **options: Any) -> Any:
    return einfx.einsum("ij,jk->ik", *(operands or (A, B)), **options)


def _path(*shapes: Any, **options: Any) -> Any:
    return einfx.contract_path("ij,jk->ik", *(shapes or (A, B)), **options)


def _expression(*shapes: Any, **options: Any) -> Any:
    return einfx.contract_expression("ij,jk->ik", *(shapes or (A, B)), **options)


def _optimized(**options: Any) -> Any:
    return einfx.optimize(lambda a, b: torch.einsum("ij,jk->ik", a, b), (A, B), **options)


def _quietly(make: Callable[[], torch.Tensor]) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


WRONG: list[tuple[Callable[[], Any], str, str]] = [
    # Operands.
    (lambda: _product(A.to_sparse(), B), "OperandError", r"operand 0 is sparse .*to_dense\(\)"),
    (lambda: _product(_quietly(A.to_sparse_csr), B), "OperandError", r"operand 0 is sparse .*to_dense\(\)"),
    (lambda: _product(A.to_mkldnn(), B), "OperandError", r"operand 0 is not strided .*to_dense\(\)"),
    (lambda: _product(A, B.to_sparse(), semiring="log"), "OperandError", "operand 1 is sparse"),
    (lambda: _product(A, B.to_sparse(), memory_limit=999), "OperandError", "operand 1 is sparse"),
    (lambda: _product(A, B.to_sparse(), strip_exponent=True), "OperandError", "operand 1 is sparse"),
    (
        lambda: _product(_quietly(lambda: torch.nested.nested_tensor([A[0], A[1]])), B),
        "OperandError",
        "operand 0 is a nested tensor",
    ),
    (
        lambda: _product(_quietly(lambda: torch.quantize_per_tensor(A, 0.1, 0, torch.qint8)), B),
        "OperandError",
        r"operand 0 is quantized .*dequantize\(\)",
    ),
    (lambda: _product(A, None), "OperandError", "einsum 'ij,jk->ik': operand 1 is a NoneType"),
    (lambda: _product(A.to(ELSEWHERE), B), "OperandError", "operand 0 is on meta, but operand 1 on cpu"),
    (lambda: _product(A.double(), B), "OperandError", "of float64, float32.*one dtype"),
    (lambda: _product(A.to(torch.uint16), B.to(torch.uint16)), "OperandError", "of uint16, uint16"),
    (lambda: PLAN.run(None, B), "OperandError", "the plan of 'ij,jk->ik': operand 0 is a NoneType"),
    # Labels as lists.
    (lambda: einfx.einsum(A, [0, 1], B, [1, 2], 5), "OperandError", "labels of the output there is a int"),
    (lambda: einfx.einsum(A, [0, 1], B, (1, 2), B), "OperandError", "labels of the output there is a Tensor"),
    (lambda: einfx.einsum(A, B, A, B), "OperandError", "labels of operand 0 there is a Tensor"),
    (lambda: einfx.einsum(5, A, B), "OperandError", "first argument is a int"),
    (lambda: einfx.einsum(A, [[0], 1], B, [1, 2], [0, 2]), "EquationError", "can be hashed"),
    # How it is computed.
    (lambda: _product(optimize={"a": 1}, memory_limit=999), "PlanError", "can't be used; choose 'auto'"),
    (lambda: _path(optimize={"a": 1}, memory_limit=999), "PlanError", "can't be used; choose 'auto'"),
    (lambda: _product(optimize=einfx.SlicedPlan), "PlanError", "SlicedPlan is a class; give one of its"),
    (
        lambda: _product(optimize=einfx.Plan, memory_limit=999),
        "PlanError",
        "Plan is a class; give one of its",
    ),
    (
        lambda: einfx.einsum("ij,jk->ik", torch.ones(3, 4) > 0, torch.ones(4, 5) > 0, memory_limit=999),
        "OperandError",
        "bool.*or contract over semiring='boolean'",
    ),
    (lambda: _path(optimize="nope"), "PlanError", "optimize='nope' isn't a strategy"),
    (lambda: _product(optimize=lambda *_: 5), "PlanError", r"a path is a list of steps .*, not 5"),
    (lambda: _product(memory_limit=[]), "UsageError", r"memory_limit=\[\]: it is a number of bytes"),
    (lambda: _product(memory_limit=True), "UsageError", "memory_limit=True: it is a number of bytes"),
    (lambda: _product(memory_limit=1e6), "UsageError", "memory_limit=1000000.0: it is a number of bytes"),
    (lambda: _product(memory_limit=-1), "UsageError", "memory_limit=-1: it is a number of bytes"),
    (lambda: _product(memory_limit="5 parsecs"), "UsageError", "or text such as '512MiB'"),
    (lambda: _product(memory_limit=0), "MemoryLimitError", "it needs 32 bytes"),
    (lambda: _product(block_size=True), "UsageError", "block_size=True: it is the longest range"),
    (lambda: _product(block_size=[]), "UsageError", r"block_size=\[\]: it is the longest range"),
    (lambda: _product(semiring=[]), "UsageError", r"there's no semiring \[\]"),
    (lambda: _product(semiring="log", linear_operands=(True,)), "UsageError", "sequence of positions"),
    (lambda: _product(semiring="log", grad_of_neg_inf=[]), "UsageError", "it is a number, or 'uniform'"),
    (lambda: _product(semiring="log", zero_annihilates=[]), "UsageError", "it is True, False or None"),
    (lambda: _product(semiring="max_plus", return_argmax="no"), "UsageError", "each is True or False"),
    (lambda: _product(strip_exponent="False"), "UsageError", "each is True or False"),
    (lambda: _product(progress="yes"), "UsageError", "progress='yes': it is True, False, None or a function"),
    # Where it is computed.
    (lambda: _product(device=5.5), "UsageError", "device=5.5: it is text such as 'cpu'"),
    (lambda: _product(device="tpu", strip_exponent=True), "UsageError", "device='tpu': Expected one of"),
    (lambda: _product(device="meta"), "UsageError", "device='meta' holds no numbers"),
    (lambda: _product(device="meta", memory_limit=999), "UsageError", "device='meta' holds no numbers"),
    (lambda: _product(device="xpu"), "UsageError", "device='xpu': torch can't compute there"),
    (lambda: _path(device=""), "UsageError", "device='': Device string must not be empty"),
    (lambda: _path(device=[]), "UsageError", r"device=\[\]: it is text such as 'cpu'"),
    (lambda: _expression(device="tpu"), "UsageError", "device='tpu': Expected one of"),
    (
        lambda: einfx.einsum("ni,koi->nko", [SIGNAL, PATTERN], device="tpu"),
        "UsageError",
        "device='tpu': Expected one of",
    ),
    # Plans and expressions.
    (lambda: _path((2, 3), (5, 4)), "OperandError", "einsum 'ij,jk->ik', read as 'ab,bc->ac': label 'b'"),
    (lambda: _path((2, 3), (3, 4), dtype="float32"), "UsageError", "dtype='float32': it is a dtype of torch"),
    (lambda: _path((2.0, 3), (3, 4)), "OperandError", r"shapes such as \(10, 20\).*not \(2.0, 3\)"),
    (lambda: _expression((2, 3), (5, 4)), "OperandError", "einsum 'ij,jk->ik', read as 'ab,bc->ac'"),
    (lambda: _expression(2, 3), "OperandError", "contract_expression takes shapes such as"),
    (lambda: _expression((-2, 3), (3, 4)), "OperandError", r"not \(-2, 3\)"),
    (lambda: _expression(None, (3, 4)), "OperandError", "not None"),
    (lambda: einfx.contract_expression(5, A, B), "EquationError", "an equation is text .* not int"),  # type: ignore[arg-type]
    (lambda: _expression(dtype="float32"), "UsageError", "dtype='float32'"),
    (lambda: _expression(threads=4), "UsageError", "contract_expression has no keyword 'threads'"),
    (lambda: _expression(constants="0"), "UsageError", "constants='0': it is a sequence of positions"),
    (lambda: _expression(constants=0), "UsageError", "constants=0: it is a sequence of positions"),
    (lambda: _expression(constants=None), "UsageError", "constants=None: it is a sequence of positions"),
    (lambda: _expression(A, constants={5: B}), "UsageError", "constants names operand 5"),
    (lambda: _expression(A, constants={"b": B}), "UsageError", "constants names operand 'b'"),
    (lambda: _expression(constants=[0])(None), "OperandError", "operand 1 is a NoneType"),
    (lambda: _expression(memory_limit=999)(A, None), "OperandError", "operand 1 is a NoneType"),
    # Tensordot.
    (lambda: einfx.tensordot(A, B, 1.5), "OperandError", "dims=1.5: it is a number of dimensions"),
    (lambda: einfx.tensordot(A, B, None), "OperandError", "dims=None: it is a number of dimensions"),
    (lambda: einfx.tensordot(A, B, ([1],)), "OperandError", "or two lists of dimensions"),
    (lambda: einfx.tensordot(A, B, ([1.0], [0.0])), "OperandError", "or two lists of dimensions"),
    (lambda: einfx.tensordot(A, B, (["x"], [0])), "OperandError", "or two lists of dimensions"),
    (
        lambda: einfx.tensordot(A, A, 1),
        "OperandError",
        r"dimension 1 of a, of shape \(2, 3\), and dimension 0",
    ),
    (lambda: einfx.tensordot(None, B), "OperandError", "tensordot: a is a NoneType"),  # type: ignore[arg-type]
    # Semirings.
    (lambda: einfx.register_semiring("log"), "UsageError", "takes an einfx.Semiring, not 'log'"),  # type: ignore[arg-type]
    (
        lambda: einfx.Semiring("", torch.add, torch.mul, zero=0, one=1),
        "UsageError",
        "a semiring has a name, such as 'widest', not ''",
    ),
    (
        lambda: einfx.Semiring("mine", torch.add, torch.mul, zero="0", one=1),
        "UsageError",
        "semiring 'mine': its zero is '0'; it is a number",
    ),
    (lambda: algorithms.linear_chain(None), "OperandError", "is a tensor of the shape"),  # type: ignore[arg-type]
    (lambda: algorithms.reachability(None), "OperandError", r"is a tensor of the shape \(\.\.\., n, n\)"),  # type: ignore[arg-type]
    # Models.
    (lambda: _optimized(passes=None), "UsageError", "passes=None: it is a sequence of passes"),
    (lambda: _optimized(passes=("fuse",)), "UsageError", "passes has 'fuse', which isn't a pass"),
    (
        lambda: _optimized(passes=(type(einfx.passes.DEFAULT[0]),)),
        "UsageError",
        r"which isn't a pass: .*; write RemoveUnused\(\)",
    ),
    (lambda: _optimized(path="nope"), "PlanError", "optimize='nope' isn't a strategy"),
    (lambda: _optimized(path=5), "PlanError", "optimize=5 can't be used"),
    (lambda: _optimized(constants="basis"), "UsageError", "constants='basis': it is a sequence of names"),
    (lambda: _optimized(constants=5), "UsageError", "constants=5: it is a sequence of names"),
    (lambda: _optimized(example_kwargs=[1]), "UsageError", "example_kwargs=.* it is a mapping"),
    (lambda: _optimized(memory_limit=False), "UsageError", "memory_limit=False: it is a number of bytes"),
    # Other libraries' interfaces.
    (lambda: compat.install(None), "UsageError", "can't stand in for None"),  # type: ignore[arg-type]
    (
        lambda: opt_einsum_torch.einsum("ij,jk->ik", A, B, cuda_device="tpu"),
        "UsageError",
        "cuda_device='tpu': Expected one of",
    ),
    (
        lambda: opt_einsum_torch.einsum("ij,jk->ik", A, B, cuda_device=None),  # type: ignore[arg-type]
        "UsageError",
        "cuda_device=None: it is text such as",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), WRONG)
def test_a_wrong_call_says_what_is_wrong_and_changes_nothing(
    call: Callable[[], Any], kind: str, message: str
) -> None:
    before = [x.clone() for x in (A, B, SIGNAL)]
    for _ in range(2):  # what is remembered of a call says the same
        with pytest.raises(EinfxError, match=f"(?s){message}") as caught:
            call()
        assert type(caught.value).__name__ == kind
    assert all(map(torch.equal, (A, B, SIGNAL), before))


def test_numbers_of_numpy_are_numbers() -> None:
    expected = A @ B
    torch.testing.assert_close(_product(memory_limit=np.int64(10_000)), expected)
    torch.testing.assert_close(_product(block_size=np.int32(2)), expected)
    assert _path(tuple(np.array([2, 3])), (3, 4)).shapes == ((2, 3), (3, 4))
    torch.testing.assert_close(einfx.tensordot(A, B, (np.array([1]), np.array([0]))), expected)
    left: Any = A.numpy()
    right: Any = B.numpy()
    torch.testing.assert_close(einfx.tensordot(left, right, np.int64(1)), expected)


def test_expressions_are_planned_from_arrays_as_from_tensors() -> None:
    expression = _expression(A.numpy(), B.double().numpy(), constants=[1])
    torch.testing.assert_close(expression(A), A @ B)
    torch.testing.assert_close(_expression((2, 3), constants={1: B.numpy()})(A), A @ B)


def test_patterns_are_contracted_where_the_call_says() -> None:
    expected = einfx.einsum("ni,koi->nko", SIGNAL, PATTERN)
    assert torch.equal(einfx.einsum("ni,koi->nko", SIGNAL, PATTERN, device="cpu"), expected)
    assert torch.equal(einfx.einsum("ni,koi->nko", [SIGNAL, PATTERN], device="cpu:0"), expected)
    labels = [0, 1], PATTERN, [2, 3, 1], [0, 2, 3]
    assert torch.equal(einfx.einsum(SIGNAL, *labels, device=torch.device("cpu")), expected)


def test_shapes_alone_are_found_without_data() -> None:
    found = _product(A.to(ELSEWHERE), B.to(ELSEWHERE))
    assert found.is_meta
    assert found.shape == (2, 4)


def test_what_torch_multiplies_of_mixed_dtypes_stays() -> None:
    mixed = A.double(), torch.tensor(2.0)
    assert einfx.einsum("ij,->ij", *mixed).dtype == torch.einsum("ij,->ij", *mixed).dtype == torch.float64


@pytest.mark.parametrize("part", [1, 2, 3, 5, 8])
def test_the_text_of_a_plan_that_was_cut_off_is_refused(part: int) -> None:
    text = PLAN.to_text()
    with pytest.raises(EinfxError, match="this isn't the text of a plan"):
        _product(optimize=text[: len(text) * part // 9])


# The path follows from the steps.
@pytest.mark.parametrize("field", sorted({*json.loads(PLAN.to_text())} - {"path"}))
def test_the_text_of_a_plan_that_lacks_something_is_refused(field: str) -> None:
    fields = json.loads(PLAN.to_text())
    del fields[field]
    with pytest.raises(EinfxError, match="this isn't the text of a plan"):
        _product(optimize=json.dumps(fields))


def test_errors_of_operands_are_those_that_callers_of_torch_catch() -> None:
    with pytest.raises(RuntimeError):
        _product(A.double(), B)
    with pytest.raises(OperandError):
        _product(A.to(torch.uint16), B.to(torch.uint16))


@pytest.mark.parametrize("wrong", [{"memory_limit": 1e6}, {"memory_limit": True}, {"block_size": 1.0}])
def test_a_wrong_number_is_refused_after_a_right_one_that_equals_it(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with contextlib.suppress(einfx.errors.MemoryLimitError):
        _product(semiring="log", **{name: int(value)})
    with pytest.raises(einfx.errors.UsageError, match=f"{name}={value}"):
        _product(semiring="log", **wrong)
