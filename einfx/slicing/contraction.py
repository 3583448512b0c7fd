"""Contractions within a limit: planned, run in blocks, differentiated within the same limit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..equation import Equation
from ..options import REAL, Options
from ..paths import find_paths, paths_from
from ..planning import plan
from ..semiring_program import SemiringProgram
from .plain import plain
from .run import run
from .search import Sliced, find_schedule
from .tree import ContractionTree

__all__ = ["contract_within", "is_sliceable", "sliced_plan"]

_SEMIRINGS = ("real", "log", "max_plus", "min_plus", "max_times", "max_min")


def is_sliceable(tensors: Sequence[Tensor], options: Options) -> bool:
    """Whether a contraction can be cut into blocks here: its semiring, its dtype and its options allow it."""
    dtype = tensors[0].dtype
    plain = options.semiring.name in _SEMIRINGS and not options.semiring.zero_annihilates
    limited = options.memory_limit is not None and options.block_size is None
    usual = not options.linear_operands and options.grad_of_neg_inf == "nan"
    numbers = dtype in (torch.float32, torch.float64) or (
        options.semiring.name == "real" and dtype in (torch.complex64, torch.complex128)
    )
    return plain and limited and usual and numbers


def contract_within(equation: Equation, tensors: Sequence[Tensor], optimize: Any, options: Options) -> Tensor:
    """Contract tensors within a limit, and their gradients within the same limit.

    Args:
        equation: what to contract.
        tensors: of one dtype, on one device; dimensions of size 1 broadcast.
        optimize: as in :func:`einfx.planning.plan`.
        options: over which semiring, and within which limit.

    Raises:
        MemoryLimitError: the limit is too small, for the gradients that are asked for too.

    Example:
        >>> options = Options.read(memory_limit="20 KiB")
        >>> a, b = torch.ones(8, 4000), torch.ones(4000, 8)
        >>> contract_within(Equation.parse("ij,jk->ik"), (a, b), "auto", options)[0, 0]
        tensor(4000.)
    """
    equation, operands = plain(equation, tensors)
    limit = options.memory_limit
    assert limit is not None
    wanted: tuple[bool, ...] = ()
    if torch.is_grad_enabled():
        wanted = tuple(x.requires_grad for x in operands)
    semiring = options.unlimited()
    key = (equation, tuple(tuple(x.shape) for x in operands), tuple(x.stride() for x in operands))
    rest = (_frozen(optimize), limit, operands[0].dtype, operands[0].device.type, semiring)
    threads = torch.get_num_threads()
    if not any(wanted):
        (result,) = _run(sliced_plan(*key, *rest, (), threads), operands, semiring)
        return result
    backward = sliced_plan(*key, *rest, wanted, threads)
    if semiring.semiring.selective:
        # What was selected is told by equal numbers, which another order of sums would not give.
        rest = (backward.tree, *rest[1:])
    forward = sliced_plan(*key, *rest, (), threads)
    how = equation, optimize, options, forward, backward
    recorded: Tensor = _Within.apply(*how, *operands)  # type: ignore[no-untyped-call]
    return recorded


@lru_cache(maxsize=1024)
def sliced_plan(
    equation: Equation,
    shapes: tuple[tuple[int, ...], ...],
    strides: tuple[tuple[int, ...], ...],
    optimize: Any,
    limit: int,
    dtype: torch.dtype,
    device: str,
    options: Options,
    wanted: tuple[bool, ...],
    threads: int,
) -> Sliced:
    """The schedule for a contraction, or for its gradients; arguments as of :func:`.search.find_schedule`.

    ``optimize`` may be a tree too, which is then the one that is cut.

    Raises:
        MemoryLimitError, PlanError: as :func:`einfx.einsum`.
    """
    if len(shapes) == 1:
        paths: list[Any] = [[(0,)]]
    elif isinstance(optimize, ContractionTree):
        paths = [optimize.path]
    elif optimize == "auto":
        paths = find_paths(equation, shapes, dtype, device, (), options)
    else:
        paths = paths_from(equation, shapes, optimize)
    return find_schedule(
        equation, shapes, paths, limit, dtype, device, options=options, wanted=wanted, strides=strides
    )


def _run(sliced: Sliced, operands: Sequence[Tensor], options: Options) -> tuple[Tensor, ...]:
    return run(sliced.schedule, operands, sliced.demand, options)


def _frozen(optimize: Any) -> Any:
    return tuple(tuple(x) for x in optimize) if isinstance(optimize, (list, tuple)) else optimize


class _Within(torch.autograd.Function):
    """A contraction whose gradients are computed in blocks too; nothing but operands and result is saved."""

    @staticmethod
    def forward(
        ctx: Any,
        equation: Equation,
        optimize: Any,
        options: Options,
        forward: Sliced,
        backward: Sliced,
        *operands: Tensor,
    ) -> Tensor:
        semiring = options.unlimited()
        (result,) = _run(forward, operands, semiring)
        ctx.equation, ctx.optimize, ctx.options, ctx.sliced = equation, optimize, options, backward
        ctx.save_for_backward(*operands, *([] if semiring == REAL else [result]))
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        options: Options = ctx.options
        count = len(ctx.equation.inputs)
        saved = ctx.saved_tensors
        wanted = ctx.needs_input_grad[5:]
        if torch.is_grad_enabled() and (gradient.requires_grad or any(x.requires_grad for x in saved)):
            found = _differentiable(ctx.equation, saved[:count], gradient, wanted, ctx.optimize, options)
            return (None,) * 5 + tuple(found)
        semiring = options.unlimited()
        # The gradient is used up where a semiring selects.
        dense = torch.contiguous_format
        selective = semiring.semiring.selective
        gradient = gradient.clone(memory_format=dense) if selective else gradient.contiguous()
        made = iter(
            run(ctx.sliced.schedule, [*saved[:count], gradient, *saved[count:]], ctx.sliced.demand, semiring)
        )
        return (None,) * 5 + tuple(next(made) if needed else None for needed in wanted)


def _differentiable(
    equation: Equation,
    operands: Sequence[Tensor],
    gradient: Tensor,
    wanted: Sequence[bool],
    optimize: Any,
    options: Options,
) -> list[Tensor | None]:
    """Gradients that can be differentiated again: over real numbers contractions within the same limit."""
    if options.semiring.name != "real":
        # Derivatives of these are no contractions; those of the unlimited program are what there is.
        first = operands[0]
        chosen = plan(
            equation,
            [tuple(x.shape) for x in operands],
            dtype=first.dtype,
            device=first.device,
            optimize=optimize,
            options=options.unlimited(),
        )
        whole = SemiringProgram(chosen)(operands)
        needed = [x for x, need in zip(operands, wanted, strict=True) if need]
        found = iter(torch.autograd.grad(whole, needed, gradient, create_graph=True))
        return [next(found) if need else None for need in wanted]
    return [
        _gradient(equation, operands, gradient, i, options) if need else None for i, need in enumerate(wanted)
    ]


def _gradient(
    equation: Equation, operands: Sequence[Tensor], gradient: Tensor, position: int, options: Options
) -> Tensor:
    """The gradient of one operand over real numbers: a contraction of the others."""
    others = [i for i in range(len(operands)) if i != position]
    inputs = (equation.output, *(equation.inputs[i] for i in others))
    there = {label for labels in inputs for label in labels}
    mine, whole = equation.inputs[position], operands[position].shape
    part = contract_within(
        Equation(inputs, tuple(label for label in mine if label in there)),
        [gradient, *(operands[i].conj() for i in others)],
        "auto",
        options,
    )
    # Along what the operand has for itself alone its gradient is the same.
    shape = [size if label in there else 1 for label, size in zip(mine, whole, strict=True)]
    return part.reshape(shape).expand(whole)
