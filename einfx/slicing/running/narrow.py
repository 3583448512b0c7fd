"""What it costs to read narrow blocks of a tensor: memory comes in whole lines of the cache.

A block of one element along the innermost label takes a line of 64 bytes for each element, and a loop over
such blocks reads the whole tensor in every iteration.
"""

from __future__ import annotations

from functools import lru_cache

from ...machine import machine_for
from .into import Place

__all__ = ["narrow_seconds"]

LINE_BYTES = 64

UNFORESEEN = 3
"""A line far from the last takes as long as so many that follow one another."""


@lru_cache(maxsize=65536)
def narrow_seconds(place: Place, item: int, device: str) -> float:
    """What reading a tensor takes beyond reading as many bytes that lie side by side.

    Args:
        place: the tensor, as part of one that is larger than it.
        item: bytes of an element.
        device: where it lies.

    Example:
        >>> whole = Place((1000, 1000), (1000, 1))
        >>> rows, columns = Place((10, 1000), (1000, 1)), Place((1000, 10), (1000, 1))
        >>> [f"{1e6 * narrow_seconds(x, 4, 'cpu'):.0f} us" for x in (whole, rows, columns)]
        ['0 us', '0 us', '5 us']
    """
    machine = machine_for(device)
    dims = sorted((item * step, size) for step, size in zip(place.strides, place.shape, strict=True))
    dims = [(step, size) for step, size in dims if step > 0 and size > 1]
    if item + sum(step * (size - 1) for step, size in dims) <= machine.cache_bytes:
        # Its lines are still there when their other elements are read.
        return 0.0
    stretch, count, stretches = item, 1, 1
    for step, size in dims:
        if stretches == 1 and step <= max(stretch, LINE_BYTES):
            stretch += step * (size - 1)
            count *= size
        else:
            stretches *= size
    lines = stretches * -(-stretch // LINE_BYTES)
    foreseen = item * count * stretches / LINE_BYTES
    return max(lines - foreseen + (UNFORESEEN - 1) * stretches, 0.0) * LINE_BYTES / machine.bandwidth
