"""Results of parts of a contraction over a semiring, put together.

Nothing is written in place, so that derivatives of any order and any mode go through.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Blank", "Result", "placed", "side_by_side"]


class Result(NamedTuple):
    """A contraction: its value, and where an argmax is asked for, int64 positions of shape (*shape, S)."""

    value: Tensor
    places: Tensor | None = None


class Blank(NamedTuple):
    """What sums without terms are.

    Args:
        like: of the dtype and on the device of results.
        zero: the semiring's zero.
        labels: how many positions an argmax has; None where none is asked for.
    """

    like: Tensor
    zero: Any
    labels: int | None = None

    def of(self, shape: Sequence[Any]) -> Result:
        """A result that no term contributes to; its positions are -1."""
        device = self.like.device
        value = torch.full(tuple(shape), self.zero, dtype=self.like.dtype, device=device)
        if self.labels is None:
            return Result(value)
        return Result(value, torch.full((*shape, self.labels), -1, dtype=torch.int64, device=device))


def side_by_side(
    results: Sequence[Result], ranges: Sequence[tuple[int, int]], dim: int, size: int, blank: Blank
) -> Result:
    """Results one after another along a dimension, with sums without terms between them.

    Args:
        results: at least one, all of one shape but for the dimension.
        ranges: for each its start and its length along the dimension, ascending and disjoint.
        dim: the dimension.
        size: its size in the whole.
        blank: what stands where no result is.

    Example:
        >>> one = Result(torch.ones(2))
        >>> side_by_side([one, one], [(1, 2), (4, 2)], 0, 6, Blank(one.value, 0.0)).value
        tensor([0., 1., 1., 0., 1., 1.])
    """
    if len(results) == 1 and ranges[0] == (0, size):
        return results[0]
    shape = list(results[0].value.shape)
    parts, end = [], 0
    for result, (start, length) in zip(results, ranges, strict=True):
        if start > end:
            parts.append(blank.of([*shape[:dim], start - end, *shape[dim + 1 :]]))
        parts.append(result)
        end = start + length
    if end < size:
        parts.append(blank.of([*shape[:dim], size - end, *shape[dim + 1 :]]))
    return _concatenated(parts, dim)


def placed(
    results: Sequence[Result], positions: Sequence[Tensor], dim: int, size: int, blank: Blank
) -> Result:
    """Results at any positions along a dimension, with sums without terms elsewhere.

    Args:
        results: at least one, all of one shape but for the dimension.
        positions: for each its positions in the whole, none of them twice.
        dim: the dimension.
        size: its size in the whole.
        blank: what stands where no result is.

    Example:
        >>> one, two = Result(torch.ones(2)), Result(2 * torch.ones(2))
        >>> where = [torch.tensor([0, 2]), torch.tensor([1, 5])]
        >>> placed([one, two], where, 0, 6, Blank(one.value, 0.0)).value
        tensor([1., 2., 1., 0., 0., 2.])
    """
    shape = list(results[0].value.shape)
    everywhere = torch.cat(list(positions))
    whole = _concatenated([*results, blank.of([*shape[:dim], 1, *shape[dim + 1 :]])], dim)
    # The last element stands wherever no position says another one.
    source = torch.full((size,), len(everywhere), dtype=torch.int64)
    source[everywhere] = torch.arange(len(everywhere))
    source = source.to(blank.like.device)
    places = None if whole.places is None else whole.places.index_select(dim, source)
    return Result(whole.value.index_select(dim, source), places)


def _concatenated(results: Sequence[Result], dim: int) -> Result:
    places = [result.places for result in results if result.places is not None]
    value = torch.cat([result.value for result in results], dim)
    return Result(value, torch.cat(places, dim) if places else None)
