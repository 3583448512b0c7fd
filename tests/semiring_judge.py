"""The einsum that judges programs over semirings: all products at once, differentiable, by torch alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from einfx.equation import Equation
from einfx.semiring import Semiring, register_semiring

__all__ = ["OWN", "judge"]

OWN = (
    register_semiring(
        Semiring("base_two", torch.logaddexp2, torch.add, zero=-math.inf, one=0.0, idempotent=False)
    ),
    register_semiring(
        Semiring("narrowest", torch.minimum, torch.maximum, zero=math.inf, one=-math.inf, selective=True)
    ),
)
"""Semirings that a user made."""

_PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "real": torch.mul,
    "max_times": torch.mul,
    "max_min": torch.minimum,
    "narrowest": torch.maximum,
    "boolean": torch.logical_and,
}
_NOTHING = {"real": 0.0, "max_times": 0.0, "min_plus": math.inf, "narrowest": math.inf}


def judge(equation: Any, *operands: Any, semiring: str = "real", **options: Any) -> Tensor:
    """einfx.einsum over a semiring, from all products at once: differentiable, and of torch's functions."""
    if semiring == "real":
        result: Tensor = torch.einsum(equation, *operands)
        return result
    if isinstance(equation, Tensor):
        everything = (equation, *operands)
        tensors = list(everything[: len(everything) - len(everything) % 2 : 2])
        output = everything[-1] if len(everything) % 2 else None
        parsed = Equation.from_sublists(everything[1::2], output, [x.dim() for x in tensors])
    else:
        tensors = list(operands[0] if isinstance(operands[0], list) else operands)
        parsed = Equation.parse(equation, [x.dim() for x in tensors])
    for tensor in tensors:
        if (tensor.dtype == torch.bool) != (semiring == "boolean"):
            raise ValueError(f"{tensor.dtype} over {semiring}")
        if semiring == "max_times" and bool((tensor < 0).any()):
            raise ValueError("negative")
    for position in options.get("linear_operands", ()):
        tensors[position] = tensors[position].log()
    return _contracted(parsed, tensors, semiring).contiguous()


def _contracted(equation: Equation, tensors: list[Tensor], semiring: str) -> Tensor:
    sizes = equation.sizes([tuple(x.shape) for x in tensors])
    order = (*equation.output, *equation.summed)
    total: Tensor | None = None
    for labels, tensor in zip(equation.inputs, tensors, strict=True):
        kept = list(labels)
        while len(set(kept)) < len(kept):
            label = next(x for x in kept if kept.count(x) > 1)
            first = kept.index(label)
            second = kept.index(label, first + 1)
            tensor = tensor.diagonal(0, first, second)
            kept = [x for i, x in enumerate(kept) if i not in (first, second)] + [label]
        tensor = tensor.permute([kept.index(x) for x in order if x in kept])
        for dim, label in enumerate(order):
            if label not in kept:
                tensor = tensor.unsqueeze(dim)
        total = tensor if total is None else _PRODUCTS.get(semiring, torch.add)(total, tensor)
    assert total is not None
    rank = len(equation.output)
    if rank == len(order):
        return total.expand([sizes[x] for x in order])
    flat = total.expand([sizes[x] for x in order]).flatten(rank)
    if flat.shape[-1] == 0:
        if semiring == "boolean":
            return torch.zeros(flat.shape[:-1], dtype=torch.bool)
        return torch.full(flat.shape[:-1], _NOTHING.get(semiring, -math.inf), dtype=flat.dtype)
    if semiring == "boolean":
        return flat.any(-1)
    if semiring == "log":
        return torch.logsumexp(flat, -1)
    if semiring == "base_two":
        return torch.logsumexp(flat * math.log(2.0), -1) / math.log(2.0)
    if semiring in ("min_plus", "narrowest"):
        return torch.min(flat, -1)[0]
    return torch.max(flat, -1)[0]
