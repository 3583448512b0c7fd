"""Mantissa and exponent together are the contraction, far outside of the range of floats too."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

import einfx
from einfx.errors import OperandError, UsageError
from tests.ising import log10_partition_function, spins

DTYPES = (torch.float32, torch.float64)


def log10(number: Fraction) -> float:
    """Of a number that needn't fit into a float."""
    return math.log10(number.numerator) - math.log10(number.denominator)


def exactly(equation: str, operands: Sequence[Tensor]) -> Any:
    """The contraction in fractions, an array of these."""
    numbers = [
        numpy.array([Fraction(x) for x in operand.flatten().tolist()], dtype=object).reshape(operand.shape)
        for operand in operands
    ]
    return numpy.asarray(numpy.einsum(equation, *numbers))


def assert_stands_for(found: tuple[Tensor, Tensor], expected: Any, tolerance: float) -> None:
    """Mantissa and exponent are a tensor of fractions, as near as its largest magnitude is known."""
    mantissa, exponent = found
    largest = max(abs(x) for x in expected.flat)
    assert mantissa.abs().max().item() == pytest.approx(1, rel=1e-6)
    assert exponent.item() == pytest.approx(log10(largest), abs=tolerance)
    scaled = torch.tensor([float(x / largest) for x in expected.flat], dtype=torch.float64)
    torch.testing.assert_close(mantissa.double(), scaled.reshape(expected.shape), rtol=0, atol=tolerance)


