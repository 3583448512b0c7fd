"""Contractions with tensors that are known to be patterns, computed without them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple

from torch import Tensor

from ...conv.contraction import contract
from ...conv.windows.sums import sum_windows
from ...equation import Equation
from ...errors import EquationError
from ...pattern import IndexPattern

__all__ = ["AXES", "INPUT", "KERNEL", "OUTPUT", "Memory", "contracted"]

AXES = (2, 3, 5)
"""Sizes of kernel, output and input of a small tensor, by which an axis is known again."""

KERNEL, OUTPUT, INPUT = AXES


class Memory(NamedTuple):
    """What a tensor is: a pattern with its axes in some order, or its sum over outputs, times a number."""

    pattern: IndexPattern
    axes: tuple[int, ...]
    scale: float
    version: int


def contracted(equation: str, operands: Sequence[Tensor], memories: Sequence[Memory | None]) -> Tensor | None:
    """A contraction in which some operands are patterns, or some are sums of patterns over their outputs.

    Args:
        equation: what is contracted.
        operands: plain tensors and those that are patterns.
        memories: what each operand is; None for a plain tensor.

    Returns:
        The result; None where it has to be computed from the tensors as they are.
    """
    tensors = [x for x, memory in zip(operands, memories, strict=True) if memory is None]
    if not tensors or not (tensors[0].is_floating_point() or tensors[0].is_complex()):
        return None
    like = tensors[0].dtype, tensors[0].device
    for operand, memory in zip(operands, memories, strict=True):
        learnt = memory is not None and operand.requires_grad
        if learnt or (operand.dtype, operand.device) != like:
            return None
    known = tuple(None if memory is None else memory[:3] for memory in memories)
    symbolic = _symbolic(equation, tuple(x.ndim for x in operands), known)
    if symbolic is not None:
        parsed, patterns = symbolic
        mixed = [x if symbol is None else symbol for x, symbol in zip(operands, patterns, strict=True)]
        return contract(parsed, mixed)
    if len(tensors) != 1:
        return None
    plan = _plan(equation, tuple(tensors[0].shape), known)
    return None if plan is None else plan.run(tensors[0])


Known = tuple[tuple[IndexPattern, tuple[int, ...], float] | None, ...]
"""For each operand the pattern, the axes and the scale; None for a plain tensor."""


@lru_cache(maxsize=1024)
def _symbolic(
    equation: str, ranks: tuple[int, ...], known: Known
) -> tuple[Equation, tuple[IndexPattern | None, ...]] | None:
    """The equation with symbolic patterns; None where one of them was summed, or it can't be read."""
    if any(item is not None and len(item[1]) != len(AXES) for item in known):
        return None
    try:
        parsed = Equation.parse(equation, ranks)
    except EquationError:
        return None
    if len(parsed.inputs) != len(known):
        return None
    inputs = [
        labels if item is None else tuple(labels[item[1].index(axis)] for axis in AXES)
        for labels, item in zip(parsed.inputs, known, strict=True)
    ]
    return Equation(tuple(inputs), parsed.output), tuple(item and item[0] for item in known)


class _Plan(NamedTuple):
    """How windows are summed: the input's dimensions in order, how many of them are kept, the output's."""

    order: tuple[int, ...]
    kept: int
    patterns: tuple[IndexPattern, ...]
    scale: float
    output: tuple[int, ...]

    def run(self, x: Tensor) -> Tensor:
        """The contraction of an input."""
        ordered = x.permute(self.order)
        lead, sizes = ordered.shape[: self.kept], ordered.shape[self.kept :]
        sums = sum_windows(ordered.reshape(1, prod(lead), *sizes), self.patterns)
        sums = sums if self.scale == 1 else sums * self.scale
        return sums.reshape(*lead, *sums.shape[2:]).permute(self.output)


@lru_cache(maxsize=1024)
def _plan(equation: str, shape: tuple[int, ...], known: Known) -> _Plan | None:
    """How to sum windows for a contraction; None where it does anything else.

    Args:
        equation: what is contracted.
        shape: the shape of the one operand that is no pattern.
        known: for each operand the pattern, the axes and the scale of weights, or None for that one.
    """
    try:
        parsed = Equation.parse(equation, [len(shape) if item is None else len(item[1]) for item in known])
    except EquationError:
        return None
    if len(parsed.inputs) != len(known):
        return None
    labels = parsed.inputs[known.index(None)]
    patterns: dict[int, IndexPattern] = {}  # by the label of the input
    kernels: dict[int, int] = {}
    scale = 1.0
    for item, own in zip(known, parsed.inputs, strict=True):
        if item is None:
            continue
        pattern, axes, factor = item
        if set(axes) != {KERNEL, INPUT}:
            return None
        label = dict(zip(axes, own, strict=True))
        slid = label[INPUT]
        if slid not in labels or slid in patterns or shape[labels.index(slid)] != pattern.input_size:
            return None
        patterns[slid], kernels[slid] = pattern, label[KERNEL]
        scale *= factor
    # In front what is kept, behind what windows slide over.
    front = [label for label in labels if label not in patterns]
    behind = [label for label in labels if label in patterns]
    made = [*front, *(kernels[label] for label in behind)]
    distinct = len(set(labels)) == len(labels) and len(set(made)) == len(made)
    if not distinct or set(made) & set(behind) or sorted(made) != sorted(parsed.output):
        return None
    return _Plan(
        tuple(labels.index(label) for label in (*front, *behind)),
        len(front),
        tuple(patterns[label] for label in behind),
        scale,
        tuple(made.index(label) for label in parsed.output),
    )
