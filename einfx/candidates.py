"""Every kernel that computes a pairwise step, with what it costs there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch

from .equation import Equation
from .layout import Layout, Loops, contiguous_strides, copied_row, iteration_order
from .machine import Machine, item_bytes
from .step_kernel import Kernel, Labels, StepCost

__all__ = ["MAX_UNROLLED", "REDUCED_PRECISION", "Situation"]

MAX_UNROLLED = 16
"""The largest summed size that is unrolled."""

REDUCED_PRECISION = frozenset({torch.float16, torch.bfloat16})
"""Dtypes whose products must not be rounded before they are summed."""


class Situation(NamedTuple):
    """A step with everything that decides which kernel is the fastest.

    Attributes:
        equation: the step.
        output: the labels of its result that count: without those of size 1, unless ``guarded``.
        sizes: the size of each label.
        dtype: of the operands.
        machine: where it runs.
        contiguous: whether the result must be contiguous.
        guarded: whether sizes are only examples, so that dimensions of size 1 can't be left out.
    """

    equation: Equation
    output: Labels
    sizes: dict[int, int]
    dtype: torch.dtype
    machine: Machine
    contiguous: bool
    guarded: bool

    def count(self, labels: Sequence[int]) -> int:
        """The number of elements over some labels."""
        return math.prod(self.sizes[x] for x in labels)

    def fallback(self, operands: list[Layout]) -> Kernel:
        """Torch's own einsum, for dtypes that the other kernels don't have."""
        work = self.count(self.equation.labels)
        written = self.count(self.output)
        item = item_bytes(self.dtype)
        moved = item * (sum(x.elements for x in operands) + written)
        seconds = 9 * self.machine.op_seconds + 1e-9 * work + self.machine.stream(moved)
        cost = StepCost(work * max(len(operands), 1), moved, seconds, 0)
        shape = [self.sizes[x] for x in self.equation.output]
        return Kernel("einsum", (), (), (), (), (), False, (), contiguous_strides(shape), cost)

    def candidates(self, operands: list[Layout]) -> Iterator[Kernel]:
        """Every kernel for one or two operands, each with its cost."""
        presummed, base = [], StepCost(0, 0, 0.0, 0)
        for i, operand in enumerate(operands):
            others = {x for j, other in enumerate(operands) if j != i for x in other.labels}
            own = tuple(x for x in operand.labels if x not in others and x not in self.output)
            presummed.append(own)
            if own:
                operands[i] = operand.without(own)
                base += self._sum_cost(operand, operands[i], own)
        if len(operands) == 1:
            yield self._alone(operands[0], presummed, base)
            return
        a, b = operands
        batch = tuple(x for x in a.labels if x in b.size and x in self.output)
        summed = tuple(x for x in a.labels if x in b.size and x not in self.output)
        rows = tuple(x for x in a.labels if x not in b.size)
        columns = tuple(x for x in b.labels if x not in a.size)
        roles = _Roles(tuple(presummed), base, batch, rows, columns, summed)
        matching = all(a.size[x] == b.size[x] for x in batch + summed)
        if summed and (matching or self.dtype in REDUCED_PRECISION):
            yield from self._matrix(a, b, roles)
            yield from self._broadcast(a, b, roles)
        if not summed or self.dtype not in REDUCED_PRECISION:
            yield from self._elementwise(a, b, roles)

    def _sum_cost(self, before: Layout, after: Layout, own: Labels) -> StepCost:
        item = item_bytes(self.dtype)
        inner = _run_of_kind(before, before.physical, own)
        seconds = self.machine.reduce(before.elements, after.elements, inner, self.dtype)
        moved = item * (before.elements + after.elements)
        return StepCost(before.elements, moved, seconds, item * after.elements)

    def _finish(self, laid_out: Labels) -> tuple[StepCost, tuple[int, ...]]:
        """Cost of bringing a result laid out as ``laid_out`` into the output's order, and its strides."""
        if laid_out == self.output:
            strides = dict(zip(laid_out, contiguous_strides([self.sizes[x] for x in laid_out]), strict=True))
            return StepCost(0, 0, 0.0, 0), tuple(strides.get(x, 1) for x in self.equation.output)
        elements = self.count(self.output)
        if self.contiguous:
            moved = 2 * item_bytes(self.dtype) * elements
            cost = StepCost(0, moved, self._copy(elements, laid_out, self.output), moved // 2)
            return cost, contiguous_strides([self.sizes[x] for x in self.equation.output])
        strides = dict(zip(laid_out, contiguous_strides([self.sizes[x] for x in laid_out]), strict=True))
        return (
            StepCost(0, 0, self.machine.view_seconds, 0),
            tuple(strides.get(x, 1) for x in self.equation.output),
        )

    def _copy(self, elements: int, before: Labels, after: Labels) -> float:
        """Seconds to copy a tensor from one order of its labels in memory into another."""
        run = 1
        for first, second in zip(reversed(before), reversed(after), strict=False):
            if first != second:
                break
            run *= self.sizes[first]
        return self.machine.copy(elements, self.dtype, run, copied_row(before, after, self.sizes))

    def _arranged(self, name: str, operand: Layout, *groups: Labels) -> tuple[float, bool]:
        """Seconds to copy an operand into a matrix, and whether its transpose is clearly copied sooner."""
        batch, first, second = groups
        straight = self._copy(operand.elements, operand.physical, batch + first + second)
        if self.guarded or name not in ("mm", "bmm"):
            return straight, False
        across = self._copy(operand.elements, operand.physical, batch + second + first)
        across += self.machine.view_seconds
        return (across, True) if across < 0.8 * straight else (straight, False)

    def _alone(self, operand: Layout, presummed: list[Labels], base: StepCost) -> Kernel:
        name = "sum" if presummed[0] else "view"
        if name == "view":
            laid_out = operand.physical
            strides = tuple(operand.stride.get(x, 1) for x in self.equation.output)
            cost, dense = self._finish(laid_out)
            strides = dense if self.contiguous else strides
        else:
            cost, strides = self._finish(operand.labels)
        return Kernel(name, tuple(presummed), (), (), (), (), False, operand.labels, strides, base + cost)

    def _matrix(self, a: Layout, b: Layout, roles: _Roles) -> Iterator[Kernel]:
        n_batch, n_rows = self.count(roles.batch), self.count(roles.rows)
        n_columns, n_summed = self.count(roles.columns), self.count(roles.summed)
        item, machine, dtype = item_bytes(self.dtype), self.machine, self.dtype
        name = "bmm" if roles.batch else "mm"
        if not roles.batch and dtype not in REDUCED_PRECISION and not (roles.rows and roles.columns):
            name = "mv" if roles.rows or roles.columns else "dot"
        arithmetic = machine.gemm(n_batch, n_rows, n_columns, n_summed, dtype)
        work = n_batch * n_rows * n_columns * n_summed
        orders = product(
            _orders(roles.batch, a.physical, b.physical, self.output),
            _orders(roles.rows, a.physical, self.output),
            _orders(roles.columns, b.physical, self.output),
            _orders(roles.summed, a.physical, b.physical),
            (False, True)
            if (roles.rows and roles.columns) or (name == "bmm" and not self.guarded)
            else (False,),
        )
        for batch, rows, columns, summed, swapped in orders:
            copied = views = 0
            seconds = arithmetic
            forms = ((a, rows, summed), (b, summed, columns))
            if swapped:
                forms = ((a, summed, rows), (b, columns, summed))
            turned = [False, False]
            for i, (operand, first, second) in enumerate(forms):
                if not operand.is_matrix(batch, first, second):
                    copied += operand.elements
                    copying, turned[i] = self._arranged(name, operand, batch, first, second)
                    seconds += copying
                views += operand.labels != batch + first + second
                views += len(operand.labels) != (3 if name == "bmm" else len((*first, *second)[:2]))
            if name == "bmm" and not (self.guarded or copied) and _reads_across(forms):
                seconds += arithmetic
            laid_out = batch + (columns + rows if swapped else rows + columns)
            views += len(laid_out) != {"dot": 0, "mv": 1, "mm": 2, "bmm": 3}[name]
            finish, strides = self._finish(laid_out)
            seconds += views * machine.view_seconds
            elements = a.elements + b.elements + self.count(self.output)
            cost = StepCost(2 * work, item * (elements + 2 * copied), seconds, item * copied)
            yield Kernel(
                name, roles.presummed, batch, rows, columns, summed, swapped, (), strides,
                roles.base + cost + finish, turned=tuple(turned),
            )  # fmt: skip

    def _broadcast(self, a: Layout, b: Layout, roles: _Roles) -> Iterator[Kernel]:
        """The output's first label as a batch over which the operand that lacks it is broadcast.

        What would be columns apart from each other in memory is then written where it belongs.
        """
        if roles.batch or not self.output:
            return
        first = self.output[0]
        rows = tuple(x for x in roles.rows if x != first)
        columns = tuple(x for x in roles.columns if x != first)
        if rows and columns:
            base = roles.base + StepCost(0, 0, 8 * self.machine.view_seconds, 0)  # expand, and what it hides
            yield from self._matrix(
                a, b, roles._replace(base=base, batch=(first,), rows=rows, columns=columns)
            )

    def _elementwise(self, a: Layout, b: Layout, roles: _Roles) -> Iterator[Kernel]:
        large, small = (a, b) if a.elements >= b.elements else (b, a)
        physical = tuple(x for x in small.physical if x not in large.size) + large.physical
        wanted = self.output + tuple(x for x in physical if x not in self.output)
        for order in dict.fromkeys((physical, wanted)):
            yield from self._aligned(a, b, roles, order)

    def _aligned(self, a: Layout, b: Layout, roles: _Roles, order: Labels) -> Iterator[Kernel]:
        item, machine, dtype = item_bytes(self.dtype), self.machine, self.dtype
        everything, written = self.count(order), self.count(self.output)
        kept = tuple(x for x in order if x in self.output)
        walked = iteration_order((a, b), order, self.sizes)
        loops = Loops.over((a, b), walked, self.sizes)
        views = machine.view_seconds * sum(x.labels != order[-len(x.labels) :] for x in (a, b))
        read = a.elements + b.elements

        def kernel(name: str, laid_out: Labels, cost: StepCost) -> Kernel:
            finish, strides = self._finish(laid_out)
            return Kernel(
                name, roles.presummed, roles.batch, roles.rows, roles.columns, roles.summed, False, order,
                strides, roles.base + cost + finish,
            )  # fmt: skip

        if not roles.summed:
            seconds = machine.elementwise(read, written, loops, dtype) + views
            yield kernel("multiply", walked, StepCost(written, item * (read + written), seconds, 0))
            return
        product_layout = Layout.of(walked, [self.sizes[x] for x in walked], None, True)
        seconds = machine.multiply_into_blocks(read, everything, loops, dtype) + views
        run = _run_of_kind(product_layout, walked, roles.summed)
        seconds += machine.reduce(everything, written, run, dtype)
        if kept != tuple(x for x in walked if x in self.output):
            seconds += 2e-9 * everything / machine.threads  # torch.sum then writes across its cache lines
        moved = item * (read + 2 * everything + written)
        yield kernel("multiply_sum", kept, StepCost(2 * everything, moved, seconds, item * everything))
        summed = self.count(roles.summed)
        if len(roles.summed) == 1 and 1 <= summed <= MAX_UNROLLED:
            lines = sum(x.elements // (summed if x.stride[roles.summed[0]] > 1 else 1) for x in (a, b))
            walked = iteration_order((a, b), kept, self.sizes)
            each = machine.accumulate(lines, written, read, Loops.over((a, b), walked, self.sizes), dtype)
            seconds = views + 4 * machine.view_seconds + summed * (each + 0.4 * machine.op_seconds)
            moved = item * (read + 2 * summed * written)
            yield kernel("unrolled", walked, StepCost(2 * everything, moved, seconds, 0))


class _Roles(NamedTuple):
    presummed: tuple[Labels, ...]
    base: StepCost
    batch: Labels
    rows: Labels
    columns: Labels
    summed: Labels


def _reads_across(forms: Sequence[tuple[Layout, Labels, Labels]]) -> bool:
    """Whether a product of matrices and vectors reads the matrices by columns, which takes twice as long."""
    for layout, rows, columns in forms:
        if rows and columns and all(layout.size.get(x, 1) != 1 for x in rows + columns):
            return layout.physical[-1] in rows
    return False


def _orders(labels: Labels, *references: Labels) -> list[Labels]:
    if len(labels) < 2:
        return [labels]
    return list(dict.fromkeys(tuple(x for x in order if x in labels) for order in references))


def _run_of_kind(layout: Layout, order: Labels, summed: Labels) -> int:
    """How many neighbours in memory are all summed or all kept, counted from the innermost label."""
    run = 1
    kind = None
    for label in reversed(order):
        if kind is None:
            kind = label in summed
        elif (label in summed) != kind:
            break
        run *= layout.size[label]
    return run
