"""Write products of tensors as einsums where that lets them fuse, or run faster."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from ..graphs.nodes import Contraction, as_contraction, inherit, insert_contraction, is_einsum, value_of
from ..graphs.scaling import as_scaled
from ..graphs.spellings import PRODUCTS, VIEWS, broadcast_product, read, read_with_bias
from ..graphs.writes import function_name, is_known_function
from ..legality import Effects, same_floating_dtype, use_count
from ..rewrite import Pass, decline

_ALONE = {"tensordot", "bilinear", "inner"}
"""Products that gain by being lowered even with no contraction beside them."""


@dataclass(frozen=True)
class CaptureMatmuls(Pass):
    """Read matmul, bmm, mv, dot, outer, tensordot, linear, bilinear and multiply-then-sum as einsums.

    A matrix product with no other contraction beside it stays as it is: torch's own call is as fast. An
    elementwise product is captured where it feeds a contraction or a sum, or scales one by a 0-dimensional
    tensor. Contractions over another semiring are no company: they don't multiply and add.

    Example:
        >>> import torch
        >>> from einfx.rewrite import readable_code
        >>> from einfx.graphs.shapes import propagate
        >>> traced = fx.symbolic_trace(lambda a, b, c: (a @ b) @ c)
        >>> propagate(traced, (torch.ones(2, 3), torch.ones(3, 4), torch.ones(4, 5)))
        []
        >>> CaptureMatmuls().apply(traced)
        2
        >>> print(readable_code(traced.graph))
        def forward(self, a, b, c):
            einsum = torch.functional.einsum('ab,bc->ac', a, b)
            einsum_1 = torch.functional.einsum('ab,bc->ac', einsum, c)
            return einsum_1
    """

    name: ClassVar[str] = "capture-matmuls"

    def apply(self, graph_module: fx.GraphModule) -> int:
        """Capture in place; one rewrite is one call that became an einsum."""
        graph = graph_module.graph
        effects = Effects.of(graph, graph_module)
        rewrites = 0
        for node in list(graph.nodes):
            contraction, bias = _candidate(node)
            if contraction is None:
                continue
            if not _is_worthwhile(node, bias):
                continue
            if not same_floating_dtype(contraction.operands):
                decline(node, "its operands aren't all known to be of one floating dtype on one device")
                continue
            if effects.is_mutated(node):
                decline(node, "something writes to its result")
                continue
            with graph.inserting_before(node):
                new = inherit(insert_contraction(graph, contraction.equation, contraction.operands), node)
                effects.adopt(new, node)
                if bias is not None:
                    new = inherit(graph.call_function(operator.add, (new, bias)), node)
                    effects.adopt(new, node)
            node.replace_all_uses_with(new)
            graph.erase_node(node)
            rewrites += 1
        return rewrites


def _candidate(node: fx.Node) -> tuple[Contraction | None, fx.Node | None]:
    """The contraction that a product computes, and the bias that it adds."""
    if node.op not in ("call_function", "call_method") or is_einsum(node) or not is_known_function(node):
        return None, None
    name = function_name(node)
    if name in ("linear", "bilinear"):
        contraction, bias = read_with_bias(node)
        if bias is not None and not same_floating_dtype([node, bias]):
            return None, None
        return contraction, bias
    if name in PRODUCTS:
        return read(node), None
    if name == "sum" and node.users:
        reduction = read(node)
        if reduction is not None and _is_product(reduction.operands[0]):
            return reduction, None
    if name in ("mul", "multiply"):
        return _elementwise(node), None
    return None, None


def _elementwise(node: Any) -> Contraction | None:
    if not isinstance(node, fx.Node) or not is_known_function(node):
        return None
    if function_name(node) not in ("mul", "multiply") or node.kwargs or len(node.args) != 2:
        return None
    left, right = node.args
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return None
    return broadcast_product(left, right) if same_floating_dtype([left, right]) else None


def _is_worthwhile(node: fx.Node, bias: fx.Node | None) -> bool:
    name = function_name(node)
    if name in _ALONE or name == "sum":
        return True
    if name in ("mul", "multiply"):
        if use_count(node) != 1:
            return False
        scales = any((value := value_of(x)) is not None and not value.shape for x in node.all_input_nodes)
        return any(_contracts(user) for user in _users(node)) or (scales and _comes_from_contraction(node))
    if _comes_from_contraction(node):
        return True
    return bias is None and use_count(node) == 1 and any(_contracts(user) for user in _users(node))


def _users(node: fx.Node) -> Iterator[fx.Node]:
    """Who uses a node, behind reorderings of its dimensions and factors."""
    for user in node.users:
        if _is_transparent(user) and use_count(user) == 1:
            yield from _users(user)
        else:
            yield user


def _comes_from_contraction(node: fx.Node) -> bool:
    for operand in node.all_input_nodes:
        source = operand
        while _is_transparent(source) and use_count(source) == 1:
            source = next(iter(source.all_input_nodes))
        if use_count(source) == 1 and _contracts(source):
            return True
    return False


def _is_transparent(node: fx.Node) -> bool:
    if node.op not in ("call_function", "call_method"):
        return False
    return (function_name(node) in VIEWS or as_scaled(node) is not None) and len(node.all_input_nodes) == 1


def _contracts(node: fx.Node) -> bool:
    contraction = as_contraction(node)
    if contraction is not None:
        return contraction.options.is_plain
    if node.op not in ("call_function", "call_method") or not is_known_function(node):
        return False
    name = function_name(node)
    if name != "sum":
        return name in PRODUCTS
    reduction = read(node)
    return reduction is not None and _is_product(reduction.operands[0])


def _is_product(node: fx.Node) -> bool:
    """Whether a value is a product of tensors that nothing else uses, which a sum can be part of."""
    if use_count(node) != 1:
        return False
    contraction = as_contraction(node)
    return _elementwise(node) is not None if contraction is None else contraction.options.is_plain
