"""Lines are prepared for every length of a block, and whatever lies however is read as it is."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from einfx.equation import Equation
from einfx.options import Options
from einfx.slicing.running import parts
from einfx.slicing.running.loops import line_count
from einfx.slicing.running.memory import demand
from einfx.slicing.running.run import Running, run
from einfx.slicing.schedules.adjoint import adjoint
from einfx.slicing.schedules.schedule import Allocate, Contract, Free, Loop, Schedule
from einfx.slicing.schedules.tree import ContractionTree, Cut, schedule
from tests.slicing.networks import network


def _ran(made: Schedule, operands: Sequence[Tensor]) -> tuple[Tensor, ...]:
    found = demand(made, operands[0].dtype, "cpu", strides=[x.stride() for x in operands])
    return run(made, operands, found)


def _elsewhere(x: Tensor, pick: random.Random) -> Tensor:
    """The same numbers in a part of a larger tensor, with dimensions in another order, or conjugated."""
    order = pick.sample(range(x.dim()), x.dim())
    wide = x.new_zeros([x.shape[dim] + pick.randint(0, 2) for dim in order])
    part = wide
    for dim, own in enumerate(order):
        part = part.narrow(dim, wide.shape[dim] - x.shape[own], x.shape[own])
    part = part.permute([order.index(dim) for dim in range(x.dim())])
    if x.is_complex() and pick.random() < 0.5:
        return part.copy_(x.conj()).conj()
    if not x.is_complex() and pick.random() < 0.3:
        return torch.complex(part, part.copy_(-x)).conj().imag  # a view with its sign turned
    return part.copy_(x)


@settings(max_examples=120)
@given(st.integers(0, 10**6), st.booleans())
def test_values_and_gradients_are_those_of_the_whole_however_operands_lie(seed: int, numbers: bool) -> None:
    pick = random.Random(seed)
    text, tree, cuts, operands = network(seed)
    whole = [torch.complex(x, x.flip(0)) if numbers else x for x in operands]
    lying = [_elsewhere(x, pick) for x in whole]
    recorded = [x.clone().requires_grad_() for x in whole]
    expected = torch.einsum(text, *recorded)
    forward = schedule(tree, cuts)
    (result,) = _ran(forward, lying)
    torch.testing.assert_close(result, expected.detach(), rtol=1e-10, atol=1e-10)
    gradient = torch.randn_like(result)
    back = adjoint(forward, [True] * len(lying))
    found = _ran(back, [*lying, _elsewhere(gradient, pick)])
    wanted = torch.autograd.grad(expected, recorded, gradient)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kept", [0, 7])
def test_nothing_depends_on_how_many_views_are_kept(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MOST_KEPT", kept)
    for seed in range(30):
        text, tree, cuts, operands = network(seed)
        (result,) = _ran(schedule(tree, cuts), operands)
        torch.testing.assert_close(result, torch.einsum(text, *operands), rtol=1e-11, atol=1e-11)


def test_operands_that_are_the_same_along_a_dimension_are_read_as_they_are() -> None:
    tree = ContractionTree(Equation.parse("ij,jk->ik"), (5, 7, 4), ((0, 1),))
    made = schedule(tree, [Cut(2, 1, 3), Cut(2, 0, 2)])
    a, b = torch.randn(7, dtype=torch.float64).expand(5, 7), torch.randn(7, 1, dtype=torch.float64)
    (result,) = _ran(made, [a, b.expand(7, 4)])
    torch.testing.assert_close(result, a @ b.expand(7, 4))


def test_a_second_run_on_other_operands_computes_with_these() -> None:
    tree = ContractionTree(Equation.parse("ij,jk->ik"), (4, 7, 4), ((0, 1),))
    made = schedule(tree, [Cut(2, 1, 3)])
    found = demand(made, torch.float64, "cpu")
    for turn in (False, True, False):
        a, b = torch.randn(4, 7, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
        if turn:
            a, b = a.T.contiguous().T, b.T.contiguous().T
        torch.testing.assert_close(run(made, (a, b), found)[0], a @ b)


def _interrupted(made: Schedule, operands: Sequence[Tensor], after: int) -> bool:
    """Whether a run was ended once so many numbers were told."""
    told: list[int] = []

    def tell(*numbers: int) -> None:
        told.append(numbers[0])
        if len(told) == after:
            raise KeyboardInterrupt

    try:
        run(made, operands, demand(made, torch.float64, "cpu"), progress=tell)
    except KeyboardInterrupt:
        return True
    return False


@pytest.mark.parametrize("after", [0, 4])
def test_nothing_is_kept_when_a_run_is_over_or_interrupted(after: int) -> None:
    tree = ContractionTree(Equation.parse("ij,jk,kl->il"), (6, 7, 5, 4), ((0, 1), (3, 2)))
    made = schedule(tree, [Cut(4, 1, 2), Cut(4, 2, 2)])
    shapes = (6, 7), (7, 5), (5, 4)
    operands = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    gone = [weakref.ref(x.untyped_storage()) for x in operands]
    gc.collect()
    gc.disable()
    try:
        assert _interrupted(made, operands, after) == (after > 0)
        del operands
        assert [x() for x in gone] == [None] * 3
    finally:
        gc.enable()


def test_lines_of_loops_are_counted_and_loops_are_not() -> None:
    body = (Allocate(3), Contract(3, (0, 1)), Contract(2, (3,), True), Free(3))
    assert line_count((Allocate(2, True), Loop(0, 2, (Loop(1, 2, body),)))) == 5


@pytest.mark.parametrize("semiring", ["real", "log"])
def test_a_line_has_its_own_workspace_whatever_ran_before_it(
    semiring: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines outside of loops run as soon as they are prepared, and some ask for memory while they run."""
    seen: list[tuple[int, int]] = []
    prepared = Running.prepared

    def recorded(self: Running, line: Any, *rest: Any) -> Any:
        seen.append((id(line), self.moment))
        return prepared(self, line, *rest)

    monkeypatch.setattr(Running, "prepared", recorded)
    options, real = Options.read(semiring), semiring == "real"
    for seed in range(40):
        _, tree, cuts, operands = network(seed)
        forward = schedule(tree, cuts)
        (result,) = run(forward, operands, demand(forward, torch.float64, "cpu", options), options)
        back = adjoint(forward, [True] * len(operands), needs_results=not real)
        given = [*operands, torch.ones_like(result), *([] if real else [result])]
        seen.clear()
        run(back, given, demand(back, torch.float64, "cpu", options), options)
        moments = {id(line): moment for moment, line in enumerate(_lines(back.statements))}
        assert seen
        assert all(moments.get(line, moment) == moment for line, moment in seen)


def _lines(statements: Sequence[Any]) -> list[Any]:
    return [
        inner for line in statements for inner in (_lines(line.body) if isinstance(line, Loop) else [line])
    ]
