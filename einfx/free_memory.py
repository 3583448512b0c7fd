"""Free memory that the allocator keeps is given back to the system before it adds up.

What the C library's allocator frees stays resident for later use. Between values of different sizes much of
it lies in gaps that nothing fits into, and a program takes twice of what its values do. Giving it back costs
less than making most tensors.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

__all__ = ["give_back"]


def give_back() -> None:
    """Give memory that is free back to the system, where the C library can."""
    if not torch.compiler.is_compiling() and (trim := _trim()) is not None:
        trim(0)


@lru_cache(maxsize=1)
def _trim() -> Callable[[int], Any] | None:
    if sys.platform != "linux":
        return None
    try:
        found: Callable[[int], Any] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return found
