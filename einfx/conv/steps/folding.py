"""Windows of a result added up, as the last operations of a contraction by windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

from ...layout import contiguous_strides
from ...pattern import IndexPattern
from .cost import fold_cost
from .operations import FOLDED_BY_TORCH, Fold
from .tape import Tape

__all__ = ["Folding", "add_up", "order_before"]


class Folding(NamedTuple):
    """Patterns whose input the output alone has, which are folded together.

    Attributes:
        patterns: the patterns.
        names: the labels of each: of its kernel, its outputs and its input.
    """

    patterns: tuple[IndexPattern, ...]
    names: tuple[tuple[int, int, int], ...]


def order_before(foldings: Sequence[Folding], output: Sequence[int]) -> list[int]:
    """The labels of what is left, in its order, after the last of some foldings have run.

    Args:
        foldings: those that have run, in the order in which they were taken out: the last of them ran first.
        output: the labels of what they are taken out of, with kernels and outputs in the places of inputs.
    """
    order = list(output)
    for folding in reversed(foldings):
        for kernel, outputs, read in folding.names:
            order[order.index(kernel)] = read
            order.remove(outputs)
    return order


def add_up(
    tape: Tape, sizes: Mapping[int, int], register: int, labels: list[int], folding: Folding, order: list[int]
) -> tuple[int, list[int]]:
    """Add windows of the result up.

    Args:
        tape: where the operation is written down.
        sizes: the size of each label.
        register: the result, windows and all.
        labels: its labels.
        folding: what is added up.
        order: the same labels, in the order in which the result is wanted.

    Returns:
        The register of the sum, and its labels.
    """
    patterns, names = folding
    kernels, outputs = [each[0] for each in names], [each[1] for each in names]
    leading = [x for x in labels if x not in kernels and x not in outputs]
    # Where a kernel was, its input goes.
    made = [names[kernels.index(x)][2] if x in kernels else x for x in order if x not in outputs]
    unordered = [*leading, *(each[2] for each in names)]
    operation = Fold(
        register,
        tuple(labels.index(x) for x in leading),
        tuple(labels.index(x) for x in kernels),
        tuple(labels.index(x) for x in outputs),
        patterns,
        tuple(unordered.index(x) for x in made),
    )
    shape = tuple(sizes[x] for x in made)
    count = prod(sizes[x] for x in leading)
    cost = fold_cost(count, patterns, tape.dtype, tape.device)
    # A copy in the order of dimensions, and margins that are cut.
    dims = (*operation.leading, *operation.kernels, *operation.outputs)
    strides = tuple(tape.strides[register][dim] for dim in dims)
    ordered = tuple(tape.shapes[register][dim] for dim in dims)
    by_torch = len(patterns) == 2 and prod(ordered) < FOLDED_BY_TORCH
    in_place = strides == contiguous_strides(ordered) and not by_torch
    copied = 0 if in_place else tape.item * prod(ordered)
    margins = prod(p.input_size + max(p.left, 0) + max(p.right, 0) for p in patterns)
    padded = tape.item * count * margins
    cost = cost._replace(workspace_bytes=copied + max(padded, tape.item * prod(shape)))
    return tape.emit(operation, (register,), shape, cost), made
