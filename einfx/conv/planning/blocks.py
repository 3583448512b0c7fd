"""One block of a contraction with patterns: itself a contraction with patterns, of parts of the operands.

A block of a pattern's label is a smaller pattern, and the inputs that it doesn't read are left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from math import prod
from typing import Any

from ...pattern import Axis, IndexPattern
from ..symbolic.network import Network, Operand
from ..symbolic.views import View

__all__ = ["Cuts", "Range", "blocks", "copies", "narrow", "ranges_of", "sliding"]

AXES: tuple[Axis, ...] = ("kernel", "output", "input")

Range = tuple[int, int]
"""Where a block starts, and its length."""

Cuts = tuple[tuple[int, int], ...]
"""Labels, each with the length of its blocks."""


def sliding(network: Network) -> set[int]:
    """The labels of patterns."""
    return {
        x
        for labels, operand in zip(network.equation.inputs, network.operands, strict=True)
        if isinstance(operand, IndexPattern)
        for x in labels
    }


def ranges_of(size: int, length: int) -> list[Range]:
    """The blocks of a label.

    Args:
        size: of the label.
        length: of its blocks, but for the last one, which may be shorter.

    Example:
        >>> ranges_of(8, 3)
        [(0, 3), (3, 3), (6, 2)]
    """
    return [(start, min(length, size - start)) for start in range(0, size, length)]


def blocks(network: Network, cuts: Cuts) -> Iterator[dict[int, Range]]:
    """Every block: the range of each label that is cut."""
    labels = [label for label, _ in cuts]
    each = [ranges_of(network.sizes[label], length) for label, length in cuts]
    for ranges in itertools.product(*each):
        yield dict(zip(labels, ranges, strict=True))


def narrow(network: Network, block: dict[int, Range]) -> tuple[Network, dict[int, Range]] | None:
    """The contraction of one block.

    Args:
        network: the whole contraction.
        block: the range of each label that is cut.

    Returns:
        The contraction, and the range of every label that it leaves something out of; None where its patterns
        hold no one, so that its result is zero.
    """
    inputs, output = network.equation.inputs, network.equation.output
    operands: list[Operand] = list(network.operands)
    ranges = dict(block)
    for p, labels in enumerate(inputs):
        operand = operands[p]
        if isinstance(operand, IndexPattern):
            for axis, label in zip(AXES, labels, strict=True):
                if label in block and operand.shape[AXES.index(axis)] > 1:
                    operand = operand.narrow(axis, *block[label])
            if not operand.ones:
                return None
            operands[p] = operand
    # What a smaller pattern doesn't read any more, nothing else has to have.
    for p, labels in enumerate(inputs):
        operand = operands[p]
        if not isinstance(operand, IndexPattern) or len(set(labels)) < 3 or not set(block) & set(labels):
            continue
        for axis, label in zip(AXES, labels, strict=True):
            others = [q for q, there in enumerate(inputs) if label in there and q != p]
            if (
                label in output
                or label in ranges
                or any(isinstance(operands[q], IndexPattern) for q in others)
            ):
                continue
            start, length = operand.live(axis)
            if 0 < length < network.sizes[label]:
                operand = operand.narrow(axis, start, length)
                ranges[label] = (start, length)
        operands[p] = operand
    # A tensor that is given twice, and cut in different places, is two tensors.
    names: dict[Any, int] = {}
    for p, labels in enumerate(inputs):
        operand = operands[p]
        if isinstance(operand, View):
            cuts = tuple(
                ranges.get(label) if size > 1 else None
                for label, size in zip(labels, operand.shape, strict=True)
            )
            shape = tuple(
                size if cut is None else cut[1] for cut, size in zip(cuts, operand.shape, strict=True)
            )
            operands[p] = View(names.setdefault((operand, cuts), p), shape)
    return Network(network.equation, tuple(operands)), ranges


def copies(
    network: Network, part: Network, ranges: dict[int, Range], item: int, strided: frozenset[int]
) -> int:
    """Bytes of the tensors of a block that aren't contiguous, which kernels copy.

    Args:
        network: the whole contraction.
        part: that of the block, as of :func:`narrow`.
        ranges: what it takes of labels, as of :func:`narrow`.
        item: bytes of an element.
        strided: the positions of operands that aren't contiguous before they are cut.
    """
    copied = 0
    for p, (labels, before, after) in enumerate(
        zip(network.equation.inputs, network.operands, part.operands, strict=True)
    ):
        if isinstance(before, View):
            cut = [d for d, x in enumerate(labels) if x in ranges and before.shape[d] != after.shape[d]]
            if p in strided or any(prod(before.shape[:d]) > 1 for d in cut):
                copied += item * prod(after.shape)
    return copied
