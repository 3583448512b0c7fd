"""Calls written into a graph, each with the value that it has for the example inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from .nodes import VALUE, Value, number_of, value_of

__all__ = ["emitter"]


def emitter(graph: fx.Graph, emitted: list[fx.Node]) -> Callable[..., fx.Node]:
    """A function that writes calls at the graph's insertion point.

    Args:
        graph: where to write.
        emitted: gets every node that is written.

    Returns:
        A function of what is called, a function or the name of a method, and of its arguments. The call runs
        on the meta device, which tells the shape and the strides of its result.

    Example:
        >>> graph, written = fx.Graph(), []
        >>> x = graph.placeholder("x")
        >>> x.meta["val"] = torch.empty(2, 3)
        >>> value_of(emitter(graph, written)("flatten", x)).shape, written
        ((6,), [flatten])
    """
    several: dict[fx.Node, Any] = {}
    devices: list[torch.device] = []

    def on_meta(node: fx.Node) -> Any:
        return several[node] if node in several else _on_meta(node)

    def emit(function: Any, *arguments: Any) -> fx.Node:
        method = isinstance(function, str)
        node = graph.call_method(function, arguments) if method else graph.call_function(function, arguments)
        emitted.append(node)
        values = [value for x in node.all_input_nodes if (value := value_of(x)) is not None]
        devices.extend(value.device for value in values[:1])
        if number_of(node) is None and devices:
            given = fx.node.map_arg(arguments, on_meta)
            made: Any = getattr(torch.Tensor, function)(*given) if method else function(*given)
            if not isinstance(made, torch.Tensor):
                several[node] = made
            elif (value := Value.of(made, devices[0])) is not None:
                node.meta[VALUE] = value
        return node

    return emit


def _on_meta(node: fx.Node) -> Any:
    number, value = number_of(node), value_of(node)
    return value.on_meta() if number is None and value is not None else number
