"""What one contraction takes: as it is planned without a limit, within one, with gradients, and at least."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ..equation import Equation, label_text
from ..errors import MemoryLimitError
from ..options import Options
from ..planning import plan
from ..plans import Plan
from ..slicing import is_sliceable
from ..slicing.plans.contraction import sliced_plan
from ..slicing.schedules.plain import plain

__all__ = ["Bounded", "bounded", "gradient_bytes", "least_bytes", "needed_bytes", "planned_bytes"]


class Bounded(NamedTuple):
    """How a contraction stays within a limit.

    Attributes:
        bytes: what it takes.
        seconds: predicted.
        loops: the labels that are cut, with the number of blocks of each, outer ones first.
    """

    bytes: int
    seconds: float
    loops: tuple[tuple[str, int], ...]


def planned_bytes(
    equation: Equation, operands: Sequence[Tensor], options: Options, device: str = "cpu"
) -> int:
    """What a contraction takes beside its operands, its result included.

    Args:
        equation: what is contracted.
        operands: tensors of one dtype, which may be without data.
        options: over which semiring, and within which limit.
        device: where it is computed.

    Raises:
        MemoryLimitError: the limit is too small.

    Example:
        >>> product = Equation.parse("ij,jk,kl->il")
        >>> operands = torch.ones(8, 90), torch.ones(90, 90), torch.ones(90, 8)
        >>> planned_bytes(product, operands, Options.read())
        3136
        >>> planned_bytes(product, operands, Options.read(memory_limit=2000)) <= 2000
        True
    """
    if options.memory_limit is not None:
        return bounded(equation, operands, options, device).bytes
    return _plan(equation, operands, options, device).peak_bytes


def bounded(equation: Equation, operands: Sequence[Tensor], options: Options, device: str = "cpu") -> Bounded:
    """How a contraction stays within the limit of its options.

    Args: as of :func:`planned_bytes`.

    Raises:
        MemoryLimitError: the limit is too small.

    Example:
        >>> product = Equation.parse("ij,jk->")
        >>> operands = torch.ones(8, 90), torch.ones(90, 90)
        >>> bounded(product, operands, Options.read(memory_limit=100_000)).loops
        ()
    """
    limit = options.memory_limit
    assert limit is not None
    if not is_sliceable(operands, options):
        chosen = _plan(equation, operands, options, device)
        if chosen.peak_bytes > limit:
            raise MemoryLimitError(
                f"einsum {str(equation)!r}: memory_limit={limit} is too little, it needs "
                f"{chosen.peak_bytes} bytes",
                chosen.peak_bytes,
            )
        return Bounded(chosen.peak_bytes, chosen.seconds, ())
    simple, tensors = plain(equation, operands)
    shapes = tuple(tuple(x.shape) for x in tensors)
    strides = tuple(x.stride() for x in tensors)
    rest = limit, tensors[0].dtype, device, options.unlimited(), (), torch.get_num_threads()
    found = sliced_plan(simple, shapes, strides, "auto", *rest)
    loops = [(label_text((cut.label,)), -(-found.tree.sizes[cut.label] // cut.block)) for cut in found.cuts]
    return Bounded(found.bytes, found.demand.seconds, tuple(loops))


def least_bytes(equation: Equation, operands: Sequence[Tensor], options: Options, device: str = "cpu") -> int:
    """The smallest limit that is known to be enough for a contraction.

    Args: as of :func:`planned_bytes`.

    Example:
        >>> product = Equation.parse("ij,jk,kl->il")
        >>> operands = torch.ones(8, 90), torch.ones(90, 90), torch.ones(90, 8)
        >>> 256 <= least_bytes(product, operands, Options.read()) < 3136
        True
    """
    try:
        return planned_bytes(equation, operands, replace(options, memory_limit=1, block_size=None), device)
    except MemoryLimitError as error:
        needed = needed_bytes(error)
        if needed is None:
            raise
        return needed


def needed_bytes(error: MemoryLimitError) -> int | None:
    """The limit that an error says would be enough."""
    found = re.search(r"needs?\b[^.;]*?(\d+) bytes", str(error))
    return error.needed_bytes or (int(found[1]) if found else None)


def gradient_bytes(
    equation: Equation, operands: Sequence[Tensor], options: Options, device: str = "cpu"
) -> int:
    """What a contraction takes at most with all its gradients, where torch records every step.

    Every intermediate is kept for the backward pass, in which each has a gradient of its own beside the
    gradients of the operands.

    Args: as of :func:`planned_bytes`.
    """
    chosen = _plan(equation, operands, options.unlimited(), device)
    item = operands[0].dtype.itemsize
    made = sum(item * prod(shape) for shape in chosen.value_shapes[len(operands) :])
    return chosen.peak_bytes + 2 * made + 2 * sum(item * x.numel() for x in operands)


def _plan(equation: Equation, operands: Sequence[Tensor], options: Options, device: str) -> Plan:
    shapes = [tuple(x.shape) for x in operands]
    return plan(equation, shapes, dtype=operands[0].dtype, device=device, options=options)
