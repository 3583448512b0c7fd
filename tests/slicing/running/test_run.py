"""A schedule computes what its contraction says, whatever is looped where."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from einfx.equation import Equation
from einfx.options import REAL, Options
from einfx.slicing.running.memory import demand
from einfx.slicing.running.run import run
from einfx.slicing.schedules.adjoint import adjoint
from einfx.slicing.schedules.tree import ContractionTree, Cut, schedule
from tests.slicing.networks import network

REDUCTIONS = {"log": torch.logsumexp, "max_plus": torch.amax, "min_plus": torch.amin}


def _whole(text: str, operands: Sequence[Tensor], name: str) -> Tensor:
    """The contraction by the sum of all operands at once, for all labels."""
    inputs, output = text.split("->")
    order = output + "".join(sorted({x for x in inputs if x.isalpha()} - {*output}))
    terms = torch.zeros((), dtype=torch.float64)
    for part, operand in zip(inputs.split(","), operands, strict=True):
        present = [x for x in order if x in part]
        shape = [operand.shape[part.index(x)] if x in part else 1 for x in order]
        terms = terms + operand.permute([part.index(x) for x in present]).reshape(shape)
    summed = tuple(range(len(output), len(order)))
    return REDUCTIONS[name](terms, summed) if summed else terms


@pytest.mark.parametrize("seed", range(150))
def test_loops_change_no_number(seed: int) -> None:
    text, tree, cuts, operands = network(seed)
    made = schedule(tree, cuts)
    (result,) = run(made, operands, demand(made, torch.float64, "cpu"))
    torch.testing.assert_close(result, torch.einsum(text, *operands), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("seed", range(150))
def test_gradients_come_in_one_sweep(seed: int) -> None:
    text, tree, cuts, operands = network(seed)
    wanted = [(seed >> i) % 2 == 0 for i in range(len(operands))]
    if not any(wanted):
        wanted[0] = True
    recorded = [x.clone().requires_grad_() for x in operands]
    whole = torch.einsum(text, *recorded)
    gradient = torch.randn_like(whole)
    needed = [x for x, want in zip(recorded, wanted, strict=True) if want]
    expected = torch.autograd.grad(whole, needed, gradient)
    back = adjoint(schedule(tree, cuts), wanted)
    found = run(back, [*operands, gradient], demand(back, torch.float64, "cpu"))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["log", "max_plus", "min_plus"])
@pytest.mark.parametrize("seed", range(0, 150, 3))
def test_slices_are_added_as_the_semiring_adds(seed: int, name: str) -> None:
    text, tree, cuts, operands = network(seed)
    made, options = schedule(tree, cuts), Options.read(name)
    (result,) = run(made, operands, demand(made, torch.float64, "cpu", options), options)
    torch.testing.assert_close(result, _whole(text, operands, name), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["log", "max_plus", "min_plus"])
@pytest.mark.parametrize("seed", range(0, 150, 3))
def test_gradients_over_a_semiring_are_those_of_the_whole(seed: int, name: str) -> None:
    text, tree, cuts, operands = network(seed)
    recorded = [x.clone().requires_grad_() for x in operands]
    whole = _whole(text, recorded, name)
    gradient = torch.randn_like(whole)
    expected = torch.autograd.grad(whole, recorded, gradient)
    options = Options.read(name)
    forward = schedule(tree, cuts)
    (result,) = run(forward, operands, demand(forward, torch.float64, "cpu", options), options)
    back = adjoint(forward, [True] * len(operands), needs_results=True, consumed=name != "log")
    needed, given = demand(back, torch.float64, "cpu", options), gradient.clone()
    found = run(back, [*operands, gradient, result], needed, options)
    assert gradient.equal(given)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_of_equal_terms_in_different_blocks_the_first_has_the_gradient() -> None:
    tree = ContractionTree(Equation.parse("i,i->"), (6,), ((0, 1),))
    back = adjoint(schedule(tree, [Cut(2, 0, 2)]), (True, False), needs_results=True, consumed=True)
    options = Options.read("max_plus")
    operands = [
        torch.tensor([0.0, 3.0, 3.0, 1.0, 3.0, 0.0]),
        torch.zeros(6),
        torch.ones(()),
        torch.tensor(3.0),
    ]
    (found,) = run(back, operands, demand(back, torch.float32, "cpu", options), options)
    assert found.tolist() == [0, 1, 0, 0, 0, 0]


def test_complex_gradients_are_conjugated() -> None:
    _, tree, cuts, operands = network(6)
    text = str(tree.equation)
    numbers = [torch.complex(x, x.flip(0)).requires_grad_() for x in operands]
    whole = torch.einsum(text, *numbers)
    gradient = torch.randn_like(whole)
    back = adjoint(schedule(tree, cuts), [True] * len(operands))
    plain = [x.detach() for x in numbers]
    found = run(back, [*plain, gradient], demand(back, torch.complex128, "cpu", REAL))
    torch.testing.assert_close(found, torch.autograd.grad(whole, numbers, gradient))
