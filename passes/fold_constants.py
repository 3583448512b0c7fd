"""Compute what depends on constants alone ahead of the call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from ..graphs.folding import FoldedConstant, is_constant
from ..graphs.nodes import inherit, is_pattern, value_of
from ..graphs.spellings import read
from ..graphs.writes import function_name, is_known_function
from ..legality import Effects
from ..rewrite import Pass, decline

_POINTWISE = {"add", "sub", "mul", "multiply", "div", "truediv", "true_divide", "neg", "sqrt", "exp", "pow"}
_RESHAPES = {"reshape", "unsqueeze", "squeeze", "flatten", "contiguous"}
_GROWTH = 2
_SMALL = 1 << 20


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace computations on constants by their value.

    Constants are tensors that the program itself makes or holds as plain attributes, and the attributes
    named in ``constants``. Parameters and buffers are state, which may change between calls. A folded value
    is computed again when one of its sources is replaced, converted or written to.

    Args:
        constants: names of attributes that may be folded.

    Example:
        >>> import torch
        >>> from einfx.capture import capture
        >>> from einfx.rewrite import readable_code
        >>> from einfx.graphs.shapes import propagate
        >>> class Rotate(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.register_buffer("rotation", torch.eye(3))
        ...     def forward(self, x):
        ...         return torch.einsum("bi,ij->bj", x, self.rotation @ self.rotation)
        >>> traced = capture(Rotate())
        >>> propagate(traced, (torch.ones(5, 3),))
        []
        >>> FoldConstants(constants=("rotation",)).apply(traced)
        1
        >>> print(readable_code(traced.graph))
        def forward(self, x):
            _folded_constant_0 = self._folded_constant_0
            einsum = torch.functional.einsum('bi,ij->bj', x, _folded_constant_0)
            return einsum
    """

    name: ClassVar[str] = "fold-constants"

    constants: tuple[str, ...] = ()

    def apply(self, graph_module: fx.GraphModule) -> int:
        """Fold in place; one rewrite is one value that is no longer computed in the call."""
        graph = graph_module.graph
        constant = {node for node in graph.nodes if is_constant(graph_module, node, self.constants)}
        if not constant:
            return 0
        effects = Effects.of(graph, graph_module)
        constant = {node for node in constant if not effects.is_mutated(node)}
        # A pattern never changes either; it stays symbolic, and is no value to keep.
        constant |= {node for node in graph.nodes if is_pattern(node) and not node.all_input_nodes}
        computed = []
        for node in graph.nodes:
            if node.all_input_nodes and all(x in constant for x in node.all_input_nodes) and _is_pure(node):
                constant.add(node)
                computed.append(node)
        rewrites = 0
        for node in computed:
            if all(user in constant for user in node.users) or not _computes(node):
                continue
            if effects.escapes(node):
                decline(node, "it is constant, but the caller gets it and may write to it")
            elif not _is_worth_keeping(node):
                decline(
                    node, f"it is constant, but over {_GROWTH} times as large as what it is computed from"
                )
            else:
                _fold(graph_module, node)
                rewrites += 1
        graph.eliminate_dead_code(lambda n: n not in constant)
        return rewrites


def folded_constants(graph_module: fx.GraphModule) -> list[FoldedConstant]:
    """The constants that :class:`FoldConstants` folded in a module."""
    folded: list[FoldedConstant] = graph_module.meta.setdefault("einfx_folded", [])
    return folded


def _is_pure(node: fx.Node) -> bool:
    if value_of(node) is None or "out" in node.kwargs:
        return False
    if read(node) is not None:
        return True
    name = function_name(node)
    return (
        node.op in ("call_function", "call_method")
        and is_known_function(node)
        and name in _POINTWISE | _RESHAPES
    )


def _computes(node: fx.Node) -> bool:
    """Whether there is anything to save: views of an attribute cost nothing."""
    contraction = read(node)
    if contraction is not None and contraction.arranges:
        return _computes(contraction.operands[0])
    if node.op == "get_attr" or is_pattern(node):
        return False
    if function_name(node) in _RESHAPES:
        return any(_computes(x) for x in node.all_input_nodes)
    return True


def _closure(node: fx.Node) -> list[fx.Node]:
    needed = {node}
    for candidate in reversed(node.graph.nodes):
        if candidate in needed:
            needed.update(candidate.all_input_nodes)
    return [x for x in node.graph.nodes if x in needed]


def _is_worth_keeping(node: fx.Node) -> bool:
    value = value_of(node)
    sources = [v for x in _closure(node) if x.op == "get_attr" and (v := value_of(x)) is not None]
    if value is None:
        return False
    return value.bytes <= max(_SMALL, _GROWTH * sum(source.bytes for source in sources))


def _fold(graph_module: fx.GraphModule, node: fx.Node) -> None:
    folded = folded_constants(graph_module)
    name = f"_folded_constant_{len(folded)}"
    small = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for x in _closure(node):
        copies[x] = small.node_copy(x, copies.__getitem__)
    small.output(copies[node])
    constant = FoldedConstant(name, small)
    constant.refresh(graph_module)
    folded.append(constant)
    with node.graph.inserting_before(node):
        new = inherit(node.graph.get_attr(name), node)
    node.replace_all_uses_with(new)
