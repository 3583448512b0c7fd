"""Contractions with index patterns in functions that torch compiles or exports.

A pattern is no tensor, and what becomes of one is decided with caches and data classes that a capture can't
look into. So the capture records one operator, ``einfx::contract_patterns``, with every pattern as numbers.
It is taken apart, by the code that runs eagerly, after the capture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .compiled import OPTIONS, optimize_text, option_words, read_optimize, read_options, text_of
from .pattern import IndexPattern

__all__ = ["contract"]

_SCHEMA = (
    "(str equation, Tensor[] operands, int[] patterns, int[] positions, str optimize, bool return_argmax, "
    f"{OPTIONS}) -> Tensor[]"
)
_LIBRARY = torch.library.Library("einfx", "FRAGMENT")
_LIBRARY.define(f"contract_patterns{_SCHEMA}")


def contract(
    token: Any,
    operands: Sequence[Any],
    optimize: Any,
    return_argmax: bool = False,
    semiring: Any = "real",
    linear_operands: Sequence[int] = (),
    zero_annihilates: bool | None = None,
    grad_of_neg_inf: Any = float("nan"),
    block_size: int | None = None,
    memory_limit: Any = None,
) -> Any:
    """Contract tensors and patterns while torch captures.

    Args:
        token: as in :func:`.dispatch.contract`.
        operands: tensors, and patterns, which are constants of what is captured.
        optimize: a name or a path.
        return_argmax: as in :func:`einfx.einsum`, and so are the following.
        semiring: its name, or a registered semiring.
        linear_operands: as said.
        zero_annihilates: as said.
        grad_of_neg_inf: as said.
        block_size: as said.
        memory_limit: as said.

    Raises:
        PlanError: another ``optimize``.
        UsageError: a semiring that isn't registered.
    """
    tensors, positions, numbers = [], [], []
    for position, operand in enumerate(operands):
        if isinstance(operand, IndexPattern):
            positions.append(position)
            numbers += [operand.input_size, operand.kernel_size, operand.stride]
            numbers += [operand.left, operand.right, operand.dilation]
        else:
            tensors.append(operand)
    results = torch.ops.einfx.contract_patterns(
        text_of(token),
        tensors,
        numbers,
        positions,
        optimize_text(optimize),
        return_argmax,
        *option_words(semiring, linear_operands, zero_annihilates, grad_of_neg_inf, block_size, memory_limit),
    )
    return (results[0], results[1]) if return_argmax else results[0]


def _contract(
    equation: str,
    tensors: Sequence[Tensor],
    patterns: Sequence[int],
    positions: Sequence[int],
    optimize: str,
    return_argmax: bool,
    *options: Any,
) -> list[Tensor]:
    """What the operator stands for."""
    from .contract import contract_patterns

    operands: list[Any] = list(tensors)
    for place, position in enumerate(positions):
        size, kernel, stride, left, right, dilation = patterns[6 * place : 6 * place + 6]
        operands.insert(position, IndexPattern(size, kernel, stride, (left, right), dilation))
    found = contract_patterns(
        equation, tuple(operands), read_optimize(optimize), read_options(*options), return_argmax
    )
    return list(found) if return_argmax else [found]


for _key in ("CompositeImplicitAutograd", "FuncTorchBatched"):
    _LIBRARY.impl("contract_patterns", _contract, _key)
