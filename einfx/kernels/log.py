"""Matrix products over the log semiring: ``out_ij = log(sum over k of exp(a_ik + b_kj))``.

Near the speed of a real matrix product, and as exact as logsumexp over all terms. Half and bfloat16 are
computed in float32. Differentiable any number of times in every mode of autograd: derivatives are sums
weighted by the posteriors of the terms, and so are theirs (:mod:`.log_posteriors`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from ..semiring import get
from .batching import accumulation_dtype, apply, fold, paired, unfold
from .log_posteriors import posterior_sums
from .log_sums import log_sums

__all__ = ["matmul"]

Options = tuple[bool, str]
"""Whether zero annihilates, and the gradient of -inf as text: nan as a number would defeat comparisons."""


def matmul(
    a: Tensor,
    b: Tensor,
    *,
    zero_annihilates: bool = False,
    grad_of_neg_inf: float | str = math.nan,
) -> Tensor:
    """A batch of matrix products over the log semiring.

    Works under autograd, ``torch.func`` and ``torch.compile``.

    Args:
        a: (B, I, K), floating.
        b: (B, K, J); dtypes promote as torch's do.
        zero_annihilates: whether -inf wins over +inf and nan; without it, -inf + inf is nan, and nan
            propagates.
        grad_of_neg_inf: what the derivative of a sum that is -inf is with respect to each of its K terms: a
            number, such as the nan that torch.logsumexp gives, or ``"uniform"`` for 1/K.

    Returns:
        (B, I, J); -inf where K is 0 or all terms are -inf, and +inf where one is.

    Raises:
        OperandError: shapes or dtypes that don't fit.
        UsageError: a ``grad_of_neg_inf`` of another kind.

    Example:
        >>> a = torch.tensor([[[0.0, -200.0]]], requires_grad=True)
        >>> b = torch.tensor([[[-200.0], [0.0]]])
        >>> out = matmul(a, b)
        >>> out
        tensor([[[-199.3069]]], grad_fn=...)
        >>> torch.autograd.grad(out.sum(), a)
        (tensor([[[0.5000, 0.5000]]]),)
    """
    a, b = paired("log", a, b)
    get("log").check(a, b)
    options = zero_annihilates, _as_text(grad_of_neg_inf)
    dtype = a.dtype
    if a.shape[2] == 0:
        return a.new_full((a.shape[0], a.shape[1], b.shape[2]), -math.inf)
    a, b = a.to(accumulation_dtype(dtype)), b.to(accumulation_dtype(dtype))
    logs: Tensor
    if torch.compiler.is_compiling():
        logs, _ = torch.ops.einfx.log_matmul(a, b, *options)
    else:
        logs, _ = apply(_LogMatmul, a, b, *options)
    return logs.to(dtype)


def _as_text(grad_of_neg_inf: float | str) -> str:
    if isinstance(grad_of_neg_inf, str) and grad_of_neg_inf != "uniform":
        raise UsageError(f"grad_of_neg_inf is a number or 'uniform', not {grad_of_neg_inf!r}")
    return str(grad_of_neg_inf)


Posteriors = Callable[..., Tensor]
"""``(a, b, logs, sums, f0, f1, f2, target, zero_annihilates, grad_of_neg_inf)`` gives sums of posteriors."""


def _matmul_vjp(
    posteriors: Posteriors, saved: tuple[Tensor, ...], options: Options, grad: Tensor, needs: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients for a and b."""
    of_a = posteriors(*saved, None, None, grad, 0, *options) if needs[0] else None
    return of_a, posteriors(*saved, None, None, grad, 1, *options) if needs[1] else None


def _posteriors_vjp(
    posteriors: Posteriors,
    saved: tuple[Any, ...],
    target: int,
    options: Options,
    result: Tensor,
    grad: Tensor,
) -> list[Tensor | None]:
    """The gradients for a, b, logs, sums and the three factors of sums of posteriors.

    A factor's gradient is a sum of posteriors with ``grad`` in the place of the target; that of its
    logarithmic weight (a, b, or minus logs) is the factor times it.
    """
    inputs, factors = saved[:4], saved[4:]
    of_weights: list[Tensor] = []
    of_factors: list[Tensor | None] = []
    for position, factor in enumerate(factors):
        if position == target:
            of_weights.append(grad * result)
            of_factors.append(None)
            continue
        others = [grad if other == target else factors[other] for other in range(3)]
        slope = posteriors(*inputs, *others, position, *options)
        of_weights.append(slope if factor is None else slope * factor)
        of_factors.append(None if factor is None else slope)
    return [of_weights[0], of_weights[1], -of_weights[2], None, *of_factors]


class _LogMatmul(torch.autograd.Function):
    """Logarithms, and the relative sums that the backward pass divides by."""

    @staticmethod
    def forward(a: Tensor, b: Tensor, zero_annihilates: bool, grad_of_neg_inf: str) -> tuple[Tensor, Tensor]:
        return log_sums(a, b, zero_annihilates)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs[:2], *output)
        ctx.save_for_forward(*inputs[:2], *output)
        ctx.options = inputs[2:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Any:
        needs = ctx.needs_input_grad
        return *_matmul_vjp(_posteriors, ctx.saved_tensors, ctx.options, grad, needs), None, None

    @staticmethod
    def jvp(ctx: Any, of_a: Tensor | None, of_b: Tensor | None, *rest: Any) -> tuple[Tensor, None]:
        saved = ctx.saved_tensors
        tangent = torch.zeros_like(saved[2])
        for factors in ((of_a, None), (None, of_b)):
            if factors != (None, None):
                tangent = tangent + _posteriors(*saved, *factors, None, 2, *ctx.options)
        return tangent, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, tuple[int, int]]:
        size = info.batch_size
        logs, sums = apply(_LogMatmul, *fold(size, in_dims[:2], args[:2]), *args[2:])
        return (unfold(size, logs), unfold(size, sums)), (0, 0)


