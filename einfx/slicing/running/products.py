"""Products of matrices and of elements that are written into memory that is there, prepared for their places.

What shapes and strides decide is decided here, once: as which matrices operands are read and the result is
written, what is copied first, and where to. What is left to do in every round is one call of torch for each
product or copy, with views of :class:`.parts.Views`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...costs.step_kernel import Kernel
from ...equation import Equation
from ...layout import contiguous_strides
from .matrix_views import Place, Scratch, grouped, lies_as_matrices, matrix_order
from .parts import Part, Step, Views
from .tiles import is_large, tiles_of

__all__ = ["Product", "added_up", "beside", "elements", "multiplied"]

Labels = tuple[int, ...]
Sizes = tuple[int, ...]


class Factor(NamedTuple):
    """How an operand is read as a batch of matrices.

    Attributes:
        number: of the operand.
        arranged: how it's seen to be copied first, where it doesn't lie as BLAS reads it; None where it does.
        matrix: the matrices, of the operand or its copy.
    """

    number: int
    arranged: Place | None
    matrix: Place

    @classmethod
    def of(cls, number: int, place: Place, labels: Labels, groups: Sequence[Labels]) -> Factor:
        """Choose."""
        if lies_as_matrices(place, labels, groups):
            return cls(number, None, grouped(place, labels, groups))
        order = [label for group in groups for label in group]
        dims = [labels.index(label) for label in (*order, *[x for x in labels if x not in order])]
        arranged = Place(*(tuple([own[dim] for dim in dims]) for own in (place.shape, place.strides)))
        shape = tuple([prod([place.shape[labels.index(label)] for label in group]) for group in groups])
        return cls(number, arranged, Place(shape, contiguous_strides(shape)))

    def seen(self, change: Callable[[Place], Place]) -> Factor:
        """The same in another form."""
        return self._replace(matrix=change(self.matrix))

    def part(self, operands: Sequence[Part], views: Views, scratch: Scratch, steps: list[Step]) -> Part:
        """The matrices, after steps that copy them."""
        part = operands[self.number]
        if self.arranged is not None:
            copy = Part.of(scratch(self.arranged.shape))
            steps.append(elements(Tensor.copy_, copy, [part.seen(self.arranged)], views, scratch))
            part = copy
        return part.seen(self.matrix)


class Product(NamedTuple):
    """One product of matrices.

    Attributes:
        left, right: the factors.
        out: as which matrices the result is written.
        memory: the shape in which it's made apart first; None where it's written where it goes.
        result: what is made apart, seen as the target.
        batched: whether there are several matrices.
        accumulate: whether the result is added to what is there.
    """

    left: Factor
    right: Factor
    out: Place
    memory: Sizes | None
    result: Place | None
    batched: bool
    accumulate: bool

    @classmethod
    def of(
        cls,
        kernel: Kernel,
        equation: Equation,
        operands: Sequence[Place],
        target: Place,
        accumulate: bool,
        apart: bool,
    ) -> Product:
        """Choose views.

        Args:
            kernel: which labels are batch, rows, columns and summed.
            equation: the contraction.
            operands: where both of them lie.
            target: where the result goes.
            accumulate: whether it is added to what is there.
            apart: whether it is made apart first.
        """
        output, (rows, columns) = equation.output, (kernel.rows, kernel.columns)
        numbers = (0, 1)
        if kernel.swapped:
            rows, columns, numbers = columns, rows, (1, 0)
        groups = (kernel.batch, rows, kernel.summed), (kernel.batch, kernel.summed, columns)
        left, right = (
            Factor.of(x, operands[x], equation.inputs[x], own) for x, own in zip(numbers, groups, strict=True)
        )
        written, result = target, None
        if apart:
            lengths = dict(zip(output, target.shape, strict=True))
            order = tuple(matrix_order(kernel, output))
            shape = tuple([lengths[label] for label in order])
            written, dims = Place(shape, contiguous_strides(shape)), [order.index(x) for x in output]
            result = Place(*(tuple([x[dim] for dim in dims]) for x in (written.shape, written.strides)))
            output = order
        out = grouped(written, output, (kernel.batch, rows, columns))
        if kernel.batch and out.shape[2] == 1 and out.shape[1] > 1 and out.strides[1] == 1:
            # BLAS multiplies a row by a matrix up to four times as fast as the matrix by a column.
            left, right, out = right.seen(_as_row), left.seen(_transposed), _as_row(out)
        if not kernel.batch:
            left, right, out = left.seen(_alone), right.seen(_alone), _alone(out)
        memory = written.shape if apart else None
        return cls(left, right, out, memory, result, bool(kernel.batch), accumulate)

    def steps(self, operands: Sequence[Part], target: Part, views: Views, scratch: Scratch) -> list[Step]:
        """What multiplies.

        Args:
            operands: both of them.
            target: where the result goes.
            views: of the parts.
            scratch: gives memory that stays until the line is done, in every round.
        """
        steps: list[Step] = []
        factors = [x.part(operands, views, scratch, steps) for x in (self.left, self.right)]
        written = target if self.memory is None else Part.of(scratch(self.memory))
        add = self.accumulate and self.memory is None
        steps.append(_product(self.batched, add, views, [written.seen(self.out), *factors]))
        if self.result is not None:
            work = Tensor.add_ if self.accumulate else Tensor.copy_
            steps.append(elements(work, target, [written.seen(self.result)], views, scratch))
        return steps


def elements(
    work: Callable[..., Any], target: Part, sources: Sequence[Part], views: Views, scratch: Scratch | None
) -> Step:
    """A function that writes a part from others element by element.

    Args:
        work: the function, of the target and the sources.
        target: what it writes, and may read.
        sources: parts that broadcast to the shape of the target, with as many dimensions.
        views: of the parts.
        scratch: gives memory, as much as :func:`.tiles.tiles_of` says; None for memory of torch's.
    """
    now = views.now
    if is_large(target.shape) and views.device == "cpu":
        wide = [x.seen(_expanded(x.place, target.shape)) for x in sources]
        found = tiles_of(target.shape, target.strides, tuple([x.strides for x in wide]))
        if found is not None:
            slot, slots = views.slot(target), views.slots(wide)
            memory = None if scratch is None else scratch((found.elements,))

            def in_tiles() -> None:
                whole = now[slot]
                copies = whole.new_empty(found.elements) if memory is None else memory
                found.run(work, whole, [now[x] for x in slots], lambda _: copies)

            return in_tiles
    written = views.slot(target)
    if len(sources) == 1:
        (read,) = views.slots(sources)
        return lambda: work(now[written], now[read])
    one, other = views.slots(sources)
    return lambda: work(now[written], now[one], now[other])


def multiplied(target: Tensor, first: Tensor, second: Tensor) -> None:
    """Write the products of elements."""
    torch.mul(first, second, out=target)


def added_up(target: Tensor, first: Tensor, second: Tensor) -> None:
    """Write the sums of elements."""
    torch.add(first, second, out=target)


def beside(place: Place, labels: Sequence[int], output: Sequence[int]) -> Place:
    """A tensor with a dimension for each label of an output, of size 1 where the tensor lacks it."""
    dims = [labels.index(label) if label in labels else None for label in output]
    return Place(
        tuple([1 if dim is None else place.shape[dim] for dim in dims]),
        tuple([0 if dim is None else place.strides[dim] for dim in dims]),
    )


def _product(batched: bool, accumulate: bool, views: Views, parts: Sequence[Part]) -> Step:
    now, (out, left, right) = views.now, views.slots(parts)
    if not accumulate:
        replace = torch.bmm if batched else torch.mm
        return lambda: replace(now[left], now[right], out=now[out])
    add = torch.baddbmm if batched else torch.addmm

    def added() -> None:
        total = now[out]
        add(total, now[left], now[right], out=total)

    return added


def _alone(matrices: Place) -> Place:
    """A batch of one matrix as that."""
    return Place(matrices.shape[1:], matrices.strides[1:])


def _transposed(matrices: Place) -> Place:
    """A batch of matrices as that of their transposes."""
    (batch, rows, columns), (far, down, across) = matrices.shape, matrices.strides
    return Place((batch, columns, rows), (far, across, down))


def _as_row(column: Place) -> Place:
    """A batch of columns as one of rows."""
    (batch, rows, _), (far, down, _) = column.shape, column.strides
    return Place((batch, 1, rows), (far, rows * down, down))


def _expanded(place: Place, shape: Sequence[int]) -> Place:
    """A tensor that broadcasts to a shape, seen in that: its strides are 0 where it is the same."""
    steps = zip(place.shape, place.strides, shape, strict=True)
    return Place(tuple(shape), tuple([0 if own == 1 != n else step for own, step, n in steps]))
