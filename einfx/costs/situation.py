"""What decides which kernel is the fastest for a pairwise step: sizes, dtype, machine, and what is asked."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ..equation import Equation
from ..layout import Layout, contiguous_strides, copied_row
from ..machine import Machine, item_bytes
from .step_kernel import Labels, StepCost

__all__ = ["REDUCED_PRECISION", "Roles", "Situation"]

REDUCED_PRECISION = frozenset({torch.float16, torch.bfloat16})
"""Dtypes whose products must not be rounded before they are summed."""


class Roles(NamedTuple):
    """Which part each label has in a step of two operands.

    Attributes:
        presummed: for each operand the labels of its own that are summed first.
        base: what these sums cost.
        batch, rows, columns, summed: labels of both operands and the output, of the first operand alone, of
            the second alone, of both but not the output.
    """

    presummed: tuple[Labels, ...]
    base: StepCost
    batch: Labels
    rows: Labels
    columns: Labels
    summed: Labels


class Situation:
    """A step with everything that decides which kernel is the fastest.

    Args:
        equation: the step.
        output: the labels of its result that count: without those of size 1, unless ``guarded``.
        sizes: the size of each label.
        dtype: of the operands.
        machine: where it runs.
        contiguous: whether the result must be contiguous.
        guarded: whether sizes are only examples, so that dimensions of size 1 can't be left out.
    """

    def __init__(
        self,
        equation: Equation,
        output: Labels,
        sizes: dict[int, int],
        dtype: torch.dtype,
        machine: Machine,
        contiguous: bool,
        guarded: bool,
    ) -> None:
        self.equation = equation
        self.output = output
        self.sizes = sizes
        self.dtype = dtype
        self.item = item_bytes(dtype)
        self.machine = machine
        self.contiguous = contiguous
        self.guarded = guarded
        self._counts: dict[Labels, int] = {}
        self._finishing: dict[Labels, float] = {output: 0.0}

    def count(self, labels: Labels) -> int:
        """The number of elements over some labels."""
        known = self._counts.get(labels)
        if known is None:
            sizes = self.sizes
            known = self._counts[labels] = math.prod([sizes[x] for x in labels])
        return known

    def roles(self, a: Layout, b: Layout, presummed: tuple[Labels, ...], base: StepCost) -> Roles:
        """The roles of the labels of two operands."""
        shared = [x for x in a.labels if x in b.size]
        batch = tuple([x for x in shared if x in self.output])
        summed = tuple([x for x in shared if x not in self.output])
        rows = tuple([x for x in a.labels if x not in b.size])
        columns = tuple([x for x in b.labels if x not in a.size])
        return Roles(presummed, base, batch, rows, columns, summed)

    def copy_seconds(self, elements: int, before: Labels, after: Labels) -> float:
        """Seconds to copy a tensor from one order of its labels in memory into another."""
        run = 1
        for first, second in zip(reversed(before), reversed(after), strict=False):
            if first != second:
                break
            run *= self.sizes[first]
        return self.machine.copy(elements, self.dtype, run, copied_row(before, after, self.sizes))

    def finish_seconds(self, laid_out: Labels) -> float:
        """Seconds to bring a result laid out as ``laid_out`` into the output's order."""
        seconds = self._finishing.get(laid_out)
        if seconds is None:
            seconds = self.machine.view_seconds
            if self.contiguous:
                seconds = self.copy_seconds(self.count(self.output), laid_out, self.output)
            self._finishing[laid_out] = seconds
        return seconds

    def finish(self, laid_out: Labels) -> tuple[StepCost, tuple[int, ...]]:
        """Cost of bringing a result into the output's order, and its strides."""
        seconds = self.finish_seconds(laid_out)
        if laid_out != self.output and self.contiguous:
            moved = 2 * self.item * self.count(self.output)
            strides = contiguous_strides([self.sizes[x] for x in self.equation.output])
            return StepCost(0, moved, seconds, moved // 2), strides
        steps = dict(zip(laid_out, contiguous_strides([self.sizes[x] for x in laid_out]), strict=True))
        return StepCost(0, 0, seconds, 0), tuple([steps.get(x, 1) for x in self.equation.output])
