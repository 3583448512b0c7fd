"""Large blocks of memory that go back to the system when they are freed.

The C library's allocator keeps blocks of up to 32 MiB that are freed, and gives larger ones back; those come
anew page by page, which takes ten times as long as writing to them. A mapping of its own goes back at once,
and where the system has huge pages, comes anew almost as fast as memory that was kept.
"""

from __future__ import annotations

import mmap
import sys
from contextlib import suppress

import torch
from torch import Tensor

__all__ = ["block", "make_resident"]

LEAST_BYTES = 4 << 20
"""What is smaller is the allocator's: most of it would come in small pages."""


def block(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A new vector with any numbers in it, for what comes and goes inside one call.

    On a CPU, tools that watch torch's allocator don't see large ones.

    Args:
        count: of how many elements.
        dtype: of these.
        device: where it lies.

    Example:
        >>> block(3, torch.float32, torch.device("cpu")).shape
        torch.Size([3])
    """
    size = count * dtype.itemsize
    if device.type == "cpu" and size >= LEAST_BYTES and sys.platform == "linux":
        try:
            return _mapped(size, dtype)
        except OSError:
            # What asks for too much is told so by torch.
            pass
    return torch.empty(count, dtype=dtype, device=device)


def make_resident(memory: Tensor) -> None:
    """Have the system give a new vector its pages now, and not when they are written to.

    Args:
        memory: a contiguous vector on the CPU, with any numbers in it; some become 0.

    Example:
        >>> memory = block(3, torch.float32, torch.device("cpu"))
        >>> make_resident(memory)
        >>> memory[0]
        tensor(0.)
    """
    memory[:: mmap.PAGESIZE // memory.dtype.itemsize].zero_()


def _mapped(size: int, dtype: torch.dtype) -> Tensor:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # where there are none
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype)
