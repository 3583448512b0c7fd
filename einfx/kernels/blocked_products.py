"""What a block of terms is over any semiring, and how it is added up: products, and the kernels of values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..accumulators import State
from ..algebra import Semiring
from ..machine import accumulation_dtype
from ..semiring import get
from .blocked_loops import Block, Kernel

__all__ = [
    "REDUCTIONS",
    "best",
    "buffer_dtype",
    "bytes_per_term",
    "generic",
    "into_buffer",
    "products",
]

REDUCTIONS: dict[Any, Callable[..., Tensor]] = {
    torch.maximum: torch.amax,
    torch.minimum: torch.amin,
    torch.logical_or: torch.any,
}
"""Additions that torch has a reduction over several dimensions for."""

_IN_PLACE: tuple[Any, ...] = (torch.add, torch.mul, torch.minimum, torch.maximum, torch.logical_and)


def into_buffer(semiring: Semiring, dtype: torch.dtype) -> Callable[..., Tensor] | None:
    """The multiplication as a function that takes ``out=``; None where there's no such function.

    Example:
        >>> into_buffer(get("max_plus"), torch.float32) is torch.add
        True
        >>> into_buffer(get("max_plus"), torch.int64)
    """
    if semiring.zero_annihilates:
        return None
    law: Any = semiring.multiplication
    if law in _IN_PLACE:
        return law  # type: ignore[no-any-return]
    sums = law in (get("max_plus").multiplication, get("min_plus").multiplication)
    return torch.add if sums and dtype.is_floating_point else None


def products(
    semiring: Semiring, parts: Sequence[Tensor], dtype: torch.dtype, buffer: Tensor | None
) -> Tensor:
    """The products of a block.

    Args:
        semiring: its multiplication.
        parts: tensors that broadcast.
        dtype: to compute in.
        buffer: of the shape of all terms, for the result, where :func:`into_buffer` has a function.

    Returns:
        All terms, or what broadcasts to them.
    """
    law = into_buffer(semiring, dtype) if buffer is not None else None
    terms = parts[0].to(dtype)
    for position, part in enumerate(parts[1:]):
        factor = part.to(dtype)
        if law is None:
            terms = semiring.multiply(terms, factor)
        else:
            assert buffer is not None
            terms = law(terms if position else terms.expand(buffer.shape), factor, out=buffer)
    return terms


def bytes_per_term(semiring: Semiring, tensors: Sequence[Tensor], dtype: torch.dtype) -> int:
    """What :func:`products` allocates for a term, the result included."""
    size = dtype.itemsize * sum(tensor.dtype != dtype for tensor in tensors)
    if len(tensors) > 1:
        # The product, the one before it, and masks and a choice of what is zero or infinite.
        size += dtype.itemsize if into_buffer(semiring, dtype) is not None else 3 * dtype.itemsize + 4
    return size


def buffer_dtype(semiring: Semiring, tensors: Sequence[Tensor], dtype: torch.dtype) -> torch.dtype | None:
    """The dtype of the buffer that :func:`products` has a use for."""
    return dtype if len(tensors) > 1 and into_buffer(semiring, dtype) is not None else None


def best(semiring: Semiring, tensors: Sequence[Tensor], result: torch.dtype) -> Kernel:
    """The kernel for values of sums that torch has a reduction for.

    Args:
        semiring: its addition is one of :data:`REDUCTIONS`.
        tensors: the operands.
        result: the dtype of the values.
    """
    dtype, reduce = accumulation_dtype(result), REDUCTIONS[semiring.addition]

    def block(parts: list[Tensor], dims: tuple[int, ...], buffer: Tensor | None, _: Block) -> State:
        terms = products(semiring, parts, dtype, buffer)
        if dims:
            return (reduce(terms, dims),)
        return (terms.clone() if terms is parts[0] else terms,)

    def merge(states: list[State]) -> State:
        return (reduce(torch.stack([value for (value,) in states]), 0),)

    return Kernel(
        ((result, ()),),
        semiring.zero_of(result),
        bytes_per_term(semiring, tensors, dtype),
        5 * dtype.itemsize,
        block,
        merge,
        lambda state: state,
        buffer_dtype(semiring, tensors, dtype),
    )


def generic(semiring: Semiring, tensors: Sequence[Tensor], result: torch.dtype) -> Kernel:
    """The kernel for sums over any semiring, by its accumulator; autograd can follow it.

    Args:
        semiring: any.
        tensors: the operands.
        result: the dtype of the sums.
    """
    dtype, sums = accumulation_dtype(result), semiring.partial_sums

    def block(parts: list[Tensor], dims: tuple[int, ...], buffer: Tensor | None, _: Block) -> State:
        terms = products(semiring, parts, dtype, None)
        terms = terms.flatten(terms.ndim - len(dims)) if dims else terms.unsqueeze(-1)
        return sums.update(sums.init(terms.shape[:-1], terms.dtype, terms.device), terms, -1)

    def merge(states: list[State]) -> State:
        total = states[0]
        for state in states[1:]:
            total = sums.merge(total, state)
        return total

    return Kernel(
        ((result, ()),),
        semiring.zero_of(result),
        # Terms, then the first half of them added to the second, and what that law needs itself.
        bytes_per_term(semiring, tensors, dtype) + 3 * dtype.itemsize,
        10 * dtype.itemsize,
        block,
        merge,
        lambda state: (sums.finish(state),),
        summed_last=True,
    )
