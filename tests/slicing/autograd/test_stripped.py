"""Within a limit, mantissa and exponent are those of the whole contraction, and so are their gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import einfx
from einfx.equation import Equation
from einfx.errors import MemoryLimitError
from einfx.exponents import decimal
from einfx.slicing.running.memory import demand
from einfx.slicing.running.stripped import near_one, run_stripped, scale
from einfx.slicing.schedules.tree import ContractionTree, Cut, schedule
from tests.ising import log10_partition_function, spins
from tests.slicing.networks import network
from tests.test_stripped import assert_stands_for, exactly

DTYPES = (torch.float32, torch.float64)


def uneven(operands: list[Tensor], dtype: torch.dtype, decades: float, seed: int) -> list[Tensor]:
    """Operands whose magnitudes change along every dimension, so that every block has its own."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for operand in operands:
        x = operand.double()
        for dim, size in enumerate(operand.shape):
            powers = (
                decades / operand.dim() * (2 * torch.rand(size, dtype=torch.float64, generator=generator) - 1)
            )
            x = x * 10 ** powers.view([-1 if i == dim else 1 for i in range(operand.dim())])
        made.append(x.to(dtype))
    return made


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(0, 150, 4))
def test_blocks_of_very_different_magnitudes_add_up(seed: int, dtype: torch.dtype) -> None:
    text, tree, cuts, operands = network(seed)
    operands = uneven(operands, dtype, 30 if dtype == torch.float32 else 120, seed)
    made = schedule(tree, cuts)
    powers = [near_one(x) for x in operands]
    scaled = [x.clone() for x in operands]
    for x, power in zip(scaled, powers, strict=True):
        scale(x, power)
    (found,), (power,) = run_stripped(made, scaled, [-x for x in powers], demand(made, dtype, "cpu"))
    tolerance = 2e-4 if dtype == torch.float32 else 1e-11
    assert_stands_for(decimal(found, torch.tensor(power)), exactly(text, operands), tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_a_limit_changes_nothing(dtype: torch.dtype) -> None:
    operands = [torch.randn(shape, dtype=dtype) * 1e25 for shape in ((30, 200), (200, 300), (300, 20))]
    mantissa, exponent = einfx.einsum("ij,jk,kl->il", *operands, strip_exponent=True, memory_limit="1 MiB")
    whole = einfx.einsum("ij,jk,kl->il", *operands, strip_exponent=True)
    assert mantissa.dtype == dtype
    torch.testing.assert_close(exponent, whole[1])
    torch.testing.assert_close(mantissa, whole[0], rtol=0, atol=1e-4 if dtype.itemsize <= 8 else 1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_partition_function_that_overflows_is_found_within_a_limit(dtype: torch.dtype) -> None:
    # So large that the number overflows, and no tensor of a site.
    beta = 4.0 if dtype == torch.float32 else 50.0
    arguments = spins(4, 4, beta, dtype)
    mantissa, exponent = einfx.einsum(*arguments, strip_exponent=True, optimize="greedy", memory_limit=2000)
    expected = log10_partition_function(4, 4, beta)
    assert expected > math.log10(torch.finfo(dtype).max)
    assert mantissa.log10() + exponent == pytest.approx(
        expected, rel=1e-6 if dtype == torch.float32 else 1e-12
    )


def test_blocks_that_cancel_leave_zero() -> None:
    a = torch.tensor([[1.0, -1.0] * 300] * 2)
    mantissa, exponent = einfx.einsum(
        "ij,kj->ik", a, torch.ones(2, 600), strip_exponent=True, memory_limit=100
    )
    assert torch.equal(mantissa, torch.zeros(2, 2))
    assert exponent == 0


@pytest.mark.parametrize("reversed_blocks", [False, True])
def test_zeros_do_not_push_aside_what_is_small(reversed_blocks: bool) -> None:
    # One block is a product of large numbers and zero, the other one of small numbers.
    a, b, c = torch.tensor([[1e8, 1e-10]]), torch.tensor([1e8, 1e-10]), torch.tensor([[0.0], [1e-2]])
    if reversed_blocks:
        a, b, c = a.flip(1), b.flip(0), c.flip(0)
    tree = ContractionTree(Equation.parse("ij,j,jk->ik"), (1, 2, 1), ((0, 1), (3, 2)))
    made = schedule(tree, [Cut(4, 1, 1)])
    operands = [a, b, c]
    powers = [near_one(x) for x in operands]
    for x, power in zip(operands, powers, strict=True):
        scale(x, power)
    (found,), (power,) = run_stripped(
        made, operands, [-x for x in powers], demand(made, torch.float32, "cpu")
    )
    mantissa, exponent = decimal(found, torch.tensor(power))
    assert mantissa.item() == 1
    assert exponent.item() == pytest.approx(-22, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_derivatives_are_those_of_the_number(dtype: torch.dtype) -> None:
    operands = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((2, 3), (3, 4), (4, 2, 2))]

    def stripped(*operands: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = einfx.einsum(
            "ij,jk,klm->il", *operands, strip_exponent=True, memory_limit=6000
        )
        return found

    def number(*operands: Tensor) -> Tensor:
        mantissa, exponent = stripped(*operands)
        return mantissa * 10**exponent

    assert torch.autograd.gradcheck(stripped, operands)
    assert torch.autograd.gradcheck(number, operands)
    if dtype == torch.float64:
        assert torch.autograd.gradgradcheck(stripped, operands)


@pytest.mark.parametrize("seed", range(0, 60, 4))
def test_gradients_are_those_without_a_limit_where_numbers_overflow(seed: int) -> None:
    text, _, _, operands = network(seed)
    operands = [x.mul(1e150).requires_grad_() for x in operands]
    found = []
    for limit in (None, 20_000):
        mantissa, exponent = einfx.einsum(text, *operands, strip_exponent=True, memory_limit=limit)
        value = (mantissa * torch.arange(mantissa.numel()).reshape(mantissa.shape)).sum() + exponent
        found.append(torch.autograd.grad(value, operands))
    for plain, limited in zip(*found, strict=True):
        torch.testing.assert_close(limited * 1e150, plain * 1e150, rtol=1e-9, atol=1e-9)


def test_the_energy_of_spins_is_a_gradient_within_a_limit() -> None:
    beta = torch.tensor(60.0, dtype=torch.float64, requires_grad=True)
    _, exponent = einfx.einsum(
        *spins(3, 4, beta), strip_exponent=True, optimize="greedy", memory_limit="64 KiB"
    )
    (energy,) = torch.autograd.grad(exponent * math.log(10), beta)
    assert exponent > 308
    assert energy.item() == pytest.approx(3 * 3 + 2 * 4)


def test_half_precision_is_computed_in_single_within_the_limit() -> None:
    a = torch.full((3, 3000), 200.0, dtype=torch.float16)
    mantissa, exponent = einfx.einsum("ij,kj->ik", a, a, memory_limit=80_000, strip_exponent=True)
    assert mantissa.dtype == torch.float16
    assert exponent.item() == pytest.approx(math.log10(200.0**2 * 3000))
    with pytest.raises(
        MemoryLimitError, match=r"computes in torch\.float32, in which the operands take 36012"
    ):
        einfx.einsum("ij,kj->ik", a, a[:, :1], memory_limit=1000, strip_exponent=True)


def test_copies_that_take_more_than_the_limit_are_refused() -> None:
    a = torch.full((20, 20), 1e30)
    with pytest.raises(MemoryLimitError, match="operands 0, 1 are so large or so small"):
        einfx.einsum("ij,jk->ik", a, a, strip_exponent=True, memory_limit=3000)


def test_a_limit_that_is_too_small_names_itself() -> None:
    a = torch.full((20, 20), 1e30)
    with pytest.raises(MemoryLimitError, match=r"memory_limit=4000 .*is too little; with strip_exponent"):
        einfx.einsum("ij,jk->ik", a, a, strip_exponent=True, memory_limit=4000)


@pytest.mark.parametrize("magnitude", [1.0, 1e90])
def test_the_limit_that_a_refusal_names_is_enough(magnitude: float) -> None:
    shapes, generator = ((1, 3), (2, 1, 5), (2, 1, 3)), torch.Generator().manual_seed(0)
    a, b, c = [
        magnitude * torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in shapes
    ]
    words: dict[str, Any] = {"strip_exponent": True}
    with pytest.raises(MemoryLimitError, match=r"memory_limit=400 .*strip_exponent=True.*needs") as caught:
        einfx.einsum("cd,fca,feb->aefbd", a, b, c, memory_limit=400, **words)
    assert caught.value.needed_bytes is not None
    mantissa, _ = einfx.einsum("cd,fca,feb->aefbd", a, b, c, memory_limit=caught.value.needed_bytes, **words)
    torch.testing.assert_close(mantissa.abs().max(), torch.ones((), dtype=torch.float64))
