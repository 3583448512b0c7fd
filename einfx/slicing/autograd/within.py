"""Contractions within a limit under autograd and torch.func: every derivative is computed in blocks too.

There are four functions, each with rules that are made of the others; nothing but their inputs, and over
semirings the result, is saved. With ``V(x)`` the contraction:

================  ==============================================================  ======================
function          computes                                                        differentiable
================  ==============================================================  ======================
``_Value``        the contraction                                                 backward, jvp, vmap
``_Gradients``    ``G(g, x)``: gradients of ``<g, V(x)>``                         backward, jvp, vmap
``_Tangent``      ``T(v, x)``: the derivative of ``V`` in the direction ``v``     backward, jvp, vmap
``_Second``       ``S(g, v, x)``: gradients of ``<g, T(v, x)>`` by ``x``          backward, jvp, vmap
================  ==============================================================  ======================

Each is one sweep of a schedule of its own, see :mod:`.derivatives`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...equation import Equation
from ...kernels.batching import apply, tracked
from ...options import Options
from ..schedules.derivatives import has_directions, is_linear
from ..schedules.plain import plain
from .problem import Problem
from .third import recorded_gradients, second_by_contractions, tangent_by_contractions

__all__ = ["contract_within"]


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
    problem = Problem.of(equation, optimize, options)
    if not tracked(*operands):
        return problem.value(operands)
    wanted = tuple(x.requires_grad and torch.is_grad_enabled() for x in operands)
    if any(wanted):
        problem = problem.differentiable(operands, wanted)
    result: Tensor = apply(_Value, problem, *operands)
    return result


class _Value(torch.autograd.Function):
    @staticmethod
    def forward(problem: Problem, *operands: Tensor) -> Tensor:
        return problem.value(operands)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.problem, operands = inputs[0], inputs[1:]
        result = () if is_linear(ctx.problem.options) else (output,)
        ctx.save_for_backward(*operands, *result)
        ctx.save_for_forward(*operands, *result)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Any, ...]:
        wanted, saved = tuple(ctx.needs_input_grad[1:]), ctx.saved_tensors
        if gradient is None:
            return (None,) * (1 + len(wanted))
        made = iter(_gradients(ctx.problem, wanted, gradient, saved))
        return None, *(next(made) if needed else None for needed in wanted)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor | None:
        # Who asks for it holds the contraction too.
        saved, problem = ctx.saved_tensors, ctx.problem
        return _tangent(problem.leaving(problem.result_bytes(saved)), tangents, saved)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], problem: Problem, *operands: Tensor) -> tuple[Tensor, int]:
        batched = problem.batched([dim is not None for dim in in_dims[1:]])
        return apply(_Value, batched, *_in_front(info.batch_size, in_dims[1:], operands)), 0


class _Gradients(torch.autograd.Function):
    @staticmethod
    def forward(
        problem: Problem, wanted: tuple[bool, ...], gradient: Tensor, *saved: Tensor
    ) -> tuple[Tensor, ...]:
        return problem.gradients(wanted, gradient, saved)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.problem, ctx.wanted = inputs[:2]
        ctx.save_for_backward(*inputs[2:])
        ctx.save_for_forward(*inputs[2:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *changes: Tensor | None) -> tuple[Any, ...]:
        gradient, *saved = ctx.saved_tensors
        count, rest = len(ctx.wanted), iter(changes)
        direction = [next(rest) if want else None for want in ctx.wanted]
        needs = ctx.needs_input_grad[2 : 3 + count]
        of_gradient = _tangent(ctx.problem, direction, saved) if needs[0] else None
        beside = ctx.problem.leaving(_bytes([of_gradient]))
        made = iter(_second(beside, tuple(needs[1:]), gradient, direction, saved))
        of_operands = [next(made, None) if needed else None for needed in needs[1:]]
        return None, None, of_gradient, *of_operands, *(None for _ in saved[count:])

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        gradient, *saved = ctx.saved_tensors
        change, direction = tangents[0], tangents[1 : 1 + len(ctx.wanted)]
        total: list[Tensor | None] = [None] * sum(ctx.wanted)
        # Who asks for it holds the gradients too, and over semirings the result and its derivative.
        held = [x for x, want in zip(saved, ctx.wanted, strict=False) if want]
        problem = ctx.problem.leaving(_bytes(held) + 2 * _bytes(saved[len(ctx.wanted) :]))
        if any(x is not None for x in direction):
            total = [*_second(problem, ctx.wanted, gradient, direction, saved)]
        if change is not None:
            part = _gradients(problem.leaving(_bytes(total)), ctx.wanted, change, saved)
            total = [y if x is None else _added(x, y) for x, y in zip(total or part, part, strict=True)]
        return tuple(total)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], problem: Problem, wanted: tuple[bool, ...], *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        moved, mapped = _mapped(info.batch_size, in_dims[2:], tensors, [True, *wanted, True])
        batched = problem.batched(mapped[1 : 1 + len(wanted)])
        made = apply(_Gradients, batched, wanted, *moved)
        return made, (0,) * len(made)


class _Tangent(torch.autograd.Function):
    @staticmethod
    def forward(problem: Problem, moving: tuple[bool, ...], *tensors: Tensor) -> Tensor:
        count = sum(moving)
        return problem.tangent(moving, tensors[:count], tensors[count:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.problem, ctx.moving = inputs[:2]
        ctx.save_for_backward(*inputs[2:])
        ctx.save_for_forward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        count, operands = sum(ctx.moving), len(ctx.moving)
        given, saved = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        rest = iter(given)
        direction = [next(rest) if moves else None for moves in ctx.moving]
        needs = ctx.needs_input_grad[2:]
        asked = any(needs[:count])
        of_direction = iter(_gradients(ctx.problem, ctx.moving, gradient, saved) if asked else ())
        wanted = tuple(needs[count : count + operands])
        beside = ctx.problem.leaving(_bytes(given) if asked else 0)
        made = iter(_second(beside, wanted, gradient, direction, saved))
        return (
            None,
            None,
            *(next(of_direction, None) for _ in given),
            *(next(made, None) if needed else None for needed in wanted),
            *(None for _ in saved[operands:]),
        )

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, *tangents: Tensor | None) -> Tensor:
        how = ctx.problem, ctx.moving

        def again(*tensors: Tensor) -> Tensor:
            return tangent_by_contractions(*how, tensors, contract_within)

        made: Tensor = _pushed(again, ctx.saved_tensors, tangents)
        return made

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], problem: Problem, moving: tuple[bool, ...], *tensors: Tensor
    ) -> tuple[Tensor, int]:
        count = sum(moving)
        everything = [*(True for _ in range(count)), *moving, True]
        moved, mapped = _mapped(info.batch_size, in_dims[2:], tensors, everything)
        return apply(_Tangent, problem.batched(mapped[count : count + len(moving)]), moving, *moved), 0


class _Second(torch.autograd.Function):
    @staticmethod
    def forward(
        problem: Problem,
        wanted: tuple[bool, ...],
        moving: tuple[bool, ...],
        gradient: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        count = sum(moving)
        return problem.second(wanted, moving, gradient, tensors[:count], tensors[count:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.problem, ctx.wanted, ctx.moving = inputs[:3]
        ctx.save_for_backward(*inputs[3:])
        ctx.save_for_forward(*inputs[3:])

    @staticmethod
    def backward(ctx: Any, *changes: Tensor) -> tuple[Any, ...]:
        # Third derivatives: of a sum of contractions, each within the limit.
        pull = torch.func.vjp(_Second.again(ctx), *ctx.saved_tensors)[1]
        return None, None, None, *pull(changes)

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, ___: None, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        made: tuple[Tensor, ...] = _pushed(_Second.again(ctx), ctx.saved_tensors, tangents)
        return made

    @staticmethod
    def again(ctx: Any) -> Any:
        """The same as a function that can be differentiated."""
        how = ctx.problem, ctx.wanted, ctx.moving
        return lambda *tensors: second_by_contractions(*how, tensors, contract_within)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        problem: Problem,
        wanted: tuple[bool, ...],
        moving: tuple[bool, ...],
        *tensors: Tensor,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        count = sum(moving)
        needed = [x or y for x, y in zip(wanted, moving, strict=True)]
        everything = [True, *(True for _ in range(count)), *needed, True]
        moved, mapped = _mapped(info.batch_size, in_dims[3:], tensors, everything)
        batched = problem.batched(mapped[1 + count : 1 + count + len(wanted)])
        made = apply(_Second, batched, wanted, moving, *moved)
        return made, (0,) * len(made)


def _gradients(
    problem: Problem, wanted: tuple[bool, ...], gradient: Tensor, saved: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The gradients that are wanted."""
    if not any(wanted):
        return ()
    made: tuple[Tensor, ...]
    if _is_batched(gradient, *saved):
        made = _taken_apart(_Gradients, problem, wanted, gradient, *saved)
        return made
    if tracked(gradient, *saved):
        if not has_directions(problem.options):
            return recorded_gradients(problem, wanted, gradient, saved)
        made = apply(_Gradients, problem, wanted, gradient, *saved)
        return made
    return problem.gradients(wanted, gradient, saved)


