"""Matrix products over selecting semirings in torch alone: a loop over the summed dimension, tile by tile.

Every step adds one outer product to a tile of the output in place. The tile and its product stay in the
cache, so that this is about ten times faster than reducing the broadcast product, and needs no memory for it.

Where a value was selected is found afterwards, by comparing terms with it: for many terms, first which group
of them changed the value last, then where in that group. Comparisons write numbers instead of truth values,
and indices are numbers too, since torch's arithmetic is several times faster than its masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ..algebra import Semiring

__all__ = ["matmul", "workspace_bytes"]

TILE = 1 << 17
"""Elements of a tile on the CPU: it and its product, in float32, fill half of a cache of 2 MiB."""

INTO_BUFFER: dict[str, Callable[..., Tensor]] = {
    "max_plus": torch.add,
    "min_plus": torch.add,
    "max_times": torch.mul,
    "max_min": torch.minimum,
}
"""Multiplications of floating-point numbers that can write where they're told."""

DEVICE_TILE = 1 << 24
"""On an accelerator, where starting a step costs more than its cache misses."""

GROUP = 8
"""So many terms are compared again where many are summed."""

FEWEST_GROUPS = 16

COUNTING = {torch.float32: 1 << 24, torch.float64: 1 << 53, torch.int32: 2**31 - 1, torch.int64: 1 << 53}
"""Dtypes that hold indices, and up to which one."""


class Tile(NamedTuple):
    """A part of the product.

    Args:
        semiring: whose product it is.
        a: (B, I, K).
        b: (B, K, J).
        pairs: for every k, its part of a, (B, I, 1), and of b, (B, 1, J).
        total: (B, I, J), contiguous: the values.
        buffer: likewise, for terms.
    """

    semiring: Semiring
    a: Tensor
    b: Tensor
    pairs: list[tuple[Tensor, Tensor]]
    total: Tensor
    buffer: Tensor

    def terms(self, steps: Iterable[int]) -> Iterable[tuple[int, Tensor]]:
        """Each k of ``steps`` with its terms (B, I, J), which are valid until the next."""
        law = self.law
        for k in steps:
            x, y = self.pairs[k]
            yield k, self.semiring.multiply(x, y) if law is None else law(x, y, out=self.buffer)

    @property
    def law(self) -> Callable[..., Tensor] | None:
        """The multiplication as a function that writes where it's told, if there's one."""
        simple = self.total.dtype.is_floating_point and not self.semiring.zero_annihilates
        return INTO_BUFFER.get(self.semiring.name) if simple else None


def matmul(semiring: Semiring, a: Tensor, b: Tensor, *, argmax: bool = False) -> tuple[Tensor, Tensor | None]:
    """A batch of matrix products.

    Args:
        semiring: one whose addition is ``torch.maximum`` or ``torch.minimum``.
        a: (B, I, K).
        b: (B, K, J), of the same dtype and device.
        argmax: whether to find the index of what was selected too.

    Returns:
        Values (B, I, J), and int64 indices into K of the first term that equals them, or None.

    Example:
        >>> from einfx.semiring import get
        >>> matmul(get("max_plus"), torch.tensor([[[0, 2]]]), torch.tensor([[[5], [4]]]), argmax=True)
        (tensor([[[6]]]), tensor([[[1]]]))
    """
    batch, rows, depth = a.shape
    columns = b.shape[2]
    zero = semiring.zero_of(a.dtype)
    values = torch.full((batch, rows, columns), zero, dtype=a.dtype, device=a.device)
    places = values.new_zeros(values.shape, dtype=torch.int64) if argmax else None
    count, height, width = _tile_shape(batch, rows, columns, a.device.type, argmax)
    grouped = depth >= FEWEST_GROUPS * GROUP and depth < COUNTING.get(a.dtype, 0)
    for n in range(0, batch, count):
        for i in range(0, rows, height):
            left = a[n : n + count, i : i + height]
            columns_of_a = left.transpose(1, 2).contiguous().unsqueeze(3).unbind(1)
            for j in range(0, columns, width):
                block = (slice(n, n + count), slice(i, i + height), slice(j, j + width))
                total = values[block].contiguous()
                right = b[n : n + count, :, j : j + width]
                pairs = list(zip(columns_of_a, right.unsqueeze(2).unbind(1), strict=True))
                tile = Tile(semiring, left, right, pairs, total, torch.empty_like(total))
                if places is None:
                    _sum(tile, range(depth))
                elif grouped:
                    places[block] = _grouped(tile)
                else:
                    _sum(tile, range(depth))
                    places[block] = _first(tile, torch.eq)
                if places is not None and total.dtype.is_floating_point:
                    _put_nan(tile, places[block])
                if total.data_ptr() != values[block].data_ptr():
                    values[block] = total
    return values, places


