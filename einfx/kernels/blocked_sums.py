"""Sums of products of factors and exponentials, in blocks, with derivatives of every order.

Real contractions are of this kind, and so are the derivatives of log contractions: with
``out = log(sum of exp(x + y))``, that by x is the sum of ``exp(x + y - out)`` times the incoming gradient.
They are closed under differentiation, so that nothing but inputs is ever saved, and every derivative is
computed in blocks within the same budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..accumulators import State
from ..machine import accumulation_dtype
from ..modes import is_captured
from .batching import apply
from .blocked_loops import Block, Kernel, Limits, Subscripts, digits, view_along, walk

__all__ = ["FACTOR", "LOG", "MINUS_LOG", "WEIGHT", "Spec", "exponents", "weighted_sums"]

FACTOR = "*"
"""A tensor that multiplies terms."""
LOG = "+"
"""A tensor whose exponential multiplies terms."""
MINUS_LOG = "-"
"""A tensor whose exponential divides terms: the logarithm of the sum of all those terms."""
WEIGHT = "w"
"""A factor that is never negative: it joins the exponents by its logarithm, so that nothing overflows."""


class Spec(NamedTuple):
    """A sum of products.

    Args:
        subscripts: the labels of tensors and result.
        kinds: for each tensor, how it enters the terms.
        limits: of blocks.
        annihilate: whether 0 times anything is 0, exp(-inf) times anything too.
        empty: what stands for the exponentials where ``MINUS_LOG`` is -inf: a number as text.
        dtype: of the result.
    """

    subscripts: Subscripts
    kinds: str
    limits: Limits
    annihilate: bool
    empty: str
    dtype: torch.dtype

    def as_text(self) -> str:
        """As text, for operators that take no other description."""
        return ";".join(
            (
                self.subscripts.as_text(),
                self.kinds,
                "None" if self.limits.block_size is None else digits(self.limits.block_size),
                digits(self.limits.budget_bytes),
                str(int(self.annihilate)),
                self.empty,
                str(self.dtype).removeprefix("torch."),
            )
        )

    @classmethod
    def from_text(cls, text: str) -> Spec:
        """Undo :meth:`as_text`."""
        subscripts, kinds, block_size, budget, annihilate, empty, dtype = text.split(";")
        limits = Limits(None if block_size == "None" else int(block_size), int(budget))
        return cls(
            Subscripts.from_text(subscripts), kinds, limits, annihilate == "1", empty, getattr(torch, dtype)
        )

    def derived(self, labels: Sequence[tuple[int, ...]], output: tuple[int, ...], **changes: Any) -> Spec:
        """Another sum of the same tensors and others."""
        everything = dict.fromkeys(x for part in labels for x in part)
        summed = tuple(x for x in everything if x not in output)
        present = tuple(x for x in output if x in everything)
        return self._replace(subscripts=Subscripts(tuple(labels), present, summed), **changes)


def weighted_sums(spec: Spec, *tensors: Tensor) -> Tensor:
    """A sum of products, differentiable in every mode.

    Args:
        spec: what to sum.
        tensors: of the labels that it says.

    Returns:
        A tensor of the labels of the output.

    Example:
        >>> limits = Limits(None, 1 << 20)
        >>> spec = Spec(Subscripts(((0,), (0,)), (), (0,)), "+*", limits, False, "nan", torch.float32)
        >>> weighted_sums(spec, torch.tensor([0.0, 1.0]).log(), torch.tensor([5.0, 7.0]))
        tensor(7.)
    """
    result: Tensor
    if is_captured():
        result = torch.ops.einfx.weighted_sums(list(tensors), spec.as_text())
    else:
        result = apply(_WeightedSums, spec, *tensors)
    return result


def vjp(
    spec: Spec, tensors: Sequence[Tensor], grad: Tensor, needs: Sequence[bool], skip: int = 0
) -> list[Tensor | None]:
    """The gradients of a sum of products for its tensors.

    Args:
        spec: what was summed.
        tensors: of which.
        grad: of the result.
        needs: which gradients are asked for.
        skip: so many of the last tensors aren't asked for.

    Returns:
        A gradient or None for each tensor.
    """
    grads: list[Tensor | None] = []
    tensors = [x.conj() if x.is_complex() else x for x in tensors]
    labels = [*spec.subscripts.inputs, spec.subscripts.output]
    # The gradients of logarithms with the same labels are the same.
    known: dict[tuple[Any, ...], Tensor] = {}
    for position in range(len(tensors) - skip):
        if not needs[position]:
            grads.append(None)
            continue
        kind, own = spec.kinds[position], spec.subscripts.inputs[position]
        key = own, kind, tensors[position].dtype
        if kind == LOG and key in known:
            grads.append(known[key])
            continue
        chosen = [p for p in range(len(tensors)) if p != position or kind in (LOG, MINUS_LOG)]
        kinds = "".join(spec.kinds[p] for p in chosen) + FACTOR
        dtype = tensors[position].dtype
        if grad.is_complex() and not dtype.is_complex:
            dtype = grad.dtype
        derived = spec.derived([labels[p] for p in (*chosen, -1)], own, kinds=kinds, dtype=dtype)
        result = weighted_sums(derived, *(tensors[p] for p in chosen), grad)
        for dim, label in enumerate(own):
            if label not in derived.subscripts.output:
                result = result.unsqueeze(dim)
        result = result.expand(tensors[position].shape)
        if result.is_complex() and not tensors[position].is_complex():
            result = result.real
        known[key] = -result if kind == MINUS_LOG else result
        grads.append(known[key])
    return grads


def jvp(spec: Spec, tensors: Sequence[Tensor], tangents: Sequence[Tensor | None]) -> Tensor | None:
    """The derivative of a sum of products along tangents; None where there are none."""
    total: Tensor | None = None
    labels = spec.subscripts.inputs
    for position, tangent in enumerate(tangents):
        if tangent is None:
            continue
        kind = spec.kinds[position]
        chosen = [p for p in range(len(tensors)) if p != position or kind in (LOG, MINUS_LOG)]
        kinds = "".join(spec.kinds[p] for p in chosen) + FACTOR
        derived = spec.derived([labels[p] for p in (*chosen, position)], spec.subscripts.output, kinds=kinds)
        part = weighted_sums(derived, *(tensors[p] for p in chosen), tangent)
        part = -part if kind == MINUS_LOG else part
        total = part if total is None else total + part
    return total


class _WeightedSums(torch.autograd.Function):
    @staticmethod
    def forward(spec: Spec, *tensors: Tensor) -> Tensor:
        return compute(spec, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.spec = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, *vjp(ctx.spec, ctx.saved_tensors, grad, ctx.needs_input_grad[1:])

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor | None:
        return jvp(ctx.spec, ctx.saved_tensors, tangents)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], spec: Spec, *tensors: Tensor) -> tuple[Tensor, int]:
        dims = in_dims[1:]
        mapped = spec._replace(subscripts=spec.subscripts.mapped(dims))
        return weighted_sums(mapped, *to_front(tensors, dims)), 0


def to_front(tensors: Sequence[Tensor], dims: Sequence[int | None]) -> list[Tensor]:
    """Tensors with their mapped dimension, where they have one, in front."""
    return [x if dim is None else x.movedim(dim, 0) for x, dim in zip(tensors, dims, strict=True)]


def compute(spec: Spec, tensors: Sequence[Tensor]) -> Tensor:
    """A sum of products of plain tensors."""
    dtype = accumulation_dtype(spec.dtype)
    for tensor, kind in zip(tensors, spec.kinds, strict=True):
        if kind == FACTOR or tensor.is_floating_point():
            dtype = torch.promote_types(dtype, accumulation_dtype(tensor.dtype))
    if any(torch._C._functorch.is_legacy_batchedtensor(x) for x in tensors):
        return _without_blocks(spec, tensors, dtype)
    positions = [p for p, kind in enumerate(spec.kinds) if kind == MINUS_LOG]
    share = float(spec.empty)
    masks: tuple[int, ...] = ()
    if positions and (share == 0 or math.isnan(share)):
        # Where the sum was -inf, the difference to this becomes -inf, or nan.
        stand_in = math.inf if share == 0 else math.nan
        tensors = list(tensors)
        for position in positions:
            total = tensors[position]
            tensors[position] = total.masked_fill(total == -math.inf, stand_in)
    elif positions:
        masks = tuple(positions)
    kernel = _kernel(spec, tensors, dtype, masks)
    return walk(spec.subscripts, tensors, kernel, spec.limits)[0]


def _kernel(spec: Spec, tensors: Sequence[Tensor], dtype: torch.dtype, masks: Sequence[int]) -> Kernel:
    """Products in a buffer, and their sums."""
    kinds, share = spec.kinds, float(spec.empty)

    def block(parts: list[Tensor], dims: tuple[int, ...], buffer: Tensor | None, _: Block) -> State:
        factors = [part.to(dtype) for kind, part in zip(kinds, parts, strict=True) if kind == FACTOR]
        if buffer is None:
            terms = factors[0]
        elif len(factors) < len(parts):
            terms = exponents(kinds, parts, buffer, spec.annihilate).exp_()
            for position in masks:
                terms.masked_fill_(parts[position] == -math.inf, share)
            for factor in factors:
                terms.mul_(factor)
        else:
            terms = torch.mul(factors[0].expand(buffer.shape), factors[1], out=buffer)
            for factor in factors[2:]:
                terms.mul_(factor)
            for factor in factors if spec.annihilate else ():
                terms.masked_fill_(factor == 0, 0)
        if dims:
            return (torch.sum(terms, dims, dtype=dtype),)
        return (terms.clone() if buffer is None else terms,)

    buffer = dtype if kinds != FACTOR else None
    temporaries = sum(x.dtype != dtype for x in tensors) + kinds.count(WEIGHT) + (buffer is not None)
    return Kernel(
        ((spec.dtype, ()),),
        0,
        dtype.itemsize * temporaries + 2 * (spec.annihilate or bool(masks)),
        5 * dtype.itemsize,
        block,
        lambda states: (torch.stack([total for (total,) in states]).sum(0, dtype=dtype),),
        lambda state: state,
        buffer,
    )


def _without_blocks(spec: Spec, tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """The same for what ``torch.autograd.grad(is_grads_batched=True)`` hands over, which no rule sees first.

    Such tensors can't be written into.
    """
    output, summed = spec.subscripts.output, spec.subscripts.summed
    order = (*output, *summed)
    views = [
        view_along(x, labels, order).to(dtype)
        for x, labels in zip(tensors, spec.subscripts.inputs, strict=True)
    ]
    exponent: Any = 0
    product: Any = 1
    zero: Any = False
    empty: Any = False
    for kind, view in zip(spec.kinds, views, strict=True):
        if kind == FACTOR:
            product = product * view
            zero = zero | (view == 0)
            continue
        log = view.log() if kind == WEIGHT else view
        exponent = exponent - log if kind == MINUS_LOG else exponent + log
        if kind == MINUS_LOG:
            empty = empty | (log == -math.inf)
        elif spec.annihilate:
            exponent = torch.where(log == -math.inf, -math.inf, exponent)
    if len(spec.kinds) > spec.kinds.count(FACTOR):
        share = exponent.exp() if empty is False else torch.where(empty, float(spec.empty), exponent.exp())
        product = share * product
    elif spec.annihilate:
        product = torch.where(zero, 0, product)
    dims = tuple(range(len(output), len(order)))
    total: Tensor = product.sum(dims, dtype=dtype) if dims else product
    return total.to(spec.dtype)


def exponents(kinds: str, parts: Sequence[Tensor], buffer: Tensor, annihilate: bool) -> Tensor:
    """Add up, in a buffer, the exponents that parts of operands make.

    Args:
        kinds: how each part enters the terms; factors stay out.
        parts: of operands.
        buffer: of the shape of all terms.
        annihilate: whether -inf added to anything is -inf.
    """
    dtype = buffer.dtype
    signed: list[tuple[int, Tensor]] = []
    for kind, part in zip(kinds, parts, strict=True):
        if kind != FACTOR:
            part = part.to(dtype)
            signed.append((-1 if kind == MINUS_LOG else 1, part.log() if kind == WEIGHT else part))
    signed.sort(key=lambda pair: -pair[0])
    (sign, first), *rest = signed
    if rest and sign > 0:
        law: Callable[..., Tensor] = torch.add if rest[0][0] > 0 else torch.sub
        law(first.expand(buffer.shape), rest[0][1], out=buffer)
        rest = rest[1:]
    else:
        buffer.copy_(first)
        if sign < 0:
            buffer.neg_()
    for sign, part in rest:
        buffer.add_(part, alpha=sign)
    if annihilate:
        for sign, part in signed:
            if sign > 0:
                buffer.masked_fill_(part == -math.inf, -math.inf)
    return buffer


# The same as an operator, for torch.compile.


@torch.library.custom_op("einfx::weighted_sums", mutates_args=())
def _operator(tensors: Sequence[Tensor], spec: str) -> Tensor:
    return compute(Spec.from_text(spec), tensors)


@_operator.register_fake
def _(tensors: Sequence[Tensor], spec: str) -> Tensor:
    known = Spec.from_text(spec)
    sizes = known.subscripts.sizes(tensors)
    return tensors[0].new_empty([sizes[x] for x in known.subscripts.output], dtype=known.dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.spec = inputs[1]
    ctx.save_for_backward(*inputs[0])


def _backward(ctx: Any, grad: Tensor) -> Any:
    return vjp(Spec.from_text(ctx.spec), ctx.saved_tensors, grad, ctx.needs_input_grad[0]), None


_operator.register_autograd(_backward, setup_context=_save)