def _bytes(tensors: Iterable[Tensor | None]) -> int:
    """What tensors take."""
    return sum(x.numel() * x.element_size() for x in tensors if x is not None)


def _added(x: Tensor, y: Tensor) -> Tensor:
    """The sum of two, in memory of the first where nobody follows that."""
    return x + y if tracked(x, y) else x.add_(y)


def _is_batched(*tensors: Tensor) -> bool:
    """Whether these are what ``torch.autograd.grad(is_grads_batched=True)`` hands over, before any rule."""
    return any(torch._C._functorch.is_legacy_batchedtensor(x) for x in tensors)


class _Batch(NamedTuple):
    """What a rule for vmap is told."""

    batch_size: int


def _taken_apart(function: Any, *args: Any) -> Any:
    """The value of a function for such tensors, by its rule for vmap."""
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    batched = [isinstance(x, Tensor) and _is_batched(x) for x in args]
    plain = [
        torch._remove_batch_dim(x, level, 1, 0) if has else x for x, has in zip(args, batched, strict=True)
    ]
    size = next(x.shape[0] for x, has in zip(plain, batched, strict=True) if has)
    made, _ = function.vmap(_Batch(size), tuple(0 if has else None for has in batched), *plain)
    if isinstance(made, Tensor):
        return torch._add_batch_dim(made, 0, level)
    return tuple(torch._add_batch_dim(x, 0, level) for x in made)


