"""Graphs as plain data, for pickling.

``fx.GraphModule`` pickles its code and traces it again when it is loaded; that would trace through the
checks in lowered kernels. Here the nodes themselves are stored.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, NamedTuple

import torch
from torch import fx
from torch.utils import _pytree as pytree

__all__ = ["GraphData", "read_graph", "write_graph"]


class _Reference(NamedTuple):
    """Stands for a node among the arguments of another."""

    name: str


class _Overload(NamedTuple):
    """Stands for an operator of the dispatcher, which pickle can't store."""

    path: tuple[str, ...]


class _Function(NamedTuple):
    """Stands for a function that its module knows by its name, but pickle by the place it was written in."""

    module: str
    name: str


class GraphData(NamedTuple):
    """A graph that pickle can store."""

    nodes: tuple[tuple[Any, ...], ...]
    codegen: tuple[Any, ...] | None


_KEPT_METADATA = ("stack_trace", "einfx_lowered")


def write_graph(graph: fx.Graph) -> GraphData:
    """Turn a graph into data; :func:`read_graph` turns it back.

    Example:
        >>> graph = fx.symbolic_trace(lambda x: torch.relu(x + 1)).graph
        >>> str(read_graph(write_graph(graph))) == str(graph)
        True
    """

    def stored(argument: Any) -> Any:
        return fx.map_arg(argument, lambda n: _Reference(n.name))

    nodes = tuple(
        (
            node.op,
            node.name,
            _target_data(node.target),
            stored(node.args),
            stored(node.kwargs),
            {key: node.meta[key] for key in _KEPT_METADATA if key in node.meta},
            node.type,
        )
        for node in graph.nodes
    )
    codegen = None
    if isinstance(graph._codegen, fx.graph._PyTreeCodeGen):
        info = graph._codegen.pytree_info
        out = None if info.out_spec is None else pytree.treespec_dumps(info.out_spec)
        codegen = (list(info.orig_args), pytree.treespec_dumps(info.in_spec), out)
    return GraphData(nodes, codegen)


def read_graph(data: GraphData) -> fx.Graph:
    """The graph that :func:`write_graph` stored."""
    graph = fx.Graph()
    by_name: dict[str, fx.Node] = {}

    def restored(argument: Any) -> Any:
        if isinstance(argument, _Reference):
            return by_name[argument.name]
        if isinstance(argument, list):
            return [restored(x) for x in argument]
        if isinstance(argument, tuple):
            return tuple(restored(x) for x in argument)
        if isinstance(argument, dict):
            return {key: restored(x) for key, x in argument.items()}
        if isinstance(argument, slice):
            return slice(restored(argument.start), restored(argument.stop), restored(argument.step))
        return argument

    for op, name, target, args, kwargs, meta, kind in data.nodes:
        node = graph.create_node(
            op, _target(target), restored(args), restored(kwargs), name=name, type_expr=kind
        )
        node.meta.update(meta)
        by_name[name] = node
    if data.codegen is not None:
        orig_args, in_spec, out_spec = data.codegen
        info = fx.graph._PyTreeInfo(
            orig_args,
            pytree.treespec_loads(in_spec),
            None if out_spec is None else pytree.treespec_loads(out_spec),
        )
        graph.set_codegen(fx.graph._PyTreeCodeGen(info))
    return graph


def _target_data(target: Any) -> Any:
    if isinstance(target, torch._ops.OpOverload):
        namespace, name = target._schema.name.split("::")
        return _Overload((namespace, name, target._overloadname))
    if isinstance(target, torch._ops.OpOverloadPacket):
        namespace, name = target._qualified_op_name.split("::")
        return _Overload((namespace, name))
    return _by_name(target) or target


def _target(data: Any) -> Any:
    if isinstance(data, _Function):
        return getattr(importlib.import_module(data.module), data.name)
    if not isinstance(data, _Overload):
        return data
    result: Any = torch.ops
    for name in data.path:
        result = getattr(result, name)
    return result


def _by_name(function: Any) -> _Function | None:
    """A function that torch makes inside of another, such as max_pool2d, by the name that its module has."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__name__", "")
    inside = "<locals>" in getattr(function, "__qualname__", "")
    found = inside and getattr(sys.modules.get(module), name, None) is function
    return _Function(module, name) if found else None
