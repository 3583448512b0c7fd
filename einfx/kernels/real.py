"""Lowering of one step over the reals: from an equation to calls of torch functions.

All work goes through ``emit(function, *args)``, so that one lowering runs a step, writes its source code
or adds its nodes to a graph. Values are opaque: sizes come from the ``shapes`` argument alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..costs.cost import Kernel, choose_kernel
from ..equation import Equation
from . import helpers

__all__ = ["Emit", "emit_kernel", "lower"]

Emit = Callable[..., Any]
"""``emit(function, *args)`` gives the value of ``function(*args)``, or what stands for it."""

LARGE_PRODUCT = 1 << 18
"""Elements of an outer product from which on its gradients are worth a function of their own."""

Labels = tuple[int, ...]
Shape = tuple[int, ...]


def lower(
    emit: Emit,
    equation: Equation,
    values: Sequence[Any],
    shapes: Sequence[Sequence[int]],
    dtype: torch.dtype,
    device: str | torch.device,
    *,
    guarded: bool,
    strides: Sequence[Sequence[int]] | None = None,
    contiguous: bool = False,
) -> Any:
    """Emit the fastest code for a contraction of one or two operands.

    Args:
        emit: receives every torch function with its arguments and returns its value.
        equation: the contraction.
        values: the operands, or what stands for them.
        shapes: the shapes of the operands; where ``guarded``, of an example only.
        dtype: of the operands.
        device: on which they are.
        guarded: emit code that is right for all sizes for which the contraction is, instead of for
            ``shapes`` alone.
        strides: of the operands, in elements; contiguous where None. A hint.
        contiguous: whether the result must be contiguous.

    Returns:
        The value of the contraction.

    Example:
        >>> a, b = torch.ones(2, 3), torch.ones(4, 3)
        >>> def emit(function, *args):
        ...     print(function.__name__)
        ...     return function(*args)
        >>> equation = Equation.parse("ij,kj->ik")
        >>> lower(emit, equation, (a, b), (a.shape, b.shape), a.dtype, "cpu", guarded=False).shape
        permute
        mm
        torch.Size([2, 4])
    """
    kernel = choose_kernel(
        equation, shapes, dtype, device, strides=strides, contiguous=contiguous, guarded=guarded
    )
    return emit_kernel(emit, kernel, equation, values, shapes, guarded=guarded, contiguous=contiguous)


def emit_kernel(
    emit: Emit,
    kernel: Kernel,
    equation: Equation,
    values: Sequence[Any],
    shapes: Sequence[Sequence[int]],
    *,
    guarded: bool,
    contiguous: bool = False,
) -> Any:
    """Emit a kernel that was chosen before; arguments as in :func:`lower`."""
    if kernel.name == "einsum":
        value = emit(torch.functional.einsum, str(equation), *values)
        return emit(helpers.contiguous, value) if contiguous else value
    operands = []
    for i, (labels, shape, value) in enumerate(zip(equation.inputs, shapes, values, strict=True)):
        operand = _Operand(emit, value, labels, tuple(shape), guarded)
        operand.take_diagonals()
        operand.narrow(kernel.narrowed[i])
        if kernel.name == "sum" and not guarded:
            operand.lead(kernel.order)
        operand.sum(kernel.presummed[i])
        operand.turned = kernel.turned[i] and not guarded
        operand.loose = kernel.loose[i] and not guarded
        operands.append(operand)
    sizes = equation.sizes(shapes)
    lowering = _guarded if guarded else _static
    value, labels = lowering(emit, kernel, equation, operands, sizes)
    order = tuple(labels.index(x) for x in equation.output)
    if order != tuple(range(len(order))):
        value = emit(torch.permute, value, order)
    if contiguous and not _is_dense(kernel, equation, labels):
        value = emit(helpers.contiguous, value)
    return value


def _is_dense(kernel: Kernel, equation: Equation, labels: Labels) -> bool:
    return labels == equation.output and kernel.name in ("mm", "bmm", "mv", "dot", "multiply_sum")


class _Operand:
    """A value with its labels, brought step by step into the form a kernel takes."""

    def __init__(self, emit: Emit, value: Any, labels: Labels, shape: Shape, guarded: bool) -> None:
        self.emit, self.value, self.labels, self.shape, self.guarded = emit, value, labels, shape, guarded
        self.turned = self.loose = False

    def take_diagonals(self) -> None:
        """Leave each label once: its diagonal moves to the last dimension."""
        while len(set(self.labels)) < len(self.labels):
            first, second = next(
                (i, j)
                for i in range(len(self.labels))
                for j in range(i + 1, len(self.labels))
                if self.labels[i] == self.labels[j]
            )
            self.value = self.emit(torch.diagonal, self.value, 0, first, second)
            keep = [i for i in range(len(self.labels)) if i not in (first, second)]
            self.shape = (*(self.shape[i] for i in keep), self.shape[first])
            self.labels = (*(self.labels[i] for i in keep), self.labels[first])

    def narrow(self, labels: Labels) -> None:
        """Leave the first element along these labels, of which all are the same."""
        for label in labels:
            dim = self.labels.index(label)
            self.value = self.emit(torch.narrow, self.value, dim, 0, 1)
            self.shape = (*self.shape[:dim], 1, *self.shape[dim + 1 :])

    def lead(self, order: Labels) -> None:
        """Bring the dimensions of these labels into this order, and to the front, unless they're in it."""
        if [x for x in self.labels if x in order] != list(order):
            self.permute((*order, *(x for x in self.labels if x not in order)))

    def spans(self, labels: Labels, sizes: dict[int, int]) -> bool:
        """Whether it has all these labels in their full sizes, rather than narrowed."""
        own = dict(zip(self.labels, self.shape, strict=True))
        return all(own.get(x) == sizes[x] for x in labels)

    def sum(self, own: Labels) -> None:
        """Sum over labels that nothing else has."""
        if own:
            dims = tuple(self.labels.index(x) for x in own)
            self.value = self.emit(torch.sum, self.value, dims)
            self.shape = tuple(n for i, n in enumerate(self.shape) if i not in dims)
            self.labels = tuple(x for x in self.labels if x not in own)

    def permute(self, labels: Labels) -> None:
        """Bring the dimensions into this order."""
        order = tuple(self.labels.index(x) for x in labels)
        if order != tuple(range(len(order))):
            self.value = self.emit(torch.permute, self.value, order)
            self.shape = tuple(self.shape[i] for i in order)
            self.labels = labels

    def batched(self, batch: Labels, labels: Labels) -> None:
        """Bring the dimensions into the order of ``batch``, then ``labels``; a batch it lacks gets size 1."""
        present = tuple(x for x in batch if x in self.labels)
        self.permute((*present, *labels))
        for position, label in enumerate(batch):
            if label not in present:
                self.value = self.emit(torch.unsqueeze, self.value, position)
                self.shape = (*self.shape[:position], 1, *self.shape[position:])
                self.labels = (*self.labels[:position], label, *self.labels[position:])

    def reshape(self, shape: Shape) -> Any:
        """The value with another shape, as far as static sizes tell."""
        if shape != self.shape:
            self.value = self.emit(torch.reshape, self.value, shape)
        return self.value

    def as_groups(self, groups: Sequence[Labels], sizes: dict[int, int]) -> Any:
        """The value with one dimension for each group; dimensions of size 1 in no group are dropped."""
        if self.turned:
            self.turned = False
            across = self.as_groups((*groups[:-2], groups[-1], groups[-2]), sizes)
            return self.emit(torch.transpose, across, -2, -1)
        order = [x for group in groups for x in group]
        unit = [x for x in self.labels if x not in order]
        if [x for x in self.labels if x in order] != order:
            self.permute((*order, *unit))
        value = self.reshape(tuple(_count(group, sizes) for group in groups))
        return self.emit(helpers.contiguous, value) if self.loose else value

    def aligned(self, order: Labels) -> Any:
        """The value with a dimension for each label of ``order``, of size 1 where it lacks the label."""
        present = tuple(x for x in order if x in self.labels)
        if self.guarded:
            self.permute(present)
            first = order.index(present[0]) if present else len(order)
            for position in range(first, len(order)):
                if order[position] not in present:
                    self.value = self.emit(torch.unsqueeze, self.value, position - first)
            return self.value
        own = dict(zip(self.labels, self.shape, strict=True))
        real = [x for x in order if own.get(x, 1) != 1]
        if [x for x in self.labels if x in real] != real:
            self.permute((*real, *(x for x in self.labels if x not in real)))
        first = order.index(real[0]) if real else len(order)
        return self.reshape(tuple(own.get(x, 1) for x in order[first:]))


