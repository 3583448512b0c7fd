"""How partial sums over a semiring meet: blocks, slices and streams all accumulate in this way.

An accumulator holds a *state*, a tuple of tensors, for every element of the output. States of disjoint parts
of a sum merge in any order, so that a sum may be cut anywhere.

    >>> state = LOG.update(LOG.init((), torch.float64, "cpu"), torch.tensor([0.0, -1000.0]).double(), 0)
    >>> LOG.finish(LOG.update(state, torch.tensor([0.0]).double(), 0)).exp()
    tensor(2., dtype=torch.float64)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LOG", "Accumulator", "State", "best_of", "folded", "halving", "merged_logs", "selecting"]

State = tuple[Tensor, ...]
Law = Callable[[Tensor, Tensor], Tensor]
Identity = Callable[[torch.dtype], float]


@dataclass(frozen=True)
class Accumulator:
    """Partial sums of one semiring.

    Args:
        init: ``(shape, dtype, device)`` gives the state of an empty sum.
        update: ``(state, terms, dim)`` adds ``terms`` along dimension ``dim``, which may not be empty. It
            doesn't change ``terms``.
        merge: two states give that of both parts.
        finish: a state gives the sum.
    """

    init: Callable[[Sequence[int], torch.dtype, torch.device | str], State]
    update: Callable[[State, Tensor, int], State]
    merge: Callable[[State, State], State]
    finish: Callable[[State], Tensor]


def folded(
    addition: Law, zero: Identity, reduce: Callable[[Tensor, int], Tensor] | None = None
) -> Accumulator:
    """The accumulator whose state is the sum so far.

    Args:
        addition: of two tensors that broadcast.
        zero: its identity in a dtype.
        reduce: ``(terms, dim)`` adds along a dimension; by default, halves are added until one is left.

    Returns:
        The accumulator.

    Example:
        >>> total = folded(torch.add, lambda dtype: 0)
        >>> total.finish(total.update(total.init((2,), torch.float32, "cpu"), torch.ones(2, 3), 1))
        tensor([3., 3.])
    """
    add_along = reduce or (lambda terms, dim: halving(addition, terms, dim))

    def init(shape: Sequence[int], dtype: torch.dtype, device: torch.device | str) -> State:
        return (torch.full(tuple(shape), zero(dtype), dtype=dtype, device=device),)

    def update(state: State, terms: Tensor, dim: int) -> State:
        return (addition(state[0], add_along(terms, dim)),)

    def merge(left: State, right: State) -> State:
        return (addition(left[0], right[0]),)

    return Accumulator(init, update, merge, lambda state: state[0])


def halving(addition: Law, terms: Tensor, dim: int) -> Tensor:
    """Add along a dimension with nothing but a sum of two: first half plus second half, until one is left.

    Args:
        addition: of two tensors of one shape.
        terms: of any shape, at least 1 in ``dim``.
        dim: the dimension that goes.

    Returns:
        ``terms`` without ``dim``.

    Example:
        >>> halving(torch.add, torch.arange(5), 0)
        tensor(10)
    """
    while (count := terms.shape[dim]) > 1:
        half = count // 2
        total = addition(terms.narrow(dim, 0, half), terms.narrow(dim, half, half))
        if count % 2:
            total = torch.cat((total, terms.narrow(dim, count - 1, 1)), dim)
        terms = total
    return terms.select(dim, 0)


def selecting(addition: Law, zero: Identity) -> Accumulator:
    """The accumulator of an addition that selects, with the index of what was selected.

    The state is (value, index, number of terms so far); an index counts terms in the order in which updates
    bring them. The first of equal terms wins, and the first nan wins over everything.

    Args:
        addition: of two tensors; each element of the result is the element of one of them.
        zero: its identity in a dtype.

    Returns:
        An accumulator whose ``finish`` gives the value; the index is the state's second tensor.

    Example:
        >>> largest = selecting(torch.maximum, lambda dtype: -float("inf"))
        >>> state = largest.init((), torch.float32, "cpu")
        >>> state = largest.update(state, torch.tensor([1.0, 3.0]), 0)
        >>> largest.update(state, torch.tensor([3.0, 2.0]), 0)
        (tensor(3.), tensor(1), tensor(4))
    """

    def init(shape: Sequence[int], dtype: torch.dtype, device: torch.device | str) -> State:
        value = torch.full(tuple(shape), zero(dtype), dtype=dtype, device=device)
        index = torch.zeros(tuple(shape), dtype=torch.int64, device=device)
        return value, index, torch.zeros((), dtype=torch.int64, device=device)

    def update(state: State, terms: Tensor, dim: int) -> State:
        value, index = best_of(addition, terms, dim)
        count = torch.full_like(state[2], terms.shape[dim])
        return merge(state, (value, index, count))

    def merge(left: State, right: State) -> State:
        taken = _taken(addition, left[0], right[0])
        value = torch.where(taken, right[0], left[0])
        return value, torch.where(taken, right[1] + left[2], left[1]), left[2] + right[2]

    return Accumulator(init, update, merge, lambda state: state[0])


def best_of(addition: Law, terms: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """What a selecting addition selects along a dimension, and the index of the first such term.

    Args:
        addition: as for :func:`selecting`.
        terms: of any shape, at least 1 in ``dim``.
        dim: the dimension that goes.

    Returns:
        Values and int64 indices, both without ``dim``.

    Example:
        >>> best_of(torch.minimum, torch.tensor([2, 1, 1]), 0)
        (tensor(1), tensor(1))
    """
    if addition is torch.maximum and terms.dtype != torch.bool:
        values, places = torch.max(terms, dim)
        return values, places
    if addition is torch.minimum and terms.dtype != torch.bool:
        values, places = torch.min(terms, dim)
        return values, places
    indices = torch.arange(terms.shape[dim], device=terms.device)
    indices = indices.reshape([-1 if d == dim % terms.ndim else 1 for d in range(terms.ndim)])
    indices = indices.expand(terms.shape)
    while (count := terms.shape[dim]) > 1:
        # Neighbours meet, so that the first of equal terms stays the first.
        even, odd = (slice(0, count - count % 2, 2), slice(1, count, 2))
        left, right = _pick(terms, dim, even), _pick(terms, dim, odd)
        taken = _taken(addition, left, right)
        value = torch.where(taken, right, left)
        index = torch.where(taken, _pick(indices, dim, odd), _pick(indices, dim, even))
        if count % 2:
            value = torch.cat((value, terms.narrow(dim, count - 1, 1)), dim)
            index = torch.cat((index, indices.narrow(dim, count - 1, 1)), dim)
        terms, indices = value, index
    return terms.select(dim, 0), indices.select(dim, 0)


def _pick(terms: Tensor, dim: int, where: slice) -> Tensor:
    return terms[(slice(None),) * (dim % terms.ndim) + (where,)]


def _taken(addition: Law, left: Tensor, right: Tensor) -> Tensor:
    """Whether the addition takes the right one: where it isn't the left one, nor is that nan."""
    return (addition(left, right) != left) & (left == left)


