"""Contractions with symbolic index patterns, computed without building the patterns.

A call is planned once (:mod:`.planning`) for its equation, shapes, dtypes, devices and patterns, and kept;
what is kept is ready to run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import compiled_patterns
from ..contract import contract_patterns, einsum, read_call
from ..dispatch import read_equation, remember
from ..errors import OperandError, UsageError
from ..operands import check_operand
from ..options import REAL, Options
from ..paths.choices import hashable
from ..pattern import IndexPattern
from ..pattern_functions import taking_patterns
from .limited import limited_program, wants_gradients
from .operators import capturing
from .planning import plan_network
from .planning.cut_plan import CutPlan
from .planning.limits import plan_within
from .planning.plan import ConvPlan
from .steps.lowering import Native
from .symbolic.network import Network, Operand
from .symbolic.views import View
from .symbolic_sizes import contract_symbolic

__all__ = ["contract", "network_of"]

_programs: dict[Any, Callable[[Sequence[Any]], Tensor]] = {}


def contract(
    token: Any, operands: Sequence[Any], optimize: Any = "auto", memory_limit: int | None = None
) -> Tensor:
    """What :func:`einfx.einsum` comes to where patterns are among its operands, over the real numbers.

    Args:
        token: what :func:`einfx.dispatch.read_equation` reads.
        operands: tensors, and patterns, each of three dimensions: kernel, output, input.
        optimize: as in :func:`.planning.plan_network`, with tuples for lists.
        memory_limit: the most bytes beyond the operands, the result included.

    Returns:
        The result, as einsum gives it for the patterns as tensors, but for what is summed against zeros of a
        pattern: that is left out, as in a native convolution, also where it isn't finite.

    Raises:
        EquationError: the equation can't be read.
        OperandError: operands that don't fit it, or no tensor among them.
        PlanError: ``optimize`` can't be used.
        MemoryLimitError: nothing fits the limit.
    """
    if torch._C._get_tracing_state() is not None:
        return contract_symbolic(token, operands, optimize, memory_limit)
    try:
        key: Any = tuple([x if type(x) is IndexPattern else (x.shape, x.dtype, x.device) for x in operands])
        names = [id(x) for x in operands]
        if len(set(names)) < len(names):
            # Which operands are one and the same.
            key = (key, tuple([names.index(name) for name in names]))
        if memory_limit is not None:
            key = (key, *_limited_key(operands))
        key = (token, optimize, memory_limit, key)
        program = _programs.get(key)
    except AttributeError:
        raise _stranger(operands) from None
    except TypeError:  # a symbol for a size, that can't be hashed
        return contract_symbolic(token, operands, optimize, memory_limit)
    if program is None:
        program = _prepared(token, operands, optimize, memory_limit)
        remember(_programs, key, program)
    return program(operands)


def network_of(token: Any, operands: Sequence[Tensor | IndexPattern]) -> Network:
    """The network of a contraction; a tensor that is given twice is one tensor.

    Args:
        token: what :func:`einfx.dispatch.read_equation` reads.
        operands: tensors and patterns.
    """
    first: dict[int, int] = {}
    symbols: tuple[Operand, ...] = tuple(
        operand
        if isinstance(operand, IndexPattern)
        else View(first.setdefault(id(operand), position), tuple(operand.shape))
        for position, operand in enumerate(operands)
    )
    return Network(read_equation(token, [len(symbol.shape) for symbol in symbols]), symbols)


def _limited_key(operands: Sequence[Any]) -> tuple[frozenset[int], frozenset[int]]:
    """What a plan within a limit depends on too: what kernels copy, and whose gradients are wanted."""
    tensors = {p: x for p, x in enumerate(operands) if isinstance(x, Tensor)}
    wanted: frozenset[int] = frozenset()
    if wants_gradients(list(tensors.values())):
        wanted = frozenset(p for p, x in tensors.items() if x.requires_grad)
    return frozenset(p for p, x in tensors.items() if not x.is_contiguous() or x.is_conj()), wanted


def _prepared(
    token: Any, operands: Sequence[Any], optimize: Any, memory_limit: int | None
) -> Callable[[Sequence[Any]], Tensor]:
    """What answers calls with such operands."""
    tensors = [operand for operand in operands if isinstance(operand, Tensor)]
    if not tensors:
        raise OperandError("a contraction of index patterns alone has no dtype: make one of them a tensor")
    for position, operand in enumerate(operands):
        if isinstance(operand, Tensor):
            check_operand("einsum with index patterns", position, operand)
    network = network_of(token, operands)
    dtype, device = tensors[0].dtype, tensors[0].device
    same = not torch._C._is_any_autocast_enabled()
    for x in tensors:
        # A number promotes, and autocast makes dtypes equal.
        alike = x.device == device and (x.dtype == dtype or torch._C._is_any_autocast_enabled())
        if not alike and x.numel() != 1:
            raise OperandError(
                f"einsum {network.text!r} with index patterns: its tensors are {dtype} on {device} and "
                f"{x.dtype} on {x.device}; convert them to one dtype and device"
            )
        same &= alike
    like = [isinstance(x, Tensor) for x in operands].index(True)
    if memory_limit is None:
        return _runner(plan_network(network, dtype, device, optimize=optimize), like)
    strided, wanted = _limited_key(operands)
    if wanted and same:
        return limited_program(network, dtype, device, memory_limit, optimize, strided, wanted)
    return _runner(plan_within(network, dtype, device, memory_limit, optimize, strided), like)


def _runner(plan: ConvPlan | CutPlan, like: int) -> Callable[[Sequence[Any]], Tensor]:
    if isinstance(plan, ConvPlan) and len(plan.steps) == 1:
        (step,) = plan.steps
        method = step.lowering.method
        # A plan of one step reads the operands where they are.
        if step.operands == tuple(range(len(plan.network.operands))) and isinstance(method, Native):
            if tuple(method.sizes[i] for i in method.order) == step.lowering.shape:
                return method.run
            return lambda operands: step.lowering.run(operands)
    return lambda operands: plan.run(operands, operands[like])


@taking_patterns(contract_patterns)
def _answer(
    token: Any, operands: Sequence[Any], optimize: Any, options: Options, return_argmax: bool
) -> Tensor:
    """What an einsum comes to where patterns are among its operands."""
    if options is REAL and not return_argmax:
        return contract(token, operands, optimize, None)
    if options.semiring.name != "real" or return_argmax:
        from .semirings.contraction import contract_semiring

        answer: Tensor = contract_semiring(token, operands, options, optimize, return_argmax)
        return answer
    if options.block_size is not None:
        raise UsageError(
            "block_size is for contractions over a semiring; with index patterns, give a memory_limit"
        )
    return contract(token, operands, optimize, options.memory_limit)


@taking_patterns(einsum, torch.functional.einsum)
def _einsum(
    equation: Any, *operands: Any, optimize: Any = "auto", return_argmax: bool = False, **words: Any
) -> Tensor:
    """The same, called by torch's protocol for functions of tensors."""
    token, tensors = read_call(equation, operands)
    if capturing():
        return compiled_patterns.contract(token, tensors, optimize, return_argmax, **words)  # type: ignore[no-any-return]
    optimize = hashable(optimize)
    return _answer(token, tensors, optimize, Options.read(**words) if words else REAL, return_argmax)


def _stranger(operands: Sequence[Any]) -> OperandError:
    position, operand = next(
        (p, x) for p, x in enumerate(operands) if not isinstance(x, (Tensor, IndexPattern))
    )
    return OperandError(
        f"einsum: operand {position} is a {type(operand).__name__}, not a tensor or an IndexPattern"
    )
