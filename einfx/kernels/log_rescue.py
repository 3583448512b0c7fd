"""Which way unsafe sums of the log semiring are found: by levels, in float64, or term by term.

The forward and the backward pass take the same ways, so they're chosen here once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .log_scaling import Levels, Peeled, Range, multiply_levels

__all__ = ["Rescued", "gathered_terms", "rescue"]

GATHER_SHARE = 1 / 48
"""Summing this share of all entries term by term takes about as long as products of levels."""

FEW_OUTSIDE = 0.1
"""With a larger share of elements outside of two levels of float32, float64 is tried at once."""

CHUNK = 1 << 16
"""Terms that are summed one by one at a time: 256 KiB in float32, which stays in the cache."""


@dataclass(frozen=True)
class Rescued:
    """Sums over some matrices of a batch, by levels.

    Attributes:
        batches: (N,), which matrices.
        levels: of these matrices.
        found: (N, I, J), bool: the entries that are complete now and weren't before.
    """

    batches: Tensor
    levels: Levels
    found: Tensor


def rescue(a: Tensor, b: Tensor, unsafe: Tensor) -> Iterator[Rescued | Tensor]:
    """Find the sums of entries that a single shift lost.

    Args:
        a: (B, I, K) without nan and +inf.
        b: (B, K, J), likewise.
        unsafe: (B, I, J), bool, the entries; none of these sums is empty. It is changed.

    Yields:
        :class:`Rescued`, then perhaps indices (3, N) of entries to sum term by term; every entry once.
    """
    for dtype in dict.fromkeys((a.dtype, torch.float64)):
        if int(unsafe.count_nonzero()) <= GATHER_SHARE * unsafe.numel():
            break
        batches = unsafe.flatten(1).any(1).nonzero().flatten()
        window = Range.of_levels(dtype, a.shape[2]).window
        left = Peeled(a[batches].to(dtype), 2, window)
        right = Peeled(b[batches].to(dtype), 1, window)
        if dtype == torch.float32 and max(left.share_outside(2), right.share_outside(2)) > FEW_OUTSIDE:
            continue
        wanted = unsafe[batches]
        levels = multiply_levels(left, right, wanted)
        yield Rescued(batches, levels, wanted & ~levels.incomplete)
        unsafe[batches] = levels.incomplete
    if unsafe.any():
        yield torch.stack(unsafe.nonzero(as_tuple=True))


def gathered_terms(
    a: Tensor, b: Tensor, entries: Tensor
) -> Iterator[tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]]:
    """Gather the terms of single sums.

    Args:
        a: (B, I, K).
        b: (B, K, J).
        entries: (3, N), indices (batch, row, column).

    Yields:
        Indices of M of the entries, and both operands of their terms, (M, K) each.
    """
    depth = a.shape[2]
    rows, columns = (x.contiguous().reshape(-1, depth) for x in (a, b.mT))
    for part in entries.split(max(1, CHUNK // max(depth, 1)), dim=1):
        n, i, j = part.unbind(0)
        # A gather by an expanded index copies whole rows.
        left = rows.gather(0, (n * a.shape[1] + i)[:, None].expand(-1, depth))
        yield (n, i, j), left, columns.gather(0, (n * b.shape[2] + j)[:, None].expand(-1, depth))
