"""How an operand lies in memory, label by label, and which of its permutations are free of copies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Layout", "contiguous_strides"]

Labels = tuple[int, ...]


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides, in elements, of a contiguous tensor.

    Example:
        >>> contiguous_strides((2, 3, 4))
        (12, 4, 1)
    """
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


class Layout(NamedTuple):
    """The labels of one operand with their sizes and strides, each label once."""

    labels: Labels
    size: dict[int, int]
    stride: dict[int, int]

    @classmethod
    def of(
        cls, labels: Labels, shape: Sequence[int], strides: Sequence[int] | None, keep_unit: bool
    ) -> Layout:
        """Read the layout of a tensor; a repeated label stands for its diagonal.

        Args:
            labels: the label of each dimension.
            shape: the size of each dimension.
            strides: its strides in elements; contiguous where None.
            keep_unit: whether dimensions of size 1 count; otherwise they are left out.
        """
        size: dict[int, int] = {}
        stride: dict[int, int] = {}
        for label, n, step in zip(labels, shape, strides or contiguous_strides(shape), strict=True):
            if n != 1 or keep_unit:
                size[label] = n
                stride[label] = stride.get(label, 0) + step
        return cls(tuple(size), size, stride)

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.size.values())

    @property
    def physical(self) -> Labels:
        """The labels from the outermost in memory to the innermost."""
        stride = self.stride
        return tuple(sorted(self.labels, key=lambda x: -stride[x]))

    def without(self, labels: Labels) -> Layout:
        """The layout after ``labels`` were summed; the sum is contiguous."""
        kept = tuple(x for x in self.labels if x not in labels)
        size = {x: self.size[x] for x in kept}
        return Layout(kept, size, dict(zip(kept, contiguous_strides(tuple(size.values())), strict=True)))

    def merged(self, group: Labels) -> tuple[int, int] | None:
        """Size and stride of ``group`` as one dimension; None where only a copy makes it one.

        Example:
            >>> Layout.of((0, 1), (2, 3), None, False).merged((0, 1))
            (6, 1)
            >>> Layout.of((0, 1), (2, 3), None, False).merged((1, 0))
        """
        total, step = 1, 0
        for label in reversed(group):
            n = self.size.get(label, 1)
            if n == 1:
                continue
            if total == 1:
                total, step = n, self.stride[label]
            elif self.stride[label] == total * step:
                total *= n
            else:
                return None
        return total, step

    def is_matrix(self, batch: Labels, first: Labels, second: Labels) -> bool:
        """Whether a GEMM reads it as (batch, first, second) without a copy, transposed or not."""
        groups = [self.merged(batch), self.merged(first), self.merged(second)]
        if None in groups:
            return False
        (rows, row_step), (columns, column_step) = groups[1:]  # type: ignore[misc]
        if rows == 1 or columns == 1:
            return rows == columns or row_step + column_step >= 1
        return (column_step == 1 and row_step >= columns) or (row_step == 1 and column_step >= rows)

    def inner(self, order: Labels) -> tuple[int, int]:
        """Length and stride of the longest innermost run that one loop can walk in this order.

        A label that the operand lacks is walked with stride 0.
        """
        length, step = 1, None
        for label in reversed(order):
            n = self.size.get(label, 0)
            walk = self.stride.get(label, 0)
            if step is None:
                step = walk
            elif walk != step * length:
                break
            if n == 0:
                return length, step
            length *= n
        return length, step or 0
