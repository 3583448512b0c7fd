"""Matrix products over the log semiring, of plain tensors: logarithms of sums of exponentials.

One product of exponentials, shifted by the maxima of rows and columns, gives all sums that don't underflow;
:mod:`.log_rescue` finds the others. With M the largest of 1, the absolute values of the row's and the
column's maximum, and of the result, the error is at most a small multiple of eps·M beside that of adding K
numbers, as it is for logsumexp itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .boolean import positive_product
from .log_rescue import Rescued, gathered_terms, rescue
from .log_scaling import Range, above_zero, exponentials, log_of_positive, top

__all__ = ["SMALL", "Operands", "is_small", "log_sums", "nonempty", "terms"]

SMALL = 1 << 15
"""Up to so many terms, all of them at once are as fast as a product, and exact."""


def is_small(a: Tensor, b: Tensor) -> bool:
    """Whether the terms of all sums fit a small tensor, or there are none."""
    count = a.numel() * b.shape[2]
    return count <= SMALL or count == 0


def terms(a: Tensor, b: Tensor, zero_annihilates: bool) -> Tensor:
    """Products over the log semiring: a + b, and -inf wherever one of them is, if zero annihilates."""
    total = a + b
    if zero_annihilates:
        total.masked_fill_((a == -math.inf) | (b == -math.inf), -math.inf)
    return total


class Operands:
    """Both operands with nan and +inf set apart, shifted and exponentiated.

    Args:
        a: (B, I, K), float32 or float64.
        b: (B, K, J), of the same dtype.
        exact_zeros: as for :func:`.log_scaling.exponentials`.

    Attributes:
        a: (B, I, K) with -inf in the place of nan and +inf.
        b: likewise.
        special: whether there was nan or +inf.
        tops: maxima of rows (B, I, 1) and of columns (B, 1, J).
        range: of the exponentials.
        exponentials: of the differences to the tops, (B, I, K) and (B, K, J), without the power of 2.
    """

    def __init__(self, a: Tensor, b: Tensor, *, exact_zeros: bool) -> None:
        tops = top(a, 2), top(b, 1)
        # Comparisons with nan are false.
        self.special = not all(bool((x < math.inf).all()) for x in tops)
        if self.special:
            a, b = (x.masked_fill(~(x < math.inf), -math.inf) for x in (a, b))
            tops = top(a, 2), top(b, 1)
        self.a, self.b, self.tops = a, b, tops
        self.range = Range.of(a.dtype, a.shape[2])
        window = self.range.window
        self.exponentials = (
            exponentials(a, tops[0], window, exact_zeros=exact_zeros),
            exponentials(b, tops[1], window, exact_zeros=exact_zeros),
        )


def log_sums(a: Tensor, b: Tensor, zero_annihilates: bool) -> tuple[Tensor, Tensor]:
    """The logarithms of all sums.

    Args:
        a: (B, I, K), float32 or float64, K at least 1.
        b: (B, K, J), of the same dtype.
        zero_annihilates: whether -inf wins over +inf and nan.

    Returns:
        Logarithms (B, I, J), and the sums relative to the maxima of rows and columns (B, I, J), with 0 where
        that sum isn't safe to use.
    """
    if is_small(a, b):
        exact = torch.logsumexp(terms(a[..., None], b[:, None], zero_annihilates), 2)
        return exact, torch.zeros_like(exact)
    # What underflows counts as exp(-window - 1) instead of 0, which is just as wrong, and quicker.
    operands = Operands(a, b, exact_zeros=False)
    limits = operands.range
    left, right = operands.exponentials
    (left if left.numel() < right.numel() else right).mul_(2.0**limits.power)
    sums = torch.bmm(left, right).mul_(2.0**-limits.power)
    if float(sums.amin()) > limits.floor:
        logs = sums.log().add_(operands.tops[0]).add_(operands.tops[1])
    else:
        unsafe = sums <= limits.floor
        torch.threshold_(sums, limits.floor, 0)
        logs = log_of_positive(sums).add_(above_zero(sums)).add_(operands.tops[0]).add_(operands.tops[1])
        _rescue_into(logs, operands.a, operands.b, unsafe)
    if operands.special:
        _put_specials(a, b, logs, sums, zero_annihilates)
    return logs, sums


def nonempty(a: Tensor, b: Tensor) -> Tensor | None:
    """Which sums have a term other than exp(-inf), (B, I, J); None where all have.

    Args:
        a: (B, I, K) without nan and +inf.
        b: (B, K, J), likewise.
    """
    if float(a.amin()) > -math.inf and float(b.amin()) > -math.inf:
        return None
    return positive_product(a != -math.inf, b != -math.inf)


def _rescue_into(logs: Tensor, a: Tensor, b: Tensor, unsafe: Tensor) -> None:
    """Put the logarithms of unsafe sums in the place of -inf."""
    if (some := nonempty(a, b)) is not None:
        unsafe &= some
    for found in rescue(a, b, unsafe):
        if isinstance(found, Rescued):
            # Sums that the levels don't complete come out too small, so the larger one is right.
            known = logs[found.batches]
            logs[found.batches] = torch.maximum(known, found.levels.log_sums().to(logs.dtype))
            continue
        for place, left, right in gathered_terms(a, b, found):
            each = left.add_(right)
            largest = top(each, 1)
            logs[place] = each.sub_(largest).exp_().sum(1).log_().add_(largest.squeeze(1))


def _put_specials(a: Tensor, b: Tensor, logs: Tensor, sums: Tensor, zero_annihilates: bool) -> None:
    """Put +inf and nan where the operands' make them, and 0 as their relative sums."""
    nothing = -math.inf
    infinite = positive_product(a == math.inf, b > nothing) | positive_product(a > nothing, b == math.inf)
    nan = a.isnan(), b.isnan()
    if zero_annihilates:
        undefined = positive_product(nan[0], b != nothing) | positive_product(a != nothing, nan[1])
    else:
        undefined = nan[0].any(2, keepdim=True) | nan[1].any(1, keepdim=True)
        undefined = undefined | positive_product(a == math.inf, b == nothing)
        undefined |= positive_product(a == nothing, b == math.inf)
    logs.masked_fill_(infinite, math.inf).masked_fill_(undefined, math.nan)
    sums.masked_fill_(infinite | undefined, 0)
