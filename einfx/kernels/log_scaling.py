"""Exponentials of matrices that can be multiplied without underflow.

A product of ``exp(a - max of the row)`` and ``exp(b - max of the column)`` underflows where the largest
elements of a row and of a column don't meet: ``a = [0, -200]``, ``b = [-200, 0]``. Two remedies:

- A power of 2 on one operand puts the largest products at the upper end of the exponents, so that the
  whole range of the dtype serves: sums down to about exp(-60) in float32 and exp(-660) in float64 are right.
- Rows of ``a`` and columns of ``b`` are peeled into *levels*: a level holds the elements within a window
  below the largest one left, shifted by it. Products of two levels never underflow; elements outside of a
  level are 0 in it, exactly. A sum is that of all pairs of levels, from the top ones down, until what's left
  can't change it. Absent entries, marked by -1e5 or -1e9, are a level of their own, so two levels serve them.

No number in a product of matrices is subnormal: processors multiply those a hundred times slower. Masks,
and exponentials and logarithms of what leaves the range, are slow as well; thresholds are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from . import log_native

__all__ = [
    "Levels",
    "Peeled",
    "Range",
    "above_zero",
    "exponentials",
    "log_of_positive",
    "multiply_levels",
    "top",
]

DIAGONALS = 3
"""How many levels of both operands together are tried: pairs (0, 0), then (0, 1), (1, 0), then three more."""


@dataclass(frozen=True)
class Range:
    """How far below their maximum exponentials are kept, so that products of two are normal numbers.

    Attributes:
        window: in which distance below.
        power: the power of 2 that multiplies one of them.
        floor: the smallest sum of products that is right to rounding, relative to the maxima.
    """

    window: float
    power: int
    floor: float

    @classmethod
    @cache
    def of(cls, dtype: torch.dtype, depth: int) -> Range:
        """The widest for a dtype and a number of products in a sum.

        Example:
            >>> [round(math.log(Range.of(dtype, 512).floor)) for dtype in (torch.float32, torch.float64)]
            [-61, -662]
        """
        info = torch.finfo(dtype)
        highest = math.frexp(info.max)[1] - 1  # 127 in float32
        power = highest - 1 - math.ceil(math.log2(max(depth, 1)))
        window = (power + highest - 1) / 2 * math.log(2) - 1
        return cls(window, power, depth * math.exp(-window) / info.eps)

    @classmethod
    def of_levels(cls, dtype: torch.dtype, depth: int) -> Range:
        """The one of a level: every sum is right, and still is when all below ``tiny`` is left out of it."""
        info = torch.finfo(dtype)
        return cls(math.log(info.eps / info.tiny / max(depth, 1)) / 2 - 1, 0, 0.0)


def top(x: Tensor, dim: int) -> Tensor:
    """The largest element along a dimension, which stays with size 1."""
    return x.amax(dim, keepdim=True)


def finite_or_zero(x: Tensor) -> Tensor:
    """A shift: 0 in the place of -inf, which would make nan."""
    return x.masked_fill(x == -math.inf, 0)


def exponentials(x: Tensor, tops: Tensor, window: float) -> Tensor:
    """exp(x - tops), and 0 where that is below exp(-window)."""
    return vanishing_exp_(x - finite_or_zero(tops), window)


def proportions(x: Tensor, tops: Tensor, window: float) -> Tensor:
    """X / tops, and 0 where its absolute value isn't above exp(-window)."""
    quotient = x / tops.masked_fill(tops == 0, 1)
    return quotient.masked_fill_(quotient.abs() <= math.exp(-window), 0)


def vanishing_exp_(x: Tensor, window: float | None = None) -> Tensor:
    """exp(x) in place, for x of at most 0, and 0 where that isn't above exp(-window), or a normal number."""
    if window is None:
        window = -math.log(torch.finfo(x.dtype).tiny) - 1.5
    torch.threshold_(x, -window, -window - 1).exp_()
    return torch.threshold_(x, math.exp(-window - 0.5), 0)


def above_zero(x: Tensor) -> Tensor:
    """0 where an element is above 0, -inf elsewhere: a mask to be added."""
    return torch.threshold(x, 0, -math.inf).clamp_(max=0)


def log_of_positive(x: Tensor) -> Tensor:
    """The logarithms of positive elements, and any number where they're 0."""
    return x.clamp(min=torch.finfo(x.dtype).tiny).log_()


