"""What sums select, and derivatives of it, are within a limit what they are without one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import hessian, jvp

import einfx
from einfx.errors import MemoryLimitError
from tests.semiring_oracle import brute_force

CHAIN = "ij,jk,kl->il"
CASES = [
    (CHAIN, ((30, 40), (40, 50), (50, 20))),
    ("ij,jk->", ((30, 40), (40, 50))),
    ("ii,ij,kj->j", ((9, 9), (9, 1), (5, 7))),
    ("ak,ak,ak->a", ((30, 40), (30, 40), (30, 40))),
    ("a,bc,cd,de->ae", ((4,), (5, 6), (6, 7), (7, 3))),
]


def _over(text: str, semiring: str, limit: int | None) -> Callable[..., Tensor]:
    def function(*tensors: Tensor) -> Tensor:
        made: Tensor = einfx.einsum(text, *tensors, semiring=semiring, memory_limit=limit)
        return made

    return function


def _operands(shapes: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(shape, dtype=torch.float64, generator=generator) for shape in shapes]


@pytest.mark.parametrize("semiring", ["max_plus", "min_plus", "max_times"])
@pytest.mark.parametrize(("text", "shapes"), CASES)
def test_argmaxima_and_derivatives_in_a_direction(
    text: str, shapes: tuple[tuple[int, ...], ...], semiring: str
) -> None:
    operands = _operands(shapes)
    direction = [x.flip(0) - 0.5 for x in operands]
    value, indices = einfx.einsum(text, *operands, semiring=semiring, return_argmax=True)
    along = jvp(_over(text, semiring, None), tuple(operands), tuple(direction))
    for limit in (60_000, 400_000):
        found = einfx.einsum(text, *operands, semiring=semiring, return_argmax=True, memory_limit=limit)
        torch.testing.assert_close(found[0], value)
        assert found[1].equal(indices)
        torch.testing.assert_close(
            jvp(_over(text, semiring, limit), tuple(operands), tuple(direction)), along
        )


def test_of_equal_terms_the_first_is_told() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randint(0, 2, shape, generator=generator).double() for shape in ((20, 300), (300, 10)))
    _, expected = einfx.einsum("ij,jk->ik", a, b, semiring="max_plus", return_argmax=True)
    found = einfx.einsum("ij,jk->ik", a, b, semiring="max_plus", return_argmax=True, memory_limit=12_000)
    assert found[1].equal(expected)
    assert found[0].equal(brute_force("ij,jk->ik", [a, b], "max_plus"))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bfloat16])
def test_integers_and_half_precision_have_argmaxima_too(dtype: torch.dtype) -> None:
    operands = [(9 * x).to(dtype) for x in _operands(CASES[0][1])]
    value, indices = einfx.einsum(
        CHAIN, *operands, semiring="max_plus", return_argmax=True, memory_limit=100_000
    )
    i, k = torch.arange(30)[:, None], torch.arange(20)
    j, m = indices.unbind(-1)
    terms = operands[0][i, j].double() + operands[1][j, m].double() + operands[2][m, k].double()
    assert value.dtype == dtype
    torch.testing.assert_close(terms.to(dtype), value)


@pytest.mark.parametrize("semiring", ["max_plus", "max_times"])
def test_second_derivatives_are_those_of_finite_differences(semiring: str) -> None:
    operands = [x.requires_grad_() for x in _operands(((3, 4), (4, 5), (5, 2)))]
    limited = _over(CHAIN, semiring, 200_000)
    assert torch.autograd.gradcheck(limited, operands, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(limited, operands)
    first, *rest = [x.detach() for x in operands]

    def squares(limit: int | None) -> Callable[[Tensor], Tensor]:
        return lambda x: (_over(CHAIN, semiring, limit)(x, *rest) ** 2).sum()

    torch.testing.assert_close(hessian(squares(1 << 22))(first), hessian(squares(None))(first))


def test_the_gradient_of_a_selected_value_goes_to_its_argmax() -> None:
    operands = [x.requires_grad_() for x in _operands(((3, 4), (4, 5)))]
    value, indices = einfx.einsum(
        "ij,jk->ik", *operands, semiring="max_plus", return_argmax=True, memory_limit=20_000
    )
    (found,) = torch.autograd.grad(value.sum(), operands[0])
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for row, places in zip(expected, indices[..., 0], strict=True):
        row += torch.bincount(places, minlength=4)
    torch.testing.assert_close(found, expected)


def test_a_limit_too_small_for_places_names_one_that_is_enough() -> None:
    operands = _operands(CASES[0][1])

    def call(limit: int) -> tuple[Tensor, Tensor]:
        made: tuple[Tensor, Tensor] = einfx.einsum(
            CHAIN, *operands, semiring="max_plus", return_argmax=True, memory_limit=limit
        )
        return made

    with pytest.raises(MemoryLimitError, match="with the places") as refused:
        call(5_000)
    assert refused.value.needed_bytes is not None
    assert call(refused.value.needed_bytes)[0].shape == (30, 20)


@pytest.mark.parametrize("limit", [30_000, 60_000, 4_000_000])
def test_what_is_not_a_number_is_selected_wherever_it_is(limit: int) -> None:
    a, b, c = _operands(((60, 40), (40, 2000), (2000, 4)))
    wanted = [0, 700, 1500, 1999]
    for column, place in enumerate(wanted):
        c[place, column] = torch.nan
    value, indices = einfx.einsum(
        CHAIN, a, b, c, semiring="max_plus", return_argmax=True, memory_limit=limit, optimize=[(0, 1), (0, 1)]
    )
    assert value.isnan().all()
    assert indices[..., 1].tolist() == [wanted] * 60
