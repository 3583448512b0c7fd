"""The messages of errors: what, where, what was expected, and what to do about it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

import einfx
from einfx import errors
from einfx.errors import EinfxError

A, B = torch.ones(2, 3), torch.ones(3, 4)
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EinfxError)]


def test_all_kinds_are_one_family_and_documented() -> None:
    assert sorted(kind.__name__ for kind in KINDS) == sorted(errors.__all__)
    assert all(kind.__doc__ for kind in KINDS)
    assert einfx.EinfxError is EinfxError


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        ("EquationError", ValueError),
        ("OperandError", ValueError),
        ("OperandError", RuntimeError),
        ("PlanError", ValueError),
        ("MemoryLimitError", MemoryError),
        ("CaptureError", RuntimeError),
        ("FileError", OSError),
        ("PassError", RuntimeError),
        ("CompatError", ImportError),
        ("UsageError", ValueError),
    ],
)
def test_code_that_catches_pythons_own_kinds_keeps_catching(kind: str, builtin: type[Exception]) -> None:
    assert issubclass(getattr(errors, kind), builtin)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_survive_pickling(kind: type[EinfxError]) -> None:
    error = pickle.loads(pickle.dumps(kind("message")))
    assert type(error) is kind
    assert str(error) == "message"


MESSAGES: list[tuple[Callable[[], Any], str, str]] = [
    (
        lambda: einfx.einsum("i?,jk->ik", A, B),
        "EquationError",
        "einsum 'i?,jk->ik': character '?' is neither a letter, ',', '->', a space nor",
    ),
    (
        lambda: einfx.einsum("ij,jk->iz", A, B),
        "EquationError",
        "einsum 'ij,jk->iz': output label 'z' is in no operand",
    ),
    (
        lambda: einfx.einsum("ij,jk->ii", A, B),
        "EquationError",
        "einsum 'ij,jk->ii': output label 'i' appears more than once in the output",
    ),
    (
        lambda: einfx.einsum("ij,jk->ik", A),
        "OperandError",
        "einsum 'ij,jk->ik' takes 2 operand(s), but 1 were given",
    ),
    (
        lambda: einfx.einsum("ijk,jk->ik", A, B),
        "OperandError",
        "einsum 'ijk,jk->ik': operand 0 has 2 dimension(s), but the equation gives it 3 label(s)",
    ),
    (
        lambda: einfx.einsum("ij,jk->ik", A, A),
        "OperandError",
        "has size 2 in operand 1, but 3 before it (shapes: (2, 3), (2, 3)); sizes of one label must be "
        "equal, or 1 to broadcast",
    ),
    (
        lambda: einfx.einsum("ii->i", A),
        "OperandError",
        "is repeated in operand 0, whose shape (2, 3) gives it the sizes 2 and 3; a diagonal needs",
    ),
    (
        lambda: einfx.einsum("ij,jk->ik", A, B, memory_limit=10),
        "MemoryLimitError",
        "memory_limit=10 (10 B) is too little; beside its operands it needs 32 bytes (32 B)",
    ),
    (
        lambda: einfx.einsum("ij,jk->ik", A, B, out=A),
        "UsageError",
        "einsum has no keyword 'out': copy the result instead: out.copy_(einsum(...))",
    ),
    (
        lambda: einfx.einsum(A, B),
        "OperandError",
        "einsum takes text and tensors, einsum('ij,jk->ik', a, b), or tensors with lists of labels",
    ),
    (
        lambda: einfx.tensordot(A, B, 3),
        "OperandError",
        "tensordot: dims=3 is negative or more than one of the tensors has dimensions (2 and 2)",
    ),
    (
        lambda: einfx.contract_expression("ij,jk->ik", (2, 3), (3, 4))(A),
        "OperandError",
        "takes 2 operand(s), but 1 were given",
    ),
    (
        lambda: einfx.optimize(lambda x: x, A),  # type: ignore[arg-type]
        "UsageError",
        "example_inputs is a tuple of arguments; for one tensor write (tensor,)",
    ),
    (
        lambda: einfx.optimize(torch.nn.Linear(2, 2), constants=("weight",)),
        "UsageError",
        "constants names 'weight', which requires gradients: folding it would stop them; call "
        "requires_grad_(False) on it first, or leave it out",
    ),
    (
        lambda: einfx.optimize(torch.nn.Linear(2, 2), constants=("nothing",)),
        "UsageError",
        "constants names 'nothing', which is no tensor of Linear",
    ),
    (
        lambda: einfx.optimize("ij,jk->ik"),
        "UsageError",
        "a model is a module, a function or a graph, not str",
    ),
    (
        lambda: einfx.explain(3),
        "UsageError",
        "explain takes a model, an optimised module, an expression or a plan, not int",
    ),
]


@pytest.mark.parametrize(("fails", "kind", "message"), MESSAGES, ids=[row[2][:40] for row in MESSAGES])
def test_an_error_says_what_where_and_what_to_do(fails: Callable[[], Any], kind: str, message: str) -> None:
    with pytest.raises(EinfxError) as caught:
        fails()
    assert type(caught.value).__name__ == kind
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_no_path_that_cannot_be_used_goes_unsaid() -> None:
    with pytest.raises(errors.PlanError, match="no such strategy"):
        einfx.einsum("ij,jk,kl->il", A, B, torch.ones(4, 5), optimize="no such strategy")
    with pytest.raises(errors.PlanError):
        einfx.einsum("ij,jk,kl->il", A, B, torch.ones(4, 5), optimize=[(0, 7)])