def _log_init(shape: Sequence[int], dtype: torch.dtype, device: torch.device | str) -> State:
    largest = torch.full(tuple(shape), -math.inf, dtype=dtype, device=device)
    return largest, torch.zeros_like(largest)


def _log_update(state: State, terms: Tensor, dim: int) -> State:
    largest = torch.maximum(state[0], terms.detach().amax(dim))
    shift = _finite(largest)
    total = (terms - shift.unsqueeze(dim)).exp_().sum(dim)
    # Not what is finite of the old maximum: exp of the difference to -inf has to be 0.
    return largest, total + state[1] * (state[0] - shift).exp()


def _log_merge(left: State, right: State) -> State:
    largest = torch.maximum(left[0], right[0])
    shift = _finite(largest)
    return largest, left[1] * (left[0] - shift).exp() + right[1] * (right[0] - shift).exp()


def merged_logs(largest: Tensor, sums: Tensor) -> State:
    """The state of :data:`LOG` for many states at once.

    Args:
        largest: of shape (N, ...), N at least 1: the states' maxima.
        sums: of the same shape: their sums of exponentials.

    Returns:
        A state of tensors of shape (...).

    Example:
        >>> largest, sums = merged_logs(torch.tensor([-1000.0, -1100.0]), torch.tensor([2.0, 1.0]))
        >>> largest, sums
        (tensor(-1000.), tensor(2.))
    """
    most = largest.amax(0)
    return most, (sums * (largest - _finite(most)).exp()).sum(0)


def _finite(largest: Tensor) -> Tensor:
    """The shift for a maximum: itself, or 0 where terms would become nan by it."""
    return torch.where(largest.isfinite(), largest, torch.zeros_like(largest))


LOG = Accumulator(_log_init, _log_update, _log_merge, lambda state: _finite(state[0]) + state[1].log())
"""Sums of exponentials: the state is (largest term, sum of the exponentials of the differences to it).

It is the streaming form of logsumexp (Milakov and Gimelshein, "Online normalizer calculation for softmax",
2018). The largest term counts as a constant for autograd, which leaves the gradient as it is.
"""
