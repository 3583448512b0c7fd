"""Contractions over the log semiring in blocks: logarithms of sums of exponentials of sums.

As exact as logsumexp over all terms. Operands may be given as they are instead of as logarithms; then their
gradient is finite where they are 0. Only inputs and output are saved; derivatives of every order are
:mod:`.blocked_sums`, computed in blocks within the same budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..accumulators import LOG as LOG_SUMS
from ..accumulators import State, merged_logs
from ..machine import accumulation_dtype
from ..modes import is_captured
from . import log_strided
from .batching import apply, tracked
from .blocked_loops import Block, Kernel, walk
from .blocked_sums import LOG, MINUS_LOG, WEIGHT, Spec, exponents, jvp, to_front, vjp

__all__ = ["log_contraction", "log_gradients"]


def log_contraction(spec: Spec, *tensors: Tensor) -> Tensor:
    """The logarithms of sums of products of exponentials and weights, differentiable in every mode.

    Args:
        spec: what to sum. ``kinds`` are ``LOG`` and ``WEIGHT``; ``empty`` is the derivative of a sum that is
            -inf by each of its terms; ``dtype`` is that of the result.
        tensors: of the labels that it says.

    Returns:
        A tensor of the labels of the output.
    """
    # What the gradient is computed from has to be as exact as the sums are.
    exact = spec._replace(dtype=accumulation_dtype(spec.dtype))
    if is_captured():
        result: Tensor = torch.ops.einfx.log_contraction(list(tensors), exact.as_text())
        return result.to(spec.dtype)
    if tracked(*tensors):
        result = apply(_LogContraction, exact, *tensors)
        return result.to(spec.dtype)
    return compute(spec, tensors)


def _shares(spec: Spec) -> Spec:
    """The sum over all labels of the terms' shares in their sums, from which derivatives follow."""
    subscripts = spec.subscripts
    inputs = (*subscripts.inputs, subscripts.output)
    return spec._replace(subscripts=subscripts._replace(inputs=inputs), kinds=spec.kinds + MINUS_LOG)


def log_gradients(spec: Spec, saved: Sequence[Tensor], grad: Tensor, needs: Sequence[bool]) -> Any:
    """The gradients of the operands; a sum that is -inf, and that nothing depends on, has no part in them.

    Args:
        spec: what was summed.
        saved: the operands, and the logarithms of the sums: of these terms, or of more that they are part of.
        grad: of the logarithms.
        needs: which gradients are asked for.

    Returns:
        A gradient or None for each operand.
    """
    *operands, total = saved
    if not torch.is_grad_enabled() and _by_strides(spec, saved, grad):
        return _gradients_by_strides(spec, operands, total, grad, needs)
    if math.isnan(float(spec.empty)) and _may_be_empty(total):
        # Shares in +inf are 0, where 0 times the nan of an empty sum would be nan.
        total = total.masked_fill((total == -math.inf) & (grad == 0), math.inf)
    return vjp(_shares(spec), (*operands, total), grad, needs, skip=1)


def _by_strides(spec: Spec, *tensors: Any) -> bool:
    """Whether the C code for tensors that lie in any way computes this."""
    flat = [x for part in tensors for x in (part if isinstance(part, (list, tuple)) else [part])]
    inputs, output = spec.subscripts.inputs, spec.subscripts.output
    return (
        spec.kinds.count(LOG) == len(spec.kinds)
        and not spec.annihilate
        and not is_captured()
        and all(map(log_strided.reads, flat))
        and log_strided.suits(inputs, output, [x.shape for x in flat[: len(inputs)]], spec.dtype, "cpu")
    )


