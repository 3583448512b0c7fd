"""In which mode of torch a call runs."""

from __future__ import annotations

import torch

__all__ = ["is_captured"]


def is_captured() -> bool:
    """Whether operators are recorded instead of only run: by torch.compile, make_fx or another dispatch mode.

    What depends on numbers, or writes memory behind torch's back, must then be one operator of its own.

    Example:
        >>> is_captured()
        False
    """
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
