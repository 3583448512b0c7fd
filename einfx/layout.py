"""How an operand lies in memory, label by label, and which of its permutations are free of copies."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

__all__ = ["Layout", "Loops", "are_matrices", "contiguous_strides", "copied_row", "hint", "iteration_order"]

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


def copied_row(before: Labels, after: Labels, sizes: Mapping[int, int]) -> int:
    """How many elements torch copies in a row: of the innermost labels, those that stay neighbours.

    Args:
        before: the labels as they lie in memory, the innermost last.
        after: the same in the order of the copy.
        sizes: the size of each label.

    Example:
        >>> copied_row((0, 1, 2), (2, 0, 1), {0: 3, 1: 4, 2: 5}), copied_row((0, 1), (1, 0), {0: 3, 1: 4})
        (12, 3)
    """
    length = sizes[after[-1]] if after else 1
    for outer, inner in zip(after[-2::-1], after[:0:-1], strict=True):
        place = before.index(inner)
        if not place or before[place - 1] != outer:
            break
        length *= sizes[outer]
    return length


def hint(size: Any) -> int:
    """The size itself, or what a symbol was when it was traced; reading it adds no guard."""
    if isinstance(size, torch.SymInt):
        known = size.node.hint
        return 64 if known is None else int(known)
    if isinstance(size, torch.Tensor):  # under torch.jit.trace; only the order of the steps depends on it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(size)
    return int(size)


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

    def narrow(self, labels: Labels) -> Layout:
        """The layout of the first elements along ``labels``."""
        kept = tuple(x for x in self.labels if x not in labels)
        return Layout(kept, {x: self.size[x] for x in kept}, {x: self.stride[x] for x in kept})

    def without(self, labels: Labels, in_place: bool = False) -> Layout:
        """The layout after ``labels`` were summed; the sum is contiguous.

        Args:
            labels: what is summed.
            in_place: whether the others then come in the order in which they lay in memory.
        """
        kept = tuple(x for x in (self.physical if in_place else self.labels) if x not in labels)
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
        return are_matrices(self.merged(batch), self.merged(first), self.merged(second))


def are_matrices(
    batch: tuple[int, int] | None, first: tuple[int, int] | None, second: tuple[int, int] | None
) -> bool:
    """Whether a GEMM reads dimensions of these sizes and strides without a copy, transposed or not.

    Args:
        batch: size and stride of the batch, as :meth:`Layout.merged` gives them.
        first: of the rows.
        second: of the columns.

    Example:
        >>> are_matrices((3, 20), (5, 4), (4, 1)), are_matrices((3, 1), (5, 3), (4, 15))
        (True, False)
    """
    if batch is None or first is None or second is None:
        return False
    (rows, row_step), (columns, column_step) = first, second
    if rows == 1 or columns == 1:
        return rows == columns or row_step + column_step >= 1
    return (column_step == 1 and row_step >= columns) or (row_step == 1 and column_step >= rows)


def iteration_order(operands: Sequence[Layout], order: Labels, sizes: Mapping[int, int]) -> Labels:
    """The order, outermost first, in which torch's elementwise kernels walk and lay out a new result.

    They sort dimensions by the operands' strides, earlier operands first; where no operand can tell two
    dimensions apart (one of the two strides is 0 in each) these keep their given order.

    Example:
        >>> a, b = Layout.of((1, 0), (3, 4), None, False), Layout.of((1,), (3,), None, False)
        >>> iteration_order([a, b], (0, 1), {0: 4, 1: 3})
        (1, 0)
    """
    steps = [x.stride for x in operands]
    result = list(reversed(order))
    for i in range(1, len(result)):
        moving = i
        for other in range(i - 1, -1, -1):
            inner, outer = result[other], result[moving]
            comparison = 0
            for step in steps:
                first, second = step.get(inner, 0), step.get(outer, 0)
                if first == 0 or second == 0:
                    continue
                if first != second:
                    comparison = 1 if first > second else -1
                    break
                if sizes[inner] > sizes[outer]:
                    comparison = 1
                    break
            if comparison > 0:
                result[other], result[moving] = outer, inner
                moving = other
            elif comparison < 0:
                break
    return tuple(reversed(result))


class Loops(NamedTuple):
    """How an elementwise kernel walks several operands at once: an inner loop, a second, the rest."""

    inner: int
    second: int
    unit_stride: bool

    @classmethod
    def over(cls, operands: Sequence[Layout], order: Labels, sizes: Mapping[int, int]) -> Loops:
        """The loops that are left after neighbouring dimensions merge wherever all operands let them.

        Args:
            operands: what is read; a label that one lacks is walked with stride 0.
            order: all labels, the innermost last.
            sizes: the size of each label.

        Example:
            >>> a, b = Layout.of((0, 1), (4, 3), None, False), Layout.of((0,), (4,), None, False)
            >>> Loops.over([a, a], (0, 1), {0: 4, 1: 3})
            Loops(inner=12, second=1, unit_stride=True)
            >>> Loops.over([a, b], (0, 1), {0: 4, 1: 3})
            Loops(inner=3, second=4, unit_stride=True)
        """
        lengths = [1]
        steps: list[int] = []
        unit = True
        for label in reversed(order):
            walk = [x.stride.get(label, 0) for x in operands]
            if not steps:
                steps, unit = walk, all(step in (0, 1) for step in walk)
            elif walk != [step * lengths[-1] for step in steps]:
                lengths.append(1)
                steps = walk
            lengths[-1] *= sizes[label]
        return cls(lengths[0], lengths[1] if len(lengths) > 1 else 1, unit)