def _gradients_by_strides(
    spec: Spec, operands: Sequence[Tensor], total: Tensor, grad: Tensor, needs: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of all operands at once; those of operands with the same labels are the same."""
    inputs, output = spec.subscripts.inputs, spec.subscripts.output
    known: dict[tuple[int, ...], Tensor] = {}
    targets: list[Tensor | None] = []
    for labels, x, need in zip(inputs, operands, needs, strict=False):
        targets.append(
            torch.zeros_like(x, memory_format=torch.contiguous_format)
            if need and labels not in known
            else None
        )
        if targets[-1] is not None:
            known[labels] = targets[-1]
    log_strided.add_shares(inputs, output, operands, total, grad, targets, float(spec.empty))
    return [known[labels] if need else None for labels, need in zip(inputs, needs, strict=False)]


def _may_be_empty(total: Tensor) -> bool:
    """Whether a sum may be -inf; without numbers to look at, each may be."""
    if is_captured() or torch._C._are_functorch_transforms_active():
        return True
    return total.numel() > 0 and not float(total.detach().amin()) > -math.inf


class _LogContraction(torch.autograd.Function):
    @staticmethod
    def forward(spec: Spec, *tensors: Tensor) -> Tensor:
        return compute(spec, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.spec = inputs[0]
        ctx.save_for_backward(*inputs[1:], output)
        ctx.save_for_forward(*inputs[1:], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, *log_gradients(ctx.spec, ctx.saved_tensors, grad, ctx.needs_input_grad[1:])

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor | None:
        return jvp(_shares(ctx.spec), ctx.saved_tensors, tangents)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], spec: Spec, *tensors: Tensor) -> tuple[Tensor, int]:
        dims = in_dims[1:]
        mapped = spec._replace(subscripts=spec.subscripts.mapped(dims))
        return apply(_LogContraction, mapped, *to_front(tensors, dims)), 0


def compute(spec: Spec, tensors: Sequence[Tensor]) -> Tensor:
    """Logarithms of sums of plain tensors."""
    if _by_strides(spec, tensors):
        output, sizes = spec.subscripts.output, spec.subscripts.sizes(tensors)
        result = tensors[0].new_empty([sizes[label] for label in output])
        log_strided.add_sums(spec.subscripts.inputs, output, tensors, result, accumulate=False)
        return result
    dtype = accumulation_dtype(spec.dtype)
    kinds = spec.kinds

    def block(parts: list[Tensor], dims: tuple[int, ...], buffer: Tensor | None, _: Block) -> State:
        assert buffer is not None
        if dims and kinds == LOG:
            terms = parts[0].to(dtype)
        else:
            terms = exponents(kinds, parts, buffer, spec.annihilate)
        if not dims:
            return (terms,)
        largest = terms.amax(dims, keepdim=True)
        shift = torch.where(largest.isfinite(), largest, 0)
        sums = torch.sub(terms, shift, out=buffer).exp_().sum(dims)
        return largest.reshape(sums.shape), sums

    def merge(states: list[State]) -> State:
        largest, sums = (torch.stack(part) for part in zip(*states, strict=True))
        return merged_logs(largest, sums)

    temporaries = 1 + sum(x.dtype != dtype for x in tensors) + kinds.count(WEIGHT)
    kernel = Kernel(
        ((spec.dtype, ()),),
        -math.inf,
        dtype.itemsize * temporaries + spec.annihilate,
        10 * dtype.itemsize + 1,
        block,
        merge,
        lambda state: state if len(state) == 1 else (LOG_SUMS.finish(state),),
        dtype,
    )
    return walk(spec.subscripts, tensors, kernel, spec.limits)[0]


# The same as an operator, for torch.compile.


@torch.library.custom_op("einfx::log_contraction", mutates_args=())
def _operator(tensors: Sequence[Tensor], spec: str) -> Tensor:
    return compute(Spec.from_text(spec), tensors)


@_operator.register_fake
def _(tensors: Sequence[Tensor], spec: str) -> Tensor:
    known = Spec.from_text(spec)
    sizes = known.subscripts.sizes(tensors)
    return tensors[0].new_empty([sizes[x] for x in known.subscripts.output], dtype=known.dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.spec = inputs[1]
    ctx.save_for_backward(*inputs[0], output)


def _backward(ctx: Any, grad: Tensor) -> Any:
    return log_gradients(Spec.from_text(ctx.spec), ctx.saved_tensors, grad, ctx.needs_input_grad[0]), None


_operator.register_autograd(_backward, setup_context=_save)
