"""Matrix products over the log semiring, of plain tensors: logarithms of sums of exponentials.

One product of exponentials, shifted by the maxima of rows and columns, gives all sums that don't underflow;
:mod:`.log_rescue` finds the others. With M the largest of 1, the absolute values of the row's and the
column's maximum, and of the result, the error is at most a small multiple of eps·M beside that of adding K
numbers, as it is for logsumexp itself. In linear space, the logarithm of the maximum counts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..accumulators import State
from ..semiring import get
from . import log_native
from .boolean import positive_product
from .log_operands import Operands, finished
from .log_options import LogOptions, Sizes, blocks, cuts, sizes_of
from .log_precision import as_given
from .log_rescue import Rescued, rescue, suits_native
from .log_scaling import top
from .log_terms import has_sign, logarithms, sums_of_terms

__all__ = ["SMALL", "Kept", "block_sums", "is_small", "keeps", "log_sums", "whole_bytes"]

SMALL = 1 << 15
"""Up to so many terms, all of them at once are as fast as a product, and exact."""

ELEMENTS = (3, 2, 2)
"""How many numbers a block holds for an element of the first operand, of the second and of the output."""


class Kept(NamedTuple):
    """What the backward pass can use again.

    Attributes:
        sums: (B, I, J), relative to both maxima; 0 where that isn't safe.
        left: (B, I, K), exponentials relative to the maxima.
        right: (B, K, J), likewise.
        row_tops: (B, I, 1), the maxima.
        column_tops: (B, 1, J).
    """

    sums: Tensor
    left: Tensor
    right: Tensor
    row_tops: Tensor
    column_tops: Tensor


def is_small(a: Tensor, b: Tensor, budget_bytes: int) -> bool:
    """Whether the terms of all sums fit a small tensor, or there are none."""
    count = a.numel() * b.shape[2]
    # Terms, their exponentials, shares and what they're multiplied by, in float64.
    return count == 0 or (count <= SMALL and 48 * count <= budget_bytes)


def whole_bytes(sizes: Sizes, itemsize: int, *, gradients: bool) -> int:
    """The budget with which a product is taken at once, and not cut into blocks.

    Args:
        sizes: batch, rows, depth and columns.
        itemsize: bytes of an element.
        gradients: whether for the gradients of both operands.

    Example:
        >>> whole_bytes((1, 100, 100, 100), 4, gradients=False)
        560000
    """
    batch, rows, depth, columns = sizes
    weights = (4, 4, 4) if gradients else ELEMENTS
    elements = rows * depth * weights[0] + depth * columns * weights[1] + rows * columns * weights[2]
    terms = batch * rows * depth * columns
    return max(2 * itemsize * batch * elements, 48 * terms if terms <= SMALL else 0)


def keeps(a: Tensor, b: Tensor, budget_bytes: int) -> bool:
    """Whether all that the backward pass can use again fits the budget."""
    batch, rows, depth, columns = sizes_of(a, b)
    elements = rows * depth * ELEMENTS[0] + depth * columns * ELEMENTS[1] + rows * columns * ELEMENTS[2]
    return not is_small(a, b, budget_bytes) and batch * elements * a.dtype.itemsize <= budget_bytes // 2


@as_given
def log_sums(a: Tensor, b: Tensor, options: LogOptions, *, keep: bool) -> tuple[Tensor, Kept | None]:
    """The logarithms of all sums.

    Args:
        a: (B, I, K), float32 or float64, K at least 1.
        b: (B, K, J), of the same dtype.
        options: what they mean, and how many bytes temporaries may take.
        keep: whether to keep what the backward pass can use, which takes the whole product at once.

    Returns:
        Logarithms (B, I, J), and what is kept.
    """
    if is_small(a, b, options.budget_bytes):
        return sums_of_terms(a[..., None], b[:, None], 2, options), None
    sizes = sizes_of(a, b)
    weights = ELEMENTS[0] * a.itemsize, ELEMENTS[1] * a.itemsize, ELEMENTS[2] * a.itemsize
    lengths = cuts(sizes, weights, options.budget_bytes // 2)
    if keep or lengths == sizes:
        return block_sums(a, b, options, keep=keep)
    logs = a.new_empty(sizes[0], sizes[1], sizes[3])
    sums = get("log").partial_sums
    state: State | None = None
    for n, i, k, j in blocks(sizes, lengths):
        part, _ = block_sums(a[n, i, k], b[n, k, j], options, keep=False)
        if lengths[2] == sizes[2]:
            logs[n, i, j] = part
            continue
        if state is None:
            state = sums.init(part.shape, part.dtype, part.device)
        state = sums.update(state, part[..., None], 3)
        if k.stop == sizes[2]:
            logs[n, i, j] = sums.finish(state)
            state = None
    return logs, None


def block_sums(a: Tensor, b: Tensor, options: LogOptions, *, keep: bool) -> tuple[Tensor, Kept | None]:
    """The same by one product."""
    operands = Operands.of(a, b, options, keep=keep)
    logs, sums, lost = finished(operands, keep or operands.special)
    if lost:
        _rescue_into(logs, operands, lost, options)
    if operands.special:
        assert sums is not None
        _put_specials(a, b, logs, sums, options)
    if not keep:
        return logs, None
    assert sums is not None
    return logs, Kept(sums, *operands.kept())


def _rescue_into(logs: Tensor, operands: Operands, lost: int, options: LogOptions) -> None:
    """Put the logarithms of unsafe sums in the place of -inf, of which there are so many."""
    a, b = operands.clean
    if suits_native(a, b, lost, options):
        log_native.single_sums(a, b, logs)
        return
    unsafe = logs == -math.inf
    if (some := _nonempty(a, b, options)) is not None:
        unsafe &= some
    for found in rescue(a, b, unsafe, options):
        if isinstance(found, Rescued):
            place = found.batches, found.rows, found.columns
            own, known = found.levels.log_sums().to(logs.dtype), logs[place]
            # Incomplete sums are too small, and are taken again. Where there are signs, others are wrong too.
            larger = torch.where(found.found, own, known) if options.linear else torch.maximum(own, known)
            logs[place] = larger
            continue
        signed = has_sign(found.a, options.is_linear(0)) or has_sign(found.b, options.is_linear(1))
        for entries, left, right in found.gathered():
            if signed:
                logs[entries] = sums_of_terms(left, right, 1, options)
                continue
            each = logarithms(left, options.is_linear(0)) + logarithms(right, options.is_linear(1))
            largest = top(each, 1)
            logs[entries] = each.sub_(largest).exp_().sum(1).log_().add_(largest.squeeze(1))


def _nonempty(a: Tensor, b: Tensor, options: LogOptions) -> Tensor | None:
    """Which sums have a term other than 0, (B, I, J); None where all have.

    Args:
        a: (B, I, K) without nan and +inf.
        b: (B, K, J), likewise.
        options: what they mean.
    """
    linear = options.is_linear(0), options.is_linear(1)
    # Comparisons with every element are slow.
    if all(
        float(x.abs().amin()) > 0 if own else float(x.amin()) > -math.inf
        for x, own in zip((a, b), linear, strict=True)
    ):
        return None
    left, right = (x != (0 if own else -math.inf) for x, own in zip((a, b), linear, strict=True))
    return positive_product(left, right)


def _put_specials(a: Tensor, b: Tensor, logs: Tensor, sums: Tensor, options: LogOptions) -> None:
    """Put +inf and nan where the operands' make them, and 0 as their relative sums."""
    a, b = (logarithms(x, options.is_linear(position)) for position, x in enumerate((a, b)))
    nothing = -math.inf
    infinite = positive_product(a == math.inf, b > nothing) | positive_product(a > nothing, b == math.inf)
    nan = a.isnan(), b.isnan()
    if options.zero_annihilates:
        undefined = positive_product(nan[0], b != nothing) | positive_product(a != nothing, nan[1])
    else:
        undefined = nan[0].any(2, keepdim=True) | nan[1].any(1, keepdim=True)
        undefined = undefined | positive_product(a == math.inf, b == nothing)
        undefined |= positive_product(a == nothing, b == math.inf)
    logs.masked_fill_(infinite, math.inf).masked_fill_(undefined, math.nan)
    sums.masked_fill_(infinite | undefined, 0)
