"""Contractions within a limit as operators, which torch.compile holds whole.

What a schedule does, block by block in memory of its own, can't be traced; and a limit that holds when the
program runs is what counts. They are over real numbers, and differentiated once; semirings stay with the
kernels that are traced.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...equation import Equation
from ...options import Options
from ..schedules.derivatives import is_linear
from ..schedules.plain import plain
from .problem import Problem

__all__ = ["contract_captured", "is_an_operator"]


def is_an_operator(optimize: Any, options: Options) -> bool:
    """Whether a contraction that is compiled is one of these operators."""
    said = isinstance(optimize, (str, tuple, list))
    return said and is_linear(options) and not torch.compiler.is_exporting()


def contract_captured(
    equation: Equation, tensors: Sequence[Tensor], optimize: Any, options: Options
) -> Tensor:
    """Contract tensors within a limit, in a function that is compiled.

    Args: as of :func:`.within.contract_within`.

    Raises:
        MemoryLimitError: when the compiled function runs.
        UsageError: the semiring has no name.
    """
    simple, operands = plain(equation, tensors)
    labels = json.dumps([simple.inputs, simple.output])
    made: Tensor = torch.ops.einfx.within(operands, labels, repr(optimize), json.dumps(options.keywords()))
    return made


@lru_cache(maxsize=1024)
def _problem(labels: str, optimize: str, options: str) -> Problem:
    inputs, output = json.loads(labels)
    equation = Equation(tuple(map(tuple, inputs)), tuple(output))
    return Problem.of(equation, ast.literal_eval(optimize), Options.read(**json.loads(options)))


@torch.library.custom_op("einfx::within", mutates_args=())
def _within(operands: Sequence[Tensor], labels: str, optimize: str, options: str) -> Tensor:
    return _problem(labels, optimize, options).value(operands)


@_within.register_fake
def _(operands: Sequence[Tensor], labels: str, optimize: str, options: str) -> Tensor:
    inputs, output = json.loads(labels)
    sizes = {
        label: size
        for own, operand in zip(inputs, operands, strict=True)
        for label, size in zip(own, operand.shape, strict=True)
    }
    return operands[0].new_empty([sizes[label] for label in output])


@torch.library.custom_op("einfx::within_gradients", mutates_args=())
def _gradients(
    saved: Sequence[Tensor],
    gradient: Tensor,
    wanted: Sequence[bool],
    labels: str,
    optimize: str,
    options: str,
) -> list[Tensor]:
    return list(_problem(labels, optimize, options).gradients(tuple(wanted), gradient, saved))


@_gradients.register_fake
def _(saved: Sequence[Tensor], gradient: Tensor, wanted: Sequence[bool], *_: str) -> list[Tensor]:
    return [x.new_empty(x.shape) for x, want in zip(saved, wanted, strict=False) if want]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    operands, *ctx.how = inputs
    ctx.save_for_backward(*operands)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    wanted = [bool(x) for x in ctx.needs_input_grad[0]]
    made = iter(torch.ops.einfx.within_gradients(list(ctx.saved_tensors), gradient, wanted, *ctx.how))
    return [next(made) if want else None for want in wanted], None, None, None


_within.register_autograd(_backward, setup_context=_save)
