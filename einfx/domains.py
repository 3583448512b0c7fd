"""Which tensors belong to a semiring: kinds of dtypes, and checks of numbers."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from .errors import OperandError
from .modes import is_captured

__all__ = ["kind_of", "require_non_negative"]

PART = 1 << 16
"""How many elements are looked at together."""

_NEGATIVE = (
    "max_times is a semiring on non-negative numbers only (its zero is 0, which has to be the smallest), "
    "but an operand has negative ones; max_plus of their logarithms, or max_min, may be what you want"
)


def kind_of(dtype: torch.dtype) -> str:
    """The kind of a dtype: ``"floating"``, ``"complex"``, ``"integer"``, ``"unsigned"`` or ``"bool"``.

    Example:
        >>> kind_of(torch.bfloat16), kind_of(torch.uint8)
        ('floating', 'unsigned')
    """
    if dtype == torch.bool:
        return "bool"
    if dtype.is_complex:
        return "complex"
    if dtype.is_floating_point:
        return "floating"
    return "integer" if dtype.is_signed else "unsigned"


def require_non_negative(x: Tensor) -> None:
    """Refuse a tensor with negative elements; nan and -0.0 pass.

    Compiled code makes the same check when it runs.

    Raises:
        OperandError: there are some.

    Example:
        >>> require_non_negative(torch.tensor([0.0, 2.0]))
    """
    if kind_of(x.dtype) in ("bool", "unsigned"):
        return
    if torch._C._get_tracing_state() is not None:  # TorchScript's code checks for itself
        return
    if is_captured():
        torch._assert_async((x < 0).logical_not().all(), _NEGATIVE)
    else:
        cast(Any, _NonNegative).apply(x.detach())


def _has_negative(x: Tensor) -> bool:
    """Whether an element is negative, looked for in parts, so that a memory limit holds."""
    if x.numel() <= PART:
        return bool((x < 0).any())
    dim = max(range(x.dim()), key=lambda dim: x.shape[dim])
    length = max(1, PART * x.shape[dim] // x.numel())
    return any(_has_negative(part) for part in x.split(length, dim))


class _NonNegative(torch.autograd.Function):
    """The check as a function of its own: vmap and jvp hand it plain tensors, whose numbers can be read."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        if _has_negative(x):
            raise OperandError(_NEGATIVE)
        return x.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None], x: Tensor) -> tuple[Tensor, None]:
        return cast(Any, _NonNegative).apply(x), None
