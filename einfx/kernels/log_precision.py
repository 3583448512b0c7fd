"""Computing in the precision that the operands have, inside of ``torch.autocast`` as well."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = ["as_given"]

P = ParamSpec("P")
T = TypeVar("T")


def as_given(
    compute: Callable[Concatenate[Tensor, P], T],
) -> Callable[Concatenate[Tensor, P], T]:
    """Turn autocast off in a function of a tensor and of anything else.

    Logarithms that are added lose their meaning in bfloat16, which autocast would multiply matrices in.

    Example:
        >>> product = as_given(lambda a, b: a @ b)
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     product(torch.ones(2, 2), torch.ones(2, 2)).dtype
        torch.float32
    """

    @functools.wraps(compute)
    def wrapped(first: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> T:
        device = first.device.type
        if not torch.is_autocast_enabled(device):
            return compute(first, *args, **kwargs)
        with torch.autocast(device, enabled=False):
            return compute(first, *args, **kwargs)

    return wrapped
