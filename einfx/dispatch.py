"""From a call to the code that answers it: a program compiled before, a plan run now, or torch's own einsum.

===============================  ====================================================================
the call                         is answered by
===============================  ====================================================================
shapes seen once                 the plan's kernels, emitted and run
large products of all labels     the kernel that multiplies and sums all operands block by block
shapes seen again                a straight-line function compiled for exactly these shapes
ever new shapes                  a function compiled for any sizes, planned for sizes like these
autocast, torch.jit.trace        torch.einsum for each pair of the plan
integers, booleans               torch.einsum for each pair of the plan
mixed dtypes                     torch.einsum, whose promotions are then the ones seen
sizes that are symbols           code that is right for any sizes, planned for their hints
===============================  ====================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, TypeVar

import torch
from torch import Tensor

from .costs.semiring_cost import choose_step
from .equation import Equation
from .errors import MemoryLimitError, OperandError
from .kernels.batching import tracked
from .kernels.steps import contract_step
from .layout import contiguous_strides, hint
from .operands import check_operand
from .options import REAL
from .planning import Plan, plan
from .program import call, compile_program, emit_plan, run_pairwise

__all__ = ["as_written", "call_name", "contract", "read_equation", "remember"]

_Error = TypeVar("_Error", bound=OperandError | MemoryLimitError)

MAX_PROGRAMS = 4096
"""How many calls are remembered; the oldest is forgotten first."""

LARGE_BYTES = 16 << 20
"""Intermediates above this leave the caches, and count more than the plan's seconds say."""

MAX_EXACT = 8
"""For how many shapes of one equation exact programs are made, before sizes count by their magnitude."""

_programs: dict[Any, Any] = {}
_distinct: dict[Any, int] = {}


def contract(token: Any, tensors: Sequence[Tensor], optimize: Any) -> Tensor:
    """Contract tensors.

    Args:
        token: what :func:`read_equation` reads; equal tokens stand for equal equations.
        tensors: the operands.
        optimize: as in :func:`einfx.planning.plan`.

    Raises:
        EquationError, OperandError, PlanError: as :func:`einfx.einsum`.
    """
    if torch._C._is_any_autocast_enabled() or torch._C._get_tracing_state() is not None:
        return run_pairwise(_plan(token, tensors, optimize), tensors)
    try:
        key = (token, optimize, tuple([(x.shape, x.stride(), x.dtype, x.device) for x in tensors]))
        program = _programs.get(key)
    except (AttributeError, TypeError, RuntimeError):  # no dense tensor; a size that is a symbol
        return _uncached(token, tensors, optimize)
    if program is None:
        try:
            return _first(key, token, tensors, optimize)
        except OperandError as error:
            raise as_written(token, error) from None
    if program is _SEEN:
        program = _programs[key] = _compile(token, tensors, optimize)
    return program(*tensors)  # type: ignore[no-any-return]


def read_equation(token: Any, ranks: Sequence[int]) -> Equation:
    """The equation that a token stands for: text, sublists with an output, or an equation itself."""
    if isinstance(token, str):
        return Equation.parse(token, ranks)
    if isinstance(token, Equation):
        return token
    sublists, output = token
    return Equation.from_sublists(sublists, output, ranks)


def call_name(token: Any) -> str:
    """How errors name a call.

    Example:
        >>> call_name("ij,jk->ik"), call_name((((0, 1),), (0,)))
        ("einsum 'ij,jk->ik'", 'einsum')
    """
    return f"einsum {token!r}" if isinstance(token, str) else "einsum"


def as_written(token: Any, error: _Error) -> _Error:
    """The error with the equation as the user wrote it before the one with einfx's own letters."""
    if not isinstance(token, str) or repr(token) in str(error):
        return error
    made = copy(error)
    made.args = (f"einsum {token!r}, read as {str(error).removeprefix('einsum ')}", *error.args[1:])
    return made


def _SEEN(*operands: Tensor) -> Tensor:
    """Stands for a call that was answered once, without a program."""
    raise NotImplementedError


def _first(key: Any, token: Any, tensors: Sequence[Tensor], optimize: Any) -> Tensor:
    family = (token, optimize, tuple([(x.dtype, x.device) for x in tensors]))
    count = _distinct.get(family, 0)
    if count >= MAX_EXACT:
        return _by_magnitude(family, token, tensors, optimize)
    answer = _uncached(token, tensors, optimize)
    remember(_distinct, family, count + 1)
    remember(_programs, key, _SEEN)
    return answer


def _by_magnitude(family: Any, token: Any, tensors: Sequence[Tensor], optimize: Any) -> Tensor:
    """Answer by a program for any sizes, planned for sizes of the same magnitude."""
    shapes = tuple([tuple([_magnitude(n) for n in x.shape]) for x in tensors])
    key = (family, shapes)
    program = _programs.get(key)
    if program is None:
        equation = read_equation(token, [x.dim() for x in tensors])
        equation.sizes([x.shape for x in tensors])
        chosen = _plan_for(equation, shapes, tensors, optimize)
        program = _whole_or_pairwise(chosen, tensors, optimize) or compile_program(chosen, guarded=True)
        remember(_programs, key, program)
    else:
        read_equation(token, [x.dim() for x in tensors]).sizes([x.shape for x in tensors])
    return program(*tensors)


