"""Contractions of operands that lie elsewhere: in host memory while a GPU computes, or in mapped files.

Blocks are copied while the one before is computed with, in the backward pass too. A result and gradients of
operands in host memory are kept in host memory; parts of sums are added up where they are computed, as long
as that fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...equation import Equation
from ...errors import MemoryLimitError
from ...options import Options
from ...paths.choices import hashable
from ...plans import size_text
from ...progress import Choice
from ..plans.contraction import sliced_plan
from ..running.run import run
from ..schedules.derivatives import is_linear
from ..schedules.loads import Remote
from ..schedules.plain import plain
from ..schedules.schedule import Load
from ..search.find_schedule import Sliced
from .one_gradient import one_gradient
from .within import contract_within

__all__ = ["Elsewhere", "contract_elsewhere"]

ALONE_BYTES = 16 << 20
"""Copies above this, during which nothing is computed, are avoided if others are faster."""

SMALLER = (4, 16)
"""By how much less memory blocks are looked for that are computed while others are copied."""


class Elsewhere(NamedTuple):
    """Where operands lie, and where they are computed with.

    Attributes:
        device: where is computed.
        dtype: in which is computed.
        operands: for each operand whether it lies elsewhere, in host memory.
        stores: whether results that belong in host memory are elsewhere too: with a GPU, not with files.
        progress: who is told how far it is.
    """

    device: torch.device
    dtype: torch.dtype
    operands: tuple[bool, ...]
    stores: bool
    progress: Choice = None

    @property
    def result(self) -> bool:
        """Whether the result is kept elsewhere."""
        return self.stores and all(self.operands)

    def gradients(self, wanted: Sequence[bool]) -> tuple[bool, ...]:
        """For each gradient that is wanted whether it is kept elsewhere."""
        return tuple(self.stores and there for there, want in zip(self.operands, wanted, strict=True) if want)


def contract_elsewhere(
    equation: Equation, tensors: Sequence[Tensor], optimize: Any, options: Options, where: Elsewhere
) -> Tensor:
    """Contract tensors that lie elsewhere within a limit, and their gradients within the same limit.

    Args:
        equation: what to contract.
        tensors: those elsewhere of any dtype, all others of the one that is computed in; dimensions of size 1
            broadcast.
        optimize: as in :func:`einfx.planning.plan`.
        options: over which semiring, and within which limit.
        where: what lies where.

    Raises:
        MemoryLimitError: the limit is too small, for the gradients that are asked for too.

    Example:
        >>> a, b = torch.ones(8, 4000), torch.ones(4000, 8)
        >>> where = Elsewhere(torch.device("cpu"), a.dtype, (True, True), True)
        >>> options = Options.read(memory_limit="20 KiB")
        >>> contract_elsewhere(Equation.parse("ij,jk->ik"), (a, b), "auto", options, where)[0, 0]
        tensor(4000.)
    """
    equation, operands = plain(equation, tensors)
    wanted: tuple[bool, ...] = ()
    if torch.is_grad_enabled():
        wanted = tuple(x.requires_grad for x in operands)
    if not any(wanted):
        return _computed(_plan(equation, operands, optimize, options, where, ()), operands, options, where)
    backward = _plan(equation, operands, optimize, options, where, wanted)
    if options.semiring.selective:
        # What was selected is told by equal numbers, which another order of sums would not give.
        optimize = backward.tree
    forward = _plan(equation, operands, optimize, options, where, ())
    how = equation, options, where, forward, backward
    recorded: Tensor = _Elsewhere.apply(*how, *operands)  # type: ignore[no-untyped-call]
    return recorded


def _plan(
    equation: Equation,
    operands: Sequence[Tensor],
    optimize: Any,
    options: Options,
    where: Elsewhere,
    wanted: tuple[bool, ...],
) -> Sliced:
    optimize = hashable(optimize)
    remote = Remote(where.operands, (where.result,))
    if wanted:
        # Beside the operands the gradient of the result is given, and over most semirings the result.
        given = (where.result,) * (1 if is_linear(options) else 2)
        remote = Remote((*where.operands, *given), where.gradients(wanted))
    shapes = tuple(tuple(x.shape) for x in operands)
    strides = tuple(x.stride() for x in operands)
    device, limit = where.device.type, options.memory_limit
    assert limit is not None
    rest = where.dtype, device, options.unlimited(), wanted, torch.get_num_threads()

    def found(most: int) -> Sliced:
        return sliced_plan(equation, shapes, strides, optimize, most, *rest, remote=remote)

    best = found(limit)
    loads = [line for line in best.schedule.statements if isinstance(line, Load)]
    at_once = sum(prod(best.schedule.shape(line.target)) for line in loads)
    if at_once * where.dtype.itemsize > ALONE_BYTES:
        # Nothing is computed while these are copied: blocks may be faster where memory doesn't ask for them.
        for part in SMALLER:
            with suppress(MemoryLimitError):
                best = min(best, found(min(limit, best.bytes // part)), key=lambda x: x.demand.seconds)
    return best


def _computed(sliced: Sliced, operands: Sequence[Tensor], options: Options, where: Elsewhere) -> Tensor:
    (result,) = _run(sliced, operands, options, where)
    return result


def _run(
    sliced: Sliced, operands: Sequence[Tensor], options: Options, where: Elsewhere
) -> tuple[Tensor, ...]:
    return run(
        sliced.schedule,
        operands,
        sliced.demand,
        options.unlimited(),
        device=where.device,
        dtype=where.dtype,
        progress=where.progress,
    )


class _Elsewhere(torch.autograd.Function):
    """A contraction whose gradients are computed in blocks too; nothing but operands and result is saved."""

    @staticmethod
    def forward(
        ctx: Any,
        equation: Equation,
        options: Options,
        where: Elsewhere,
        forward: Sliced,
        backward: Sliced,
        *operands: Tensor,
    ) -> Tensor:
        result = _computed(forward, operands, options, where)
        ctx.equation, ctx.options, ctx.where, ctx.sliced = equation, options, where, backward
        ctx.save_for_backward(*operands, *([] if is_linear(options) else [result]))
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        options: Options = ctx.options
        where: Elsewhere = ctx.where
        count = len(ctx.equation.inputs)
        operands, results = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        wanted = ctx.needs_input_grad[5:]
        if torch.is_grad_enabled() and (gradient.requires_grad or any(x.requires_grad for x in operands)):
            found = _differentiable(ctx.equation, operands, gradient, wanted, options, where)
            return (None,) * 5 + tuple(found)
        # The gradient is used up where a semiring selects.
        selective = options.semiring.selective and not where.result
        dense = torch.contiguous_format
        gradient = gradient.clone(memory_format=dense) if selective else gradient.contiguous()
        made = iter(_run(ctx.sliced, [*operands, gradient, *results], options, where))
        return (None,) * 5 + tuple(next(made) if needed else None for needed in wanted)


def _differentiable(
    equation: Equation,
    operands: Sequence[Tensor],
    gradient: Tensor,
    wanted: Sequence[bool],
    options: Options,
    where: Elsewhere,
) -> list[Tensor | None]:
    """Gradients that can be differentiated again: over real numbers contractions within the same limit.

    Over another semiring derivatives are no contractions; then operands are moved whole to where is computed,
    which mapped files needn't be.

    Raises:
        MemoryLimitError: these don't fit.
    """
    if options.semiring.name != "real":
        # A view each, so that an operand that is given twice has a gradient at each place.
        operands = [x.view_as(x) for x in operands]
        here = _moved([*operands, gradient], equation, options, where)
        limit = options.memory_limit
        assert limit is not None
        rest = replace(options, memory_limit=limit - here.bytes)
        *factors, gradient = here.tensors
        whole = contract_within(equation, factors, "auto", rest)
        needed = [x for x, want in zip(operands, wanted, strict=True) if want]
        made = iter(torch.autograd.grad(whole, needed, gradient, create_graph=True))
        return [next(made) if want else None for want in wanted]

    def contract(target: Equation, factors: list[Tensor], others: list[int]) -> Tensor:
        remote = where.result, *(where.operands[i] for i in others)
        return contract_elsewhere(target, factors, "auto", options, where._replace(operands=remote))

    return [
        one_gradient(equation, operands, gradient, i, contract).to(operands[i].device) if need else None
        for i, need in enumerate(wanted)
    ]


class _Moved(NamedTuple):
    tensors: list[Tensor]
    bytes: int


def _moved(tensors: Sequence[Tensor], equation: Equation, options: Options, where: Elsewhere) -> _Moved:
    """Tensors where is computed, and how much of them is new there.

    Raises:
        MemoryLimitError: that's all of the limit, or more.
    """
    others = [x for x in tensors if x.device != where.device or x.dtype != where.dtype]
    taken, limit = sum(x.numel() for x in others) * where.dtype.itemsize, options.memory_limit
    assert limit is not None
    if taken and taken >= limit:
        raise MemoryLimitError(
            f"einsum {str(equation)!r}: memory_limit={limit} ({size_text(limit)}) is too little for second "
            f"derivatives over {options.semiring.name!r}: for these, operands are moved whole to "
            f"{where.device}, and take {taken} bytes ({size_text(taken)}) there"
        )
    return _Moved([x.to(where.device, where.dtype) for x in tensors], taken)
