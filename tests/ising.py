"""Spins on a square lattice with open edges: their tensors, and their partition function by another way."""

from __future__ import annotations

import math
from typing import Any

import numpy
import torch
from torch import Tensor

__all__ = ["log10_partition_function", "spins"]


def spins(rows: int, columns: int, beta: float | Tensor, dtype: torch.dtype = torch.float64) -> list[Any]:
    """Operands and labels for einsum's interleaved form: one tensor a site, with a dimension for each bond.

    Every bond is the square of a matrix, of which each of its two sites takes one factor.
    """
    strength = torch.as_tensor(beta, dtype=dtype)
    even, odd = strength.cosh().sqrt(), strength.sinh().sqrt()
    factor = torch.stack([torch.stack([even, odd]), torch.stack([even, -odd])])  # (spin, bond)
    number: dict[Any, int] = {}
    arguments: list[Any] = []
    for row in range(rows):
        for column in range(columns):
            here, bonds = (row, column), []
            for other in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if 0 <= other[0] < rows and 0 <= other[1] < columns:
                    bonds.append(number.setdefault(frozenset((here, other)), len(number)))
            letters = "abcd"[: len(bonds)]
            equation = f"{','.join('s' + x for x in letters)}->{letters}"
            arguments += [torch.einsum(equation, *[factor] * len(bonds)), bonds]
    return [*arguments, []]


def log10_partition_function(rows: int, columns: int, beta: float) -> float:
    """Row by row of the transfer matrix, its largest number taken out each time."""
    spin = 1.0 - 2.0 * ((numpy.arange(2**rows)[:, None] >> numpy.arange(rows)) & 1)
    inside = beta * (spin[:, 1:] * spin[:, :-1]).sum(1)
    between = beta * (spin @ spin.T)
    logarithms = inside
    for _ in range(columns - 1):
        terms = between + logarithms
        most = terms.max(1)
        logarithms = inside + most + numpy.log(numpy.exp(terms - most[:, None]).sum(1))
    most = logarithms.max()
    return float(most + math.log(numpy.exp(logarithms - most).sum())) / math.log(10)