def _tile_shape(batch: int, rows: int, columns: int, device: str, argmax: bool) -> tuple[int, int, int]:
    """How many matrices, rows and columns a tile has: half as many where indices need the cache too."""
    tile = (TILE if device == "cpu" else DEVICE_TILE) >> argmax
    width = max(1, min(columns, tile))
    height = max(1, min(rows, tile // width))
    return max(1, min(batch, tile // (width * height))), height, width


def workspace_bytes(
    batch: int,
    rows: int,
    depth: int,
    columns: int,
    itemsize: int,
    argmax: bool,
    device: str,
    *,
    simple: bool = True,
) -> int:
    """What :func:`matmul` allocates beside its results, at most.

    Args:
        batch: B.
        rows: I.
        depth: K.
        columns: J.
        itemsize: bytes of an element.
        argmax: whether indices are found.
        device: a type of device.
        simple: whether products are written into a buffer; otherwise they and their masks are new each time.

    Example:
        >>> workspace_bytes(1, 1024, 1024, 1024, 4, False, "cpu") >> 10
        1536
    """
    count, height, width = _tile_shape(batch, rows, columns, device, argmax)
    per_element = 2 * itemsize if simple else 5 * itemsize + 4
    if argmax:
        # Values to compare with, flags, the last group; then two indices, a third one as it is converted.
        per_element += 4 * itemsize + 3 * 8
    return count * (height * width * per_element + height * depth * itemsize)


def _sum(tile: Tile, steps: Iterable[int]) -> None:
    """Add terms to the values, in place."""
    for _, term in tile.terms(steps):
        tile.semiring.addition(tile.total, term, out=tile.total)  # type: ignore[call-arg]


def _first(tile: Tile, compare: Callable[..., Tensor]) -> Tensor:
    """The first index for which ``compare(term, value)`` is true, int64; 0 where there's none."""
    depth, total = tile.b.shape[1], tile.total
    if depth >= COUNTING.get(total.dtype, 0):
        places = torch.zeros_like(total, dtype=torch.int64)
        for k, term in tile.terms(range(depth - 1, -1, -1)):
            places.masked_fill_(compare(term, total), k)
        return places
    score, flag = torch.zeros_like(total), torch.empty_like(total)
    for k, term in tile.terms(range(depth)):
        compare(term, total, out=flag).mul_(depth - k)
        torch.maximum(score, flag, out=score)
    return torch.where(score > 0, depth - score, 0).to(torch.int64)


def _grouped(tile: Tile) -> Tensor:
    """Add all terms to the values in place, and give the first index of what equals them."""
    depth, addition = tile.b.shape[1], tile.semiring.addition
    spare = torch.empty_like(tile.total)
    total, other = tile.total, spare
    flag, last = torch.empty_like(total), torch.zeros_like(total)
    for group, start in enumerate(range(0, depth, GROUP)):
        before, total, other = total, other, total
        for k, term in tile.terms(range(start, min(start + GROUP, depth))):
            addition(before if k == start else total, term, out=total)  # type: ignore[call-arg]
        torch.ne(total, before, out=flag).mul_(group)
        torch.maximum(last, flag, out=last)
    if total is not tile.total:
        tile.total.copy_(total)
    starts = last.to(torch.int64).mul_(GROUP)
    at, score = starts.clone(), last.zero_()
    for step in range(GROUP):
        if step:
            at.add_(1)
        if depth % GROUP:
            at.clamp_(max=depth - 1)
        x, y = torch.gather(tile.a, 2, at, out=tile.buffer), torch.gather(tile.b, 1, at, out=spare)
        term = tile.semiring.multiply(x, y) if tile.law is None else tile.law(x, y, out=x)
        torch.eq(term, tile.total, out=flag).mul_(GROUP - step)
        torch.maximum(score, flag, out=score)
    # Only where the value is nan did no term equal it.
    return starts.add_(score.neg_().add_(GROUP).to(torch.int64))


def _put_nan(tile: Tile, places: Tensor) -> None:
    """Where the value is nan, put the index of the first term that is."""
    if bool(tile.total.amax().isnan()):
        missing = tile.total != tile.total
        places.copy_(torch.where(missing, _first(tile, lambda x, _, **out: torch.ne(x, x, **out)), places))
