"""Constants computed ahead of the call, and computed again when what they came from changes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from .pickling import GraphData, read_graph, write_graph

__all__ = ["PLAIN_TENSORS", "FoldedConstant", "attribute", "is_constant"]

PLAIN_TENSORS = "einfx_plain_tensors"
"""The key of a module's ``meta`` for the names of its tensors that the model didn't register as state."""


def attribute(module: torch.nn.Module, path: str) -> Any:
    """The attribute of ``module`` that a dotted path names; raises AttributeError where there is none."""
    value: Any = module
    for name in path.split("."):
        value = getattr(value, name)
    return value


_MADE_BY_THE_PROGRAM = re.compile(r"_(tensor|folded)_constant_?\d+")


def is_constant(graph_module: fx.GraphModule, node: fx.Node, names: Sequence[str] = ()) -> bool:
    """Whether ``node`` reads a tensor that may be folded.

    That is one that the program itself makes, one that the model holds without registering it as state,
    or one of ``names``; and none that requires gradients.
    """
    if node.op != "get_attr":
        return False
    path = str(node.target)
    plain = graph_module.meta.get(PLAIN_TENSORS, ())
    if path not in names and path not in plain and not _MADE_BY_THE_PROGRAM.fullmatch(path):
        return False
    value = attribute(graph_module, path)
    return isinstance(value, torch.Tensor) and not value.requires_grad


class FoldedConstant:
    """A buffer that holds the value of a small graph over other attributes.

    Args:
        name: the buffer's name on the module.
        graph: computes the value; reads nothing but attributes.
    """

    def __init__(self, name: str, graph: fx.Graph) -> None:
        self.name = name
        self.graph = graph
        self.sources: tuple[str, ...] = tuple(
            dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "get_attr")
        )
        self._seen: Sequence[tuple[int, int, int]] = ()

    def refresh(self, module: torch.nn.Module) -> None:
        """Compute the value again if a source was replaced, moved, converted or written to."""
        sources = [attribute(module, path) for path in self.sources]
        seen = [(id(t), t.data_ptr(), -1 if t.is_inference() else t._version) for t in sources]
        if seen == self._seen:
            return
        with torch.no_grad():
            value = fx.Interpreter(module, graph=self.graph).run()
        module.register_buffer(self.name, value.detach(), persistent=False)
        self._seen = seen

    def __deepcopy__(self, memo: dict[int, Any]) -> FoldedConstant:
        return FoldedConstant(self.name, read_graph(write_graph(self.graph)))

    def __getstate__(self) -> tuple[str, GraphData]:
        return self.name, write_graph(self.graph)

    def __setstate__(self, state: tuple[str, GraphData]) -> None:
        FoldedConstant.__init__(self, state[0], read_graph(state[1]))
