"""The contraction of all input-based Kronecker factors: patches with themselves, over batch and positions."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ...pattern import IndexPattern
from ..symbolic.network import Constant, network
from .common import Grouped, Symbolic, batch_names, finish, pattern_names, spatial

__all__ = ["input_factor"]


def input_factor(
    data: Grouped, patterns: Sequence[IndexPattern], *, transposed: bool, averaged: bool, simplify: bool
) -> Symbolic:
    """The network of a factor, averaged over the batch, and the shape of its result.

    Args:
        data: the input of a convolution, or of a transposed one.
        patterns: of every dimension.
        transposed: whether the input carries the patterns' outputs instead of their inputs.
        averaged: whether patches are averaged over positions before they meet (KFAC-reduce) instead of
            meeting position by position (KFC).
        simplify: whether to simplify by the structure of the patterns.
    """
    n = len(patterns)
    own = "o" if transposed else "i"
    apart = "'" if averaged else ""
    output, input = ("'", apart) if transposed else (apart, "'")
    positions = prod(p.input_size if transposed else p.output_size for p in patterns) if averaged else 1
    batch = batch_names(data.batched)
    made = network(
        [
            [*batch, "g", "c", *spatial(own, n)],
            *pattern_names(n),
            *pattern_names(n, "'", output, input),
            [*batch, "g", "c'", *spatial(own, n, "'")],
            ["s"],
        ],
        ["g", "c", *spatial("k", n), "c'", *spatial("k", n, "'")],
        data.view,
        *patterns,
        *patterns,
        data.view,
        Constant(1 / (max(prod(data.batch), 1) * positions**2), 1),
    )
    groups, group = data.groups
    side = group * prod(p.kernel_size for p in patterns)
    return finish(made, (groups, side, side), simplify)
