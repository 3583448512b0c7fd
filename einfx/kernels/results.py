"""Shape and strides of what an emitted call returns, without calling it.

Torch's meta device tells the same, but takes up to a millisecond for a call; a graph has hundreds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from ..layout import Layout, contiguous_strides, iteration_order
from . import helpers

__all__ = ["Dense", "result_of"]

Shape = tuple[int, ...]


class Dense(NamedTuple):
    """Shape and strides (in elements) of a tensor."""

    shape: Shape
    strides: tuple[int, ...]

    @classmethod
    def contiguous(cls, shape: Sequence[int]) -> Dense:
        """A contiguous tensor of this shape."""
        return cls(tuple(shape), contiguous_strides(shape))

    def on_meta(self) -> torch.Tensor:
        """A tensor without data of this shape and these strides."""
        return torch.empty_strided(self.shape, self.strides, device="meta")


def result_of(function: Callable[..., Any], *arguments: Any) -> Dense:
    """What ``function`` returns for operands of which shape and strides are known.

    Args:
        function: one that :func:`einfx.kernels.real.lower` emits.
        *arguments: its arguments, each tensor given by a :class:`Dense`.

    Example:
        >>> result_of(torch.mul, Dense((2, 3), (1, 2)), Dense((2, 1), (1, 1)))
        Dense(shape=(2, 3), strides=(1, 2))
    """
    rule = _RULES.get(function)
    if rule is not None:
        return rule(*arguments)
    given = [x.on_meta() if isinstance(x, Dense) else x for x in arguments]
    result = function(*given)
    return Dense(tuple(result.shape), tuple(result.stride()))


def _broadcast(*shapes: Sequence[int]) -> Shape:
    return tuple(torch.broadcast_shapes(*shapes))


def _multiply(a: Dense, b: Dense) -> Dense:
    shape = _broadcast(a.shape, b.shape)
    operands = []
    for x in (a, b):
        labels = tuple(range(len(shape) - len(x.shape), len(shape)))
        strides = [
            0 if n == 1 != shape[label] else step
            for label, n, step in zip(labels, x.shape, x.strides, strict=True)
        ]
        operands.append(Layout.of(labels, x.shape, strides, True))
    everything = tuple(range(len(shape)))
    order = iteration_order(operands, everything, dict(enumerate(shape)))
    laid_out = dict(zip(order, contiguous_strides([shape[x] for x in order]), strict=True))
    return Dense(shape, tuple(laid_out[x] for x in everything))


def _sum(a: Dense, dims: Sequence[int]) -> Dense:
    dropped = {d % len(a.shape) for d in dims}
    return Dense.contiguous([n for i, n in enumerate(a.shape) if i not in dropped])


def _multiply_sum(a: Dense, b: Dense, dims: Sequence[int]) -> Dense:
    return _sum(Dense.contiguous(_broadcast(a.shape, b.shape)), dims)


def _unrolled(a: Dense, b: Dense, dim: int) -> Dense:
    ranks = sorted((len(a.shape), len(b.shape)))
    if (
        (ranks[1] > ranks[0] and ranks[0] < -dim)
        or a.shape[dim] != b.shape[dim]
        or not 0 < a.shape[dim] <= 32
    ):
        return _multiply_sum(a, b, (dim,))
    parts = []
    for x in (a, b):
        at = dim % len(x.shape)
        parts.append(Dense((*x.shape[:at], *x.shape[at + 1 :]), (*x.strides[:at], *x.strides[at + 1 :])))
    return _multiply(*parts)


def _contract(a: Dense, b: Dense, batch: int, summed: int) -> Dense:
    lead = _broadcast(a.shape[:batch], b.shape[:batch])
    rows = a.shape[batch : len(a.shape) - summed]
    return Dense.contiguous((*lead, *rows, *b.shape[batch + summed :]))


def _tensordot(a: Dense, b: Dense, summed_of_a: Sequence[int], summed_of_b: Sequence[int]) -> Dense:
    rows = [n for i, n in enumerate(a.shape) if i not in summed_of_a]
    return Dense.contiguous((*rows, *(n for i, n in enumerate(b.shape) if i not in summed_of_b)))


def _matmul(a: Dense, b: Dense) -> Dense:
    lead = _broadcast(a.shape[:-2], b.shape[:-2])
    return Dense.contiguous((*lead, a.shape[-2], b.shape[-1]))


def _matvec(a: Dense, b: Dense) -> Dense:
    return Dense.contiguous((*_broadcast(a.shape[:-2], b.shape[:-1]), a.shape[-2]))


def _unsqueeze(a: Dense, dim: int) -> Dense:
    at = dim % (len(a.shape) + 1)
    step = a.shape[at] * a.strides[at] if at < len(a.shape) else 1
    return Dense((*a.shape[:at], 1, *a.shape[at:]), (*a.strides[:at], step, *a.strides[at:]))


_RULES: dict[Any, Callable[..., Dense]] = {
    torch.mul: _multiply,
    helpers.multiply: _multiply,
    torch.sum: _sum,
    torch.permute: lambda a, dims: Dense(tuple(a.shape[i] for i in dims), tuple(a.strides[i] for i in dims)),
    torch.unsqueeze: _unsqueeze,
    torch.mm: _matmul,
    torch.bmm: _matmul,
    helpers.mm: _matmul,
    helpers.matmul: _matmul,
    helpers.matvec: _matvec,
    helpers.contract: _contract,
    helpers.tensordot: _tensordot,
    helpers.multiply_sum: _multiply_sum,
    helpers.unrolled_multiply_sum: _unrolled,
    helpers.contiguous: lambda a: Dense.contiguous(a.shape),
}
