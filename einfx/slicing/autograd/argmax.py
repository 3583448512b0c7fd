"""Contractions within a limit with the indices of what their sums select."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...equation import Equation
from ...kernels.batching import tracked
from ...machine import accumulation_dtype
from ...options import Options
from ..schedules.plain import kept_labels, plain
from .places import gathered, places_of, selected, split
from .problem import Problem
from .selected_directions import require_room

__all__ = ["argmax_within"]


def argmax_within(
    equation: Equation, tensors: Sequence[Tensor], optimize: Any, options: Options
) -> tuple[Tensor, Tensor]:
    """Contract tensors within a limit, and tell where the terms that sums select come from.

    Args:
        equation: what to contract.
        tensors: of one dtype, on one device; dimensions of size 1 broadcast.
        optimize: as in :func:`einfx.planning.plan`.
        options: over which semiring, whose sums are one of their terms, and within which limit.

    Returns:
        The contraction, and int64 indices (*output, S) of the S summed labels, in the order of their first
        appearance. Of equal terms each step of the plan takes the first.

    Raises:
        MemoryLimitError: the limit is too small, for the gathered terms too where gradients are recorded.
        UsageError: there are too many terms for their places to be told apart.

    Example:
        >>> import torch
        >>> options = Options.read("max_plus", memory_limit="200 KiB")
        >>> a, b = torch.zeros(2, 4000), torch.arange(4000.0)[:, None]
        >>> argmax_within(Equation.parse("ij,jk->ik"), (a, b), "auto", options)
        (tensor([[3999.],
                [3999.]]), tensor([[[3999]],
        <BLANKLINE>
                [[3999]]]))
    """
    simple, operands = plain(equation, tensors)
    kept = kept_labels(equation, tensors)
    summed = [kept.index(label) if label in kept else -1 for label in equation.summed]
    first = operands[0]
    dtype, elements = accumulation_dtype(first.dtype), Problem.of(simple, optimize, options)._size(operands)
    followed = tracked(*operands) and first.is_floating_point()
    problem = Problem.of(simple, optimize, options).leaving(8 * len(summed) * elements)
    if dtype != first.dtype:
        problem = problem.leaving(dtype.itemsize * sum(x.numel() for x in operands))
        operands = [x.to(dtype) for x in operands]
    if followed:
        require_room(problem, operands, 1)
    shapes = [tuple(x.shape) for x in operands]
    value, places = places_of(problem, [x.detach() for x in operands])
    if followed:
        value = selected(options, gathered(simple, operands, operands, places), places.shape)
    indices = split(simple, shapes, places, summed)
    return value.to(first.dtype), indices
