"""Forward-mode and second derivatives over logarithms within a limit are those without one."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import hessian, jacfwd, jvp, vjp, vmap

import einfx
from einfx.errors import MemoryLimitError, UsageError

CHAIN = "ij,jk,kl->il"
SHAPES = (3, 4), (4, 5), (5, 2)


def _operands(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(shape, dtype=dtype, generator=generator) for shape in SHAPES]


def _direction(operands: list[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(8)
    return [torch.randn(x.shape, dtype=x.dtype, generator=generator) for x in operands]


def _log(limit: int | None, **words: object) -> Callable[..., Tensor]:
    def function(*tensors: Tensor) -> Tensor:
        made: Tensor = einfx.einsum(CHAIN, *tensors, semiring="log", memory_limit=limit, **words)  # type: ignore[arg-type]
        return made

    return function


@pytest.mark.parametrize("limit", [3_000, 40_000])
def test_derivatives_in_a_direction_are_those_of_logarithms_of_real_sums(limit: int) -> None:
    operands = _operands()
    direction = _direction(operands)

    def exact(*tensors: Tensor) -> Tensor:
        return torch.einsum(CHAIN, *[x.exp() for x in tensors]).log()

    for signs in ((1, 1, 1), (-1, -1, -1)):
        along = [sign * x.abs() for sign, x in zip(signs, direction, strict=True)]
        found = jvp(_log(limit), tuple(operands), tuple(along))
        torch.testing.assert_close(found, jvp(exact, tuple(operands), tuple(along)))
    found = jvp(_log(limit), tuple(operands), tuple(direction))
    torch.testing.assert_close(found, jvp(exact, tuple(operands), tuple(direction)))


def test_second_derivatives_are_those_of_finite_differences() -> None:
    operands = [x.requires_grad_() for x in _operands()]
    assert torch.autograd.gradgradcheck(_log(6_000), operands)
    assert torch.autograd.gradcheck(
        _log(6_000), operands, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    weights = [operands[0], operands[1].detach().exp().requires_grad_(), operands[2]]
    assert torch.autograd.gradgradcheck(_log(9_000, linear_operands=(1,)), weights)


def test_hessians_and_maps_of_derivatives() -> None:
    first, *rest = _operands()

    def squares(limit: int | None) -> Callable[[Tensor], Tensor]:
        return lambda x: (_log(limit)(x, *rest) ** 2).sum()

    for transform in (hessian, jacfwd):
        torch.testing.assert_close(transform(squares(200_000))(first), transform(squares(None))(first))
    batch = torch.stack([first, -first])

    def pulled(limit: int | None) -> Tensor:
        def one(x: Tensor) -> Tensor:
            pull = vjp(_log(limit), x, *rest)[1]
            gradient: Tensor = pull(torch.ones(3, 2, dtype=x.dtype))[1]
            return gradient

        found: Tensor = vmap(one)(batch)
        return found

    torch.testing.assert_close(pulled(20_000), pulled(None))


def test_half_precision_is_summed_in_float32() -> None:
    operands = _operands()
    direction = _direction(operands)
    half = [x.bfloat16() for x in operands], [x.bfloat16() for x in direction]
    found = jvp(_log(9_000), tuple(half[0]), tuple(half[1]))[1]
    exact = jvp(
        _log(None), tuple(x.double() for x in half[0]), tuple(x.double() for x in half[1])
    )[1]  # fmt: skip
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, exact.bfloat16(), rtol=1e-2, atol=1e-2)


def test_sums_of_nothing_but_zeros_have_the_derivative_that_was_asked_for() -> None:
    a, b = torch.full((2, 3), -math.inf), torch.zeros(3, 2)
    a[1] = 0
    along = torch.ones(2, 3), torch.ones(3, 2)
    for chosen in (0.0, math.nan):

        def function(x: Tensor, y: Tensor, chosen: float = chosen) -> Tensor:
            made: Tensor = einfx.einsum(
                "ij,jk->ik", x, y, semiring="log", memory_limit=4000, grad_of_neg_inf=chosen
            )
            return made

        found = jvp(function, (a, b), along)[1]
        torch.testing.assert_close(found, torch.tensor([[chosen] * 2, [2.0] * 2]), equal_nan=True)


def test_what_is_not_within_the_limit_is_refused() -> None:
    operands = _operands()
    direction = _direction(operands)
    with pytest.raises(MemoryLimitError, match="needs") as refused:
        jvp(_log(400), tuple(operands), tuple(direction))
    needed = refused.value.needed_bytes
    assert needed is not None
    with pytest.raises(UsageError, match="no third ones"):
        jacfwd(hessian(lambda x: _log(60_000)(x, *operands[1:]).sum()))(operands[0])
    with pytest.raises(UsageError, match="grad_of_neg_inf"):
        jvp(_log(9_000, grad_of_neg_inf="uniform"), tuple(operands), tuple(direction))
