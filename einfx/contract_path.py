"""How a contraction would be computed: ``contract_path``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .algebra import Semiring
from .equation import Equation
from .options import read_keywords
from .pattern import IndexPattern, taker_of
from .planning import Plan, plan

__all__ = ["contract_path"]


def contract_path(
    equation: Any,
    *shapes: Any,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    optimize: Any = "auto",
    semiring: str | Semiring = "real",
    memory_limit: int | str | None = None,
) -> Plan | Any:
    """How a contraction would be computed.

    Args:
        equation: text, as in :func:`einfx.einsum`.
        shapes: the shape of each operand, or a tensor like it; an index pattern is itself.
        dtype: of the operands; by default that of the first tensor given, or float32.
        device: where it is computed; by default that of the first tensor given, or the CPU.
        optimize: as in :func:`einfx.einsum`.
        semiring: as in :func:`einfx.einsum`.
        memory_limit: as in :func:`einfx.einsum`.

    Returns:
        The plan; ``print`` shows each step with its kernel and its cost. With index patterns it is an
        :class:`einfx.conv.planning.ConvPlan`, or one of blocks, which has the same figures.

    Raises:
        EquationError: the equation can't be read.
        OperandError: the shapes don't fit it.
        PlanError: ``optimize`` can't be used.
        MemoryLimitError: no plan stays within the limit.

    Example:
        >>> p = contract_path("ij,jk,kl->il", (10, 20), (20, 30), (30, 5))
        >>> p.path, p.flops
        (((1, 2), (0, 1)), 8000)
    """
    example = next((x for x in shapes if isinstance(x, Tensor)), None)
    if example is not None:
        dtype, device = dtype or example.dtype, device or example.device
    if any(isinstance(x, IndexPattern) for x in shapes):
        options = read_keywords(semiring, memory_limit=memory_limit)
        return taker_of(contract_path)(
            equation, shapes, dtype or torch.float32, device or "cpu", optimize, options
        )
    sizes = [tuple(x.shape) if isinstance(x, Tensor) else tuple(x) for x in shapes]
    parsed = Equation.parse(equation, [len(s) for s in sizes])
    return plan(
        parsed,
        sizes,
        dtype=dtype or torch.float32,
        device=device or "cpu",
        optimize=optimize,
        options=read_keywords(semiring, memory_limit=memory_limit),
    )
