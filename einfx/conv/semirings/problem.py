"""A contraction of tensors and patterns on its way to an einsum of tensors alone.

A problem gets smaller step by step: ranges of labels are kept, a pattern becomes windows of the tensors that
carry its input. It remembers how positions in what is left relate to those in the equation, for an argmax.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

from torch import Tensor

from ...layout import hint
from ...pattern import IndexPattern
from ..symbolic.draft import AXES
from .boxes import Box, Phase

__all__ = ["Lookup", "Met", "Problem", "Relation"]


class Relation(NamedTuple):
    """A pattern of the equation with its labels, and the one of them that its other two say."""

    pattern: IndexPattern
    labels: tuple[int, int, int]
    said: int

    def place(self, positions: dict[int, Tensor]) -> None:
        """Add the position of the label, its input or its output, to those of the other two."""
        kernel, output, inputs = self.labels
        pattern = self.pattern
        if self.said == inputs:
            read = pattern.dilation * positions[kernel] + pattern.stride * positions[output]
            positions[inputs] = read - pattern.left
        else:
            rest = positions[inputs] + pattern.left - pattern.dilation * positions[kernel]
            positions[output] = rest // pattern.stride


class Lookup(NamedTuple):
    """The positions of labels in a table, by the positions of two others."""

    rows: Tensor  # int64, shape: (n, c, labels)
    labels: tuple[int, ...]
    by: tuple[int, int]

    def place(self, positions: dict[int, Tensor]) -> None:
        """Add the positions of the labels to those of the two others."""
        found = self.rows[positions[self.by[0]], positions[self.by[1]]]
        positions.update(zip(self.labels, found.unbind(-1), strict=True))


class Met(NamedTuple):
    """A pattern in a problem: its labels as kernel, output and input, and where it comes from."""

    pattern: IndexPattern
    labels: tuple[int, int, int]
    source: tuple[IndexPattern, tuple[int, int, int]]


@dataclass(frozen=True)
class Problem:
    """What is left to contract.

    Args:
        tensors: the tensors.
        labels: the labels of each.
        linear: whether each is one that a log contraction takes as it is.
        patterns: the patterns.
        output: the labels of the output.
        sizes: the size of each label.
        origins: for labels that were narrowed, the position of the first and the step to the next.
        relations: what patterns that are gone said.
        held_bytes: what has been set aside of a memory limit.
    """

    tensors: tuple[Tensor, ...]
    labels: tuple[tuple[int, ...], ...]
    linear: tuple[bool, ...]
    patterns: tuple[Met, ...]
    output: tuple[int, ...]
    sizes: dict[int, Any]
    origins: dict[int, tuple[int, int]]
    relations: tuple[Relation | Lookup, ...] = ()
    held_bytes: int = 0

    @cached_property
    def fresh(self) -> int:
        """A label that nothing has, as has none that follows it."""
        return 1 + max((*self.sizes, -1))

    @property
    def shape(self) -> list[Any]:
        """The shape of the output."""
        return [self.sizes[label] for label in self.output]

    def carriers(self, label: int) -> list[int]:
        """The positions of the tensors with a label."""
        return [position for position, labels in enumerate(self.labels) if label in labels]

    def in_patterns(self, label: int) -> int:
        """How many patterns have a label."""
        return sum(label in met.labels for met in self.patterns)

    def largest_last(self) -> Problem:
        """With the tensors in the order of their sizes.

        The last operand of a product of matrices has its columns: windows then are copied row by row, many
        times faster than column by column.
        """
        order = sorted(
            range(len(self.tensors)), key=lambda p: prod(hint(self.sizes[x]) for x in self.labels[p])
        )
        if order == list(range(len(order))):
            return self
        return replace(
            self,
            tensors=tuple(self.tensors[p] for p in order),
            labels=tuple(self.labels[p] for p in order),
            linear=tuple(self.linear[p] for p in order),
        )

    def adding(self, tensor: Tensor, label: int) -> Problem:
        """With one more tensor, of one dimension."""
        return replace(
            self,
            tensors=(*self.tensors, tensor),
            labels=(*self.labels, (label,)),
            linear=(*self.linear, False),
        )

    def diagonal(self) -> Problem:
        """With every label at most once in each tensor."""
        if all(len(set(labels)) == len(labels) for labels in self.labels):
            return self
        tensors, all_labels = [], []
        for tensor, given in zip(self.tensors, self.labels, strict=True):
            labels = list(given)
            for label in dict.fromkeys(given):
                while labels.count(label) > 1:
                    first = labels.index(label)
                    second = labels.index(label, first + 1)
                    tensor = tensor.diagonal(0, first, second)
                    del labels[second], labels[first]
                    labels.append(label)
            tensors.append(tensor)
            all_labels.append(tuple(labels))
        return replace(self, tensors=tuple(tensors), labels=tuple(all_labels))

    def narrow(self, label: int, start: int, length: int, step: int = 1) -> Problem:
        """With every ``step``-th position of a label alone, in tensors and in patterns."""
        if (start, length, step) == (0, self.sizes[label], 1):
            return self
        stop = start + (length - 1) * step + 1
        tensors = tuple(
            tensor[(*[slice(None)] * labels.index(label), slice(start, stop, step))]
            if label in labels
            else tensor
            for tensor, labels in zip(self.tensors, self.labels, strict=True)
        )
        patterns = []
        for met in self.patterns:
            pattern = met.pattern
            for axis, there in zip(AXES, met.labels, strict=True):
                if there == label:
                    pattern = pattern.narrow(axis, start, length, step)
            patterns.append(met._replace(pattern=pattern))
        first, between = self.origins.get(label, (0, 1))
        return replace(
            self,
            tensors=tensors,
            patterns=tuple(patterns),
            sizes={**self.sizes, label: length},
            origins={**self.origins, label: (first + between * start, between * step)},
        )

    def without(self, met: Met, said: int) -> Problem:
        """Without a pattern, one of whose labels its others say from now on."""
        return replace(
            self,
            patterns=tuple(other for other in self.patterns if other is not met),
            relations=(*self.relations, Relation(*met.source, said)),
        )

    def through_windows(self, index: int, box: Box) -> Problem:
        """With a box of a pattern, as windows of the tensors that have the pattern's input.

        Args:
            index: which pattern.
            box: the outputs and kernel positions to keep.
        """
        kernel, output, read = self.patterns[index].labels
        others = self.without(self.patterns[index], read)
        (outputs, o), (kernels, k) = box
        pattern = self.patterns[index].pattern
        start = pattern.dilation * kernels + pattern.stride * outputs - pattern.left
        span = pattern.dilation * (k - 1) + 1
        tensors, all_labels = [], []
        for tensor, labels in zip(self.tensors, self.labels, strict=True):
            if read in labels:
                dim = labels.index(read)
                windows = tensor.narrow(dim, start, pattern.stride * (o - 1) + span)
                windows = windows.unfold(dim, span, pattern.stride)[..., :: pattern.dilation]
                tensor = windows.movedim(-1, dim + 1)
                labels = (*labels[:dim], -1 - output, -1 - kernel, *labels[dim + 1 :])
            tensors.append(tensor)
            all_labels.append(labels)
        seen = replace(others, tensors=tuple(tensors), labels=tuple(all_labels))
        # What was made just now has the box's size already: its labels are hidden from the narrowing.
        kept = seen.narrow(output, outputs, o).narrow(kernel, kernels, k)
        named = tuple(tuple(-1 - x if x < 0 else x for x in labels) for labels in kept.labels)
        return replace(kept, labels=named).diagonal()

    def phase(self, index: int, phase: Phase) -> Problem:
        """With a phase of a pattern, whose outputs become inputs.

        Args:
            index: which pattern; nothing but tensors carries its kernel.
            phase: which of its phases.
        """
        met = self.patterns[index]
        kernel, output, inputs = met.labels
        rest = replace(self, patterns=tuple(other for other in self.patterns if other is not met))
        part = rest.narrow(kernel, phase.kernel_start, phase.kernel_length, phase.kernel_step)
        part = part.narrow(inputs, phase.input_start, phase.input_length, phase.input_step)
        tensors = tuple(
            tensor.flip(labels.index(kernel)) if kernel in labels else tensor
            for tensor, labels in zip(part.tensors, part.labels, strict=True)
        )
        first, step = part.origins.get(kernel, (0, 1))
        origins = {**part.origins, kernel: (first + step * (phase.kernel_length - 1), -step)}
        turned = Met(phase.pattern, (kernel, inputs, output), met.source)
        return replace(part, tensors=tensors, origins=origins, patterns=(*part.patterns, turned))

    def positions(self, found: dict[int, Tensor]) -> dict[int, Tensor]:
        """The positions in the equation of every label.

        Args:
            found: the positions of the labels that are left.
        """
        placed = {}
        for label, position in found.items():
            first, step = self.origins.get(label, (0, 1))
            placed[label] = position * step + first
        for relation in reversed(self.relations):
            relation.place(placed)
        return placed
