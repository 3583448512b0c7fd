"""Multiply the smallest tensor of a chain of contractions by its scalar factor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from ..graphs.nodes import inherit, value_of
from ..graphs.scaling import (
    Scaled,
    Shifted,
    as_scalar,
    insert_scaled,
    may_cross_contraction,
    why_not_through,
)
from ..graphs.spellings import read
from ..legality import Effects, same_floating_dtype, use_count
from ..rewrite import Pass


@dataclass(frozen=True)
class PlaceScalars(Pass):
    """Move a factor of a contraction's result to the operand with the fewest elements, if it has fewer.

    A factor of 1 is dropped. Over log, max_plus and min_plus an added constant is moved likewise.

    Example:
        >>> import torch
        >>> from einfx.rewrite import readable_code
        >>> from einfx.graphs.shapes import propagate
        >>> traced = fx.symbolic_trace(lambda x, w: torch.einsum("bi,ij->bj", x, w) * 0.5)
        >>> propagate(traced, (torch.ones(100, 3), torch.ones(3, 4)))
        []
        >>> PlaceScalars().apply(traced)
        1
        >>> print(readable_code(traced.graph))
        def forward(self, x, w):
            mul_1 = w * 0.5
            einsum = torch.functional.einsum('bi,ij->bj', x, mul_1)
            return einsum
    """

    name: ClassVar[str] = "place-scalars"

    def apply(self, graph_module: fx.GraphModule) -> int:
        """Place in place; one rewrite is one factor that moved."""
        graph = graph_module.graph
        effects = Effects.of(graph, graph_module)
        rewrites = 0
        for node in list(graph.nodes):
            scaled = as_scalar(node)
            if scaled is not None and _is_passed_on(effects, node, scaled):
                node.replace_all_uses_with(scaled.tensor)
                graph.erase_node(node)
                rewrites += 1
                continue
            if scaled is None or not may_cross_contraction(scaled.scale, node):
                continue
            target = _smallest(effects, node, scaled)
            if target is None:
                continue
            contraction, operand = target
            with graph.inserting_before(contraction):
                new = inherit(insert_scaled(graph, scaled.scale, operand), contraction)
            effects.adopt(new, contraction)
            contraction.replace_input_with(operand, new)
            node.replace_all_uses_with(scaled.tensor)
            graph.erase_node(node)
            rewrites += 1
        return rewrites


def _is_passed_on(effects: Effects, node: fx.Node, scaled: Scaled | Shifted) -> bool:
    """Whether the factor is 1 and the tensor memory of its own, used by nothing else, to take its place."""
    tensor = scaled.tensor
    if not scaled.scale.is_one or (isinstance(scaled, Shifted) and _has_no_semiring(tensor)):
        return False
    return use_count(tensor) == 1 and effects.memory_of(tensor) == {tensor} and not effects.is_mutated(node)


def _has_no_semiring(node: fx.Node) -> bool:
    contraction = read(node)
    return contraction is None or contraction.options.is_plain


def _smallest(effects: Effects, node: fx.Node, scaled: Scaled | Shifted) -> tuple[fx.Node, fx.Node] | None:
    """The contraction and its operand that holds the fewest elements, if fewer than ``node``."""
    best = _elements(node)
    found: tuple[fx.Node, fx.Node] | None = None
    pending = [(scaled.tensor, node)]
    while pending:
        producer, consumer = pending.pop()
        contraction = read(producer)
        if contraction is None and producer.op == "call_method" and producer.target == "reshape":
            source = producer.args[0]
            if isinstance(source, fx.Node) and use_count(producer) == 1 and not effects.is_mutated(producer):
                pending.append((source, producer))
        if contraction is None:
            continue
        if use_count(producer) != 1 or effects.is_mutated(producer) or effects.is_mutated(consumer):
            continue
        if not same_floating_dtype([*contraction.operands, node]):
            continue
        for operand in contraction.tensors:
            if why_not_through(scaled.scale, contraction, operand) is not None:
                continue
            if _elements(operand) < best and contraction.operands.count(operand) == 1:
                best, found = _elements(operand), (producer, operand)
            pending.append((operand, producer))
    return found


def _elements(node: fx.Node) -> float:
    value = value_of(node)
    return math.inf if value is None else math.prod(value.shape)
