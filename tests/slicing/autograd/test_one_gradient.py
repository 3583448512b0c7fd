"""The gradient of one operand as a contraction of the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from einfx.equation import Equation
from einfx.slicing.autograd.one_gradient import one_gradient


def by_torch(target: Equation, factors: list[Tensor], others: list[int]) -> Tensor:
    return torch.einsum(str(target), *factors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("aij,bjk,ik->ab", [(2, 3, 4), (3, 4, 2), (3, 2)]),
        ("ij,jk->k", [(2, 3), (3, 4)]),
        ("i,j->", [(2,), (3,)]),
        ("ij->j", [(2, 3)]),
    ],
)
def test_it_is_the_gradient_that_autograd_computes(
    text: str, shapes: list[tuple[int, ...]], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    operands = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    result = torch.einsum(text, *operands)
    gradient = torch.randn_like(result)
    expected = torch.autograd.grad(result, operands, gradient)
    given = [x.detach() for x in operands]
    for position, wanted in enumerate(expected):
        found = one_gradient(Equation.parse(text), given, gradient, position, by_torch)
        torch.testing.assert_close(found, wanted)


def test_it_says_which_operands_are_contracted_with_the_gradient() -> None:
    told: list[list[int]] = []

    def contract(target: Equation, factors: list[Tensor], others: list[int]) -> Tensor:
        told.append(others)
        return by_torch(target, factors, others)

    operands = [torch.ones(2, 2) for _ in range(3)]
    one_gradient(Equation.parse("ij,jk,kl->il"), operands, torch.ones(2, 2), 1, contract)
    assert told == [[0, 2]]
