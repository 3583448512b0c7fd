"""What a graph costs: FLOPs of its contractions and the peak bytes of its values, predicted from shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import opt_einsum
import torch
from torch import fx

from ..equation import Equation
from ..kernels import helpers
from ..legality import Effects
from ..options import REAL
from ..pattern import IndexPattern
from .networks import plan_of
from .nodes import Contraction, Value, as_contraction, pattern_of, value_of
from .spellings import read_with_bias

__all__ = ["LOWERED", "Estimate", "Lowered", "contraction_flops", "estimate", "flops_of"]

LOWERED = "einfx_lowered"
"""The metadata key under which each node of a lowered contraction has its :class:`Lowered`."""


class Lowered(NamedTuple):
    """The contraction that the nodes with the same ``key`` compute together."""

    key: str
    equation: str
    shapes: tuple[tuple[int, ...], ...]
    flops: int


class Estimate(NamedTuple):
    """The predicted cost of running a graph once on its example inputs."""

    flops: int
    """Additions and multiplications of its contractions (2·b·i·j·k for a matrix product)."""
    peak_bytes: int
    """The most that values other than inputs and attributes hold at one time."""


def estimate(graph: fx.Graph, owner: torch.nn.Module | None = None) -> Estimate:
    """Predict the FLOPs of the graph's contractions and the peak bytes of its values.

    An einsum of three or more operands counts along the path that torch.einsum takes for it, and so do its
    intermediates. Values of unknown shape, and what else torch allocates inside an operation, count nothing.

    Example:
        >>> import torch
        >>> from einfx.graphs.shapes import propagate
        >>> traced = fx.symbolic_trace(lambda x, w: (x @ w).exp())
        >>> propagate(traced, (torch.ones(2, 3), torch.ones(3, 4)))
        []
        >>> estimate(traced.graph)
        Estimate(flops=48, peak_bytes=64)
    """
    flops = 0
    counted = set()
    for node in graph.nodes:
        lowered = node.meta.get(LOWERED)
        if lowered is not None:
            if lowered.key not in counted:
                counted.add(lowered.key)
                flops += lowered.flops
            continue
        contraction, _ = read_with_bias(node)
        if contraction is not None:
            flops += flops_of(contraction) or 0
    return Estimate(flops, _peak_bytes(graph, Effects.of(graph, owner)))


def flops_of(contraction: Contraction) -> int | None:
    """Additions and multiplications of a contraction, or None where a shape isn't known.

    With index patterns they are those of the steps of its plan.
    """
    values = [value_of(operand) for operand in contraction.operands]
    shapes = tuple(value.shape for value in values if value is not None)
    if len(shapes) < len(values):
        return None
    if not contraction.has_patterns:
        return contraction_flops(contraction.equation, shapes)
    if len(contraction.tensors) > 2 and (planned := plan_of(contraction)) is not None:
        return planned.flops
    patterns = tuple(pattern_of(operand) for operand in contraction.operands)
    return _flops_with_patterns(contraction.equation, shapes, patterns)


@lru_cache(maxsize=4096)
def _flops_with_patterns(
    equation: Equation, shapes: tuple[tuple[int, ...], ...], patterns: tuple[IndexPattern | None, ...]
) -> int:
    """As of one sum over all labels in which zeros of the patterns are left out."""
    sizes = equation.sizes(shapes)
    labels = frozenset(equation.labels)
    iterations = 1
    for pattern, there in zip(patterns, equation.inputs, strict=True):
        if pattern is not None and labels.issuperset(there):
            labels -= frozenset(there)
            iterations *= pattern.ones
    tensors = sum(pattern is None for pattern in patterns)
    summed = bool(frozenset(equation.labels) - frozenset(equation.output))
    for label in labels:
        iterations *= sizes[label]
    return iterations * (tensors - 1 + summed)


@lru_cache(maxsize=4096)
def contraction_flops(equation: Equation, shapes: tuple[tuple[int, ...], ...]) -> int:
    """Additions and multiplications of a contraction, pairwise along the path that torch.einsum takes.

    Example:
        >>> contraction_flops(Equation.parse("ij,jk->ik"), ((2, 3), (3, 4)))
        48
    """
    if len(shapes) <= 2:
        return pair_flops(equation, equation.sizes(shapes))
    sizes = equation.sizes(shapes)
    return sum([_count(sizes, labels, kept, count) for labels, kept, count, _ in _steps(equation, shapes)])


@lru_cache(maxsize=4096)
def intermediate_elements(equation: Equation, shapes: tuple[tuple[int, ...], ...]) -> int:
    """The most elements that results of its steps have at one time, the last one's included.

    Example:
        >>> intermediate_elements(Equation.parse("ij,jk,kl->il"), ((2, 3), (3, 4), (4, 5)))
        18
    """
    sizes = equation.sizes(shapes)
    held, most = [0] * len(shapes), 0
    for _, kept, _, positions in _steps(equation, shapes):
        made = _elements(sizes, kept)
        most = max(most, sum(held) + made)
        for position in positions:
            del held[position]
        held.append(made)
    return most


def _steps(
    equation: Equation, shapes: tuple[tuple[int, ...], ...]
) -> Iterator[tuple[frozenset[int], frozenset[int], int, list[int]]]:
    """The labels of each step of torch.einsum, those of its result, and the operands it takes, last first."""
    path, _ = opt_einsum.contract_path(str(equation), *shapes, shapes=True, optimize="auto")
    labels = [frozenset(x) for x in equation.inputs]
    for step in path:
        positions = sorted(step, reverse=True)
        taken = [labels.pop(position) for position in positions]
        together = frozenset[int]().union(*taken)
        kept = together & frozenset(equation.output).union(*labels)
        yield together, kept, len(taken), positions
        labels.append(kept)


def _elements(sizes: dict[int, int], labels: frozenset[int]) -> int:
    return math.prod([sizes[label] for label in labels])


def pair_flops(equation: Equation, sizes: dict[int, int]) -> int:
    """Additions and multiplications of one step: one multiplication less than operands, and the sum."""
    return _count(sizes, frozenset(equation.labels), frozenset(equation.output), len(equation.inputs))


def _count(sizes: dict[int, int], labels: frozenset[int], kept: frozenset[int], operands: int) -> int:
    return _elements(sizes, labels) * (operands - 1 + (labels != kept))


def _peak_bytes(graph: fx.Graph, effects: Effects) -> int:
    last_use: dict[fx.Node, fx.Node] = {}
    nodes = list(graph.nodes)
    for node in nodes:
        for operand in node.all_input_nodes:
            for root in effects.memory_of(operand):
                if isinstance(root, fx.Node):
                    last_use[root] = node
    freed: dict[fx.Node, list[fx.Node]] = {}
    for root, node in last_use.items():
        freed.setdefault(node, []).append(root)
    held: dict[fx.Node, int] = {}
    now = peak = 0
    for node in nodes:
        value = value_of(node)
        memory = effects.memory_of(node)
        fresh = memory == {node} or getattr(node.target, "__module__", "") == helpers.__name__
        if value is not None and fresh:
            peak = max(peak, now + _inside(node, value))
            held[node] = value.bytes
            now += value.bytes
            peak = max(peak, now)
        for root in freed.get(node, []):
            now -= held.pop(root, 0)
    return peak


def _inside(node: fx.Node, result: Value) -> int:
    """The bytes that torch.einsum makes of three and more operands, the result included."""
    contraction = as_contraction(node) if node.meta.get(LOWERED) is None else None
    if contraction is None or len(contraction.operands) < 3 or contraction.has_patterns:
        return 0
    values = [value_of(operand) for operand in contraction.operands]
    shapes = tuple([value.shape for value in values if value is not None])
    if len(shapes) < len(values) or contraction.options != REAL:
        return 0
    return int(result.dtype.itemsize) * intermediate_elements(contraction.equation, shapes)
