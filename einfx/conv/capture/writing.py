"""A linear program over windows, weighed by its plan and written into a graph."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from math import inf, prod
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from ...graphs.folding import attribute
from ...graphs.nodes import VALUE, Value, insert_contraction, set_value, value_of
from ...graphs.scaling import insert_scaled
from ...machine import machine_for
from ...pattern import IndexPattern
from ...planning import plan
from ..planning import plan_network
from ..symbolic.network import Network, Operand
from ..symbolic.views import View
from .forms import Form, Leaf, Size, SizeOf, Slid, Slide
from .readings import Source

__all__ = ["FormWriter", "form_seconds", "present", "shape_of"]


def shape_of(source: Source, owner: nn.Module) -> tuple[int, ...]:
    """The shape of a node's value, or of an attribute of the module that owns the graph."""
    if isinstance(source, str):
        return tuple(attribute(owner, source).shape)
    value = value_of(source)
    if value is None:
        raise AssertionError(f"the value of {source} was known when it was read")
    return value.shape


def size_of(size: Size, owner: nn.Module) -> int:
    """A size for the example inputs."""
    if isinstance(size, int):
        return size
    if isinstance(size, SizeOf):
        return _padded(size.leaf, owner)[size.dim]
    number = size_of(size.size, owner)
    pattern = size.window.pattern(number)
    return pattern.output_size if size.window.extra is None else pattern.input_size


