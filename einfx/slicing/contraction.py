"""Which contractions are cut into blocks, and their schedules, remembered from call to call."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..equation import Equation
from ..options import Options
from ..paths import find_paths, paths_from
from .search import Sliced, find_schedule
from .tree import ContractionTree

__all__ = ["is_sliceable", "sliced_plan"]

_SEMIRINGS = ("real", "log", "max_plus", "min_plus", "max_times", "max_min")


def is_sliceable(tensors: Sequence[Tensor], options: Options) -> bool:
    """Whether a contraction can be cut into blocks here: its semiring, its dtype and its options allow it."""
    dtype = tensors[0].dtype
    plain = options.semiring.name in _SEMIRINGS and not options.semiring.zero_annihilates
    limited = options.memory_limit is not None and options.block_size is None
    usual = not options.linear_operands and options.grad_of_neg_inf == "nan"
    numbers = dtype in (torch.float32, torch.float64) or (
        options.semiring.name == "real" and dtype in (torch.complex64, torch.complex128)
    )
    return plain and limited and usual and numbers


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
) -> Sliced:
    """The schedule for a contraction, or for its gradients; arguments as of :func:`.search.find_schedule`.

    ``optimize`` may be a tree too, which is then the one that is cut.

    Raises:
        MemoryLimitError, PlanError: as :func:`einfx.einsum`.
    """
    if len(shapes) == 1:
        paths: list[Any] = [[(0,)]]
    elif isinstance(optimize, ContractionTree):
        paths = [optimize.path]
    elif optimize == "auto":
        paths = find_paths(equation, shapes, dtype, device, (), options)
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
    )
