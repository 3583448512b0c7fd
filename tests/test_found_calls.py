"""Calls of einsum that once gave wrong numbers, or errors in somebody else's words."""

from __future__ import annotations

import pytest
import torch

from einfx import einsum


@pytest.mark.parametrize("semiring", ["real", "log", "max_plus", "min_plus", "max_times", "max_min"])
@pytest.mark.parametrize("text", ["ab,ab->b", "ab,cb->ac", "ab,ab,cb->c", "ab,ab->", "ab,ab,cb->", "ab->a"])
def test_each_element_of_an_expanded_operand_has_a_gradient_of_its_own(text: str, semiring: str) -> None:
    row = torch.rand(1, 3, dtype=torch.float64)
    others = [torch.rand(2, 3, dtype=torch.float64) for _ in range(text.count(","))]
    expected = None
    for made in (row.repeat(2, 1), row.expand(2, 3)):
        operand = made.detach().requires_grad_()
        for _ in range(3):  # run, compile, run compiled
            found = einsum(text, *others, operand, semiring=semiring)
            (gradient,) = torch.autograd.grad(found.sum(), operand)
            expected = gradient if expected is None else expected
            torch.testing.assert_close(gradient, expected)
        torch.testing.assert_close(
            torch.func.grad(lambda x: einsum(text, *others, x, semiring=semiring).sum())(operand.detach()),
            expected,
        )


@pytest.mark.parametrize("semiring", ["boolean", "max_plus", "min_plus", "max_times", "max_min"])
def test_the_argmax_of_a_broadcast_label_is_where_another_operand_has_it(semiring: str) -> None:
    x = torch.tensor([[False, False, True], [False, True, False]])
    y = torch.ones(1, 2, dtype=torch.bool)
    if semiring != "boolean":
        x, y = (~x if semiring == "min_plus" else x).double(), y.double()
    for text, operands in (("ba,ab->b", (x, y)), ("ab,ba->b", (y, x))):
        indices = einsum(text, *operands, semiring=semiring, return_argmax=True)[1]
        assert indices.tolist() == [[2], [1]]


@pytest.mark.parametrize("limit", range(700, 1000, 50))
def test_gradients_over_a_semiring_that_selects_loop_once_over_each_label(limit: int) -> None:
    operands = [torch.rand(shape, dtype=torch.float64) for shape in ((), (1, 11, 5), (1,))]
    x = operands[1].requires_grad_()
    found = [
        einsum(",bac,b->c", *operands, semiring="max_times", memory_limit=each) for each in (None, limit)
    ]
    gradients = [torch.autograd.grad(value, x, torch.arange(5.0).double())[0] for value in found]
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*gradients)


def test_gradients_of_a_mantissa_without_elements_can_be_differentiated() -> None:
    x, y = (torch.rand(shape, dtype=torch.float64, requires_grad=True) for shape in ((0, 3), (3,)))
    mantissa, exponent = einsum("ba,a->b", x, y, strip_exponent=True, memory_limit=1000)
    made = torch.autograd.grad(mantissa.sum() + exponent, (x, y), create_graph=True)
    assert torch.equal(made[0], torch.zeros(0, 3).double())
    assert torch.equal(made[1], torch.zeros(3).double())


@pytest.mark.parametrize("text", ["de,ce,->cd", "ab,bc,cd->ad", "a,ab,b,->"])
def test_gradients_of_a_mantissa_need_no_intermediate_that_only_its_own_gradient_takes(text: str) -> None:
    sizes = dict(zip("abcde", (2, 3, 4, 5, 6), strict=True))
    shapes = [[sizes[x] for x in part] for part in text.split("->")[0].split(",")]
    operands = [torch.rand(shape, dtype=torch.float64) for shape in shapes]
    operands[0].requires_grad_()
    mantissa, exponent = einsum(text, *operands, strip_exponent=True, memory_limit="1 MiB")
    (found,) = torch.autograd.grad((mantissa * 10**exponent).sum(), operands[0])
    (expected,) = torch.autograd.grad(torch.einsum(text, *operands).sum(), operands[0])
    torch.testing.assert_close(found, expected)
