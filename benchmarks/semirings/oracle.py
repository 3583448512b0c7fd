"""Contractions by brute force in float64: all operands broadcast against all labels, one reduction."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ..contests.row import Call, with_gradients

__all__ = ["exact", "exact_argmax", "exact_gradients"]

LAWS: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]] = {
    "real": (torch.mul, lambda terms: terms.sum(-1)),
    "log": (torch.add, lambda terms: terms.logsumexp(-1)),
    "max_plus": (torch.add, lambda terms: terms.amax(-1)),
    "min_plus": (torch.add, lambda terms: terms.amin(-1)),
    "max_times": (torch.mul, lambda terms: terms.amax(-1)),
    "max_min": (torch.minimum, lambda terms: terms.amax(-1)),
    "boolean": (torch.logical_and, lambda terms: terms.any(-1)),
}
"""How terms are multiplied and reduced over their last dimension."""


def _terms(equation: str, operands: tuple[Tensor, ...], multiply: Callable[..., Tensor]) -> Tensor:
    """All products, with the summed labels flattened into a last dimension."""
    inputs, output = equation.split("->")
    labels = list(dict.fromkeys(output + inputs.replace(",", "")))
    views = []
    for operand, own in zip(operands, inputs.split(","), strict=True):
        order = sorted(range(len(own)), key=lambda dim, own=own: labels.index(own[dim]))  # type: ignore[misc]
        where = tuple(slice(None) if label in own else None for label in labels)
        views.append(operand.permute(order)[where])
    terms: Tensor = reduce(multiply, torch.broadcast_tensors(*views))
    return terms.flatten(len(output))


def _contract(equation: str, semiring: str, operands: tuple[Tensor, ...]) -> Tensor:
    multiply, add = LAWS[semiring]
    return add(_terms(equation, operands, multiply))


def _double(operands: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(operand.double() if operand.is_floating_point() else operand for operand in operands)


def exact(equation: str, semiring: str, *operands: Tensor) -> Call:
    """The contraction, with no label repeated in an operand."""
    return lambda: _contract(equation, semiring, _double(operands))


def exact_gradients(equation: str, semiring: str, *operands: Tensor) -> Call:
    """The gradients of all operands."""
    return lambda: with_gradients(lambda *given: _contract(equation, semiring, given), _double(operands))()


def exact_argmax(equation: str, semiring: str, *operands: Tensor) -> Call:
    """Values, and where in the one summed label they are."""

    def call() -> Any:
        best = _terms(equation, _double(operands), LAWS[semiring][0]).max(-1)
        return best.values, best.indices

    return call