def _count(labels: Sequence[int], sizes: dict[int, int]) -> int:
    total = 1
    for label in labels:
        total *= sizes[label]
    return total


def _static(
    emit: Emit, kernel: Kernel, equation: Equation, operands: list[_Operand], sizes: dict[int, int]
) -> tuple[Any, Labels]:
    """Emit for exactly these sizes; gives the value and the labels of its dimensions."""
    unit = tuple(x for x in equation.output if sizes[x] == 1)
    real = tuple(x for x in equation.output if sizes[x] != 1)
    if len(operands) == 1:
        value, labels = operands[0].value, operands[0].labels
        extra = [x for x in labels if x not in equation.output]
        if extra:
            kept = tuple(x for x in labels if x in equation.output)
            value = operands[0].reshape(tuple(sizes[x] for x in kept))
            labels = kept
        return value, labels
    a, b = operands
    if kernel.order or kernel.name == "multiply":
        return _elementwise(emit, kernel, equation, operands, real, unit, sizes)
    batch, rows, columns, summed = kernel.batch, kernel.rows, kernel.columns, kernel.summed
    if kernel.name == "dot":
        value = emit(torch.dot, a.as_groups((summed,), sizes), b.as_groups((summed,), sizes))
        laid_out: Labels = ()
    elif kernel.name == "mv":
        matrix, vector, laid_out = (a, b, rows) if rows else (b, a, columns)
        value = emit(
            torch.mv, matrix.as_groups((laid_out, summed), sizes), vector.as_groups((summed,), sizes)
        )
    else:
        lead = (batch,) if kernel.name == "bmm" else ()
        if kernel.swapped:
            a, b, rows, columns = b, a, columns, rows
        broadcast = [x for x in (a, b) if not x.spans(batch, sizes)]
        left = a.as_groups((() if a in broadcast else batch, rows, summed)[1 - len(lead) :], sizes)
        right = b.as_groups((() if b in broadcast else batch, summed, columns)[1 - len(lead) :], sizes)
        multiply: Any = torch.bmm if lead else torch.mm
        if broadcast:
            size, depth, own, wide = (_count(x, sizes) for x in (batch, summed, rows, columns))
            if b in broadcast:
                own, wide = wide, own
            if own * depth > wide * (own + depth):
                # Its gradient for each of the batch would take more memory than everything else.
                multiply = torch.matmul
            # Where gradients are recorded torch.matmul would copy the other operand and the result.
            elif b in broadcast:
                right = emit(torch.broadcast_to, right, (size, depth, own))
            else:
                left = emit(torch.broadcast_to, left, (size, own, depth))
        value = emit(multiply, left, right)
        laid_out = (*batch, *rows, *columns)
        if not (rows and columns and len(laid_out) == len(lead) + 2):
            value = emit(torch.reshape, value, tuple(sizes[x] for x in (*laid_out, *unit)))
            return value, (*laid_out, *unit)
        return _restore(emit, value, laid_out, laid_out, unit, equation, sizes)
    return _restore(emit, value, laid_out[:1], laid_out, unit, equation, sizes)


