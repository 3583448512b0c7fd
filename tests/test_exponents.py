"""A tensor and its power of two stand for the same number, whatever its magnitude."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from einfx.exponents import decimal, largest, normalised

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


@given(st.integers(-35, 35), st.sampled_from(DTYPES), st.integers(0, 99))
def test_no_digit_changes(decade: int, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(5, dtype=dtype, generator=generator) * 10.0**decade
    scaled, power = normalised(x)
    assert 0.5 <= largest(scaled) < 1
    torch.testing.assert_close(scaled * 2.0 ** power.item(), x, rtol=0, atol=0)


@pytest.mark.parametrize("number", [0.0, math.inf, -math.inf, math.nan])
def test_what_has_no_exponent_stays(number: float) -> None:
    x = torch.tensor([0.0, number])
    scaled, power = normalised(x)
    assert power == 0
    torch.testing.assert_close(scaled, x, equal_nan=True)


def test_numbers_below_the_smallest_normal_one_are_scaled_too() -> None:
    x = torch.tensor([1e-42])
    scaled, power = normalised(x)
    assert scaled * 2.0 ** power.item() == x
    mantissa, exponent = decimal(scaled, power)
    assert mantissa == 1
    assert math.isclose(exponent.item(), math.log10(x.double().item()), rel_tol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_magnitude_of_a_mantissa_is_one(dtype: torch.dtype) -> None:
    x = torch.randn(3, 4, dtype=dtype)
    mantissa, exponent = decimal(x, torch.tensor(700))
    assert mantissa.abs().max().item() == pytest.approx(1)
    assert exponent.dtype == torch.float64
    digits = exponent - 700 * math.log10(2)
    torch.testing.assert_close(mantissa * 10 ** digits.to(mantissa.abs().dtype), x)


def test_of_zeros_and_of_nothing_the_exponent_is_zero() -> None:
    for x in (torch.zeros(2, 3), torch.zeros(0, 3)):
        mantissa, exponent = decimal(*normalised(x))
        assert exponent == 0
        assert torch.equal(mantissa, x)


def test_mantissa_and_exponent_have_the_gradients_of_what_they_are() -> None:
    x = torch.randn(4, dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: decimal(x, torch.tensor(3)), x)