def _tangent(problem: Problem, direction: Sequence[Tensor | None], saved: Sequence[Tensor]) -> Tensor | None:
    """The derivative in a direction."""
    moving = tuple(x is not None for x in direction)
    if not any(moving):
        return None
    given = [x for x in direction if x is not None]
    made: Tensor
    if _is_batched(*given, *saved):
        made = _taken_apart(_Tangent, problem, moving, *given, *saved)
        return made
    if tracked(*given, *saved):
        made = apply(_Tangent, problem, moving, *given, *saved)
        return made
    return problem.tangent(moving, given, saved)


def _second(
    problem: Problem,
    wanted: tuple[bool, ...],
    gradient: Tensor,
    direction: Sequence[Tensor | None],
    saved: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Gradients of the derivative in a direction."""
    moving = tuple(x is not None for x in direction)
    if not any(moving) or not any(wanted):
        return ()
    given = [x for x in direction if x is not None]
    made: tuple[Tensor, ...]
    if _is_batched(gradient, *given, *saved):
        made = _taken_apart(_Second, problem, wanted, moving, gradient, *given, *saved)
        return made
    if tracked(gradient, *given, *saved):
        made = apply(_Second, problem, wanted, moving, gradient, *given, *saved)
        return made
    return problem.second(wanted, moving, gradient, given, saved)


def _pushed(function: Any, tensors: Sequence[Tensor], tangents: Sequence[Tensor | None]) -> Any:
    """The derivative of a function along tangents."""
    given = [torch.zeros_like(x) if t is None else t for x, t in zip(tensors, tangents, strict=True)]
    return torch.func.jvp(function, tuple(tensors), tuple(given))[1]


def _in_front(size: int, dims: Sequence[int | None], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors with the dimension of a vmap, where they have one, in front."""
    return [x if dim is None else x.movedim(dim, 0) for dim, x in zip(dims, tensors, strict=True)]


def _mapped(
    size: int, dims: Sequence[int | None], tensors: Sequence[Tensor], everywhere: Sequence[bool]
) -> tuple[list[Tensor], list[bool]]:
    """The same, and those that need it, for gradients are one for each, expanded; which have it then."""
    front = _in_front(size, dims, tensors)
    made, mapped = [], []
    for dim, tensor, needed in zip(dims, front, [*everywhere][: len(front)], strict=True):
        made.append(tensor.expand(size, *tensor.shape) if dim is None and needed else tensor)
        mapped.append(dim is not None or needed)
    return made, mapped
