"""Contractions over semirings by brute force: all products at once, summed by numpy, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from einfx.equation import Equation

__all__ = ["LAWS", "brute_force", "brute_force_argmax"]

LAWS: dict[str, tuple[Callable[..., Any], Callable[..., Any], Any]] = {
    "real": (np.add.reduce, np.multiply, 0.0),
    "log": (np.logaddexp.reduce, np.add, -np.inf),
    "max_plus": (np.maximum.reduce, np.add, -np.inf),
    "min_plus": (np.minimum.reduce, np.add, np.inf),
    "max_times": (np.maximum.reduce, np.multiply, 0.0),
    "max_min": (np.maximum.reduce, np.minimum, -np.inf),
    "boolean": (np.logical_or.reduce, np.logical_and, False),
}
"""By semiring: the sum along an axis, the product of two, and the sum of nothing."""


def brute_force(text: str, operands: Sequence[Tensor], semiring: str, linear: Sequence[int] = ()) -> Tensor:
    """The contraction, in float64 (bool over booleans)."""
    equation, everything = _products(text, operands, semiring, linear)
    reduce, _, nothing = LAWS[semiring]
    rank = len(equation.output)
    if everything.ndim == rank:
        return torch.as_tensor(everything.copy())
    flat = everything.reshape(*everything.shape[:rank], int(np.prod(everything.shape[rank:])))
    if flat.shape[-1] == 0:
        return torch.full(flat.shape[:-1], nothing, dtype=torch.bool if nothing is False else torch.float64)
    with np.errstate(all="ignore"):
        return torch.as_tensor(reduce(flat, axis=-1))


def brute_force_argmax(text: str, operands: Sequence[Tensor], indices: Tensor, semiring: str) -> Tensor:
    """The products at the given indices of the summed labels, (*output, S)."""
    equation, everything = _products(text, operands, semiring, ())
    rank = len(equation.output)
    where = np.indices(everything.shape[:rank])
    return torch.as_tensor(everything[(*where, *np.moveaxis(indices.numpy(), -1, 0))])


def _products(
    text: str, operands: Sequence[Tensor], semiring: str, linear: Sequence[int]
) -> tuple[Equation, Any]:
    """Every product, with a dimension for each label of the output, then for each summed one."""
    equation = Equation.parse(text, [x.dim() for x in operands])
    sizes = equation.sizes([tuple(x.shape) for x in operands])
    order = (*equation.output, *equation.summed)
    multiply = LAWS[semiring][1]
    shape = [sizes[x] for x in order]
    total = None
    with np.errstate(all="ignore"):
        for position, (operand, labels) in enumerate(zip(operands, equation.inputs, strict=True)):
            numbers = (
                operand.detach().numpy() if operand.dtype == torch.bool else operand.detach().double().numpy()
            )
            if position in linear:
                numbers = np.log(numbers)
            places = np.indices(shape, sparse=True)
            index = []
            for dim, label in enumerate(labels):
                place = places[order.index(label)]
                index.append(place if numbers.shape[dim] != 1 else np.zeros_like(place))
            own = np.broadcast_to(numbers[tuple(index)] if index else numbers, shape)
            total = own if total is None else multiply(total, own)
    return equation, total
