"""A pairwise step as a product of matrices: in which order of the labels it takes the least time.

Labels of one role can be laid out in several orders, operands can be swapped, and an operand that isn't a
matrix in some order is copied. What an arrangement costs an operand doesn't depend on the other one, so it is
found once for both; all orders together then take little more than an addition each.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import NamedTuple

from ..layout import Layout, are_matrices
from .situation import REDUCED_PRECISION, Roles, Situation
from .step_kernel import Kernel, Labels, StepCost

__all__ = ["MatrixProduct", "fastest_broadcast", "fastest_product"]

_DIMENSIONS = {"dot": 0, "mv": 1, "mm": 2, "bmm": 3}
"""Of what each kernel returns."""


class MatrixProduct(NamedTuple):
    """A product of matrices with everything arranged.

    Attributes:
        seconds: predicted for all of it, labels of single operands and the order of the output included.
        product_seconds: predicted without these.
        copied: elements of operands that are copied.
        name: of the kernel.
        roles: of the labels, in the order in which they are laid out.
        swapped: whether the columns come before the rows in what is written.
        turned: for each operand whether its copy is the transpose of what is multiplied.
        loose: for each operand whether it's copied although it has the shape of matrices.
        operands: the layouts.
    """

    seconds: float
    product_seconds: float
    copied: int
    name: str
    roles: Roles
    swapped: bool
    turned: tuple[bool, bool]
    loose: tuple[bool, bool]
    operands: tuple[Layout, Layout]

    def kernel(self, situation: Situation) -> Kernel:
        """As a kernel."""
        presummed, base, batch, rows, columns, summed = self.roles
        item, count = situation.item, situation.count
        work = count(batch) * count(rows) * count(columns) * count(summed)
        elements = sum([x.elements for x in self.operands]) + count(situation.output)
        moved = item * (elements + 2 * self.copied)
        cost = StepCost(2 * work, moved, self.product_seconds, item * self.copied)
        finish, strides = situation.finish(batch + (columns + rows if self.swapped else rows + columns))
        return Kernel(
            self.name, presummed, batch, rows, columns, summed, self.swapped, (), strides,
            base + cost + finish, turned=self.turned, loose=self.loose,
        )  # fmt: skip


def fastest_product(
    situation: Situation, a: Layout, b: Layout, roles: Roles, limit: float
) -> MatrixProduct | None:
    """The fastest way to multiply matrices, if there is one that takes less than ``limit`` seconds."""
    count, machine = situation.count, situation.machine
    sizes = count(roles.batch), count(roles.rows), count(roles.columns), count(roles.summed)
    arithmetic = machine.gemm(*sizes, situation.dtype)
    before = roles.base.seconds
    if before + arithmetic >= limit:
        return None
    name = "bmm" if roles.batch else "mm"
    # Complex matrices and vectors are multiplied by a loop of torch, 2 to 4 times slower than as matrices.
    as_matrices = situation.dtype in REDUCED_PRECISION or (
        situation.dtype.is_complex and not situation.guarded and roles.rows + roles.columns
    )
    if not roles.batch and not as_matrices and not (roles.rows and roles.columns):
        name = "mv" if roles.rows or roles.columns else "dot"
    batched = name == "bmm"
    swappable = (roles.rows and roles.columns) or (batched and not situation.guarded)
    left, right = _Operand(situation, a, name), _Operand(situation, b, name)
    orders = product(
        _orders(roles.batch, left.physical, right.physical, situation.output),
        _orders(roles.rows, left.physical, situation.output),
        _orders(roles.columns, right.physical, situation.output),
        _orders(roles.summed, left.physical, right.physical),
        (False, True) if swappable else (False,),
    )
    dimensions, view_seconds = _DIMENSIONS[name], machine.view_seconds
    # Where it starts long before it ends, and on a CPU, for whose library this was measured.
    large = name in ("mm", "bmm") and not machine.gpu and arithmetic > 4 * machine.op_seconds
    made = len(roles.batch) + len(roles.rows) + len(roles.columns) != dimensions
    fixed = made + left.grouped + right.grouped
    floor = before + (arithmetic + fixed * view_seconds)
    best = None
    for batch, rows, columns, summed, swapped in orders:
        one = left.form(batch, summed, rows) if swapped else left.form(batch, rows, summed)
        if before + (arithmetic + one.seconds) >= limit:
            continue
        two = right.form(batch, columns, summed) if swapped else right.form(batch, summed, columns)
        seconds = arithmetic + one.seconds + two.seconds
        if large:
            left_form, right_form = (two, one) if swapped else (one, two)
            sides = (columns, rows) if swapped else (rows, columns)
            seconds += arithmetic * _hindrance(
                left_form, right_form, count(sides[0]), count(sides[1]), sizes[3], batched
            )
        seconds += (one.permuted + two.permuted + fixed) * view_seconds
        laid_out = batch + (columns + rows if swapped else rows + columns)
        total = before + seconds + situation.finish_seconds(laid_out)
        if total < limit:
            limit, best = total, (seconds, batch, rows, columns, summed, swapped, one, two)
            if total <= floor:
                break
    if best is None:
        return None
    seconds, batch, rows, columns, summed, swapped, one, two = best
    arranged = roles._replace(batch=batch, rows=rows, columns=columns, summed=summed)
    copied, turned = one.copied + two.copied, (one.turned, two.turned)
    loose = one.loose, two.loose
    return MatrixProduct(limit, seconds, copied, name, arranged, swapped, turned, loose, (a, b))


def fastest_broadcast(
    situation: Situation, a: Layout, b: Layout, roles: Roles, limit: float
) -> MatrixProduct | None:
    """The output's first label as a batch over which the operand that lacks it is broadcast.

    What would be columns apart from each other in memory is then written where it belongs.
    """
    if roles.batch or not situation.output:
        return None
    first = situation.output[0]
    rows = tuple([x for x in roles.rows if x != first])
    columns = tuple([x for x in roles.columns if x != first])
    if not (rows and columns):
        return None
    hidden = StepCost(0, 0, 8 * situation.machine.view_seconds, 0)  # expand, and what it hides
    roles = roles._replace(base=roles.base + hidden, batch=(first,), rows=rows, columns=columns)
    return fastest_product(situation, a, b, roles, limit)


class _Form(NamedTuple):
    """What it takes to have an operand as matrices.

    Attributes:
        copied: elements to copy.
        seconds: of the copy.
        turned: whether the copy is the transpose.
        permuted: whether its dimensions are permuted.
        across: whether the matrices that are multiplied lie in memory column by column.
        loose: whether it has the shape of matrices, but not the strides, so that it's copied all the same.
    """

    copied: int
    seconds: float
    turned: bool
    permuted: bool
    across: bool
    loose: bool


def _hindrance(one: _Form, two: _Form, rows: int, columns: int, summed: int, batched: bool) -> float:
    """Which part of its time a product of matrices takes beyond that of the best order of its operands.

    Either operand can come first, where the other order gives the transpose. Measured with MKL, for matrices
    of few rows or columns, of which it computes 16 or so at a time.
    """
    least = min(rows, columns)
    if batched and least == 1:
        return 0.8 if columns == 1 < rows else 0.0
    if one.across and two.across:
        return 0.5 if least <= 64 else 0.05
    if rows == columns or not (one.across or two.across):
        return 0.0
    if one.across:
        if least <= 16:
            return (0.6 if least <= 8 else 0.15) if columns < rows else 0.0
        return 0.3 if summed <= 16 and least >= 32 and rows < columns else 0.0
    if least <= 3:
        return 0.4 if columns < rows else 0.0
    return 0.2 if least > 4 and rows < columns else 0.0


class _Operand:
    """An operand of a product of matrices, and what its arrangements cost, each found once."""

    def __init__(self, situation: Situation, layout: Layout, name: str) -> None:
        self.situation = situation
        self.layout = layout
        self.physical = layout.physical
        self.elements = layout.elements
        self.batched = name == "bmm"
        self.grouped = len(layout.labels) != 3 if self.batched else len(layout.labels) > 2
        self.turnable = name in ("mm", "bmm") and not situation.guarded
        self._forms: dict[tuple[Labels, Labels, Labels], _Form] = {}
        self._groups: dict[Labels, tuple[int, int] | None] = {(): (1, 0)}
        self._copies: dict[Labels, float] = {}

    def form(self, batch: Labels, first: Labels, second: Labels) -> _Form:
        """The operand as (batch, first, second), a group of labels being a dimension."""
        key = batch, first, second
        known = self._forms.get(key)
        if known is None:
            known = self._forms[key] = self._form(batch, first, second)
        return known

    def _form(self, batch: Labels, first: Labels, second: Labels) -> _Form:
        labels = self.layout.labels
        copied, seconds, turned, loose = 0, 0.0, False, False
        groups = self._merged(batch), self._merged(first), self._merged(second)
        across = bool(first and second) and self.physical[-1] in first
        if not are_matrices(*groups):
            copied = self.elements
            seconds, turned = self._arranged(batch, first, second)
            across, loose = turned, None not in groups
        return _Form(copied, seconds, turned, labels != batch + first + second, across, loose)

    def _merged(self, group: Labels) -> tuple[int, int] | None:
        """Size and stride of some labels as one dimension, if they are one."""
        if group in self._groups:
            return self._groups[group]
        found = self._groups[group] = self.layout.merged(group)
        return found

    def _arranged(self, batch: Labels, first: Labels, second: Labels) -> tuple[float, bool]:
        """Seconds to copy the operand into matrices, and whether the transpose is clearly copied sooner."""
        straight = self._copy(batch + first + second)
        if not self.turnable:
            return straight, False
        across = self._copy(batch + second + first) + self.situation.machine.view_seconds
        return (across, True) if across < 0.8 * straight else (straight, False)

    def _copy(self, order: Labels) -> float:
        known = self._copies.get(order)
        if known is None:
            known = self._copies[order] = self.situation.copy_seconds(self.elements, self.physical, order)
        return known


def _orders(labels: Labels, *references: Labels) -> Iterable[Labels]:
    if len(labels) < 2:
        return (labels,)
    return dict.fromkeys([tuple([x for x in order if x in labels]) for order in references])
