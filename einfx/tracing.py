"""Tracing that records what a program writes in place.

The proxies of torch.fx have no ``+=`` and no ``x[i] = y`` of their own: Python takes the first for
``x = x + y``, which forgets that the tensor changed, and refuses the second.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx

from .graphs.writes import function_name

__all__ = ["record_writes", "restore_arithmetic"]

_ASSIGNMENTS: dict[str, Callable[..., Any]] = {
    "__iadd__": operator.iadd,
    "__isub__": operator.isub,
    "__imul__": operator.imul,
    "__itruediv__": operator.itruediv,
    "__ifloordiv__": operator.ifloordiv,
    "__imod__": operator.imod,
    "__ipow__": operator.ipow,
    "__iand__": operator.iand,
    "__ior__": operator.ior,
    "__ixor__": operator.ixor,
    "__ilshift__": operator.ilshift,
    "__irshift__": operator.irshift,
}

_PURE = {function: getattr(operator, name[3:-2], None) for name, function in _ASSIGNMENTS.items()}
_PURE[operator.iand], _PURE[operator.ior] = operator.and_, operator.or_


class _RecordingProxy(fx.Proxy):
    """A proxy for which an augmented or item assignment is a node of its own."""

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


def _recorder(function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    def assign(self: fx.Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return assign


for _name, _function in _ASSIGNMENTS.items():
    setattr(_RecordingProxy, _name, _recorder(_function))


def record_writes(tracer: fx.Tracer) -> None:
    """Let ``tracer`` make proxies that record augmented and item assignments, unless it makes its own.

    Example:
        >>> def program(x):
        ...     x += 1
        ...     return x
        >>> tracer = fx.Tracer()
        >>> record_writes(tracer)
        >>> [node.name for node in tracer.trace(program).nodes]
        ['x', 'iadd', 'output']
    """
    if type(tracer).proxy is fx.Tracer.proxy:
        tracer.proxy = lambda node: _RecordingProxy(node, tracer)  # type: ignore[method-assign]


def restore_arithmetic(graph: fx.Graph) -> None:
    """Make plain arithmetic of the augmented assignments to sizes, which are numbers and can't change."""
    numbers: set[fx.Node] = set()
    for node in graph.nodes:
        name = function_name(node) if node.op in ("call_function", "call_method") else ""
        reads_size = name in ("size", "dim", "numel", "len", "ndimension") or (
            name == "getattr" and node.args[1] in ("shape", "ndim")
        )
        inputs = node.all_input_nodes
        computes = node.op == "call_function" and bool(inputs) and all(x in numbers for x in inputs)
        if reads_size or computes:
            numbers.add(node)
            pure = _PURE.get(node.target) if callable(node.target) else None
            if pure is not None:
                node.target = pure
