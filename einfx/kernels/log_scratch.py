"""Memory that products over the log semiring use again from call to call.

What a product allocates and frees at once goes back to the operating system, and comes back page by page,
filled with zeros: that takes as long as all passes over it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["scratch"]

MOST = 1 << 21
"""Numbers that one place holds on to: 8 MiB of float32."""

_places = threading.local()


def scratch(name: str, shape: Sequence[int]) -> Tensor:
    """A contiguous float32 tensor on the CPU, with any numbers in it.

    Args:
        name: of a place; the thread's next call with it may give the same memory.
        shape: as wanted.

    Example:
        >>> scratch("example", (2, 3)).data_ptr() == scratch("example", (4,)).data_ptr()
        True
    """
    count = math.prod(shape)
    if count > MOST:
        return torch.empty(tuple(shape))
    known: Tensor | None = getattr(_places, name, None)
    if known is None or known.numel() < count:
        # A tensor of inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            known = torch.empty(count)
        setattr(_places, name, known)
    return known[:count].view(tuple(shape))
