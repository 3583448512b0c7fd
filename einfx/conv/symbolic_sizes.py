"""Contractions with index patterns where sizes are symbols, as of a batch in a program for any batch.

Patterns have sizes that are numbers. What the other labels have may be a symbol, or under torch.jit.trace a
tensor: nothing is remembered for it, and nothing is decided by it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..dispatch import read_equation
from ..layout import hint
from ..options import REAL
from ..pattern import IndexPattern
from .steps.lowering import Native, lowered
from .symbolic.network import Network
from .symbolic.views import View

__all__ = ["contract_symbolic"]


def contract_symbolic(
    token: Any, operands: Sequence[Tensor | IndexPattern], optimize: Any, memory_limit: int | None
) -> Tensor:
    """Contract tensors and patterns over real numbers.

    Args:
        token: what :func:`einfx.dispatch.read_equation` reads.
        operands: tensors, whose sizes may be symbols, and patterns.
        optimize: a strategy's name. A path is for the sizes of one program, and not followed.
        memory_limit: the most bytes beyond the operands, the result included.

    Raises:
        OperandError: operands that don't fit the equation.
    """
    tensors = [operand for operand in operands if isinstance(operand, Tensor)]
    if tensors and all(x.is_floating_point() or x.is_complex() for x in tensors):
        with warnings.catch_warnings():
            # That sizes of one label are equal is checked while tracing, and holds afterwards.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
            native = _native(token, operands)
            if native is not None:
                return native[0].run(operands).reshape(native[1])  # type: ignore[arg-type]
    # Most programs never come here: they needn't wait for the import.
    from .semirings.contraction import contract_semiring

    options = REAL if memory_limit is None else replace(REAL, memory_limit=memory_limit)
    answer: Tensor = contract_semiring(
        token, operands, options, "auto" if isinstance(optimize, tuple) else optimize
    )
    return answer


def _native(token: Any, operands: Sequence[Tensor | IndexPattern]) -> tuple[Native, tuple[Any, ...]] | None:
    """The native convolution that a contraction is, and the shape of its result; None where it is none."""
    ranks = [operand.ndim for operand in operands]
    equation = read_equation(token, ranks)
    for read in (hint, lambda size: size):
        symbols = tuple(
            operand
            if isinstance(operand, IndexPattern)
            else View(position, tuple(read(size) for size in operand.shape))
            for position, operand in enumerate(operands)
        )
        network = Network(equation, symbols)
        # Numbers tell whether it's one; the second time, symbols, which are no keys of a cache, go where
        # the sizes of a result come from.
        native: Native | None = lowered(network) if read is hint else lowered.__wrapped__(network)
        if native is None:
            return None
    assert native is not None
    return native, network.shape
