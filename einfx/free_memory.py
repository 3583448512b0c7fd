"""Free memory that the allocator keeps is given back to the system before it adds up.

What the C library's allocator frees stays resident for later use. Between values of different sizes much of
it lies in gaps that nothing fits into, and a program takes twice of what its values do. Giving it back costs
less than making most tensors; but what is taken anew afterwards comes page by page, filled with zeros.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

__all__ = ["give_back", "resident_bytes"]


def give_back() -> None:
    """Give memory that is free back to the system, where the C library can."""
    if not torch.compiler.is_compiling() and (trim := _trim()) is not None:
        trim(0)


def resident_bytes() -> int | None:
    """What this process holds in memory, in bytes; None where the system doesn't tell it at once.

    Example:
        >>> found = resident_bytes()
        >>> found is None or found > 1 << 20
        True
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        file = os.open("/proc/self/statm", os.O_RDONLY)
    except OSError:
        return None
    try:
        return int(os.read(file, 128).split(maxsplit=2)[1]) * mmap.PAGESIZE
    finally:
        os.close(file)


@lru_cache(maxsize=1)
def _trim() -> Callable[[int], Any] | None:
    if sys.platform != "linux":
        return None
    try:
        found: Callable[[int], Any] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return found
