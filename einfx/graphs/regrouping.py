"""Whether sums and products of a contraction may be taken in another order.

The laws of a semiring hold for its numbers; those of a machine keep them exactly (bool, the larger of two
numbers), up to rounding (floating numbers), or not at all: integers overflow, and their largest and smallest
number stand for infinities, so that 2 + (highest - 1) - 3 depends on what is added first.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx

from ..legality import same_floating_dtype
from ..options import Options
from .nodes import is_pattern, value_of

__all__ = ["why_not_combine", "why_not_regroup"]

_EXACT = {"boolean", "max_min", "max_times"}
"""Semirings whose arithmetic on bool is exact; that of max_min is on integers too."""


def why_not_regroup(options: Options, operands: Iterable[fx.Node]) -> str | None:
    """Why a contraction over these operands can't be computed in another order, or None if it can.

    Args:
        options: those of the contraction.
        operands: the nodes whose values it takes; index patterns among them fit any tensors.

    Example:
        >>> graph = fx.Graph()
        >>> why_not_regroup(Options.read("log"), [graph.placeholder("x")])
        "its operands aren't all known to be of one floating dtype on one device"
    """
    if (reason := why_not_combine(options)) is not None:
        return reason
    nodes = [operand for operand in operands if not is_pattern(operand)]
    name = options.semiring.name
    values = [value_of(node) for node in nodes]
    known = {(value.dtype, value.device) for value in values if value is not None}
    if len(known) == 1 and None not in values:
        ((dtype, _),) = known
        if dtype == torch.bool and name in _EXACT:
            return None
        if not (dtype.is_floating_point or dtype.is_complex) and name != "real":
            if name == "max_min":
                return None
            return f"over {name} {dtype} numbers overflow, so that the order of its steps counts"
    if not same_floating_dtype(nodes):
        return "its operands aren't all known to be of one floating dtype on one device"
    return None


def why_not_combine(options: Options) -> str | None:
    """Why a contraction with these options must stay whole and by itself, or None if it needn't.

    Example:
        >>> why_not_combine(Options.read("max_plus", block_size=8))
        'its memory is limited as a whole'
    """
    if options.is_limited:
        return "its memory is limited as a whole"
    if options.grad_of_neg_inf not in ("nan", "0.0"):
        return (
            f"grad_of_neg_inf={options.grad_of_neg_inf} is the derivative of every step's sum, so the "
            "gradient depends on which steps there are"
        )
    return None
