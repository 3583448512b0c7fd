"""Compute equal contractions once."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from ..equation import Equation
from ..graphs.nodes import Contraction, erase_unused_patterns, is_pattern, number_of
from ..graphs.regrouping import why_not_regroup
from ..graphs.spellings import read
from ..legality import Effects
from ..rewrite import Pass, decline


@dataclass(frozen=True)
class ShareContractions(Pass):
    """Compute a contraction once where a graph has it several times, its operands in any order.

    They have to be over one semiring, with the same options; equal index patterns are one. Values that the
    caller gets, or that something writes to, stay apart.

    Example:
        >>> import torch
        >>> from einfx.rewrite import readable_code
        >>> def twice(a, b):
        ...     return torch.einsum("ij,jk->ik", a, b).exp() + torch.einsum("jk,ij->ik", b, a).sin()
        >>> traced = fx.symbolic_trace(twice)
        >>> ShareContractions().apply(traced)
        1
        >>> print(readable_code(traced.graph))
        def forward(self, a, b):
            einsum = torch.functional.einsum('ij,jk->ik', a, b)
            exp = einsum.exp()
            sin = einsum.sin()
            add = exp + sin
            return add
    """

    name: ClassVar[str] = "share-contractions"

    def apply(self, graph_module: fx.GraphModule) -> int:
        """Share in place; one rewrite is one contraction that is no longer computed."""
        graph = graph_module.graph
        effects = Effects.of(graph, graph_module)
        first: dict[Hashable, fx.Node] = {}
        same: dict[fx.Node, Hashable] = {}
        patterned = any(is_pattern(node) for node in graph.nodes)
        rewrites = 0
        for node in list(graph.nodes):
            if node.op == "get_attr":
                same[node] = ("attribute", node.target)
            elif patterned and (is_pattern(node) or number_of(node) is not None):
                same[node] = _call_key(node, same)
            contraction = read(node)
            if contraction is None:
                continue
            key = _key(contraction, same)
            earlier = first.get(key)
            if earlier is None:
                first[key] = node
            elif _may_share(effects, earlier, node, contraction):
                node.replace_all_uses_with(earlier)
                graph.erase_node(node)
                rewrites += 1
            else:
                first[key] = node
        erase_unused_patterns(graph)
        return rewrites


def _call_key(node: fx.Node, same: dict[fx.Node, Hashable]) -> Hashable:
    """What says that two patterns, or two sizes, are equal."""

    def key(argument: Any) -> Hashable:
        if isinstance(argument, list | tuple):
            return tuple(key(x) for x in argument)
        return same.get(argument, argument) if isinstance(argument, fx.Node) else argument

    return node.op, node.target, key(node.args), key(sorted(node.kwargs.items()))


def _key(contraction: Contraction, same: dict[fx.Node, Hashable]) -> Hashable:
    operands = [same.get(operand, operand) for operand in contraction.operands]
    options = contraction.options
    linear = [position in options.linear_operands for position in range(len(operands))]
    order = list(range(len(operands)))
    if options.is_plain or why_not_regroup(options, contraction.operands) is None:
        order.sort(key=lambda i: (str(operands[i]), contraction.equation.inputs[i], linear[i]))
    equation = Equation(tuple(contraction.equation.inputs[i] for i in order), contraction.equation.output)
    return equation, tuple(operands[i] for i in order), tuple(linear[i] for i in order), options.linear()


def _may_share(effects: Effects, earlier: fx.Node, node: fx.Node, contraction: Contraction) -> bool:
    if effects.is_mutated(earlier) or effects.is_mutated(node):
        decline(node, f"it equals {earlier}, but something writes to one of them")
    elif effects.escapes(earlier) and effects.escapes(node):
        decline(node, f"it equals {earlier}, but the caller gets both")
    elif not effects.may_move_reads(contraction.operands, earlier, node):
        decline(node, f"it equals {earlier}, but something writes to its operands between them")
    else:
        return True
    return False
