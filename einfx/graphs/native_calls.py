"""Which native convolution a contraction of a graph is, for inputs of every size.

Where :mod:`einfx.conv.steps.lowering` knows the sizes of every tensor, a graph is called with others: only
what holds for all that the patterns allow counts here. :mod:`einfx.graphs.native_writing` writes the call.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import fx

from ..conv.steps.lowering import roles_of
from ..equation import Equation
from ..pattern import IndexPattern
from .nodes import Contraction, pattern_of, value_of

__all__ = ["NativeCall", "Spatial", "native_call", "sides_of"]

Kind = Literal["forward", "input", "weight"]
_ROLES: tuple[tuple[Kind, tuple[int, int, int]], ...] = (
    ("forward", (2, 0, 1)),
    ("input", (1, 0, 2)),
    ("weight", (2, 1, 0)),
)
"""Which label of a pattern (kernel, output, input) the data, the kernel and the result carry."""


class Spatial(NamedTuple):
    """A spatial dimension: the pattern for the example inputs, its node, and its labels."""

    pattern: IndexPattern
    node: fx.Node
    labels: tuple[int, ...]

    @property
    def fixed(self) -> bool:
        """Whether the size of its input is a number, and not read off a tensor in the call."""
        return not self.node.all_input_nodes


class NativeCall(NamedTuple):
    """A contraction as one native convolution, by which labels make which dimension.

    Args:
        kind: the convolution itself, or its gradient with respect to the input or the kernel.
        data: the node of the data.
        kernel: the node of the kernel; of a gradient of the kernel, that of the output's gradient.
        data_labels: the labels of the data.
        kernel_labels: those of the kernel.
        data_parts: the labels that make each dimension of the data.
        kernel_parts: the same for the kernel.
        result_parts: the same for the result.
        groups: labels of the groups.
        spatial: the spatial dimensions.
        output: the labels of the contraction's output.
    """

    kind: Kind
    data: fx.Node
    kernel: fx.Node
    data_labels: tuple[int, ...]
    kernel_labels: tuple[int, ...]
    data_parts: list[list[int]]
    kernel_parts: list[list[int]]
    result_parts: list[list[int]]
    groups: list[int]
    spatial: list[Spatial]
    output: tuple[int, ...]


def native_call(contraction: Contraction) -> NativeCall | None:
    """The native convolution that a contraction is, for inputs of every size.

    Args:
        contraction: one with index patterns.

    Returns:
        None where it is none, or none of at most three dimensions.

    Example:
        >>> import torch, einfx
        >>> from einfx.graphs.nodes import as_contraction
        >>> from einfx.graphs.shapes import propagate
        >>> p = IndexPattern(8, 3)
        >>> traced = fx.symbolic_trace(lambda x, w: einfx.einsum("ngci,koi,gdck->ngdo", x, p, w))
        >>> propagate(traced, (torch.ones(2, 3, 5, 8), torch.ones(3, 4, 5, 3)))
        []
        >>> (call,) = [native_call(c) for node in traced.graph.nodes if (c := as_contraction(node))]
        >>> call.kind, call.groups, call.result_parts
        ('forward', [1], [[0], [1, 6], [5]])
    """
    tensors: list[tuple[fx.Node, tuple[int, ...]]] = []
    spatial: list[Spatial] = []
    for operand, labels in zip(contraction.operands, contraction.equation.inputs, strict=True):
        pattern = pattern_of(operand)
        if len(set(labels)) < len(labels):
            return None
        if pattern is None:
            tensors.append((operand, labels))
        else:
            spatial.append(Spatial(pattern, operand, labels))
    shared = [label for one in spatial for label in one.labels]
    if len(tensors) != 2 or not 1 <= len(spatial) <= 3 or len(set(shared)) < len(shared):
        return None
    if not _is_even(contraction):
        return None
    for data, kernel in (tensors, tensors[::-1]):
        for kind, roles in _ROLES:
            if all(_fits(contraction.equation, one, roles, data[1], kernel[1]) for one in spatial):
                call = _arranged(contraction.equation, kind, data, kernel, spatial, roles)
                if call is not None and _has_padding(call):
                    return call
    return None


def _is_even(contraction: Contraction) -> bool:
    """Whether, for the example inputs, nothing is stretched from size 1."""
    values = [value_of(operand) for operand in contraction.operands]
    shapes = [value.shape for value in values if value is not None]
    if len(shapes) < len(values):
        return False
    sizes = contraction.equation.sizes(shapes)
    return all(
        size == sizes[label]
        for labels, shape in zip(contraction.equation.inputs, shapes, strict=True)
        for label, size in zip(labels, shape, strict=True)
    )


def _fits(
    equation: Equation,
    one: Spatial,
    roles: tuple[int, int, int],
    data: tuple[int, ...],
    kernel: tuple[int, ...],
) -> bool:
    """Whether the labels of a pattern are where they should be, and nowhere else."""
    places = (data, kernel, equation.output)
    for place, role in enumerate(roles):
        label = one.labels[role]
        # A size of 1 that stays 1 needs no dimension.
        absent = one.fixed and one.pattern.shape[role] == 1
        if label not in places[place] and not absent:
            return False
        if any(label in labels for other, labels in enumerate(places) if other != place):
            return False
    return True


def _arranged(
    equation: Equation,
    kind: Kind,
    data: tuple[fx.Node, tuple[int, ...]],
    kernel: tuple[fx.Node, tuple[int, ...]],
    spatial: list[Spatial],
    roles: tuple[int, int, int],
) -> NativeCall | None:
    """Which labels make which dimension; None where one has no part in a convolution."""
    shared = {label for one in spatial for label in one.labels}
    found = roles_of(data[1], kernel[1], equation.output, shared)
    if found is None:
        return None
    groups, summed, first, second = found
    order = {label: place for place, label in enumerate(data[1])}
    spatial = sorted(spatial, key=lambda one: order.get(one.labels[roles[0]], len(order)))
    here, there, made = ([[one.labels[role]] for one in spatial] for role in roles)
    if kind == "weight":
        data_parts, kernel_parts = [summed, groups + first], [summed, groups + second]
        result_parts = [groups + second, first]
    else:
        data_parts = [first, groups + summed]
        kernel_parts = [groups + second, summed] if kind == "forward" else [groups + summed, second]
        result_parts = [first, groups + second]
    return NativeCall(
        kind,
        data[0],
        kernel[0],
        data[1],
        kernel[1],
        data_parts + here,
        kernel_parts + there,
        result_parts + made,
        groups,
        spatial,
        equation.output,
    )


def _has_padding(call: NativeCall) -> bool:
    """Whether torch can pad, or cut, as the patterns say for inputs of every size."""
    all_fixed = all(one.fixed for one in call.spatial)
    for one in call.spatial:
        left, right = sides_of(one)
        if call.kind == "input" and not all_fixed and not left == right == one.pattern.right >= 0:
            return False
        # What is cut on one side may not be more than there is, whatever is added on the other.
        if -min(left, 0) - min(right, 0) >= one.pattern.input_size:
            return False
    return True


def sides_of(one: Spatial) -> tuple[int, int]:
    """The padding with which torch computes the outputs of a pattern, alike on both sides where it may be."""
    left, right = one.pattern.left, one.pattern.right
    if one.fixed and left >= 0 and left != right:
        both = (one.pattern.input_size + 2 * left - one.pattern.kernel_span) // one.pattern.stride + 1
        right = left if both == one.pattern.output_size else right
    return left, right
