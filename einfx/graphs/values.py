"""What is known of the value of a node: the shape and dtype of a tensor, a number, an index pattern.

An index pattern stands in a graph as the call that makes it, from integers or from sizes of tensors. It is a
constant without memory, and of no dtype and device of its own.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import fx

from ..errors import EinfxError
from ..pattern import IndexPattern

__all__ = [
    "VALUE",
    "Value",
    "erase_unused_patterns",
    "is_pattern",
    "number_of",
    "pattern_of",
    "set_value",
    "size_read",
    "value_of",
]


class Value(NamedTuple):
    """What is known of the tensor that a node computes, for the example inputs."""

    shape: tuple[int, ...]
    """Number of elements per dimension: hints, never a promise about other inputs."""
    strides: tuple[int, ...] | None
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes(self) -> int:
        """Bytes of a dense tensor of this shape and dtype."""
        elements = 1
        for size in self.shape:
            elements *= size
        return elements * self.dtype.itemsize

    @classmethod
    def of(cls, tensor: torch.Tensor, device: torch.device | None = None) -> Value | None:
        """What ``tensor`` tells of itself; None where a symbolic size has no hint."""
        shape = _hints(tensor.shape)
        if shape is None:
            return None
        strides = _hints(tensor.stride()) if tensor.layout is torch.strided else None
        return cls(shape, strides, tensor.dtype, tensor.device if device is None else device)

    def on_meta(self) -> torch.Tensor:
        """A tensor without data that looks like this value."""
        if self.strides is None:
            return torch.empty(self.shape, dtype=self.dtype, device="meta")
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device="meta")


VALUE = "einfx_value"
"""The metadata key of a node's :class:`Value`, where no tensor under ``"val"`` tells it."""


def value_of(node: Any) -> Value | None:
    """The shape, strides, dtype and device of the tensor that ``node`` computes.

    Args:
        node: a node of a graph (anything else has no value).

    Returns:
        None where the node's value isn't a tensor or isn't known. Symbolic sizes are read by their hint,
        so reading one adds no guard. An index pattern has a shape, and bool on the meta device for what it
        has not.

    Example:
        >>> import torch
        >>> from einfx.graphs.shapes import propagate
        >>> traced = torch.fx.symbolic_trace(lambda x: x.sum(0))
        >>> propagate(traced, (torch.ones(2, 3),))
        []
        >>> [value_of(node).shape for node in traced.graph.nodes if node.op != "output"]
        [(2, 3), (3,)]
    """
    if not isinstance(node, fx.Node):
        return None
    meta = node.meta
    known: Value | None = meta.get(VALUE)
    if known is not None:
        return known
    if node.target is IndexPattern:
        pattern = pattern_of(node)
        return None if pattern is None else _value_of_pattern(pattern)
    tensor = meta.get("val", meta.get("example_value"))
    if tensor is None:
        tensor = meta.get("tensor_meta")
        if tensor is None or not hasattr(tensor, "dtype"):
            return None
        stride = getattr(tensor, "stride", None)
        return Value(
            tuple(tensor.shape), stride, tensor.dtype, getattr(tensor, "device", torch.device("cpu"))
        )
    if not isinstance(tensor, torch.Tensor):
        return None
    return Value.of(tensor)


def _hints(sizes: Sequence[Any]) -> tuple[int, ...] | None:
    result = []
    for size in sizes:
        if isinstance(size, torch.SymInt):
            size = size.node.hint
            if size is None:
                return None
        result.append(int(size))
    return tuple(result)


def is_pattern(node: Any) -> bool:
    """Whether ``node`` is a call that makes an index pattern."""
    return isinstance(node, fx.Node) and node.target is IndexPattern


def pattern_of(node: Any) -> IndexPattern | None:
    """The index pattern that a node makes, for the example inputs.

    Args:
        node: a call of :class:`~einfx.pattern.IndexPattern`; any other node makes none.

    Returns:
        None also where a number of it isn't known, or none of the pattern's.

    Example:
        >>> import torch
        >>> graph = torch.fx.Graph()
        >>> x = graph.placeholder("x")
        >>> x.meta["val"] = torch.empty(2, 8)
        >>> pattern_of(graph.call_function(IndexPattern, (graph.call_method("size", (x, 1)), 3)))
        IndexPattern(8, 3)
    """
    if not is_pattern(node):
        return None
    numbers = fx.node.map_aggregate((node.args, tuple(sorted(node.kwargs.items()))), _number_or_itself)
    try:
        return _pattern(*numbers)
    except (EinfxError, TypeError):
        return None


