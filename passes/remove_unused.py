"""Drop computations that nothing uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from ..graphs.nodes import is_pattern
from ..graphs.spellings import read
from ..graphs.writes import FRESH, function_name, is_known_function, may_write
from ..rewrite import Pass

_DRAWS_NUMBERS = {"rand_like"}
_LOOKS = frozenset(
    "getattr getitem size dim numel reshape view flatten unsqueeze squeeze expand permute transpose t "
    "broadcast_tensors broadcast_shapes contiguous narrow select".split()
)


@dataclass(frozen=True)
class RemoveUnused(Pass):
    """Remove nodes without users, as generated code often has, where computing them has no other effect.

    Operations that einfx doesn't know, that write to memory, or that draw random numbers stay.

    Example:
        >>> import torch
        >>> from einfx.rewrite import readable_code
        >>> def program(a, b):
        ...     unused = a.reshape(a.shape[0], -1)
        ...     return torch.einsum("ij,jk->ik", a, b)
        >>> traced = fx.symbolic_trace(program)
        >>> RemoveUnused().apply(traced)
        3
        >>> print(readable_code(traced.graph))
        def forward(self, a, b):
            einsum = torch.functional.einsum('ij,jk->ik', a, b)
            return einsum
    """

    name: ClassVar[str] = "remove-unused"

    def apply(self, graph_module: fx.GraphModule) -> int:
        """Remove in place; one rewrite is one node that is gone."""
        graph = graph_module.graph
        rewrites = 0
        for node in reversed(list(graph.nodes)):
            if not node.users and _only_computes(node):
                graph.erase_node(node)
                rewrites += 1
        return rewrites


def _only_computes(node: fx.Node) -> bool:
    if node.op == "get_attr" or is_pattern(node):
        return True
    if node.op not in ("call_function", "call_method") or not is_known_function(node) or may_write(node):
        return False
    name = function_name(node)
    return name in _LOOKS or read(node) is not None or (name in FRESH and name not in _DRAWS_NUMBERS)
