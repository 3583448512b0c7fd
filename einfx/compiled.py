"""Contractions in functions that torch compiles or exports.

There a contraction is one operator of the captured graph, ``einfx::einsum`` for real numbers and
``einfx::contract`` for everything else. It is taken apart, with sizes as symbols, after the capture.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import dispatch
from .equation import LETTERS
from .errors import PlanError, UsageError
from .options import Options
from .semiring import get
from .semiring_dispatch import contract_over

__all__ = [
    "OPTIONS",
    "contract",
    "contract_semiring",
    "optimize_text",
    "option_words",
    "read_optimize",
    "read_options",
    "text_of",
]

OPTIONS = (
    "str semiring, int[] linear_operands, bool? zero_annihilates, str grad_of_neg_inf, int? block_size, "
    "str? memory_limit"
)
"""The part of an operator's schema that :func:`read_options` reads."""

_SCHEMA = f"(str equation, Tensor[] operands, str optimize, {OPTIONS})"
_LIBRARY = torch.library.Library("einfx", "FRAGMENT")
_LIBRARY.define("einsum(str equation, Tensor[] operands, str optimize) -> Tensor")
_LIBRARY.define(f"contract{_SCHEMA} -> Tensor")
_LIBRARY.define(f"contract_argmax{_SCHEMA} -> (Tensor, Tensor)")


def contract(token: Any, tensors: Sequence[Tensor], optimize: Any) -> Tensor:
    """Contract over real numbers while torch compiles.

    Args:
        token: as in :func:`.dispatch.contract`.
        tensors: the operands.
        optimize: a name or a path.

    Raises:
        PlanError: another ``optimize``.
    """
    return torch.ops.einfx.einsum(  # type: ignore[no-any-return]
        text_of(token), list(tensors), optimize_text(optimize)
    )


def contract_semiring(
    token: Any,
    tensors: Sequence[Tensor],
    optimize: Any,
    semiring: Any,
    linear_operands: Sequence[int],
    zero_annihilates: bool | None,
    grad_of_neg_inf: Any,
    block_size: int | None,
    memory_limit: Any,
    return_argmax: bool,
) -> Any:
    """Contract over a semiring while torch compiles; the arguments are those of :func:`einfx.einsum`.

    Raises:
        PlanError: an ``optimize`` that is neither a name nor a path.
        UsageError: a semiring that isn't registered, by whose name compiled code could find it.
    """
    operator = torch.ops.einfx.contract_argmax if return_argmax else torch.ops.einfx.contract
    return operator(
        text_of(token),
        list(tensors),
        optimize_text(optimize),
        *option_words(semiring, linear_operands, zero_annihilates, grad_of_neg_inf, block_size, memory_limit),
    )


def option_words(
    semiring: Any,
    linear_operands: Sequence[int],
    zero_annihilates: bool | None,
    grad_of_neg_inf: Any,
    block_size: int | None,
    memory_limit: Any,
) -> tuple[Any, ...]:
    """Keywords of :func:`einfx.einsum` as the arguments of an operator.

    Raises:
        UsageError: a semiring that isn't registered, by whose name compiled code could find it.
    """
    if not isinstance(semiring, str):
        if get(semiring.name) is not semiring:
            raise UsageError("in a compiled function a semiring is found by its name; register it first")
        semiring = semiring.name
    limit = None if memory_limit is None else str(memory_limit)
    return (
        semiring,
        list(linear_operands),
        zero_annihilates,
        str(grad_of_neg_inf),
        block_size,
        limit,
    )


def text_of(token: Any) -> str:
    """The equation that a token stands for, as text."""
    return token if isinstance(token, str) else _text(*token)


def optimize_text(optimize: Any) -> str:
    """A strategy's name, or a path, as text; raises PlanError for anything else."""
    if not isinstance(optimize, (str, list, tuple)):
        raise PlanError(f"in a compiled function optimize is a name or a path, not {optimize!r}")
    return optimize if isinstance(optimize, str) else str(tuple([tuple(x) for x in optimize]))


def _text(sublists: Sequence[Sequence[Any]], output: Sequence[Any] | None) -> str:
    """The text of an interleaved equation, whose letters are in the order of its labels."""
    labels = sorted({x for part in sublists for x in part if x is not Ellipsis})
    letter = dict(zip(labels, sorted(LETTERS), strict=False))
    letter[...] = "..."
    text = ",".join(["".join([letter[x] for x in part]) for part in sublists])
    return text if output is None else text + "->" + "".join([letter[x] for x in output])


def read_optimize(optimize: str) -> Any:
    """What :func:`optimize_text` wrote."""
    return optimize if optimize.replace("-", "").isalnum() else ast.literal_eval(optimize)


def _einsum(equation: str, operands: Sequence[Tensor], optimize: str) -> Tensor:
    return dispatch.contract(equation, tuple(operands), read_optimize(optimize))


def read_options(
    semiring: str,
    linear_operands: Sequence[int],
    zero_annihilates: bool | None,
    grad_of_neg_inf: str,
    block_size: int | None,
    memory_limit: str | None,
) -> Options:
    """What :func:`option_words` wrote."""
    return Options.read(
        semiring,
        linear_operands=tuple(linear_operands),
        zero_annihilates=zero_annihilates,
        grad_of_neg_inf=grad_of_neg_inf if grad_of_neg_inf == "uniform" else float(grad_of_neg_inf),
        block_size=block_size,
        memory_limit=memory_limit,
    )


def _contract(equation: str, operands: Sequence[Tensor], optimize: str, *options: Any) -> Tensor:
    result: Tensor = contract_over(equation, operands, read_optimize(optimize), read_options(*options))
    return result


def _contract_argmax(
    equation: str, operands: Sequence[Tensor], optimize: str, *options: Any
) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = contract_over(
        equation, operands, read_optimize(optimize), read_options(*options), return_argmax=True
    )
    return result


for _name, _implementation in (
    ("einsum", _einsum),
    ("contract", _contract),
    ("contract_argmax", _contract_argmax),
):
    _LIBRARY.impl(_name, _implementation, "CompositeImplicitAutograd")
    _LIBRARY.impl(_name, _implementation, "FuncTorchBatched")