def _magnitude(size: int) -> int:
    """Sizes of one power of two count as the same, 0 and 1 as themselves."""
    return size if size < 2 else 3 << (size.bit_length() - 2)


def _uncached(token: Any, tensors: Sequence[Tensor], optimize: Any) -> Tensor:
    chosen = _plan(token, tensors, optimize)
    fallback = _whole_or_pairwise(chosen, tensors, optimize)
    if fallback is not None:
        return fallback(*tensors)  # type: ignore[no-any-return]
    if torch.compiler.is_compiling() or _is_symbolic(tensors):
        return emit_plan(call, chosen, tensors, guarded=True)  # type: ignore[no-any-return]
    strides = [_distinct_strides(x) if tracked(x) else x.stride() for x in tensors]
    return emit_plan(call, chosen, tensors, guarded=False, strides=strides)  # type: ignore[no-any-return]


def _compile(token: Any, tensors: Sequence[Tensor], optimize: Any) -> Any:
    chosen = _plan(token, tensors, optimize)
    fallback = _whole_or_pairwise(chosen, tensors, optimize)
    if fallback is not None:
        return fallback
    strides, distinct = [x.stride() for x in tensors], [_distinct_strides(x) for x in tensors]
    program = compile_program(chosen, strides)
    if strides == distinct:
        return program
    derived = compile_program(chosen, distinct)
    return lambda *operands: (derived if tracked(*operands) else program)(*operands)


def _distinct_strides(tensor: Tensor) -> tuple[int, ...]:
    """Strides as a hint that an expanded tensor's elements differ, as their derivatives do.

    A kernel that takes one of those that are repeated gives it the gradients of them all.
    """
    strides = tensor.stride()
    repeated = any(step == 0 and size > 1 for step, size in zip(strides, tensor.shape, strict=True))
    return contiguous_strides(tensor.shape) if repeated else strides


def _whole_or_pairwise(chosen: Plan, tensors: Sequence[Tensor], optimize: Any) -> Any:
    """The einsum of torch for operands that no kernel here is for; None for all others."""
    first = tensors[0]
    text = str(chosen.equation)
    for position, x in enumerate(tensors):
        # Torch takes no notice of tensors without data beside others, and returns whatever memory holds.
        if x.device != first.device and x.dim() and first.dim():
            raise OperandError(
                f"einsum {text!r}: operand 0 is on {first.device}, but operand {position} on {x.device}; "
                "move them to one device"
            )
    if any(x.dtype != first.dtype or x.device != first.device for x in tensors):
        return lambda *operands: _by_torch(text, operands, torch.functional.einsum, text, *operands)
    if not (first.dtype.is_floating_point or first.dtype.is_complex):
        return lambda *operands: _by_torch(text, operands, run_pairwise, chosen, operands)
    if optimize == "auto" and _is_fused(chosen):
        return lambda *operands: contract_step(chosen.equation, operands, REAL)
    return None


def _by_torch(
    text: str, operands: Sequence[Tensor], function: Callable[..., Tensor], *arguments: Any
) -> Tensor:
    """What torch computes of dtypes for which einfx has no kernels.

    Raises:
        OperandError: torch has none either.
    """
    if torch.compiler.is_compiling():
        return function(*arguments)
    try:
        return function(*arguments)
    except RuntimeError as error:
        if not (
            isinstance(error, NotImplementedError) or "dtype" in str(error) or "scalar type" in str(error)
        ):
            raise
        dtypes = ", ".join(str(x.dtype).removeprefix("torch.") for x in operands)
        raise OperandError(
            f"einsum {text!r} of {dtypes}: torch doesn't multiply these ({error}); convert them to one "
            "dtype, such as torch.float32, by .to(dtype)"
        ) from None


def _is_fused(chosen: Plan) -> bool:
    """Whether all operands are multiplied and summed block by block: pairs would fill memory for nothing."""
    if len(chosen.steps) < 2 or chosen.peak_bytes < LARGE_BYTES:
        return False
    at_once = choose_step(chosen.equation, chosen.shapes, chosen.dtype, chosen.device, REAL)
    # The gradient of each operand is again a product of all others, where pairs share what they made.
    sharing = max(1.0, (len(chosen.shapes) - 1) / 2)
    return at_once.name == "blocked" and sharing * at_once.cost.seconds < 1.3 * chosen.seconds


def _plan(token: Any, tensors: Sequence[Tensor], optimize: Any) -> Plan:
    name = call_name(token)
    for position, tensor in enumerate(tensors):
        check_operand(name, position, tensor)
    equation = read_equation(token, [x.dim() for x in tensors])
    return _plan_for(equation, [[hint(n) for n in x.shape] for x in tensors], tensors, optimize)


def _plan_for(
    equation: Equation, shapes: Sequence[Sequence[int]], tensors: Sequence[Tensor], optimize: Any
) -> Plan:
    device = tensors[0].device if tensors else "cpu"
    dtype = tensors[0].dtype if tensors else torch.float32
    return plan(equation, shapes, dtype=dtype, device=device, optimize=optimize)


def _is_symbolic(tensors: Sequence[Tensor]) -> bool:
    return any(isinstance(n, torch.SymInt) for x in tensors for n in x.shape)


def remember(memory: dict[Any, Any], key: Any, value: Any) -> None:
    """Keep a value, and forget the oldest one where there are too many."""
    while len(memory) >= MAX_PROGRAMS:
        memory.pop(next(iter(memory), None), None)
    memory[key] = value
