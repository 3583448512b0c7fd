"""What a pairwise step costs, by kernel, and so which kernel computes it.

One function chooses (:func:`choose_kernel`); planning reads its cost, lowering emits its choice, and so the
two can't disagree. What there is to choose from is in :mod:`.candidates`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import torch

from ..equation import Equation
from ..layout import Layout
from ..machine import Machine, machine_for
from .candidates import fallback, fastest
from .situation import REDUCED_PRECISION, Situation
from .step_kernel import Kernel, Labels, StepCost

__all__ = ["REDUCED_PRECISION", "Kernel", "StepCost", "choose_kernel", "step_cost"]


def step_cost(
    equation: Equation, sizes: Mapping[int, int], dtype: torch.dtype, device: str | torch.device = "cpu"
) -> StepCost:
    """What the best kernel for a step of one or two operands costs, the operands being contiguous.

    Args:
        equation: the step.
        sizes: the size of each label.
        dtype: of the operands.
        device: where it runs.

    Example:
        >>> equation = Equation.parse("ij,jk->ik")
        >>> step_cost(equation, {0: 10, 1: 20, 2: 30}, torch.float32).flops
        12000
    """
    shapes = tuple(tuple(sizes[x] for x in labels) for labels in equation.inputs)
    return choose_kernel(equation, shapes, dtype, device).cost


def choose_kernel(
    equation: Equation,
    shapes: Sequence[Sequence[int]],
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    *,
    strides: Sequence[Sequence[int]] | None = None,
    contiguous: bool = False,
    guarded: bool = False,
) -> Kernel:
    """The fastest kernel for a step of one or two operands.

    Args:
        equation: the step.
        shapes: of the operands.
        dtype: of the operands.
        device: where it runs.
        strides: of the operands, in elements; contiguous where None.
        contiguous: whether the result must be contiguous.
        guarded: whether sizes are only examples, so that dimensions of size 1 can't be left out.

    Example:
        >>> choose_kernel(Equation.parse("ij,kj->ik"), [(64, 64), (64, 64)], torch.float32).name
        'mm'
        >>> choose_kernel(Equation.parse("nc,nc->n"), [(4096, 2), (4096, 2)], torch.float32).name
        'unrolled'
    """
    key = None if strides is None else tuple(map(tuple, strides))
    return _choose(equation, tuple(map(tuple, shapes)), key, dtype, machine_for(device), contiguous, guarded)


@lru_cache(maxsize=16384)
def _choose(
    equation: Equation,
    shapes: tuple[tuple[int, ...], ...],
    strides: tuple[tuple[int, ...], ...] | None,
    dtype: torch.dtype,
    machine: Machine,
    contiguous: bool,
    guarded: bool,
) -> Kernel:
    operands = [
        Layout.of(labels, shape, strides[i] if strides else None, guarded)
        for i, (labels, shape) in enumerate(zip(equation.inputs, shapes, strict=True))
    ]
    sizes = equation.sizes(shapes)
    output = tuple(x for x in equation.output if guarded or sizes[x] != 1)
    situation = Situation(equation, output, sizes, dtype, machine, contiguous, guarded)
    if not (dtype.is_floating_point or dtype.is_complex):
        return fallback(situation, operands)
    narrowed: tuple[Labels, ...] = ((),) * len(operands)
    if strides is not None and not guarded and len(operands) == 2 and any(0 in x for x in strides):
        operands, narrowed = _without_expanded(*operands)
    chosen = fastest(situation, operands)
    return replace(chosen, narrowed=narrowed) if any(narrowed) else chosen


def _without_expanded(a: Layout, b: Layout) -> tuple[list[Layout], tuple[Labels, ...]]:
    """Both operands without the dimensions along which they repeat themselves and the other has the size."""
    first = tuple(x for x in a.labels if a.stride[x] == 0 and b.size.get(x, 0) > 0)
    a = a.narrow(first)
    second = tuple(x for x in b.labels if b.stride[x] == 0 and a.size.get(x, 0) > 0)
    return [a, b.narrow(second)], (first, second)
