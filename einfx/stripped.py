"""Contractions to a mantissa and an exponent, for results beyond the range of floating point.

Every operand and every intermediate is kept near 1 by a power of two of its own, as quimb and cotengra do by
powers of ten. Only products and sums inside of one step have to be in range of one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from .dispatch import as_written, contract, read_equation
from .equation import Equation
from .errors import MemoryLimitError, OperandError, UsageError
from .exponents import decimal, normalised
from .kernels.batching import has_tangents
from .layout import hint
from .modes import is_captured
from .options import Options, read_keywords
from .paths.choices import hashable
from .pattern import IndexPattern
from .planning import plan
from .plans import size_text
from .semiring_dispatch import contract_over, prepared
from .slicing import is_sliceable
from .slicing.autograd.stripped import contract_stripped_within

__all__ = ["contract_stripped", "einsum"]

_WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
"""In what sums are made whose own dtype ends soon above 1, where operands are."""


def einsum(
    token: Any, tensors: Sequence[Any], optimize: Any, words: tuple[Any, ...], return_argmax: bool
) -> tuple[Tensor, Tensor]:
    """What :func:`einfx.einsum` returns with ``strip_exponent=True``.

    Args:
        token: what :func:`.dispatch.read_equation` reads.
        tensors: the operands.
        optimize: as in :func:`einfx.einsum`.
        words: what :func:`.options.read_keywords` reads.
        return_argmax: as in :func:`einfx.einsum`.

    Raises:
        UsageError: also for an argmax, or an index pattern among the operands.
    """
    # The marker that keeps a compiler out takes a second to import; without a compiler nobody needs it.
    if torch.compiler.is_dynamo_compiling():
        kept_out: tuple[Tensor, Tensor] = _uncompiled(token, tensors, optimize, words, return_argmax)
        return kept_out
    return _einsum(token, tensors, optimize, words, return_argmax)


def _einsum(
    token: Any, tensors: Sequence[Any], optimize: Any, words: tuple[Any, ...], return_argmax: bool
) -> tuple[Tensor, Tensor]:
    if return_argmax:
        raise UsageError("return_argmax=True has no exponent to strip: leave strip_exponent out")
    for position, tensor in enumerate(tensors):
        if isinstance(tensor, IndexPattern):
            raise UsageError(
                f"strip_exponent=True takes tensors, but operand {position} is an index pattern; give its "
                "tensor: pattern.tensor(dtype)"
            )
    optimize = hashable(optimize)
    return contract_stripped(token, tensors, optimize, read_keywords(*words))


_uncompiled = _disable_dynamo(_einsum)


def contract_stripped(
    token: Any, tensors: Sequence[Any], optimize: Any, options: Options
) -> tuple[Tensor, Tensor]:
    """Contract tensors to a mantissa and an exponent to base 10.

    Args:
        token: what :func:`.dispatch.read_equation` reads.
        tensors: the operands, floating point or complex; their dtypes promote as torch's do.
        optimize: as in :func:`einfx.einsum`.
        options: over real numbers; a limit, if there's one.

    Returns:
        The mantissa, in the dtype of the operands, whose largest magnitude is 1, and the exponent, in
        float64; where the result is 0 both are 0. Both are differentiable.

    Raises:
        EquationError, OperandError, PlanError, MemoryLimitError: as :func:`einfx.einsum`.
        UsageError: another semiring.

    Example:
        >>> from .options import REAL
        >>> factors = [torch.full((2,), 1e30)] * 4
        >>> mantissa, exponent = contract_stripped("i,i,i,i->i", factors, "auto", REAL)
        >>> mantissa, round(exponent.item(), 5)
        (tensor([1., 1.]), 120.0)
    """
    if options.semiring.name != "real":
        raise UsageError(
            f"strip_exponent=True is for contractions over real numbers, not over {options.semiring.name!r}; "
            "results that overflow come as logarithms from semiring='log'"
        )
    if torch._C._is_any_autocast_enabled() and tensors and isinstance(tensors[0], Tensor):
        with torch.autocast(tensors[0].device.type, enabled=False):
            return contract_stripped(token, tensors, optimize, options)
    call = f"einsum {token!r}" if isinstance(token, str) else "einsum"
    operands = prepared(call, tensors, options)
    dtype = operands[0].dtype
    if not (dtype.is_floating_point or dtype.is_complex):
        raise OperandError(
            f"{call}: strip_exponent=True takes floating-point or complex operands, not {dtype}; convert "
            "them by tensor.double()"
        )
    try:
        equation = read_equation(token, [x.dim() for x in operands])
        wide = [x.to(_WIDER.get(dtype, dtype)) for x in operands]
        if is_sliceable(wide, options) and _sees_numbers(wide):
            options = _without_copies(equation, operands, wide, options)
            mantissa, exponent = contract_stripped_within(equation, wide, optimize, options)
        else:
            mantissa, exponent = _contract(wide, equation, optimize, options)
    except OperandError as error:
        raise as_written(token, error) from None
    return mantissa.to(dtype), exponent


def _sees_numbers(operands: Sequence[Tensor]) -> bool:
    """Whether numbers can be looked at: nothing compiles, traces, maps or has forward derivatives."""
    captured = is_captured() or torch._C._get_tracing_state() is not None
    return not (captured or torch._C._are_functorch_transforms_active() or has_tangents(operands))


def _without_copies(
    equation: Equation, operands: Sequence[Tensor], wide: Sequence[Tensor], options: Options
) -> Options:
    """The limit that is left beside wider copies of operands."""
    copies = sum(x.nbytes for x, operand in zip(wide, operands, strict=True) if x is not operand)
    if not copies or options.memory_limit is None:
        return options
    if copies >= options.memory_limit:
        raise MemoryLimitError(
            f"einsum {str(equation)!r}: strip_exponent=True computes in {wide[0].dtype}, in which the "
            f"operands take {copies} bytes ({size_text(copies)}); memory_limit={options.memory_limit} is less"
        )
    return replace(options, memory_limit=options.memory_limit - copies)


def _contract(
    operands: Sequence[Tensor], equation: Equation, optimize: Any, options: Options
) -> tuple[Tensor, Tensor]:
    """One step of the plan after the other."""
    chosen = plan(
        equation,
        [tuple([hint(n) for n in x.shape]) for x in operands],
        dtype=operands[0].dtype,
        device=operands[0].device,
        optimize=optimize,
        options=options,
    )
    alive: dict[int, Tensor] = {}
    total = torch.zeros((), dtype=torch.int64, device=operands[0].device)
    for number, operand in enumerate(operands):
        alive[number], power = normalised(operand)
        total = total + power
    for number, step in enumerate(chosen.steps, len(operands)):
        taken = [alive.pop(x) for x in step.operands]
        if options.is_plain:
            made = contract(step.equation, taken, "auto")
        else:
            made = contract_over(step.equation, taken, "auto", chosen.step_options(step))
        alive[number], power = normalised(made)
        total = total + power
    return decimal(alive[len(operands) + len(chosen.steps) - 1], total)