def _restore(
    emit: Emit,
    value: Any,
    has: Labels,
    laid_out: Labels,
    unit: Labels,
    equation: Equation,
    sizes: dict[int, int],
) -> tuple[Any, Labels]:
    """Split merged dimensions again and add those of size 1."""
    labels = (*laid_out, *unit)
    if laid_out == tuple(x for x in equation.output if x not in unit):
        labels = equation.output
    if has != labels:
        value = emit(torch.reshape, value, tuple(sizes[x] for x in labels))
    return value, labels


def _elementwise(
    emit: Emit,
    kernel: Kernel,
    equation: Equation,
    operands: list[_Operand],
    real: Labels,
    unit: Labels,
    sizes: dict[int, int],
) -> tuple[Any, Labels]:
    a, b = operands
    left, right = a.aligned(kernel.order), b.aligned(kernel.order)
    kept = tuple(x for x in kernel.order if x not in kernel.summed)
    value = _product(emit, kernel, left, right, _is_large(kernel, operands, sizes))
    return _restore(emit, value, kept, kept, unit, equation, sizes)


def _is_large(kernel: Kernel, operands: list[_Operand], sizes: dict[int, int]) -> bool:
    """Whether it is a large product of smaller operands, of which neither has all its labels."""
    elements = math.prod([sizes[x] for x in kernel.order])
    return max([math.prod(x.shape) for x in operands]) < elements >= LARGE_PRODUCT