def network(seed: int, dtype: torch.dtype) -> tuple[str, list[Tensor]]:
    """A random equation, hyperedges and open labels included, with operands of very different magnitudes."""
    chance = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    labels = "abcdefg"[: chance.randint(3, 7)]
    inputs = ["".join(chance.sample(labels, chance.randint(1, 3))) for _ in range(chance.randint(2, 6))]
    used = sorted({x for part in inputs for x in part})
    output = "".join(chance.sample(used, chance.randint(0, min(2, len(used)))))
    decades = 30 if dtype == torch.float32 else 250
    operands = [
        torch.randn([2 + ord(x) % 2 for x in part], dtype=dtype, generator=generator)
        * 10.0 ** chance.randint(-decades, decades)
        for part in inputs
    ]
    return f"{','.join(inputs)}->{output}", operands


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(30))
def test_random_networks_are_what_fractions_say(seed: int, dtype: torch.dtype) -> None:
    equation, operands = network(seed, dtype)
    found = einfx.einsum(equation, *operands, strip_exponent=True)
    assert found[0].dtype == dtype
    assert found[1].dtype == torch.float64
    assert_stands_for(found, exactly(equation, operands), 1e-4 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize(
    ("rows", "columns", "beta"), [(2, 3, 0.3), (4, 4, 0.44), (6, 5, 30.0), (8, 8, 8.0), (3, 40, 12.0)]
)
def test_the_partition_function_of_spins_is_that_of_the_transfer_matrix(
    rows: int, columns: int, beta: float
) -> None:
    mantissa, exponent = einfx.einsum(*spins(rows, columns, beta), strip_exponent=True, optimize="greedy")
    assert mantissa.shape == ()
    expected = log10_partition_function(rows, columns, beta)
    assert mantissa.log10() + exponent == pytest.approx(expected, rel=1e-12)


def test_spins_without_bonds_are_counted() -> None:
    mantissa, exponent = einfx.einsum(*spins(3, 3, 0.0), strip_exponent=True)
    assert mantissa * 10**exponent == pytest.approx(512)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_phases_are_kept(dtype: torch.dtype) -> None:
    a, b = torch.randn(3, 4, dtype=dtype), torch.randn(4, 5, dtype=dtype)
    mantissa, exponent = einfx.einsum("ij,jk->ik", a, b.mul(1e20), strip_exponent=True)
    torch.testing.assert_close(mantissa * 10 ** (exponent.item() - 20), a @ b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_takes_more_than_its_range(dtype: torch.dtype) -> None:
    a = torch.full((3, 3000), 200.0, dtype=dtype)
    mantissa, exponent = einfx.einsum("ij,kj->ik", a, a, strip_exponent=True)
    assert mantissa.dtype == dtype
    assert exponent.item() == pytest.approx(math.log10(200.0**2 * 3000))


def test_a_result_of_zero_has_the_exponent_zero() -> None:
    mantissa, exponent = einfx.einsum("ij,jk->ik", torch.zeros(2, 3), torch.ones(3, 4), strip_exponent=True)
    assert torch.equal(mantissa, torch.zeros(2, 4))
    assert exponent == 0


def test_infinities_and_nans_stay() -> None:
    a = torch.tensor([[math.inf, 1.0], [1.0, 2.0], [math.nan, 0.0]])
    mantissa, exponent = einfx.einsum("ij,j->i", a, torch.full((2,), 4.0), strip_exponent=True)
    torch.testing.assert_close(
        mantissa * 10 ** exponent.float(), torch.tensor([math.inf, 12.0, math.nan]), equal_nan=True
    )


def test_one_operand_is_stripped_too() -> None:
    mantissa, exponent = einfx.einsum("ij->i", torch.full((2, 10), 3e38), strip_exponent=True)
    assert mantissa.tolist() == [1, 1]
    assert exponent.item() == pytest.approx(math.log10(3e38) + 1)


def test_derivatives_are_those_of_the_number_that_both_stand_for() -> None:
    operands = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def stripped(*operands: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = einfx.einsum("ab,cb,cd->ad", *operands, strip_exponent=True)
        return found

    def number(*operands: Tensor) -> Tensor:
        mantissa, exponent = stripped(*operands)
        return mantissa * 10**exponent

    assert torch.autograd.gradcheck(stripped, operands)
    assert torch.autograd.gradcheck(number, operands)
    assert torch.autograd.gradgradcheck(number, operands)
    whole = torch.einsum("ab,cb,cd->ad", *operands)
    mantissa, exponent = stripped(*operands)
    gradient = torch.randn_like(whole)
    expected = torch.autograd.grad(whole.abs().log10(), operands, gradient)
    torch.testing.assert_close(
        torch.autograd.grad(mantissa.abs().log10() + exponent, operands, gradient), expected
    )


def test_the_gradient_of_a_logarithm_is_there_where_the_number_overflows() -> None:
    beta = torch.tensor(20.0, dtype=torch.float64, requires_grad=True)
    _, exponent = einfx.einsum(*spins(6, 6, beta), strip_exponent=True, optimize="greedy")
    (energy,) = torch.autograd.grad(exponent * math.log(10), beta)
    # The ground state has all spins alike: every bond counts 1.
    assert exponent > 308
    assert energy.item() == pytest.approx(2 * 6 * 5)


def test_it_maps_and_has_forward_derivatives() -> None:
    a, b = torch.randn(5, 3, 4, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)

    def stripped(a: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = einfx.einsum("ij,jk->ik", a, b, strip_exponent=True)
        return found

    mantissas, exponents = torch.func.vmap(stripped)(a)
    torch.testing.assert_close(mantissas * 10 ** exponents[:, None, None], a @ b)
    tangent = torch.func.jvp(stripped, (a[0],), (a[0],))[1][1]
    assert tangent.item() == pytest.approx(math.log10(math.e))


def test_in_a_graph_it_stays_a_call_that_passes_leave_alone() -> None:
    def function(a: Tensor, b: Tensor) -> Any:
        return einfx.einsum("ij,jk,kl->il", a, b, b, strip_exponent=True)

    huge = torch.full((2, 2), 1e30)
    optimized = einfx.optimize(function, (huge, huge))
    torch.testing.assert_close(optimized(huge, huge), function(huge, huge))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"semiring": "log"}, "for contractions over real numbers, not over 'log'"),
        ({"semiring": "max_plus"}, "not over 'max_plus'"),
        ({"return_argmax": True}, "no exponent to strip"),
    ],
)
def test_what_has_no_exponent_is_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        einfx.einsum("ij,jk->ik", torch.ones(2, 2), torch.ones(2, 2), strip_exponent=True, **words)


def test_integers_and_patterns_are_refused() -> None:
    ones = torch.ones(2, 2, dtype=torch.int64)
    with pytest.raises(OperandError, match=r"takes floating-point or complex operands, not torch\.int64"):
        einfx.einsum("ij,jk->ik", ones, ones, strip_exponent=True)
    with pytest.raises(UsageError, match="operand 0 is an index pattern"):
        einfx.einsum("koi,ki->o", einfx.IndexPattern(4, 2), torch.ones(2, 4), strip_exponent=True)


@pytest.mark.parametrize("limit", [None, 4000])
def test_expressions_strip_exponents_of_constants_too(limit: int | None) -> None:
    a, b = torch.full((2, 3), 1e30), torch.full((3, 4), 1e30)
    expression = einfx.contract_expression(
        "ij,jk,kl->il", a, b, (4, 5), constants=[0, 1], strip_exponent=True, memory_limit=limit
    )
    for size in (5, 6):
        mantissa, exponent = expression(torch.full((4, size), 1e30))
        torch.testing.assert_close(mantissa, torch.ones(2, size))
        assert exponent.item() == pytest.approx(90 + math.log10(12))
