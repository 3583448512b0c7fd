"""The fastest of all kernels that compute a pairwise step.

Planning asks for it thousands of times, and most candidates lose clearly: each is first bounded from below,
and more than a number is made only of the one that wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ..layout import Layout, Loops, contiguous_strides, iteration_order
from .matrix_candidates import fastest_broadcast, fastest_product
from .situation import REDUCED_PRECISION, Roles, Situation
from .step_kernel import Kernel, Labels, StepCost

__all__ = ["MAX_UNROLLED", "fallback", "fastest"]

MAX_UNROLLED = 16
"""The largest summed size that is unrolled."""

_LONG = Loops(64, 64, True)
"""Loops whose beginnings cost nothing."""

_Make = Callable[[], Kernel]


def fallback(situation: Situation, operands: Sequence[Layout]) -> Kernel:
    """Torch's own einsum, for dtypes that the other kernels don't have."""
    machine, equation = situation.machine, situation.equation
    work = situation.count(equation.labels)
    moved = situation.item * (sum(x.elements for x in operands) + situation.count(situation.output))
    seconds = 9 * machine.op_seconds + 1e-9 * work + machine.stream(moved)
    cost = StepCost(work * max(len(operands), 1), moved, seconds, 0)
    shape = [situation.sizes[x] for x in equation.output]
    return Kernel("einsum", (), (), (), (), (), False, (), contiguous_strides(shape), cost)


def fastest(situation: Situation, operands: Sequence[Layout]) -> Kernel:
    """The kernel of least predicted time for one or two operands; of equal ones the first."""
    reduced, presummed, base = list(operands), [], StepCost(0, 0, 0.0, 0)
    for i, operand in enumerate(reduced):
        others = {x for j, other in enumerate(reduced) if j != i for x in other.labels}
        own = tuple([x for x in operand.labels if x not in others and x not in situation.output])
        presummed.append(own)
        if own:
            # Torch sums several times faster to a result that lies as its operand does.
            in_place = len(operands) == 1 and not (situation.contiguous or situation.guarded)
            reduced[i] = operand.without(own, in_place)
            base += _sum_cost(situation, operand, reduced[i], own)
    if len(reduced) == 1:
        return _alone(situation, reduced[0], presummed, base)
    a, b = reduced
    roles = situation.roles(a, b, tuple(presummed), base)
    low_precision = situation.dtype in REDUCED_PRECISION
    limit = float("inf")
    make: _Make | None = None
    if roles.summed and (low_precision or all(a.size[x] == b.size[x] for x in roles.batch + roles.summed)):
        for find in (fastest_product, fastest_broadcast):
            found = find(situation, a, b, roles, limit)
            if found is not None:
                limit, make = found.seconds, partial(found.kernel, situation)
    if not roles.summed or not low_precision:
        make = _Elementwise(situation, a, b, roles).fastest(limit) or make
    assert make is not None
    return make()


def _sum_cost(situation: Situation, before: Layout, after: Layout, own: Labels) -> StepCost:
    read, written = before.elements, after.elements
    inner = _run_of_kind(before, before.physical, own)
    seconds = situation.machine.reduce(read, written, inner, situation.dtype)
    return StepCost(read, situation.item * (read + written), seconds, situation.item * written)


def _alone(situation: Situation, operand: Layout, presummed: list[Labels], base: StepCost) -> Kernel:
    name = "sum" if presummed[0] else "view"
    cost, strides = situation.finish(operand.labels if presummed[0] else operand.physical)
    if name == "view" and not situation.contiguous:
        strides = tuple([operand.stride.get(x, 1) for x in situation.equation.output])
    return Kernel(name, tuple(presummed), (), (), (), (), False, operand.labels, strides, base + cost)


class _Elementwise:
    """Kernels that multiply two operands element by element, and sum where labels are summed."""

    def __init__(self, situation: Situation, a: Layout, b: Layout, roles: Roles) -> None:
        self.situation = situation
        self.operands = a, b
        self.roles = roles
        self.read = a.elements + b.elements
        self.everything = situation.count(tuple({**a.size, **b.size}))
        self.written = situation.count(situation.output)
        self.n_summed = situation.count(roles.summed)
        self.unrolls = len(roles.summed) == 1 and 1 <= self.n_summed <= MAX_UNROLLED
        self.limit = float("inf")
        self.best: tuple[str, Labels, StepCost, Labels] | None = None

    def fastest(self, limit: float) -> _Make | None:
        """What makes the kernel of least predicted time, if that is less than ``limit`` seconds."""
        self.limit = limit
        a, b = self.operands
        large, small = (a, b) if a.elements >= b.elements else (b, a)
        output = self.situation.output
        physical = tuple([x for x in small.physical if x not in large.size]) + large.physical
        wanted = output + tuple([x for x in physical if x not in output])
        bounds = self._bounds()
        for order in dict.fromkeys((physical, wanted)):
            if min(bounds) < self.limit:
                self._try(order, *bounds)
        return None if self.best is None else partial(self._kernel, *self.best)

    def _bounds(self) -> tuple[float, float]:
        """Less seconds than these take neither one product, summed at once, nor one in parts."""
        machine, dtype, before = self.situation.machine, self.situation.dtype, self.roles.base.seconds
        if not self.roles.summed:
            return before + machine.elementwise(self.read, self.written, _LONG, dtype), float("inf")
        whole = machine.multiply_into_blocks(self.read, self.everything, _LONG, dtype)
        whole += machine.reduce(self.everything, self.written, 64, dtype)
        parts = self._accumulating(_LONG) if self.unrolls else float("inf")
        return before + whole, before + parts

    def _try(self, order: Labels, whole_bound: float, parts_bound: float) -> None:
        """Look at the kernels that align operands in an order of the labels."""
        situation, roles = self.situation, self.roles
        machine, dtype, item = situation.machine, situation.dtype, situation.item
        views = machine.view_seconds * sum([x.labels != order[-len(x.labels) :] for x in self.operands])
        if whole_bound < self.limit:
            walked = iteration_order(self.operands, order, situation.sizes)
            loops = Loops.over(self.operands, walked, situation.sizes)
            if not roles.summed:
                seconds = machine.elementwise(self.read, self.written, loops, dtype) + views
                moved = item * (self.read + self.written)
                self._offer("multiply", order, walked, StepCost(self.written, moved, seconds, 0))
                return
            seconds = machine.multiply_into_blocks(self.read, self.everything, loops, dtype) + views
            made = Layout.of(walked, [situation.sizes[x] for x in walked], None, True)
            run = _run_of_kind(made, walked, roles.summed)
            seconds += machine.reduce(self.everything, self.written, run, dtype)
            kept = tuple([x for x in order if x in situation.output])
            if kept != tuple([x for x in walked if x in situation.output]):
                # torch.sum then writes across its cache lines
                seconds += 2e-9 * self.everything / machine.threads
            moved = item * (self.read + 2 * self.everything + self.written)
            cost = StepCost(2 * self.everything, moved, seconds, item * self.everything)
            self._offer("multiply_sum", order, kept, cost)
        if parts_bound < self.limit:
            kept = tuple([x for x in order if x in situation.output])
            walked = iteration_order(self.operands, kept, situation.sizes)
            seconds = views + self._accumulating(Loops.over(self.operands, walked, situation.sizes))
            moved = item * (self.read + 2 * self.n_summed * self.written)
            self._offer("unrolled", order, walked, StepCost(2 * self.everything, moved, seconds, 0))

    def _accumulating(self, loops: Loops) -> float:
        """Seconds to add one product after the other."""
        machine, (label,) = self.situation.machine, self.roles.summed
        lines = sum([x.elements // (self.n_summed if x.stride[label] > 1 else 1) for x in self.operands])
        each = machine.accumulate(lines, self.written, self.read, loops, self.situation.dtype)
        return 4 * machine.view_seconds + self.n_summed * (each + 0.4 * machine.op_seconds)

    def _offer(self, name: str, order: Labels, laid_out: Labels, cost: StepCost) -> None:
        total = self.roles.base.seconds + cost.seconds + self.situation.finish_seconds(laid_out)
        if total < self.limit:
            self.limit, self.best = total, (name, order, cost, laid_out)

    def _kernel(self, name: str, order: Labels, cost: StepCost, laid_out: Labels) -> Kernel:
        presummed, base, batch, rows, columns, summed = self.roles
        finish, strides = self.situation.finish(laid_out)
        total = base + cost + finish
        return Kernel(name, presummed, batch, rows, columns, summed, False, order, strides, total)


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
