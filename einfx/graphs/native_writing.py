"""Native convolutions as calls of torch in a graph, right for inputs of every size that the patterns allow.

Dimensions are reordered, merged and split without naming a size, and those that patterns fix are checked.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from ..conv.gradients import input_gradient, weight_gradient
from ..conv.guards import matched
from .native_calls import NativeCall, sides_of
from .nodes import size_read

__all__ = ["write_native"]

Emit = Callable[..., fx.Node]

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


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
    batched = (True,) if call.kind == "weight" else ()
    both = emit(matched, call.data, call.kernel, *sizes, pairs, *batched)
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
    sides = [sides_of(one) for one in call.spatial]
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
