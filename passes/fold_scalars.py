"""Gather the numbers that multiply a chain of linear operations into one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ..graphs.nodes import inherit, value_of
from ..graphs.scaling import (
    Scaled,
    Shift,
    Shifted,
    as_scalar,
    as_scaled,
    insert_scaled,
    is_factor,
    may_cross_contraction,
    why_not_through,
)
from ..graphs.spellings import read
from ..graphs.writes import function_name, is_known_function
from ..legality import Effects, same_floating_dtype, use_count
from ..rewrite import Pass, decline

_RESHAPES = {"reshape", "unsqueeze", "squeeze", "flatten"}
_SUMS = {"add", "sub", "subtract"}
_TENSOR_PRODUCTS = {"mul", "multiply"}
_TENSOR_QUOTIENTS = {"div", "divide", "truediv", "true_divide"}


@dataclass(frozen=True)
class FoldScalars(Pass):
    """Move numeric factors behind the linear operations that follow, and merge those that meet.

    Linear in an operand are contractions of every spelling, permutes, sums, reshapes, products of tensors,
    and quotients in their numerator; two summands with the same factor count as one. Only floating and
    complex tensors are touched, and only factors that are normal numbers of the dtype.

    Over log, max_plus and min_plus an added constant is what a factor is over real numbers, and moves
    likewise, if it is at most 32; over max_times, a positive factor is.

    Args:
        assume_floating: take tensors of which nothing is known for float32, and an einsum's operands for
            tensors of one dtype. Without it they are left alone.

    Example:
        >>> import torch
        >>> from einfx.rewrite import readable_code
        >>> from einfx.graphs.shapes import propagate
        >>> traced = fx.symbolic_trace(lambda a, b: torch.einsum("ij,jk->ik", 3 * a, -b).t() / 2)
        >>> propagate(traced, (torch.ones(2, 3), torch.ones(3, 4)))
        []
        >>> FoldScalars().apply(traced)
        5
        >>> print(readable_code(traced.graph))
        def forward(self, a, b):
            einsum = torch.functional.einsum('ij,jk->ik', a, b)
            t = einsum.t()
            mul_5 = t * -1.5
            return mul_5
    """

    name: ClassVar[str] = "fold-scalars"

    assume_floating: bool = False

    def apply(self, graph_module: fx.GraphModule) -> int:
        """Fold in place; one rewrite is one factor that moved behind an operation, or met another."""
        graph = graph_module.graph
        rewrites = 0
        effects = Effects.of(graph, graph_module)
        while (count := self._sweep(graph, effects)) > 0:
            rewrites += count
            effects = Effects(graph, graph_module)
        return rewrites

    def _sweep(self, graph: fx.Graph, effects: Effects) -> int:
        rewrites = 0
        for node in list(graph.nodes):
            scaled = as_scalar(node, self.assume_floating)
            if scaled is None or use_count(node) != 1:
                continue
            if isinstance(scaled, Shifted) and not _meets_semiring(node, scaled):
                continue
            user = next(iter(node.users))
            if user.op == "output" or _is_written(effects, node, scaled, user):
                continue
            if not effects.may_move_reads([scaled.tensor], node, user):
                decline(node, f"something writes to {scaled.tensor} before {user} reads it")
                continue
            arguments = graph, effects, node, scaled, user, self.assume_floating
            new = _merged(*arguments) or _moved(*arguments)
            if new is not None:
                if new is not scaled.tensor:
                    effects.adopt(new, user)
                rewrites += 1
        return rewrites


def _is_written(effects: Effects, node: fx.Node, scaled: Scaled | Shifted, user: fx.Node) -> bool:
    return effects.is_mutated(node) or effects.is_mutated(user) or effects.is_written(scaled.tensor)


def _meets_semiring(node: fx.Node, shifted: Shifted) -> bool:
    """Whether a contraction over another semiring stands next to an added constant, views apart."""
    source = shifted.tensor
    while _is_view(source):
        source = source.all_input_nodes[0]
    if _has_semiring(source):
        return True
    while use_count(node) == 1:
        node = next(iter(node.users))
        if _has_semiring(node):
            return True
        if not _is_view(node) and as_scalar(node) is None:
            return False
    return False


def _is_view(node: fx.Node) -> bool:
    contraction = read(node)
    if contraction is not None:
        return contraction.arranges
    return is_known_function(node) and function_name(node) in _RESHAPES and len(node.all_input_nodes) == 1


def _has_semiring(node: fx.Node) -> bool:
    contraction = read(node)
    return contraction is not None and not contraction.options.is_plain


def _merged(
    graph: fx.Graph,
    effects: Effects,
    node: fx.Node,
    scaled: Scaled | Shifted,
    user: fx.Node,
    assume_floating: bool,
) -> fx.Node | None:
    outer = as_scalar(user, assume_floating)
    if outer is None or type(outer) is not type(scaled):
        return None
    scale = scaled.scale.times(outer.scale)
    value = value_of(node)
    if not is_factor(scale, torch.float32 if value is None else value.dtype):
        decline(user, f"the product of its factors, {scale}, is no normal number of the dtype")
        return None
    whole = effects.memory_of(scaled.tensor) == {scaled.tensor} and use_count(scaled.tensor) == 1
    keeps_dtype = value is not None or isinstance(scale, Shift) or isinstance(scale.factor, int)
    if scale.is_one and whole and keeps_dtype:
        new = scaled.tensor
    else:
        with graph.inserting_before(user):
            new = inherit(insert_scaled(graph, scale, scaled.tensor), user)
    user.replace_all_uses_with(new)
    graph.erase_node(user)
    graph.erase_node(node)
    return new


def _moved(
    graph: fx.Graph,
    effects: Effects,
    node: fx.Node,
    scaled: Scaled | Shifted,
    user: fx.Node,
    assume_floating: bool,
) -> fx.Node | None:
    contraction = read(user)
    scale = scaled.scale
    others: list[fx.Node] = []
    if contraction is not None:
        unknown = assume_floating and all(value_of(x) is None for x in contraction.operands)
        if contraction.operands.count(node) != 1:
            return None
        if (reason := why_not_through(scale, contraction, node)) is not None:
            if not contraction.options.is_plain:
                decline(node, reason)
            return None
        if not (unknown or same_floating_dtype(contraction.operands)):
            return None
        moves_values = bool(contraction.equation.summed) or len(contraction.operands) > 1
        if moves_values and not may_cross_contraction(scale, node, assume_floating):
            if isinstance(scale, Shift):
                decline(node, f"moving the constant {scale} behind {user} could cost digits of its result")
            else:
                decline(node, f"moving the factor {scale} behind {user} could overflow or underflow")
            return None
    elif not is_known_function(user):
        return None
    elif (name := function_name(user)) in _RESHAPES:
        if user.args[:1] != (node,):
            return None
    elif isinstance(scale, Shift):
        return None
    elif name in _TENSOR_PRODUCTS or name in _TENSOR_QUOTIENTS:
        if len(user.args) != 2 or user.kwargs or not all(isinstance(x, fx.Node) for x in user.args):
            return None
        if name in _TENSOR_QUOTIENTS and user.args[0] is not node:
            decline(node, f"its tensor stands in the denominator of {user}")
            return None
        if not same_floating_dtype(_nodes(user.args)) or not may_cross_contraction(scale, node):
            return None
    elif name in _SUMS:
        twin = _twin(effects, node, Scaled(scale, scaled.tensor), user)
        if twin is None:
            return None
        others.append(twin)
    else:
        return None
    replaced = {node: scaled.tensor}
    for other in others:
        pair = as_scaled(other)
        if pair is None:
            return None
        replaced[other] = pair.tensor
    user.args = fx.map_arg(user.args, lambda x: replaced.get(x, x))
    user.kwargs = fx.map_arg(user.kwargs, lambda x: replaced.get(x, x))
    with graph.inserting_after(user):
        new = inherit(insert_scaled(graph, scale, user), user)
    user.replace_all_uses_with(new, delete_user_cb=lambda x: x is not new)
    for old in replaced:
        graph.erase_node(old)
    return new


def _twin(effects: Effects, node: fx.Node, scaled: Scaled, user: fx.Node) -> fx.Node | None:
    if len(user.args) != 2 or user.kwargs or not all(isinstance(x, fx.Node) for x in user.args):
        return None
    left, right = _nodes(user.args)
    other = right if left is node else left
    pair = as_scaled(other)
    if pair is None or other is node or use_count(other) != 1 or pair.scale.factor != scaled.scale.factor:
        return None
    if effects.is_mutated(other) or not effects.may_move_reads([pair.tensor], other, user):
        return None
    return other if same_floating_dtype([node, other]) else None


def _nodes(arguments: tuple[Any, ...]) -> list[fx.Node]:
    return [x for x in arguments if isinstance(x, fx.Node)]
