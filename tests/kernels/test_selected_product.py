"""The product of what sums have selected."""

from __future__ import annotations

import math

import pytest
import torch

from einfx.algebra import Semiring
from einfx.kernels.selected_product import selected_product
from einfx.semiring import get

SMALLEST = Semiring("smallest", torch.minimum, torch.maximum, zero=math.inf, one=-math.inf, selective=True)
SPECIAL = torch.tensor([0.0, 1.0, 1.0, 2.0, math.inf, -math.inf, math.nan])


@pytest.mark.parametrize("semiring", [get("max_plus"), get("max_min"), get("max_times"), SMALLEST])
@pytest.mark.parametrize("annihilates", [False, True])
def test_it_is_the_product(semiring: Semiring, annihilates: bool) -> None:
    semiring = semiring.annihilating(annihilates)
    x, y = SPECIAL[:, None], SPECIAL[None]
    torch.testing.assert_close(selected_product(semiring, x, y), semiring.multiply(x, y), equal_nan=True)


@pytest.mark.parametrize("semiring", [get("max_min"), SMALLEST])
def test_of_equal_elements_the_first_gets_the_gradient(semiring: Semiring) -> None:
    x = torch.tensor([1.0, 1.0, 3.0], requires_grad=True)
    y = torch.tensor([1.0, 2.0, 2.0], requires_grad=True)
    to_x, to_y = torch.autograd.grad(selected_product(semiring, x, y).sum(), (x, y))
    assert torch.equal(to_x + to_y, torch.ones(3))
    assert to_x[0] == 1
