"""Which way unsafe sums of the log semiring are found: by levels, in float64, or term by term.

The forward and the backward pass take the same ways, so they're chosen here once. The product is gone
through in blocks, so that what this takes stays within a budget, and each part goes the way that is best for
it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from . import log_native
from .log_options import LogOptions, blocks, cuts, sizes_of
from .log_scaling import Levels, Peeled, Range, multiply_levels
from .log_terms import has_sign, logarithms

__all__ = ["BYTES", "Entries", "Rescued", "Single", "rescue", "suits_native"]

GATHER_SHARE = 1 / 48
"""Summing this share of all entries term by term takes about as long as products of levels."""

NATIVE_SHARE = 1 / 8
"""The same for the C code."""

FEW_OUTSIDE = 0.1
"""With a larger share of elements outside of two levels of float32, float64 is tried at once."""

CHUNK = 1 << 16
"""Terms that are summed one by one at a time: 256 KiB in float32, which stays in the cache."""

BYTES = (64, 64, 120)
"""What levels in float64 take for an element of an operand, of the other, and of the output."""

Entries = tuple[Tensor, Tensor, Tensor]
"""Indices (batch, row, column) of single sums, (M,) each."""


@dataclass(frozen=True)
class Rescued:
    """Sums of a part of the output, by levels.

    Attributes:
        batches: which matrices of the batch, indices (N,) or a range.
        rows: of these.
        columns: of these.
        levels: of the operands of this part.
        found: (N, I, J), bool: the entries that are complete now and weren't before.
    """

    batches: Tensor | slice
    rows: slice
    columns: slice
    levels: Levels
    found: Tensor


@dataclass(frozen=True)
class Single:
    """Sums to be taken term by term.

    Attributes:
        a: (B, I, K).
        b: (B, K, J).
        entries: (3, N), indices (batch, row, column) of the sums.
        origin: where these two lie in the whole product: the first matrix, row and column.
    """

    a: Tensor
    b: Tensor
    entries: Tensor
    origin: tuple[int, int, int] = (0, 0, 0)

    def gathered(self) -> Iterator[tuple[Entries, Tensor, Tensor]]:
        """Indices in the whole output of M of the sums, and both operands of their terms, (M, K) each."""
        depth = self.a.shape[2]
        rows, columns = (x.contiguous().reshape(-1, depth) for x in (self.a, self.b.mT))
        for part in self.entries.split(max(1, CHUNK // max(depth, 1)), dim=1):
            n, i, j = part.unbind(0)
            # A gather by an expanded index copies whole rows.
            left = rows.gather(0, (n * self.a.shape[1] + i)[:, None].expand(-1, depth))
            right = columns.gather(0, (n * self.b.shape[2] + j)[:, None].expand(-1, depth))
            first, second, third = self.origin
            yield (n + first, i + second, j + third), left, right


def rescue(a: Tensor, b: Tensor, unsafe: Tensor, options: LogOptions) -> Iterator[Rescued | Single]:
    """Find the sums of entries that a single shift lost.

    Args:
        a: (B, I, K) without nan and +inf.
        b: (B, K, J), likewise.
        unsafe: (B, I, J), bool, the entries; none of these sums is empty. It is changed.
        options: what the operands mean, and how many bytes this may take.

    Yields:
        What holds every entry once.
    """
    sizes = sizes_of(a, b)
    batch, rows, _, columns = cuts(sizes, BYTES, options.budget_bytes // 2, narrowest=1)
    for n, i, _, j in blocks(sizes, (batch, rows, sizes[2], columns)):
        part = unsafe[n, i, j]
        count = int(part.count_nonzero())
        if count > GATHER_SHARE * part.numel():
            yield from _by_levels(a[n, i], b[n, :, j], part, (n, i, j), options)
            count = int(part.count_nonzero())
        if count:
            yield Single(a[n, i], b[n, :, j], part.nonzero().T, (n.start, i.start, j.start))


def suits_native(a: Tensor, b: Tensor, count: int, options: LogOptions) -> bool:
    """Whether the C code had better take so many sums term by term.

    Args:
        a: (B, I, K).
        b: (B, K, J).
        count: of sums that aren't safe, empty ones among them.
        options: what the operands mean.
    """
    few = count <= NATIVE_SHARE * a.shape[0] * a.shape[1] * b.shape[2]
    return few and not options.linear and log_native.takes(a, b)


def _by_levels(
    a: Tensor, b: Tensor, unsafe: Tensor, place: tuple[slice, slice, slice], options: LogOptions
) -> Iterator[Rescued]:
    """Try levels on one block; what they find isn't unsafe any more."""
    linear = options.is_linear(0), options.is_linear(1)
    signed = None
    if has_sign(a, linear[0]) or has_sign(b, linear[1]):
        # Levels hold positive numbers.
        of_rows = (a < 0).any(2, keepdim=True) if linear[0] else unsafe.new_zeros(1)
        signed = of_rows | (b < 0).any(1, keepdim=True) if linear[1] else of_rows
    # Derivatives in linear space need the exponents of float64.
    for dtype in dict.fromkeys((torch.float64,) if options.linear else (a.dtype, torch.float64)):
        wanted = unsafe if signed is None else unsafe & ~signed
        if int(wanted.count_nonzero()) <= GATHER_SHARE * unsafe.numel():
            break
        chosen = wanted.flatten(1).any(1).nonzero().flatten()
        # A range gives views, indices give copies.
        inside: Tensor | slice = slice(None) if len(chosen) == len(unsafe) else chosen
        batches = place[0] if isinstance(inside, slice) else chosen + place[0].start
        left, right, wanted = a[inside], b[inside], wanted[inside]
        window = Range.of_levels(dtype, a.shape[2]).window
        rows = Peeled(logarithms(left.to(dtype), linear[0]), 2, window)
        columns = Peeled(logarithms(right.to(dtype), linear[1]), 1, window)
        if dtype == torch.float32 and max(rows.share_outside(2), columns.share_outside(2)) > FEW_OUTSIDE:
            continue
        levels = multiply_levels(rows, columns, wanted)
        yield Rescued(batches, *place[1:], levels, wanted & ~levels.incomplete)
        unsafe[inside] &= levels.incomplete | ~wanted
