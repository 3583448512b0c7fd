"""Directional derivatives, and their gradients, are computed block by block in one sweep each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from einfx.options import REAL
from einfx.slicing.running.memory import demand
from einfx.slicing.running.run import run
from einfx.slicing.schedules.derivatives import derivative
from einfx.slicing.schedules.tree import schedule
from tests.slicing.networks import network


@pytest.mark.parametrize("seed", range(0, 150, 2))
def test_a_tangent_is_the_derivative_in_a_direction(seed: int) -> None:
    text, tree, cuts, operands = network(seed)
    moving = [(seed >> i) % 3 != 1 for i in range(len(operands))]
    moving[0] = True
    direction = [torch.randn_like(x) for x, moves in zip(operands, moving, strict=True) if moves]
    made, _ = derivative(schedule(tree, cuts), REAL, moving=moving)
    (found,) = run(made, [*operands, *direction], demand(made, torch.float64, "cpu"))

    def of_moving(*moved: Tensor) -> Tensor:
        rest = iter(moved)
        return torch.einsum(text, *[next(rest) if m else x for x, m in zip(operands, moving, strict=True)])

    starts = tuple(x for x, moves in zip(operands, moving, strict=True) if moves)
    expected = torch.func.jvp(of_moving, starts, tuple(direction))[1]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", range(0, 150, 2))
def test_second_derivatives_are_gradients_of_tangents(seed: int) -> None:
    text, tree, cuts, operands = network(seed)
    everything = [True] * len(operands)
    recorded = [x.clone().requires_grad_() for x in operands]
    whole = torch.einsum(text, *recorded)
    gradient = torch.randn_like(whole)
    first = torch.autograd.grad(whole, recorded, gradient, create_graph=True)
    direction = [torch.randn_like(x) for x in operands]
    product = torch.stack([(x * y).sum() for x, y in zip(first, direction, strict=True)]).sum()
    expected = [torch.zeros_like(x) for x in operands]
    if product.requires_grad:
        found_by_torch = torch.autograd.grad(product, recorded, allow_unused=True)
        expected = [y if x is None else x for x, y in zip(found_by_torch, expected, strict=True)]
    made, _ = derivative(schedule(tree, cuts), REAL, everything, everything)
    found = run(made, [*operands, *direction, gradient], demand(made, torch.float64, "cpu"))
    torch.testing.assert_close(list(found), expected, rtol=1e-9, atol=1e-9)
