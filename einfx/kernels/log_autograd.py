"""Log-semiring products under autograd: functions for eager mode, and operators for torch.compile.

What the kernels do depends on numbers, which torch.compile can't follow, and an operator alone has silent
zero tangents in forward mode; so both are there. They share everything: what is saved, and the rules of
differentiation, in which derivatives are sums of posteriors, and the derivatives of those are as well.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..modes import is_captured
from .batching import apply, fold, tracked, unfold
from .log_options import LogOptions
from .log_posteriors import posterior_sums
from .log_sums import Kept, keeps, log_sums

__all__ = ["differentiable_sums"]

BOTH = 3
"""The target of a call for the gradients of both operands: they have most of the work in common."""

SAVED = 8
"""a, b, logs, and what is kept: the first arguments of sums of posteriors; three factors follow."""

Posteriors = Callable[..., tuple[Tensor, Tensor]]
"""``(a, b, logs, *kept, f0, f1, f2, target, *options)`` gives two sums, of which BOTH needs the second."""


def differentiable_sums(a: Tensor, b: Tensor, options: LogOptions) -> Tensor:
    """The logarithms of all sums, (B, I, J).

    Args:
        a: (B, I, K), float32 or float64, K at least 1.
        b: (B, K, J), of the same dtype.
        options: what they mean.
    """
    logs: Tensor
    if is_captured():
        keep = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
        keep = keep and keeps(a, b, options.budget_bytes)
        logs = torch.ops.einfx.log_matmul(a, b, keep, *options)[0]
    elif tracked(a, b):
        transforming = torch._C._are_functorch_transforms_active()
        function = _LogMatmul if transforming else _EagerLogMatmul
        logs = apply(function, a, b, keeps(a, b, options.budget_bytes), *options)[0]
    else:
        logs, _ = log_sums(a, b, options, keep=False)
    return logs


def _compute_sums(a: Tensor, b: Tensor, keep: bool, *options: Any) -> tuple[Tensor, ...]:
    logs, kept = log_sums(a, b, LogOptions(*options), keep=keep)
    # A vmap folds the batch of every tensor, so the empty ones have one too.
    return (logs, *(kept or (a.new_empty(a.shape[0], 0, 0) for _ in Kept._fields)))


def _compute_posteriors(
    a: Tensor,
    b: Tensor,
    logs: Tensor,
    sums: Tensor,
    left: Tensor,
    right: Tensor,
    row_tops: Tensor,
    column_tops: Tensor,
    f0: Tensor | None,
    f1: Tensor | None,
    f2: Tensor | None,
    target: int,
    zero_annihilates: bool,
    grad_of_neg_inf: str,
    linear: int,
    budget_bytes: int,
) -> tuple[Tensor, Tensor]:
    options = LogOptions(zero_annihilates, grad_of_neg_inf, linear, budget_bytes)
    kept = Kept(sums, left, right, row_tops, column_tops) if sums.shape[1] else None
    targets = (0, 1) if target == BOTH else (target,)
    results = posterior_sums(a, b, logs, kept, (f0, f1, f2), targets, options)
    return results[0], results[1] if target == BOTH else a.new_empty(a.shape[0], 0, 0)


# The rules of differentiation; `posteriors` is the function or the operator.


def _save_sums(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    # Otherwise zeros are made for all of these.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:2], *output)
    ctx.save_for_forward(*inputs[:2], *output)
    ctx.options = inputs[3:]


def _sums_vjp(posteriors: Posteriors, ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    needs = ctx.needs_input_grad[:2]
    if grad is None:
        return (None,) * (3 + len(ctx.options))
    target = BOTH if all(needs) else int(needs[1])
    grads = posteriors(*ctx.saved_tensors, None, None, grad, target, *ctx.options)
    of_both = grads if target == BOTH else (grads[0], None) if target == 0 else (None, grads[0])
    return *of_both, None, *(None for _ in ctx.options)


def _save_posteriors(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    saved = *inputs[: SAVED + 3], *output
    ctx.save_for_backward(*saved)
    ctx.save_for_forward(*saved)
    ctx.target, ctx.options = inputs[SAVED + 3], inputs[SAVED + 4 :]
    if ctx.target != BOTH:
        ctx.mark_non_differentiable(output[1])


def _posteriors_vjp(posteriors: Posteriors, ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    """The gradients for a, b, logs and the three factors.

    A factor's gradient is a sum of posteriors with ``grad`` in the place of the target; that of its
    logarithmic weight (a, b, or minus logs) is the factor times it. In linear space there is no such weight,
    and no factor stands for the operand itself.
    """
    saved, results = ctx.saved_tensors[:-2], ctx.saved_tensors[-2:]
    inputs, factors = saved[:SAVED], saved[SAVED:]
    options = LogOptions(*ctx.options)
    of_weights: list[Tensor | None] = [None] * 3
    of_factors: list[Tensor | None] = [None] * 3

    def add(sums: list[Tensor | None], position: int, change: Tensor) -> None:
        known = sums[position]
        sums[position] = change if known is None else known + change

    targets = (0, 1) if ctx.target == BOTH else (ctx.target,)
    for target, grad, result in zip(targets, grads, results, strict=False):
        for position, factor in enumerate(factors):
            linear = options.is_linear(position)
            if position == target:
                if not linear:
                    add(of_weights, position, grad * result)
                continue
            others = [grad if other == target else factors[other] for other in range(3)]
            slope, _ = posteriors(*inputs, *others, position, *options)
            if factor is not None:
                add(of_factors, position, slope)
                slope = slope * factor
            if factor is None or not linear:
                add(of_weights, position, slope)
    of_a, of_b, of_logs = of_weights
    empty = [None] * (SAVED - 3)
    rest = [None] * (1 + len(ctx.options))
    return of_a, of_b, None if of_logs is None else -of_logs, *empty, *of_factors, *rest


class _LogMatmul(torch.autograd.Function):
    """Logarithms, and what the backward pass can use again."""

    forward = staticmethod(_compute_sums)
    setup_context = staticmethod(_save_sums)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _sums_vjp(_posteriors, ctx, *grads)

    @staticmethod
    def jvp(ctx: Any, of_a: Tensor | None, of_b: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        tangent = torch.zeros_like(saved[2])
        for factors in ((of_a, None), (None, of_b)):
            if factors != (None, None):
                tangent = tangent + _posteriors(*saved, *factors, None, 2, *ctx.options)[0]
        return tangent, *(None for _ in Kept._fields)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, tuple[int, ...]]:
        size = info.batch_size
        a, b = fold(size, in_dims[:2], args[:2])
        assert a is not None
        assert b is not None
        options = LogOptions(*args[3:])
        keep = args[2] and keeps(a, b, options.budget_bytes)
        results = apply(_LogMatmul, a, b, keep, *options)
        return tuple(unfold(size, x) for x in results), (0,) * len(results)


class _EagerLogMatmul(_LogMatmul):
    """The same outside of torch.func, where starting it takes half the time."""

    setup_context = staticmethod(torch.autograd.Function.setup_context)

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        results = _compute_sums(*args)
        _save_sums(ctx, args, results)
        return results


class _Posteriors(torch.autograd.Function):
    """Sums of posteriors; their derivatives are of the same kind."""

    forward = staticmethod(_compute_posteriors)
    setup_context = staticmethod(_save_posteriors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _posteriors_vjp(_posteriors, ctx, *grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, Tensor | None]:
        saved, results = ctx.saved_tensors[:-2], ctx.saved_tensors[-2:]
        targets = (0, 1) if ctx.target == BOTH else (ctx.target,)
        changes = [
            _posteriors_jvp(saved, target, LogOptions(*ctx.options), result, tangents)
            for target, result in zip(targets, results, strict=False)
        ]
        return changes[0], changes[1] if ctx.target == BOTH else None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, tuple[int, int]]:
        size, tensors = info.batch_size, SAVED + 3
        results = apply(_Posteriors, *fold(size, in_dims[:tensors], args[:tensors]), *args[tensors:])
        return tuple(unfold(size, x) for x in results), (0, 0)


def _posteriors_jvp(
    saved: tuple[Any, ...], target: int, options: LogOptions, result: Tensor, tangents: tuple[Any, ...]
) -> Tensor:
    """The change of one sum of posteriors."""
    inputs, factors = saved[:SAVED], saved[SAVED:]
    weights = [tangents[0], tangents[1], None if tangents[2] is None else -tangents[2]]
    total = torch.zeros_like(result)
    for position, factor in enumerate(factors):
        weight, slope = weights[position], tangents[SAVED + position]
        if options.is_linear(position) and (position == target or factor is not None):
            weight = None
        if position == target:
            total = total if weight is None else total + result * weight
            continue
        if weight is not None:
            change = weight if factor is None else weight * factor
            slope = change if slope is None else slope + change
        if slope is not None:
            own = [slope if other == position else factors[other] for other in range(3)]
            total = total + _posteriors(*inputs, *own, target, *options)[0]
    return total


def _posteriors(*args: Any) -> tuple[Tensor, Tensor]:
    results: tuple[Tensor, Tensor]
    tensors = [x for x in args[: SAVED + 3] if x is not None]
    if any(torch._C._functorch.is_legacy_batchedtensor(x) for x in tensors):
        # Batched gradients (`is_grads_batched=True`) come in tensors that only operators can take apart.
        results = torch.ops.einfx.log_posteriors(*args)
    elif tracked(*tensors):
        results = apply(_Posteriors, *args)
    else:
        results = _compute_posteriors(*args)
    return results


# The same two as operators.


@torch.library.custom_op("einfx::log_matmul", mutates_args=())
def _matmul_operator(
    a: Tensor,
    b: Tensor,
    keep: bool,
    zero_annihilates: bool,
    grad_of_neg_inf: str,
    linear: int,
    budget_bytes: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    results = _compute_sums(a, b, keep, zero_annihilates, grad_of_neg_inf, linear, budget_bytes)
    logs, sums, left, right, row_tops, column_tops = (x.contiguous() for x in results)
    return logs, sums, left, right, row_tops, column_tops


@_matmul_operator.register_fake
def _(a: Tensor, b: Tensor, keep: bool, *_: Any) -> tuple[Tensor, ...]:
    batch, rows, depth = a.shape
    columns = b.shape[2]
    shapes = [(rows, columns), (rows, depth), (depth, columns), (rows, 1), (1, columns)]
    kept = [a.new_empty(batch, *(shape if keep else (0, 0))) for shape in shapes]
    return a.new_empty(batch, rows, columns), *kept


@torch.library.custom_op("einfx::log_posteriors", mutates_args=())
def _posteriors_operator(
    a: Tensor,
    b: Tensor,
    logs: Tensor,
    sums: Tensor,
    left: Tensor,
    right: Tensor,
    row_tops: Tensor,
    column_tops: Tensor,
    f0: Tensor | None,
    f1: Tensor | None,
    f2: Tensor | None,
    target: int,
    zero_annihilates: bool,
    grad_of_neg_inf: str,
    linear: int,
    budget_bytes: int,
) -> tuple[Tensor, Tensor]:
    inputs = a, b, logs, sums, left, right, row_tops, column_tops, f0, f1, f2
    return _compute_posteriors(*inputs, target, zero_annihilates, grad_of_neg_inf, linear, budget_bytes)


@_posteriors_operator.register_fake
def _(a: Tensor, b: Tensor, logs: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    target = rest[SAVED]
    like = (a, b, logs, a)[target]
    second = b.new_empty(b.shape) if target == BOTH else a.new_empty(a.shape[0], 0, 0)
    return like.new_empty(like.shape), second


_matmul_operator.register_autograd(
    partial(_sums_vjp, torch.ops.einfx.log_posteriors), setup_context=_save_sums
)
_posteriors_operator.register_autograd(
    partial(_posteriors_vjp, torch.ops.einfx.log_posteriors), setup_context=_save_posteriors
)