def _padded(leaf: Leaf, owner: nn.Module) -> list[int]:
    """The shape of a leaf before it is reshaped."""
    shape = list(shape_of(leaf.source, owner))
    if leaf.boundary is not None:
        sides = leaf.boundary[0]
        for i in range(len(sides) // 2):
            shape[-1 - i] += sides[2 * i] + sides[2 * i + 1]
    return shape


def leaf_shape(leaf: Leaf, owner: nn.Module) -> tuple[int, ...]:
    """The shape of a leaf for the example inputs."""
    shape = _padded(leaf, owner)
    if leaf.merged:
        shape[:2] = [shape[0] * shape[1]]
    for dim, sizes in leaf.splits:
        known = [1 if size is None else size_of(size, owner) for size in sizes]
        shape[dim : dim + 1] = [
            shape[dim] // prod(known) if size is None else number
            for size, number in zip(sizes, known, strict=True)
        ]
    return tuple(shape)


def form_seconds(form: Form, owner: nn.Module, like: Value) -> float:
    """The predicted time of a form: of its contraction, its number, its divisors and its bias.

    It is infinite where the plan has steps over other patterns than those that are written into the graph.

    Args:
        form: the form.
        owner: the module whose attributes it names.
        like: a value of its dtype and device.
    """
    operands: list[Operand] = []
    first: dict[Leaf, int] = {}
    for position, operand in enumerate(form.operands):
        if isinstance(operand, Slide):
            operands.append(operand.window.pattern(size_of(operand.size, owner)))
        else:
            operands.append(View(first.setdefault(operand, position), leaf_shape(operand, owner)))
    shapes = [operand.shape for operand in operands]
    if any(isinstance(operand, IndexPattern) for operand in operands):
        network = Network(form.equation, tuple(operands))
        chosen = plan_network(network, like.dtype, like.device.type)
        if len(chosen.steps) > 1 and chosen.network != network:
            # Its steps are of other patterns, several of these in a row as one: no graph is split into those.
            return inf
        seconds = chosen.seconds
    else:
        seconds = plan(form.equation, shapes, dtype=like.dtype, device=str(like.device)).seconds
    machine = machine_for(like.device)
    result = prod(form.equation.output_shape(shapes))
    smallest = min(result, *(prod(operand.shape) for operand in operands if isinstance(operand, View)))
    passes = [smallest] if not form.scale.is_one else []
    passes += [result] * (bool(form.divisors) + (form.bias is not None))
    for elements in passes:
        seconds += machine.op_seconds + machine.stream(2 * elements * like.dtype.itemsize)
    return seconds


def present(bias: Tensor | None) -> Tensor:
    """A bias that is known to be there.

    Example:
        >>> import torch
        >>> present(torch.ones(2))
        tensor([1., 1.])
    """
    assert bias is not None
    return bias


class FormWriter:
    """Writes a form before a node of a graph.

    Args:
        graph: the graph.
        owner: the module whose attributes forms name.
    """

    def __init__(self, graph: fx.Graph, owner: nn.Module) -> None:
        self._graph = graph
        self._owner = owner
        self._nodes: dict[Any, fx.Node | int] = {}
        self.written: list[fx.Node] = []

    def write(self, form: Form) -> fx.Node:
        """Write a form at the graph's insertion point.

        Returns:
            The node with its value.
        """
        operands = [
            self._pattern(operand) if isinstance(operand, Slide) else self._leaf(operand)
            for operand in form.operands
        ]
        node = insert_contraction(self._graph, form.equation, operands)
        self.written.append(node)
        node = self._grouped(node, form)
        if not form.scale.is_one:
            node = self._note(insert_scaled(self._graph, form.scale, node))
        if form.divisors:
            node = self._divided(node, form.divisors)
        if form.bias is not None:
            bias = self.scaled(self.bias(form.bias.source), form.bias.scale)
            if form.bias.trailing:
                bias = self.call("reshape", bias, -1, *(1,) * form.bias.trailing)
                value = value_of(bias.args[0])
                if value is not None:
                    set_value(bias, (*value.shape, *(1,) * form.bias.trailing), bias.args[0])  # type: ignore[arg-type]
            added = self._note(self._graph.call_function(operator.add, (node, bias)))
            node = self._like(added, node)
        return node

    def bias(self, source: Source) -> fx.Node:
        """A bias: TorchScript takes that of a module of torch for one that may be missing."""
        node = self.source(source)
        if not isinstance(source, str):
            return node
        return self._like(self.call(present, node), node)

    def scaled(self, source: Source, scale: Any) -> fx.Node:
        """A tensor from outside times a number."""
        node = self.source(source)
        return node if scale.is_one else self._note(insert_scaled(self._graph, scale, node))

    def source(self, source: Source) -> fx.Node:
        """A tensor from outside."""
        if isinstance(source, fx.Node):
            return source
        if source not in self._nodes:
            node = self._graph.get_attr(source)
            value = Value.of(attribute(self._owner, source))
            if value is not None:
                node.meta[VALUE] = value
            self._nodes[source] = self._note(node)
        return self._nodes[source]  # type: ignore[return-value]

    def _note(self, node: fx.Node) -> fx.Node:
        self.written.append(node)
        return node

    def _like(self, node: fx.Node, other: fx.Node) -> fx.Node:
        value = value_of(other)
        if value is not None:
            set_value(node, value.shape, other)
        return node

    def call(self, function: Any, *arguments: Any) -> fx.Node:
        """A call of a function, or of a method by its name."""
        create = self._graph.call_method if isinstance(function, str) else self._graph.call_function
        return self._note(create(function, arguments))

    def copy(self, node: fx.Node, replaced: Mapping[fx.Node, fx.Node]) -> fx.Node:
        """The very call of a node, with other nodes among its arguments."""
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda x: replaced.get(x, x))
        return self._note(self._graph.create_node(node.op, node.target, args, kwargs))

    def _compute(self, function: Any, left: fx.Node | int, right: fx.Node | int) -> fx.Node | int:
        """Arithmetic with sizes: at once where both are numbers."""
        if isinstance(left, int) and isinstance(right, int):
            return int(function(left, right))
        if (function in (operator.add, operator.sub) and right == 0) or (
            function in (operator.mul, operator.floordiv) and right == 1
        ):
            return left
        return self._note(self._graph.call_function(function, (left, right)))

    def _size(self, size: Size) -> fx.Node | int:
        if isinstance(size, int):
            return size
        if size not in self._nodes:
            if isinstance(size, SizeOf):
                self._nodes[size] = self.call("size", self.base(size.leaf), size.dim)
            else:
                self._nodes[size] = self._slid(size)
        return self._nodes[size]

    def _slid(self, slid: Slid) -> fx.Node | int:
        """The number of outputs of a window, or of inputs of a transposed one."""
        window, size = slid.window, self._size(slid.size)
        reach = self._compute(
            operator.mul, self._compute(operator.sub, self._size(slid.kernel), 1), window.dilation
        )
        left, right = window.sides if window.extra is None else window.padding
        if window.extra is None:
            # (size + left + right - reach - 1) // stride + 1, in as few operations as there can be.
            if isinstance(reach, int) and window.stride == 1:
                return self._add(size, left + right - reach)
            free = self._compute(operator.sub, size, reach) if not isinstance(reach, int) else size
            if window.stride == 1:
                return self._add(free, left + right)
            constant = left + right - 1 - (reach if isinstance(reach, int) else 0)
            return self._add(self._compute(operator.floordiv, self._add(free, constant), window.stride), 1)
        grown = self._compute(operator.mul, size, window.stride)
        constant = window.extra + 1 - left - right - window.stride
        if isinstance(reach, int):
            return self._add(grown, constant + reach)
        return self._add(self._compute(operator.add, grown, reach), constant)

    def _add(self, size: fx.Node | int, number: int) -> fx.Node | int:
        if number < 0:
            return self._compute(operator.sub, size, -number)
        return self._compute(operator.add, size, number)

    def _pattern(self, slide: Slide) -> fx.Node:
        if slide not in self._nodes:
            window, size = slide.window, self._size(slide.size)
            if window.input_size is not None:
                size = window.input_size
            elif window.extra is not None:
                size = self._size(Slid(slide.size, window, slide.kernel))
            numbers = size, self._size(slide.kernel), window.stride, window.sides, window.dilation
            self._nodes[slide] = self._note(self._graph.call_function(IndexPattern, numbers))
        return self._nodes[slide]  # type: ignore[return-value]

    def base(self, leaf: Leaf) -> fx.Node:
        """A leaf before it is reshaped: padded, where it has a boundary."""
        node = self.source(leaf.source)
        if leaf.boundary is None:
            return node
        key = "padded", leaf.source, leaf.boundary
        if key not in self._nodes:
            padded = self.call(F.pad, node, *leaf.boundary)
            set_value(padded, _padded(leaf, self._owner), node)
            self._nodes[key] = padded
        return self._nodes[key]  # type: ignore[return-value]

    def _leaf(self, leaf: Leaf) -> fx.Node:
        if leaf not in self._nodes:
            node = base = self.base(leaf)
            done = Leaf(leaf.source, leaf.boundary, (), leaf.merged)
            if leaf.merged:
                node = self.call("flatten", node, 0, 1)
                set_value(node, leaf_shape(done, self._owner), base)
            for i, (dim, sizes) in enumerate(leaf.splits):
                parts = tuple(-1 if size is None else self._size(size) for size in sizes)
                node = self.call("unflatten", node, dim, parts)
                done = Leaf(leaf.source, leaf.boundary, leaf.splits[: i + 1], leaf.merged)
                set_value(node, leaf_shape(done, self._owner), base)
            self._nodes[leaf] = node
        return self._nodes[leaf]  # type: ignore[return-value]

    def _grouped(self, node: fx.Node, form: Form) -> fx.Node:
        """Dimensions merged that are groups, from the last one on."""
        value, at = value_of(node), sum(len(group) for group in form.output)
        shape = None if value is None else list(value.shape)
        for group in reversed(form.output):
            at -= len(group)
            if len(group) == 1:
                continue
            inner = node
            if group:
                node = self.call("flatten", node, at, at + len(group) - 1)
            else:
                node = self.call("unsqueeze", node, at)
            if shape is not None:
                shape[at : at + len(group)] = [prod(shape[at : at + len(group)])]
                set_value(node, shape, inner)
        return node

    def _divided(self, node: fx.Node, divisors: Sequence[Size]) -> fx.Node:
        count: fx.Node | int = 1
        for size in divisors:
            number = self._size(size)
            count = number if count == 1 else self._compute(operator.mul, count, number)
        return self._like(self._note(self._graph.call_function(operator.truediv, (node, count))), node)
