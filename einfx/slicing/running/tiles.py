"""Elementwise operations on large tensors of which one lies otherwise than another.

Whichever is walked as it lies, of another one every element is then in another line of the cache, and is gone
before its neighbours are asked for: that takes up to twenty times as long as where all lie alike. Taken in
tiles that stay in the cache, each copied first as it lies, whole lines are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor

__all__ = ["Tiles", "in_tiles", "is_large", "tile_elements", "tiles_of"]

Sizes = tuple[int, ...]
Scratch = Callable[[Sequence[int]], Tensor]

LEAST_ELEMENTS = 1 << 18
"""What has fewer elements stays in the cache as a whole."""

TILE_ELEMENTS = 1 << 16
"""So many at a time, on every thread."""

LINE_ELEMENTS = 32
"""So many neighbours are taken at once, of each tensor, so that whole lines of the cache are used."""

NEAR_ELEMENTS = 1 << 9
"""So many lines stay in the nearest cache, of whatever tensor."""


@dataclass(frozen=True)
class Tiles:
    """How tensors of one shape are gone through.

    Attributes:
        shape: of all of them.
        lengths: of a tile.
        packed: for each source how far apart its elements lie in the copy of a tile; None where it is read
            as it lies.
        elements: of all copies of a tile together.
    """

    shape: Sizes
    lengths: Sizes
    packed: tuple[Sizes | None, ...]
    elements: int

    def run(
        self, work: Callable[..., Any], target: Tensor, sources: Sequence[Tensor], scratch: Scratch
    ) -> None:
        """Call a function with the parts of tensors that are in every tile, those of the target first.

        Args:
            work: the function.
            target: what it writes.
            sources: what it reads; where one is the same along a dimension its stride there is 0.
            scratch: gives memory.
        """
        memory = scratch((self.elements,))
        tensors = target, *sources
        starts = [x.storage_offset() for x in tensors]
        strides = [x.stride() for x in tensors]
        for first, lengths in self._parts():
            written, *parts = (
                x.as_strided(
                    lengths, own, start + sum([i * step for i, step in zip(first, own, strict=True)])
                )
                for x, own, start in zip(tensors, strides, starts, strict=True)
            )
            used = int(memory.storage_offset())
            for position, packed in enumerate(self.packed):
                if packed is None:
                    continue
                own = [1 if not step else n for n, step in zip(lengths, packed, strict=True)]
                copy = memory.as_strided(own, packed, used)
                copy.copy_(parts[position].as_strided(own, strides[1 + position]))
                parts[position] = copy
                used += _elements(self.lengths, packed)
            work(written, *parts)

    def _parts(self) -> Iterator[tuple[Sizes, Sizes]]:
        """Where every tile starts, and how long it is."""
        cuts = [range(0, n, length) for n, length in zip(self.shape, self.lengths, strict=True)]
        for first in product(*cuts):
            yield (
                first,
                tuple(
                    [
                        min(length, n - start)
                        for start, length, n in zip(first, self.lengths, self.shape, strict=True)
                    ]
                ),
            )


def is_large(shape: Sequence[int]) -> bool:
    """Whether tensors of a shape may be taken in tiles."""
    return prod(shape) >= LEAST_ELEMENTS


def tile_elements(threads: int) -> int:
    """How many elements the copy of a tile has at most, but where lines of many tensors make it more."""
    return TILE_ELEMENTS * threads


def in_tiles(
    work: Callable[..., Any], target: Tensor, sources: Sequence[Tensor], scratch: Scratch = torch.empty
) -> None:
    """Call a function that writes a tensor from others element by element, in tiles where that is faster.

    Args:
        work: the function, of the target and the sources; it may return anything.
        target: what it writes, and may read.
        sources: tensors that broadcast to the shape of the target, with as many dimensions.
        scratch: gives memory, as much as :func:`tiles_of` says.

    Example:
        >>> target = torch.zeros(600, 700)
        >>> in_tiles(Tensor.copy_, target, [torch.ones(700, 600).T])
        >>> target.mean()
        tensor(1.)
    """
    shape = target.shape
    if is_large(shape) and target.device.type == "cpu":
        wide = [x.expand(shape) for x in sources]
        found = tiles_of(tuple(shape), target.stride(), tuple([x.stride() for x in wide]))
        if found is not None:
            dtype, device = target.dtype, target.device
            if scratch is torch.empty:
                found.run(work, target, wide, lambda size: torch.empty(size, dtype=dtype, device=device))
            else:
                found.run(work, target, wide, scratch)
            return
    work(target, *sources)


def tiles_of(shape: Sizes, target: Sizes, sources: tuple[Sizes, ...]) -> Tiles | None:
    """The tiles in which an operation is done; None where it is done at once.

    Args:
        shape: of all tensors.
        target: the strides of what is written, in elements.
        sources: those of what is read.

    Example:
        >>> rows, columns = tiles_of((4096, 1024), (1024, 1), ((1, 4096),)).lengths
        >>> rows < 4096, columns
        (True, 1024)
        >>> tiles_of((4096, 1024), (1024, 1), ((1024, 1),)) is None
        True
    """
    if not is_large(shape):
        return None
    return _tiles(shape, target, sources, torch.get_num_threads())


@lru_cache(maxsize=16384)
def _tiles(shape: Sizes, target: Sizes, sources: tuple[Sizes, ...], threads: int) -> Tiles | None:
    """``shape`` and strides, where those of a source are 0 along which it is the same."""
    walked = sorted([dim for dim, n in enumerate(shape) if n > 1], key=lambda dim: target[dim])
    if any(target[dim] == 0 for dim in walked):
        return None
    turned = [_is_turned(shape, walked, own) for own in sources]
    if not any(turned):
        return None
    lengths = [1] * len(shape)
    nearest = {_nearest(shape, own) for own, turn in zip(sources, turned, strict=True) if turn}
    for dim in (walked[0], *sorted(nearest)):
        lengths[dim] = min(shape[dim], LINE_ELEMENTS)
    for dim in walked:
        most = max(tile_elements(threads) * lengths[dim] // prod(lengths), lengths[dim])
        lengths[dim] = -(-shape[dim] // -(-shape[dim] // most))
    whole = tuple(lengths)
    packed = tuple([_packed(whole, own) if turn else None for own, turn in zip(sources, turned, strict=True)])
    return Tiles(shape, whole, packed, sum([_elements(whole, own) for own in packed if own is not None]))


def _is_turned(shape: Sizes, walked: Sequence[int], source: Sizes) -> bool:
    """Whether lines of a source are gone from the cache when the next of their elements is asked for."""
    if _elements(shape, source) < LEAST_ELEMENTS:
        return False
    nearest = _nearest(shape, source)
    inner = [shape[dim] for dim in walked[: walked.index(nearest)] if source[dim]]
    return prod(inner) > NEAR_ELEMENTS


def _nearest(shape: Sizes, source: Sizes) -> int:
    """The dimension along which neighbours lie closest."""
    return min([dim for dim, n in enumerate(shape) if n > 1 and source[dim]], key=lambda dim: source[dim])


def _elements(shape: Sizes, strides: Sizes) -> int:
    """How many elements there are but those that are the same."""
    return prod([n for n, step in zip(shape, strides, strict=True) if step])


def _packed(shape: Sizes, source: Sizes) -> Sizes:
    """The strides of a copy, in the order of the source, without gaps."""
    strides, step = [0] * len(shape), 1
    for dim in sorted([dim for dim in range(len(shape)) if source[dim]], key=lambda dim: source[dim]):
        strides[dim] = step
        step *= shape[dim]
    return tuple(strides)
