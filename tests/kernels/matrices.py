"""Matrices for the tests of semiring kernels: every layout, and independent products of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["LAYOUTS", "by_hand", "lay_out"]

LAYOUTS = ("contiguous", "transposed", "sliced", "expanded", "offset")


def lay_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers (B, M, N) with other strides; ``"expanded"`` repeats the first batch."""
    if layout == "transposed":
        return x.transpose(0, 2).contiguous().transpose(0, 2)
    if layout == "sliced":
        wide = x.new_zeros(*x.shape[:2], 2 * x.shape[2])
        wide[..., ::2] = x
        return wide[..., ::2]
    if layout == "expanded":
        return x[:1].expand(x.shape)
    if layout == "offset":
        return torch.cat((x.new_zeros(1, *x.shape[1:]), x))[1:]
    return x.contiguous()


def by_hand(
    a: Tensor,
    b: Tensor,
    zero: float,
    add: Callable[[float, float], float],
    multiply: Callable[[float, float], float],
) -> tuple[list[float], list[int]]:
    """A matrix product in plain Python: sums in order, and where a selecting sum changed last."""
    values, places = [], []
    left, right = a.tolist(), b.tolist()
    for n in range(a.shape[0]):
        for i in range(a.shape[1]):
            for j in range(b.shape[2]):
                total, place = zero, 0
                for k in range(a.shape[2]):
                    term = multiply(left[n][i][k], right[n][k][j])
                    larger = add(total, term)
                    if larger != total and not (math.isnan(total)):
                        total, place = larger, k
                values.append(total)
                places.append(place)
    return values, places
