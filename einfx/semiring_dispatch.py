"""From a call over a semiring to the code that answers it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, get_num_threads

from .dispatch import as_written, call_name, read_equation, remember
from .errors import MemoryLimitError, OperandError, UsageError
from .kernels.batching import has_tangents
from .layout import hint
from .modes import is_captured
from .operands import check_operand
from .options import Options
from .planning import plan
from .semiring_program import SemiringProgram
from .shifted_log import ShiftedLog
from .slicing import contract_within, is_linear, is_sliceable
from .slicing.autograd.argmax import argmax_within
from .slicing.autograd.operators import contract_captured, is_an_operator
from .slicing.schedules.derivatives import has_directions

__all__ = ["contract_over", "prepared", "promoted", "sees_numbers"]

_programs: dict[Any, tuple[SemiringProgram, ShiftedLog | None]] = {}


def contract_over(
    token: Any, tensors: Sequence[Tensor], optimize: Any, options: Options, return_argmax: bool = False
) -> Any:
    """Contract tensors over a semiring.

    Args:
        token: what :func:`.dispatch.read_equation` reads; equal tokens stand for equal equations.
        tensors: the operands; their dtypes promote as torch's do.
        optimize: as in :func:`einfx.planning.plan`.
        options: over which semiring, and how.
        return_argmax: whether to return the places of what the sums select too.

    Raises:
        EquationError, OperandError, PlanError, MemoryLimitError, UsageError: as :func:`einfx.einsum`; also
            where forward-mode derivatives are compiled.
    """
    if torch._C._is_any_autocast_enabled() and tensors and isinstance(tensors[0], Tensor):
        # The matrix products inside would be cast to half precision, which no sum of exponentials survives.
        with torch.autocast(tensors[0].device.type, enabled=False):
            return contract_over(token, tensors, optimize, options, return_argmax)
    operands = prepared(call_name(token), tensors, options)
    if return_argmax and not options.semiring.selective:
        raise UsageError(
            f"sums over {options.semiring.name!r} aren't one of their terms, so there's no argmax to return"
        )
    if is_captured() and has_tangents(operands):
        # What is recorded is an operator of its own, along which torch would take derivatives of 0.
        raise UsageError(
            f"forward-mode derivatives over {options.semiring.name!r} can't be compiled or exported: call "
            "torch.func.jvp outside of the compiled function, or take gradients (torch.func.vjp, autograd)"
        )
    try:
        sliceable = is_sliceable(operands, options)
        if sliceable and return_argmax and sees_numbers(operands) and not has_tangents(operands):
            equation = read_equation(token, [x.dim() for x in operands])
            return argmax_within(equation, operands, optimize, options)
        sliceable = sliceable and not return_argmax
        if sliceable and torch.compiler.is_compiling() and is_an_operator(optimize, options):
            equation = read_equation(token, [x.dim() for x in operands])
            return contract_captured(equation, operands, optimize, options)
        if sliceable and _is_followed(operands, options):
            equation = read_equation(token, [x.dim() for x in operands])
            return contract_within(equation, operands, optimize, options)
        try:
            program, shifted = _program(token, operands, optimize, options)
        except MemoryLimitError as error:
            if not sliceable or not (is_captured() or torch._C._get_tracing_state() is not None):
                raise
            return _captured_as_a_whole(token, operands, optimize, options, error)
    except (OperandError, MemoryLimitError) as error:
        raise as_written(token, error) from None
    if torch._C._get_tracing_state() is not None:
        if return_argmax:
            raise UsageError("torch.jit.trace can't record an argmax; compile or script the program instead")
        return program.traced(operands)
    if return_argmax:
        return program.with_places(operands)
    if shifted is not None and sees_numbers(operands):
        result = shifted(operands)
        if result is not None:
            return result
    return program(operands)


def _captured_as_a_whole(
    token: Any, operands: Sequence[Tensor], optimize: Any, options: Options, error: MemoryLimitError
) -> Tensor:
    """An operator that stays within the limit when it runs, where what torch could record doesn't.

    Raises:
        MemoryLimitError: the semiring has no such operator.
    """
    if not (isinstance(optimize, (str, tuple, list)) and is_linear(options)):
        raise MemoryLimitError(
            f"{error}, where it is compiled, exported or traced; called outside of that it may need less",
            error.needed_bytes,
        )
    equation = read_equation(token, [x.dim() for x in operands])
    with warnings.catch_warnings():
        # Sizes that are compared while torch.jit.trace records are compared again when the operator runs.
        warnings.simplefilter("ignore")
        return contract_captured(equation, operands, optimize, options)


def _is_followed(operands: Sequence[Tensor], options: Options) -> bool:
    """Whether contractions within a limit have what a transform asks of them."""
    if is_captured() or torch._C._get_tracing_state() is not None:
        return False
    return has_directions(options) or not (
        torch._C._are_functorch_transforms_active() or has_tangents(operands)
    )


def sees_numbers(operands: Sequence[Tensor]) -> bool:
    """Whether a decision may depend on numbers: nothing compiles, traces or maps this."""
    captured = is_captured() or torch._C._get_tracing_state() is not None
    return not (captured or torch._C._are_functorch_transforms_active())


def _program(
    token: Any, operands: Sequence[Tensor], optimize: Any, options: Options
) -> tuple[SemiringProgram, ShiftedLog | None]:
    """The program for operands of one dtype; that of a call seen before is remembered."""
    first = operands[0]
    key = (
        token,
        optimize,
        options,
        *[x.shape for x in operands],
        first.dtype,
        first.device,
        get_num_threads(),
    )
    try:
        known = _programs.get(key)
    except TypeError:  # an optimizer, or a symbol for a size, that can't be hashed
        return _planned(token, operands, optimize, options)
    if known is None:
        known = _planned(token, operands, optimize, options)
        remember(_programs, key, known)
    return known


def _planned(
    token: Any, operands: Sequence[Tensor], optimize: Any, options: Options
) -> tuple[SemiringProgram, ShiftedLog | None]:
    first = operands[0]
    shapes = [tuple([hint(n) for n in x.shape]) for x in operands]
    equation = read_equation(token, [len(shape) for shape in shapes])
    chosen = plan(
        equation, shapes, dtype=first.dtype, device=first.device, optimize=optimize, options=options
    )
    # A path that the caller chose is the one that is taken.
    shifted = ShiftedLog.of(chosen) if isinstance(optimize, str) and optimize == "auto" else None
    return SemiringProgram(chosen), shifted


def prepared(call: str, tensors: Sequence[Any], options: Options) -> list[Tensor]:
    """The operands in one dtype, on one device, of the semiring.

    Args:
        call: how errors name the call.
        tensors: the operands.
        options: over which semiring.

    Raises:
        OperandError: operands that can't be contracted with one another.
    """
    if not tensors:
        raise OperandError(f"{call}: there are no operands; it takes at least one tensor")
    for position, tensor in enumerate(tensors):
        check_operand(call, position, tensor)
        if tensor.device != tensors[0].device:
            raise OperandError(
                f"{call}: operand 0 is on {tensors[0].device}, but operand {position} on {tensor.device}; "
                "move them to one device"
            )
    for position in options.linear_operands:
        if not 0 <= position < len(tensors):
            raise OperandError(
                f"{call}: linear_operands names operand {position}, but there are {len(tensors)}"
            )
    try:
        options.semiring.check(*tensors)
    except OperandError as error:
        raise OperandError(f"{call}: {error}") from None
    dtype = tensors[0].dtype
    if all(x.dtype == dtype for x in tensors):
        return list(tensors)
    dtype = promoted(tensors)
    return [x.to(dtype) for x in tensors]


def promoted(tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype of torch's promotion rules, by which a 0-dimensional tensor counts less than others."""
    kinds = [
        reduce(torch.promote_types, [x.dtype for x in tensors if bool(x.dim()) == wide])
        for wide in (True, False)
        if any(bool(x.dim()) == wide for x in tensors)
    ]
    if len(kinds) == 1:
        return kinds[0]
    return torch.result_type(torch.empty(1, dtype=kinds[0]), torch.empty((), dtype=kinds[1]))