@lru_cache(maxsize=4096)
def _pattern(numbers: tuple[Any, ...], keywords: tuple[tuple[str, Any], ...]) -> IndexPattern:
    return IndexPattern(*numbers, **dict(keywords))


@lru_cache(maxsize=4096)
def _value_of_pattern(pattern: IndexPattern) -> Value:
    _, outputs, inputs = pattern.shape
    return Value(pattern.shape, (outputs * inputs, inputs, 1), torch.bool, torch.device("meta"))


def _number_or_itself(argument: Any) -> Any:
    return number_of(argument) if isinstance(argument, fx.Node) else argument


_ARITHMETIC = (operator.add, operator.sub, operator.mul, operator.floordiv, operator.neg)


def number_of(value: Any) -> int | None:
    """An integer, or that which a node of sizes and their sums, products and quotients gives as a hint.

    Example:
        >>> import torch
        >>> graph = torch.fx.Graph()
        >>> x = graph.placeholder("x")
        >>> x.meta["val"] = torch.empty(2, 8)
        >>> number_of(graph.call_function(operator.add, (graph.call_method("size", (x, 1)), 1)))
        9
    """
    if not isinstance(value, fx.Node):
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    sizes, dim = _size_of(value)
    if sizes is not None:
        return sizes[dim] if -len(sizes) <= dim < len(sizes) else None
    if value.op == "call_function" and value.target in _ARITHMETIC and not value.kwargs:
        numbers = [number_of(argument) for argument in value.args]
        if None not in numbers and not (value.target is operator.floordiv and numbers[-1] == 0):
            return int(value.target(*numbers))
    return None


def _size_of(node: fx.Node) -> tuple[tuple[int, ...] | None, int]:
    """The shape of the tensor of which a node reads a size, and which one it reads."""
    tensor, dim = size_read(node)
    value = value_of(tensor)
    return (None, 0) if value is None else (value.shape, dim)


def size_read(node: fx.Node) -> tuple[fx.Node | None, int]:
    """The tensor of which ``x.size(dim)`` or ``x.shape[dim]`` reads a size, and its dimension."""
    source, dim = node.args[0] if node.args else None, node.args[-1] if len(node.args) == 2 else None
    if not isinstance(source, fx.Node) or not isinstance(dim, int) or node.kwargs:
        return None, 0
    if node.op == "call_method" and node.target == "size":
        return source, dim
    if node.op == "call_function" and node.target is operator.getitem:
        reads = (source.target is getattr and source.args[1] == "shape") or (
            source.op == "call_method" and source.target == "size" and len(source.args) == 1
        )
        tensor = source.args[0] if reads else None
        return (tensor, dim) if isinstance(tensor, fx.Node) else (None, 0)
    return None, 0


def set_value(node: fx.Node, shape: Sequence[int], like: fx.Node) -> None:
    """Record that ``node`` computes a contiguous tensor of this shape, of the dtype and device of ``like``.

    Where the value of ``like`` isn't known, neither is that of ``node``.
    """
    value = value_of(like)
    if value is not None:
        strides, step = [], 1
        for size in reversed(shape):
            strides.append(step)
            step *= max(size, 1)
        node.meta[VALUE] = Value(tuple(shape), tuple(reversed(strides)), value.dtype, value.device)


def erase_unused_patterns(graph: fx.Graph) -> None:
    """Drop the patterns that nothing contracts any more, and the sizes that only they were made from.

    Example:
        >>> graph = fx.Graph()
        >>> pattern = graph.call_function(IndexPattern, (8, 3))
        >>> erase_unused_patterns(graph)
        >>> len(graph.nodes)
        0
    """
    unused = [node for node in graph.nodes if is_pattern(node) and not node.users]
    while unused:
        node = unused.pop()
        sources = node.all_input_nodes
        graph.erase_node(node)
        unused += [x for x in sources if not x.users and x not in unused and number_of(x) is not None]
