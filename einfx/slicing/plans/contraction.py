"""Which contractions are cut into blocks, and their schedules, remembered from call to call."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...equation import Equation
from ...kernels.batching import tracked
from ...options import Options
from ...paths.choices import find_paths, paths_from
from ..running.into import is_real
from ..running.local_gradients import sums_in_blocks
from ..schedules.loads import HERE, Remote
from ..schedules.tree import ContractionTree
from ..search.find_schedule import Sliced, find_schedule
from .plan import SlicedPlan

__all__ = ["is_sliceable", "sliced_plan"]

_DTYPES = frozenset(
    {
        *(torch.float32, torch.float64, torch.complex64, torch.complex128),
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    }
)

_HALF = (torch.float16, torch.bfloat16)


def is_sliceable(tensors: Sequence[Tensor], options: Options) -> bool:
    """Whether a contraction can be cut into blocks here: its limit, its dtype and its semiring allow it."""
    limited = options.memory_limit is not None and options.block_size is None
    followed = sums_in_blocks(options) or not tracked(*tensors)
    first = tensors[0]
    converted = first.dtype in _HALF and first.device.type in ("cpu", "meta") and not options.linear_operands
    return limited and (first.dtype in _DTYPES or converted) and followed


MOST_PRODUCTS = 4
"""All operands may be multiplied at once where there are so many products for each element at most."""


def _pairs_fill_memory(equation: Equation, shapes: Sequence[Sequence[int]]) -> bool:
    """Whether three operands or more had better be multiplied and summed block by block at once.

    Pairs are as large as the operands then, and all that is made of them is read once more.

    Example:
        >>> rows, chain = Equation.parse("ak,ak,ak->a"), Equation.parse("ij,jk,kl->il")
        >>> _pairs_fill_memory(rows, [(9, 80)] * 3), _pairs_fill_memory(chain, [(80, 80)] * 3)
        (True, False)
    """
    products = prod(equation.sizes(shapes).values())
    return len(shapes) > 2 and bool(equation.summed) and products <= MOST_PRODUCTS * sum(map(prod, shapes))


@lru_cache(maxsize=1024)
def sliced_plan(
    equation: Equation,
    shapes: tuple[tuple[int, ...], ...],
    strides: tuple[tuple[int, ...], ...],
    optimize: Any,
    limit: int,
    dtype: torch.dtype,
    device: str,
    options: Options,
    wanted: tuple[bool, ...],
    threads: int,
    moving: tuple[bool, ...] = (),
    remote: Remote = HERE,
) -> Sliced:
    """The schedule for a contraction, or for its gradients; arguments as of :func:`.search.find_schedule`.

    ``optimize`` may be a tree too, which is then the one that is cut, or a plan that was made before.

    Raises:
        MemoryLimitError, PlanError: as :func:`einfx.einsum`.
    """
    here = not any(moving) and remote == HERE
    if here and isinstance(optimize, SlicedPlan) and optimize.is_of(equation, shapes):
        return optimize.sliced(strides, limit, dtype, device, wanted)
    if len(shapes) == 1:
        paths: list[Any] = [[(0,)]]
    elif isinstance(optimize, ContractionTree):
        paths = [optimize.path]
    elif optimize == "auto":
        paths = find_paths(equation, shapes, dtype, device, (), options)
        if here and not any(wanted) and is_real(options, dtype) and _pairs_fill_memory(equation, shapes):
            paths = [*paths, [tuple(range(len(shapes)))]]
    else:
        paths = paths_from(equation, shapes, optimize)
    return find_schedule(
        equation,
        shapes,
        paths,
        limit,
        dtype,
        device,
        options=options,
        wanted=wanted,
        moving=moving,
        strides=strides,
        remote=remote,
        free=isinstance(optimize, str) and optimize == "auto",
    )