def _product(emit: Emit, kernel: Kernel, left: Any, right: Any, large: bool) -> Any:
    count = len(kernel.order)
    dims = [kernel.order.index(x) - count for x in kernel.summed]
    if not dims:
        return emit(helpers.multiply if large else torch.mul, left, right)
    if kernel.name == "unrolled":
        return emit(helpers.unrolled_multiply_sum, left, right, dims[0])
    return emit(helpers.multiply_sum, left, right, tuple(dims))


def _guarded(
    emit: Emit, kernel: Kernel, equation: Equation, operands: list[_Operand], sizes: dict[int, int]
) -> tuple[Any, Labels]:
    """Emit for every size; gives the value and the labels of its dimensions."""
    if len(operands) == 1:
        return operands[0].value, operands[0].labels
    a, b = operands
    if kernel.order or kernel.name == "multiply":
        left, right = a.aligned(kernel.order), b.aligned(kernel.order)
        value = _product(emit, kernel, left, right, _is_large(kernel, operands, sizes))
        return value, tuple(x for x in kernel.order if x not in kernel.summed)
    batch, rows, columns, summed = kernel.batch, kernel.rows, kernel.columns, kernel.summed
    if kernel.swapped:
        a, b, rows, columns = b, a, columns, rows
    if len(summed) == 1 and len(rows) + len(columns) == 1:
        matrix, vector = (a, b) if rows else (b, a)
        matrix.permute((*batch, *rows, *columns, *summed))
        vector.permute((*batch, *summed))
        return emit(helpers.matvec, matrix.value, vector.value), (*batch, *rows, *columns)
    laid_out = (*batch, *rows, *columns)
    if not batch and not len(rows) == len(columns) == len(summed) == 1:
        dims = []
        for operand, own in ((a, rows), (b, columns)):
            if tuple(x for x in operand.labels if x not in summed) != own:
                operand.permute((*own, *summed))
            dims.append(tuple(operand.labels.index(x) for x in summed))
        return emit(helpers.tensordot, a.value, b.value, *dims), laid_out
    a.batched(batch, (*rows, *summed))
    b.batched(batch, (*summed, *columns))
    if len(rows) == len(columns) == len(summed) == 1:
        return emit(helpers.matmul if batch else helpers.mm, a.value, b.value), laid_out
    return emit(helpers.contract, a.value, b.value, len(batch), len(summed)), laid_out
