"""Numbers beyond the range of their dtype: tensors beside the power of two that they are scaled by.

Scaling by powers of two changes no digit, so that however often it happens nothing is lost by it; only at the
end the largest magnitude becomes 1, and the exponent one to base 10.

    >>> scaled, power = normalised(torch.tensor([3e30, -6e30]))
    >>> scaled, power
    (tensor([ 0.2958, -0.5916]), tensor(103))
    >>> mantissa, exponent = decimal(scaled, power)
    >>> mantissa, round(exponent.item(), 4)
    (tensor([ 0.5000, -1.0000]), 30.7782)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["decimal", "largest", "normalised"]


def largest(x: Tensor) -> Tensor:
    """The largest magnitude in a tensor, of complex numbers that of real and imaginary parts.

    Args:
        x: floating point or complex, of any shape.

    Returns:
        0-dimensional, of the real dtype of ``x``, without a gradient; 0 where ``x`` is empty, nan where it
        holds one.
    """
    x = x.detach()
    if x.is_complex():
        x = torch.view_as_real(x.conj() if x.is_conj() else x)
    if x.numel() == 0:
        return x.new_zeros(())
    low, high = x.aminmax()
    return torch.maximum(-low, high)


def normalised(x: Tensor) -> tuple[Tensor, Tensor]:
    """A tensor times the power of two that brings its largest magnitude to between a half and 1.

    Args:
        x: floating point or complex, of any shape.

    Returns:
        The tensor, and a 0-dimensional int64 such that ``x`` is the tensor times 2 to its power. Where the
        largest magnitude is 0, infinite or nan the power is 0. The power has no gradient: what it is changes
        nothing in the number that both stand for.
    """
    factor, power = _factor(largest(x))
    return x * factor, power


def _factor(magnitude: Tensor) -> tuple[Tensor, Tensor]:
    usable = magnitude.isfinite() & (magnitude > 0)
    # The factor for a number smaller than this would itself be infinite.
    magnitude = magnitude.clamp(min=torch.finfo(magnitude.dtype).tiny)
    part, power = torch.frexp(magnitude)
    # An exact quotient: the power of two itself, which exp2 only comes near to.
    return torch.where(usable, part / magnitude, 1), torch.where(usable, power, 0).to(torch.int64)


def decimal(x: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
    """From a tensor with a power of two to a mantissa and an exponent to base 10.

    Args:
        x: floating point or complex, of any shape, its magnitudes in the range of their dtype.
        power: 0-dimensional, of an integer dtype.

    Returns:
        The mantissa, whose largest magnitude is 1, and the exponent, both with their gradients. The exponent
        is 0-dimensional, in float64 where the device has it; it is 0 where all of ``x`` is. Numbers that
        aren't finite stay what they are.
    """
    magnitude = x.abs().amax() if x.numel() else x.detach().abs().sum()
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    usable = magnitude.isfinite() & (magnitude > 0)
    divisor = torch.where(usable, magnitude, 1)
    exponent = power.to(wide) * math.log10(2) + divisor.to(wide).log10()
    return x / divisor, torch.where(magnitude == 0, 0.0, exponent)