class _Posteriors(torch.autograd.Function):
    """Sums of posteriors; their derivatives are of the same kind."""

    @staticmethod
    def forward(
        a: Tensor,
        b: Tensor,
        logs: Tensor,
        sums: Tensor,
        f0: Tensor | None,
        f1: Tensor | None,
        f2: Tensor | None,
        target: int,
        zero_annihilates: bool,
        grad_of_neg_inf: str,
    ) -> Tensor:
        return _compute_posteriors(a, b, logs, sums, f0, f1, f2, target, zero_annihilates, grad_of_neg_inf)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:7], output)
        ctx.save_for_forward(*inputs[:7], output)
        ctx.target, ctx.options = inputs[7], inputs[8:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        *saved, result = ctx.saved_tensors
        grads = _posteriors_vjp(_posteriors, tuple(saved), ctx.target, ctx.options, result, grad)
        return *grads, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        *saved, result = ctx.saved_tensors
        inputs, factors = saved[:4], saved[4:]
        weights = [tangents[0], tangents[1], None if tangents[2] is None else -tangents[2]]
        total = torch.zeros_like(result)
        for position in range(3):
            weight, slope, factor = weights[position], tangents[4 + position], factors[position]
            if position == ctx.target:
                total = total if weight is None else total + result * weight
                continue
            if weight is not None:
                change = weight if factor is None else weight * factor
                slope = change if slope is None else slope + change
            if slope is not None:
                own = [slope if other == position else factors[other] for other in range(3)]
                total = total + _posteriors(*inputs, *own, ctx.target, *ctx.options)
        return total

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        size = info.batch_size
        return unfold(size, apply(_Posteriors, *fold(size, in_dims[:7], args[:7]), *args[7:])), 0


def _posteriors(*args: Any) -> Tensor:
    result: Tensor = apply(_Posteriors, *args)
    return result


def _compute_posteriors(
    a: Tensor,
    b: Tensor,
    logs: Tensor,
    sums: Tensor,
    f0: Tensor | None,
    f1: Tensor | None,
    f2: Tensor | None,
    target: int,
    zero_annihilates: bool,
    grad_of_neg_inf: str,
) -> Tensor:
    of_empty = grad_of_neg_inf if grad_of_neg_inf == "uniform" else float(grad_of_neg_inf)
    return posterior_sums(a, b, logs, sums, (f0, f1, f2), target, zero_annihilates, of_empty)


# The same two as operators, for torch.compile: what they do depends on numbers, which it can't follow.


@torch.library.custom_op("einfx::log_matmul", mutates_args=())
def _matmul_operator(
    a: Tensor, b: Tensor, zero_annihilates: bool, grad_of_neg_inf: str
) -> tuple[Tensor, Tensor]:
    return log_sums(a, b, zero_annihilates)


@_matmul_operator.register_fake
def _(a: Tensor, b: Tensor, zero_annihilates: bool, grad_of_neg_inf: str) -> tuple[Tensor, Tensor]:
    shape = (a.shape[0], a.shape[1], b.shape[2])
    return a.new_empty(shape), a.new_empty(shape)


@torch.library.custom_op("einfx::log_posteriors", mutates_args=())
def _posteriors_operator(
    a: Tensor,
    b: Tensor,
    logs: Tensor,
    sums: Tensor,
    f0: Tensor | None,
    f1: Tensor | None,
    f2: Tensor | None,
    target: int,
    zero_annihilates: bool,
    grad_of_neg_inf: str,
) -> Tensor:
    return _compute_posteriors(a, b, logs, sums, f0, f1, f2, target, zero_annihilates, grad_of_neg_inf)


@_posteriors_operator.register_fake
def _(
    a: Tensor, b: Tensor, logs: Tensor, sums: Tensor, f0: Any, f1: Any, f2: Any, target: int, *_: Any
) -> Tensor:
    return torch.empty_like((a, b, logs)[target], memory_format=torch.contiguous_format)


def _save_matmul(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs[:2], *output)
    ctx.options = inputs[2:]


def _matmul_operator_backward(ctx: Any, grad: Tensor, _: Tensor) -> Any:
    needs = ctx.needs_input_grad
    posteriors = torch.ops.einfx.log_posteriors
    return *_matmul_vjp(posteriors, ctx.saved_tensors, ctx.options, grad, needs), None, None


def _save_posteriors(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:7], output)
    ctx.target, ctx.options = inputs[7], inputs[8:]


def _posteriors_operator_backward(ctx: Any, grad: Tensor) -> Any:
    *saved, result = ctx.saved_tensors
    posteriors = torch.ops.einfx.log_posteriors
    return *_posteriors_vjp(posteriors, tuple(saved), ctx.target, ctx.options, result, grad), None, None, None


_matmul_operator.register_autograd(_matmul_operator_backward, setup_context=_save_matmul)
_posteriors_operator.register_autograd(_posteriors_operator_backward, setup_context=_save_posteriors)