class Peeled:
    """The levels of one operand, made when they're asked for.

    Args:
        x: (B, M, N) without nan and +inf.
        dim: along which it is summed.
        window: of a level.
    """

    def __init__(self, x: Tensor, dim: int, window: float) -> None:
        self.dim, self.window = dim, window
        # What is left for each level, -inf in the place of what isn't.
        self.rests = [x]
        self.tops = [top(x, dim)]
        self.levels: list[tuple[Tensor, Tensor]] = []

    def top_of(self, level: int) -> Tensor:
        """The largest element of a level, -inf where nothing is left for it."""
        while len(self.tops) <= level:
            above = finite_or_zero(self.tops[-1]) - self.rests[-1]
            # A level lacks what lies exactly at its window, so that is left.
            inside = torch.nextafter(above.new_tensor(self.window), above.new_tensor(0.0)).item()
            taken = torch.threshold_(above, inside, -math.inf).clamp_(max=0)
            self.rests.append(taken.add_(self.rests[-1]))
            self.tops.append(top(self.rests[-1], self.dim))
        return self.tops[level]

    def exponentials(self, level: int) -> Tensor:
        """The elements of a level, as exponentials of their distance to its top."""
        while len(self.levels) <= level:
            shift = self.top_of(len(self.levels))
            rest = self.rests[len(self.levels)]
            own = log_native.shift(rest, self.dim, self.window)[0] if log_native.takes(rest) else None
            own = exponentials(rest, shift, self.window) if own is None else own
            self.levels.append((own, shift))
        return self.levels[level][0]

    def share_outside(self, levels: int) -> float:
        """The share of elements that aren't in the first so many levels."""
        self.top_of(levels)
        rest = self.rests[levels]
        return 1 - int((rest == -math.inf).count_nonzero()) / max(1, rest.numel())


@dataclass(frozen=True)
class Levels:
    """Sums of products by pairs of levels.

    Attributes:
        left: of the first operand, by level: exponentials (B, I, K) and tops (B, I, 1).
        right: of the second operand: (B, K, J) and (B, 1, J).
        pairs: those that were multiplied.
        reference: (B, I, J), the largest sum of two tops whose levels met; -inf where none did.
        total: (B, I, J), the sum relative to it: at least exp(-2 window), or 0 where none met.
        incomplete: (B, I, J), bool: wanted entries that more levels would change.
    """

    left: list[tuple[Tensor, Tensor]]
    right: list[tuple[Tensor, Tensor]]
    pairs: list[tuple[int, int]]
    reference: Tensor
    total: Tensor
    incomplete: Tensor

    def log_sums(self) -> Tensor:
        """The logarithms of the sums, (B, I, J); too small where incomplete."""
        return log_of_positive(self.total).add_(self.reference)

    def weights(self, p: int, q: int) -> Tensor:
        """What products of levels p and q are multiplied by to be shares of their sum, (B, I, J).

        At most ``1 / total``: where the tops of a pair add up to more than the reference, all its products
        are 0.
        """
        distance = (self.left[p][1] + self.right[q][1]).sub_(
            self.reference.clamp(min=_lowest(self.reference))
        )
        return vanishing_exp_(distance.clamp_(max=0)).div_(torch.threshold(self.total, 0, math.inf))


def multiply_levels(left: Peeled, right: Peeled, wanted: Tensor) -> Levels:
    """Add up products of levels until every wanted sum is complete, or ``DIAGONALS`` is reached.

    Args:
        left: (B, I, K), peeled along K.
        right: (B, K, J), peeled along K.
        wanted: (B, I, J), bool; none of these sums is empty.

    Returns:
        The sums.
    """
    depth = left.rests[0].shape[2]
    # What is left out is less than a rounding error of the sum, all of it together.
    margin = math.log(torch.finfo(left.rests[0].dtype).eps / depth)
    reference = total = left.tops[0]  # Until the first pair is multiplied.
    pairs: list[tuple[int, int]] = []
    incomplete = wanted
    for diagonal in range(DIAGONALS + 1):
        own = [(p, diagonal - p) for p in range(diagonal + 1)]
        # No product that is left is above the largest of their sums.
        pairs_of_tops = [(left.top_of(p), right.top_of(q)) for p, q in own]
        if diagonal:
            incomplete, some = _unfinished(total, reference, wanted, pairs_of_tops, margin)
            if not some or diagonal == DIAGONALS:
                break
        for (p, q), of_both in zip(own, pairs_of_tops, strict=True):
            product = torch.bmm(left.exponentials(p), right.exponentials(q))
            if pairs and log_native.takes(product):
                pairs.append((p, q))
                log_native.meet(product, total, reference, of_both)
                continue
            tops = of_both[0] + of_both[1]
            # The reference counts pairs that met alone: 0 for these, minus infinity for the others.
            met = above_zero(product).add_(tops)
            pairs.append((p, q))
            if len(pairs) == 1:
                reference, total = met, product
                continue
            larger = torch.maximum(reference, met, out=met)
            shift = larger.clamp(min=_lowest(larger))
            total.mul_(vanishing_exp_(reference.sub_(shift)))
            total.add_(product.mul_(vanishing_exp_(tops.sub_(shift).clamp_(max=0))))
            reference = larger
    return Levels(
        left.levels,
        right.levels,
        pairs,
        reference,
        total,
        incomplete,
    )


def _unfinished(
    total: Tensor, reference: Tensor, wanted: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], margin: float
) -> tuple[Tensor, bool]:
    """Which wanted sums something with these pairs of tops could change, and whether there are any."""
    if log_native.takes(total):
        return log_native.bound(total, reference, wanted, pairs, margin)
    bound = pairs[0][0] + pairs[0][1]
    for left, right in pairs[1:]:
        bound = torch.maximum(bound, left + right)
    open_ones = wanted & (bound > log_of_positive(total).add_(reference).add_(margin))
    return open_ones, bool(open_ones.any())


def _lowest(x: Tensor) -> float:
    return torch.finfo(x.dtype).min
