"""Contractions with index patterns that are native convolutions, as calls of torch in a graph.

Where :mod:`einfx.conv.lowering` knows the sizes of every tensor, a graph is called with others: what is
written here reorders, merges and splits dimensions without naming a size, and checks those that the patterns
fix.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx

from .conv.gradients import input_gradient, weight_gradient
from .conv.guards import matched
from .equation import Equation
from .nodes import Contraction, pattern_of, size_read, value_of
from .pattern import IndexPattern

__all__ = ["NativeCall", "native_call", "write_native"]

Kind = Literal["forward", "input", "weight"]
Emit = Callable[..., fx.Node]

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_ROLES: tuple[tuple[Kind, tuple[int, int, int]], ...] = (
    ("forward", (2, 0, 1)),
    ("input", (1, 0, 2)),
    ("weight", (2, 1, 0)),
)
"""Which label of a pattern (kernel, output, input) the data, the kernel and the result carry."""


class _Spatial(NamedTuple):
    """A spatial dimension: the pattern for the example inputs, its node, and its labels."""

    pattern: IndexPattern
    node: fx.Node
    labels: tuple[int, ...]

    @property
    def fixed(self) -> bool:
        """Whether the pattern is one for inputs of every size."""
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
    spatial: list[_Spatial]
    output: tuple[int, ...]


def native_call(contraction: Contraction) -> NativeCall | None:
    """The native convolution that a contraction is, for inputs of every size.

    Args:
        contraction: one with index patterns.

    Returns:
        None where it is none, or none of at most three dimensions.
    """
    tensors: list[tuple[fx.Node, tuple[int, ...]]] = []
    spatial: list[_Spatial] = []
    for operand, labels in zip(contraction.operands, contraction.equation.inputs, strict=True):
        pattern = pattern_of(operand)
        if len(set(labels)) < len(labels):
            return None
        if pattern is None:
            tensors.append((operand, labels))
        else:
            spatial.append(_Spatial(pattern, operand, labels))
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
    one: _Spatial,
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
    spatial: list[_Spatial],
    roles: tuple[int, int, int],
) -> NativeCall | None:
    """Which labels make which dimension; None where one has no part in a convolution."""
    shared = {label for one in spatial for label in one.labels}
    parts: dict[tuple[bool, bool, bool], list[int]] = {}
    for label in dict.fromkeys((*data[1], *kernel[1], *equation.output)):
        if label not in shared:
            where = (label in data[1], label in kernel[1], label in equation.output)
            parts.setdefault(where, []).append(label)
    groups = parts.pop((True, True, True), [])
    summed = parts.pop((True, True, False), [])
    first = parts.pop((True, False, True), [])
    second = parts.pop((False, True, True), [])
    if parts:
        return None
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
        left, right = _sides(one)
        if call.kind == "input" and not all_fixed and not left == right == one.pattern.right >= 0:
            return False
        # What is cut on one side may not be more than there is, whatever is added on the other.
        if -min(left, 0) - min(right, 0) >= one.pattern.input_size:
            return False
    return True


def _sides(one: _Spatial) -> tuple[int, int]:
    """The padding with which torch computes the outputs of a pattern, alike on both sides where it may be."""
    left, right = one.pattern.left, one.pattern.right
    if one.fixed and left >= 0 and left != right:
        both = (one.pattern.input_size + 2 * left - one.pattern.kernel_span) // one.pattern.stride + 1
        right = left if both == one.pattern.output_size else right
    return left, right


def write_native(emit: Emit, call: NativeCall) -> fx.Node:
    """Write a native convolution.

    Args:
        emit: writes a call of a function, or of a method where it is given a name.
        call: what to write.

    Returns:
        The node of the result, in the dimensions of the contraction's output.
    """
    data, kernel = _guarded(emit, call)
    sizes = _Sizes(emit, {call.data_labels: data, call.kernel_labels: kernel})
    x = _arrange(emit, data, call.data_labels, call.data_parts)
    w = _arrange(emit, kernel, call.kernel_labels, call.kernel_parts)
    groups = sizes.product(call.groups)
    result = {"forward": _forward, "input": _input, "weight": _weight}[call.kind](emit, call, x, w, groups)
    return _rearrange(emit, result, call, sizes)


def _guarded(emit: Emit, call: NativeCall) -> tuple[fx.Node, fx.Node]:
    """Both tensors, with the sizes that the patterns and the other one have."""
    sizes: list[list[Any]] = []
    for node, labels in ((call.data, call.data_labels), (call.kernel, call.kernel_labels)):
        fixed = dict(_fixed(call, node, labels))
        sizes.append([fixed.get(label, -1) for label in labels])
    pairs = [
        place
        for label in call.data_labels
        if label in call.kernel_labels
        for place in (call.data_labels.index(label), call.kernel_labels.index(label))
    ]
    both = emit(matched, call.data, call.kernel, *sizes, pairs)
    return emit(operator.getitem, both, 0), emit(operator.getitem, both, 1)


def _fixed(call: NativeCall, node: fx.Node, labels: tuple[int, ...]) -> Iterator[tuple[int, Any]]:
    """The labels whose size a pattern fixes, with the size."""
    for one in call.spatial:
        kernel, outputs, inputs = one.labels
        yield kernel, one.pattern.kernel_size
        if one.fixed:
            yield outputs, one.pattern.output_size
            yield inputs, one.pattern.input_size
        elif inputs in labels:
            size: Any = one.node.args[0]
            if size_read(size) != (node, labels.index(inputs)):
                yield inputs, size


class _Sizes:
    """The size of a label, read from a tensor that has it, once."""

    def __init__(self, emit: Emit, tensors: dict[tuple[int, ...], fx.Node]) -> None:
        self._emit = emit
        self._tensors = tensors
        self._known: dict[int, fx.Node] = {}

    def __getitem__(self, label: int) -> fx.Node:
        if label not in self._known:
            labels, tensor = next((x, t) for x, t in self._tensors.items() if label in x)
            self._known[label] = self._emit("size", tensor, labels.index(label))
        return self._known[label]

    def product(self, labels: Sequence[int]) -> fx.Node | int:
        """The product of sizes: 1 where there are none."""
        result: fx.Node | int = 1
        for label in labels:
            result = self[label] if result == 1 else self._emit(operator.mul, result, self[label])
        return result


def _arrange(emit: Emit, node: fx.Node, labels: tuple[int, ...], parts: list[list[int]]) -> fx.Node:
    """A tensor with one dimension for each part: its labels merged, or of size 1 where it has none."""
    held = [[label for label in part if label in labels] for part in parts]
    order = [labels.index(label) for part in held for label in part]
    if order != list(range(len(order))):
        node = emit(torch.permute, node, tuple(order))
    for dim in reversed(range(len(held))):
        start = sum(len(part) for part in held[:dim])
        if not held[dim]:
            node = emit("unsqueeze", node, start)
        elif len(held[dim]) > 1:
            node = emit("flatten", node, start, start + len(held[dim]) - 1)
    return node


def _rearrange(emit: Emit, node: fx.Node, call: NativeCall, sizes: _Sizes) -> fx.Node:
    """The result with a dimension for each label of the output."""
    held = [[label for label in part if label in call.output] for part in call.result_parts]
    for dim in reversed(range(len(held))):
        if not held[dim]:
            node = emit("select", node, dim, 0)
        elif len(held[dim]) > 1:
            node = emit("unflatten", node, dim, [sizes[label] for label in held[dim]])
    got = [label for part in held for label in part]
    order = tuple(got.index(label) for label in call.output)
    return node if order == tuple(range(len(order))) else emit(torch.permute, node, order)


def _numbers(call: NativeCall) -> tuple[list[int], list[tuple[int, int]], list[int]]:
    patterns = [one.pattern for one in call.spatial]
    sides = [_sides(one) for one in call.spatial]
    return [p.stride for p in patterns], sides, [p.dilation for p in patterns]


def _padded(emit: Emit, x: fx.Node, sides: list[tuple[int, int]]) -> tuple[fx.Node, list[int]]:
    """The data, padded where torch's convolutions can't, and the padding that is left to them."""
    if all(left == right >= 0 for left, right in sides):
        return x, [left for left, _ in sides]
    return emit(F.pad, x, [side for pair in reversed(sides) for side in pair]), [0] * len(sides)


def _forward(emit: Emit, call: NativeCall, x: fx.Node, w: fx.Node, groups: fx.Node | int) -> fx.Node:
    strides, sides, dilations = _numbers(call)
    x, padding = _padded(emit, x, sides)
    return emit(_CONVOLUTIONS[len(strides)], x, w, None, strides, padding, dilations, groups)


def _weight(emit: Emit, call: NativeCall, x: fx.Node, v: fx.Node, groups: fx.Node | int) -> fx.Node:
    strides, sides, dilations = _numbers(call)
    x, padding = _padded(emit, x, sides)
    kernel = [one.pattern.kernel_size for one in call.spatial]
    return emit(weight_gradient, x, v, kernel, strides, padding, dilations, groups)


def _input(emit: Emit, call: NativeCall, v: fx.Node, w: fx.Node, groups: fx.Node | int) -> fx.Node:
    strides, _, dilations = _numbers(call)
    patterns = [one.pattern for one in call.spatial]
    if not all(one.fixed for one in call.spatial):
        sizes = [one.node.args[0] for one in call.spatial]
        padding = [pattern.left for pattern in patterns]
        return emit(input_gradient, v, w, sizes, strides, padding, dilations, groups)
    wholes = [pattern.stride * (pattern.output_size - 1) + pattern.kernel_span for pattern in patterns]
    extras = [p.input_size + 2 * p.left - whole for p, whole in zip(patterns, wholes, strict=True)]
    transposed = _TRANSPOSED[len(strides)]
    if all(
        p.left >= 0 and 0 <= extra < max(p.stride, p.dilation)
        for p, extra in zip(patterns, extras, strict=True)
    ):
        padding = [pattern.left for pattern in patterns]
        return emit(transposed, v, w, None, strides, padding, extras, groups, dilations)
    none = [0] * len(strides)
    out = emit(transposed, v, w, None, strides, none, none, groups, dilations)
    margins = [(-p.left, p.input_size + p.left - whole) for p, whole in zip(patterns, wholes, strict=True)]
    return emit(F.pad, out, [side for pair in reversed(margins) for side in pair])
