"""Simplification of expressions by the structure of their patterns."""

from __future__ import annotations

import torch
from torch import Tensor

from ....conv.symbolic.simplify import simplify as simplify_symbols
from ....pattern import IndexPattern
from ....recognition import recognise
from ..conv_index_pattern import index_pattern

__all__ = ["simplify"]


def simplify(equation: str, operands: list[Tensor]) -> tuple[str, list[Tensor]]:
    """An expression that is cheaper by what its patterns are.

    Args:
        equation: the equation.
        operands: tensors, of which those that :func:`einconv.index_pattern` made count as patterns.

    Returns:
        An equation and operands with the same result, up to a reshape.

    Raises:
        EquationError: the equation can't be read.
        OperandError: operands that don't fit it.

    Example:
        >>> x, pattern = torch.arange(6.0), index_pattern(6, 2, stride=3, dtype=torch.float32)
        >>> equation, small = simplify("i,koi->ko", [x, pattern])
        >>> equation, [operand.tolist() for operand in small]
        ('ab->ba', [[[0.0, 1.0], [3.0, 4.0]]])
    """
    symbols: list[Tensor | IndexPattern] = []
    like: Tensor | None = None
    for operand in operands:
        pattern = recognise(operand) if hasattr(operand, "_pattern_hyperparams") else None
        symbols.append(operand if pattern is None else pattern)
        like = operand if like is None and pattern is not None else like
    small, bound = simplify_symbols(equation, symbols)
    first = operands[0] if like is None else like
    return str(small), as_tensors(bound, first.dtype, first.device)


def as_tensors(
    operands: list[Tensor | IndexPattern], dtype: torch.dtype, device: torch.device
) -> list[Tensor]:
    """Operands with their patterns as tensors."""
    return [
        operand if isinstance(operand, Tensor) else _tensor(operand, dtype, device) for operand in operands
    ]


def _tensor(pattern: IndexPattern, dtype: torch.dtype, device: torch.device) -> Tensor:
    pair = (pattern.left, pattern.right)
    padding = pattern.left if pattern.left == pattern.right >= 0 else pair
    return index_pattern(
        pattern.input_size,
        pattern.kernel_size,
        pattern.stride,
        padding,  # type: ignore[arg-type]
        pattern.dilation,
        device,
        dtype,
    )
