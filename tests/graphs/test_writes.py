"""What a call writes to is told by its function, in every form in which torch has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx

from einfx.graphs.writes import is_known_function, may_write, writes_in_place, written_arguments

Program = Callable[..., Any]


@fx.wrap
def unknown_function(x: Any) -> Any:
    """Could do anything with its argument."""
    return x


def last_call(program: Program) -> fx.Node:
    """The last call of a program, as a node."""
    calls = [node for node in fx.symbolic_trace(program).graph.nodes if node.op.startswith("call")]
    return calls[-1]


@pytest.mark.parametrize(
    ("program", "written"),
    [
        (lambda a, b: a.add_(b), "a"),
        (lambda a, b: torch.relu_(a), "a"),
        (lambda a, b: torch.add(b, 1, out=a), "a"),
        (lambda a, b: F.relu(a, inplace=True), "a"),
        (lambda a, b: F.dropout(a, 0.5, True, True), "a"),
        (lambda a, b: a.index_add_(0, b, b), "a"),
        (lambda a, b: torch.ops.aten.add_.Tensor(a, b), "a"),
        (lambda a, b: F.batch_norm(b, a, a, training=True), "a"),
        (lambda a, b: F.embedding(b, a, max_norm=1.0), "ba"),
    ],
)
def test_writes_are_seen_in_every_form(program: Program, written: str) -> None:
    last = last_call(program)
    assert {node.name for node in written_arguments(last)} == set(written)
    assert writes_in_place(last)
    assert may_write(last)


@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: a.add(b),
        lambda a, b: F.relu(a),
        lambda a, b: torch.mul(a, b),
        lambda a, b: a.__add__(b),
        lambda a, b: F.dropout(a),
        lambda a, b: torch.ops.aten.add.Tensor(a, b),
    ],
)
def test_functions_that_only_compute_write_nothing(program: Program) -> None:
    assert not writes_in_place(last_call(program))


def test_what_never_writes_is_told_by_its_name_alone() -> None:
    assert not may_write(last_call(lambda a, b: a.view(-1)))
    assert not may_write(last_call(lambda a, b: a @ b))


def test_functions_of_torch_and_of_python_are_known_and_others_are_not() -> None:
    assert is_known_function(last_call(lambda a: F.relu(a)))
    assert is_known_function(last_call(lambda a: a[0]))
    assert is_known_function(last_call(lambda a: a.exp()))
    assert not is_known_function(last_call(lambda a: unknown_function(a)))
