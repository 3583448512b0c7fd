"""Plans that were made before, given to ``einsum`` as ``optimize``: an object, or its text.

=====================================  =================================================================
given                                  is run as
=====================================  =================================================================
a plan of steps                        its path, with slices of its own where there's a ``memory_limit``
a plan in blocks                       its program, for gradients that of ``plan.vjp()``
a cotengra tree with sliced indices    its path in loops over these, in blocks of 1
=====================================  =================================================================

A plan fits the equation, the shapes and the dtype that it was made for, and nothing else. What traces or
compiles a call records the path and the limit, and finds the slices again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch.overrides import has_torch_function

from .dispatch import read_equation, remember
from .equation import Equation
from .errors import MemoryLimitError, PlanError
from .options import Options, read_keywords
from .paths.choices import refuse_unusable
from .plans import Plan, refuse_others, size_text
from .slicing import SlicedPlan, is_sliceable, plan_of_slices

__all__ = ["UNBOUNDED", "Words", "given_plan", "read_plan"]

UNBOUNDED = 1 << 62
"""The limit of a plan in blocks that was made without one."""

Words = tuple[Any, Any, Any, Any, Any, Any]
"""Semiring, linear_operands, zero_annihilates, grad_of_neg_inf, block_size, memory_limit."""

_known: dict[Any, tuple[Any, Words]] = {}


def given_plan(token: Any, tensors: Sequence[Any], optimize: Any, words: Words) -> tuple[Any, Words]:
    """What a call runs whose ``optimize`` may be a plan.

    Args:
        token: what :func:`.dispatch.read_equation` reads.
        tensors: the operands.
        optimize: whatever was given but the name of a strategy.
        words: what :func:`.options.read_keywords` reads, the memory limit last.

    Returns:
        ``optimize`` and ``words`` as the rest of einsum takes them.

    Raises:
        PlanError: the plan is of another contraction.
        MemoryLimitError: it takes more than the call allows.
    """
    if isinstance(optimize, (tuple, list)):
        return optimize, words
    if not isinstance(optimize, (str, Plan, SlicedPlan)):
        refuse_unusable(optimize)
    if has_torch_function(tensors) or torch.compiler.is_compiling():
        # What is recorded is the path and the limit; slices are found again.
        if isinstance(optimize, (str, Plan, SlicedPlan)):
            optimize, limit = _recorded(optimize)
            words = (*words[:5], limit if words[5] is None else words[5])
        return optimize, words
    if isinstance(optimize, str):
        optimize = read_plan(optimize)
    if not (isinstance(optimize, (Plan, SlicedPlan)) or getattr(optimize, "sliced_inds", None)):
        return optimize, words
    try:
        key = (optimize, token, words, tuple([(x.shape, x.dtype, x.device) for x in tensors]))
        known = _known.get(key)
    except (AttributeError, TypeError):  # something that isn't a tensor, or can't be hashed
        return _chosen(token, tensors, optimize, words)
    if known is None:
        known = _chosen(token, tensors, optimize, words)
        remember(_known, key, known)
    return known


@lru_cache(maxsize=256)
def read_plan(text: str) -> Plan | SlicedPlan:
    """The plan of a text, whichever kind it is.

    Raises:
        PlanError: the text isn't that of a plan.
    """
    return SlicedPlan.from_text(text) if '"schedule"' in text else Plan.from_text(text)


def _recorded(optimize: str | Plan | SlicedPlan) -> tuple[tuple[tuple[int, ...], ...], int | None]:
    """The path of a plan, and its limit."""
    plan = read_plan(optimize) if isinstance(optimize, str) else optimize
    return plan.path, plan.memory_limit if isinstance(plan, SlicedPlan) else None


# The mark that torch.compiler.assume_constant_result makes: that function imports a compiler, which takes
# longer than all of einfx.
setattr(_recorded, "_dynamo_marked_constant", True)  # noqa: B010


def _chosen(token: Any, tensors: Sequence[Any], optimize: Any, words: Words) -> tuple[Any, Words]:
    if not all(isinstance(x, torch.Tensor) for x in tensors):
        return (
            optimize,
            words,
        )  # arrays come again as tensors; of anything else who reads them says what it is
    equation = read_equation(token, [x.dim() for x in tensors])
    options = read_keywords(*words)
    if isinstance(optimize, Plan):
        _check(equation, token, optimize, options)
        refuse_others(str(equation), optimize.shapes, optimize.dtype, tensors)
        limit = optimize.options.memory_limit if words[5] is None else words[5]
        return optimize.path, (*words[:5], limit)
    if not isinstance(optimize, SlicedPlan):
        limited = replace(options, memory_limit=UNBOUNDED)
        if not is_sliceable(tensors, limited):
            return optimize, words
        device = tensors[0].device.type.replace("meta", "cpu")
        return plan_of_slices(equation, tensors, device, optimize), _within(words, words[5])
    _check(equation, token, optimize, options)
    refuse_others(optimize.text, optimize.shapes, optimize.dtype, tensors)
    if optimize.needs_grad:
        raise PlanError(
            f"this is the plan of the gradients of {optimize.text!r}: call plan.run(*operands, gradient), or "
            "give the plan of the contraction, from which einsum derives them"
        )
    limit = options.memory_limit
    if limit is not None and optimize.peak_bytes > limit:
        raise MemoryLimitError(
            f"einsum {token!r}: memory_limit={limit} ({size_text(limit)}) is less than the plan takes, "
            f"{optimize.peak_bytes} bytes ({size_text(optimize.peak_bytes)}); plan again with "
            "einfx.contract_path(..., memory_limit=...)"
        )
    return optimize, _within(words, optimize.memory_limit if limit is None else words[5])


def _within(words: Words, limit: Any) -> Words:
    return (*words[:5], UNBOUNDED if limit is None else limit)


def _check(equation: Equation, token: Any, plan: Plan | SlicedPlan, options: Options) -> None:
    text = plan.text if isinstance(plan, SlicedPlan) else str(plan.equation)
    if equation != plan.equation:
        asked = token if isinstance(token, str) else str(equation)
        raise PlanError(
            f"optimize is the plan of {text!r}, but einsum was asked for {asked!r}: plan that one with "
            "einfx.contract_path"
        )
    if options.unlimited() == plan.options.unlimited() and options.block_size is None:
        return
    ours, theirs = options.semiring.name, plan.options.semiring.name
    if ours != theirs:
        raise PlanError(
            f"optimize is the plan of {text!r} over {theirs!r}, but einsum was asked for it over {ours!r}: "
            f"give semiring={theirs!r}, or plan again with einfx.contract_path"
        )
    raise PlanError(
        f"optimize is the plan of {text!r} with {plan.options.unlimited().keywords()}, but einsum was given "
        f"{options.keywords()}: plan again with einfx.contract_path"
    )
