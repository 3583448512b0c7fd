"""Operations of a graph that may be written over one of their operands, and the graph in which they are.

An elementwise operation needs its operand and its result together, unless the one takes the place of the
other. That is right where the operand is read nowhere afterwards, through no view either; where it isn't the
caller's; and where the result has its shape, strides and dtype. All of this is seen when the graph runs on
tensors without data: the memory of the operand is freed right after the operation. A graph that writes so is
for calls without gradients; what autograd saved would change otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from ..graphs.nodes import as_contraction
from ..graphs.writes import is_known_function
from ..rewrite import copied_graph
from .blockwise import computed_in_blocks, needed_at_once
from .elementwise import Attribute, Elementwise, elementwise_of, is_watched
from .liveness import Liveness, Lying, liveness

__all__ = ["Overwriting", "alive_within", "overwriting"]


@dataclass(frozen=True)
class Overwriting:
    """A graph in which results are written over operands.

    Attributes:
        graph: the same as the original, node for node and by the same names, apart from these.
        written: the nodes that are, each with the operand that it is written over.
        declined: elementwise nodes that take too much and may not be, each with the reason.
        parts: the names of nodes that are computed in blocks together, with the number of blocks.
    """

    graph: fx.Graph
    written: tuple[tuple[str, str], ...]
    declined: Mapping[str, str]
    parts: tuple[tuple[tuple[str, ...], int], ...] = ()


def overwriting(graph_module: fx.GraphModule, found: Liveness, limit: int) -> Overwriting:
    """Write what takes more than a limit over its operands, where that is known to be safe.

    Args:
        graph_module: the graph, which doesn't change.
        found: what is alive in it.
        limit: in bytes; nodes at which less is in use stay as they are.

    Example:
        >>> import torch
        >>> from einfx.graph_memory.liveness import liveness
        >>> traced = fx.symbolic_trace(lambda x, w: torch.softmax((x @ w).relu() / 2, -1))
        >>> arguments = torch.ones(90, 3), torch.ones(3, 100)
        >>> before = liveness(traced, arguments)
        >>> made = overwriting(traced, before, 40_000)
        >>> made.written
        (('relu', 'matmul'), ('truediv', 'relu'), ('softmax', 'truediv'))
        >>> after = liveness(fx.GraphModule(traced, made.graph), arguments)
        >>> before.peak_bytes, after.peak_bytes
        (72000, 38000)
    """
    graph = copied_graph(graph_module.graph)
    copies = {node.name: node for node in graph.nodes}
    proof = _Proof(graph_module, found)
    written: list[tuple[str, str]] = []
    declined: dict[str, str] = {}
    large = {moment.node for moment in found.moments if moment.bytes > limit}
    for node in graph_module.graph.nodes:
        operation = elementwise_of(node, graph_module) if node.name in large else None
        if operation is None:
            continue
        reasons = []
        for position in operation.positions:
            operand = operation.operands[position]
            reason = proof.against(node, operand, operation) if isinstance(operand, fx.Node) else "a number"
            if not reason:
                _write(operation, copies, node.name, position)
                written.append((node.name, operand.name))
                break
            if reason != "a number":
                reasons.append(f"{operand.name} {reason}")
        else:
            declined[node.name] = ", ".join(reasons)
    graph.lint()
    return Overwriting(graph, tuple(written), declined)


def alive_within(
    graph_module: fx.GraphModule,
    arguments: Sequence[Any],
    limit: int,
    overwrite: bool = True,
    in_blocks: bool = True,
) -> tuple[Liveness, Overwriting]:
    """What is alive in a graph, in blocks and written over operands where too much is in use otherwise.

    Args:
        graph_module: the graph, which doesn't change.
        arguments: an example for each placeholder.
        limit: in bytes.
        overwrite: whether operations may be written over operands at all.
        in_blocks: whether parts may be computed in blocks where that isn't enough.

    Returns:
        What is alive in the second, which has the graph itself where nothing is written over anything.

    Example:
        >>> import torch
        >>> traced = fx.symbolic_trace(lambda x: x.exp().sin())
        >>> [alive_within(traced, (torch.ones(100),), limit)[0].peak_bytes for limit in (800, 500)]
        [800, 400]
    """
    alive, found = _written_over(graph_module, arguments, limit, overwrite)
    if not (overwrite and in_blocks) or needed_at_once(graph_module.graph, alive) <= limit:
        return alive, found
    cut = computed_in_blocks(graph_module, arguments, limit, _written_over)
    if cut is None:
        return alive, found
    alive, found = _written_over(fx.GraphModule(graph_module, cut.graph), arguments, limit)
    return alive, replace(found, parts=cut.parts)


def _written_over(
    graph_module: fx.GraphModule, arguments: Sequence[Any], limit: int, overwrite: bool = True
) -> tuple[Liveness, Overwriting]:
    alive = liveness(graph_module, arguments)
    declined: Mapping[str, str] = {}
    if overwrite and alive.peak_bytes > limit:
        found = overwriting(graph_module, alive, limit)
        if found.written:
            return liveness(fx.GraphModule(graph_module, found.graph), arguments), found
        declined = found.declined
    return alive, Overwriting(graph_module.graph, (), declined)


def _write(operation: Elementwise, copies: dict[str, fx.Node], name: str, position: int) -> None:
    """Put an operation that writes over an operand in the place of the copy of a node."""
    copy = copies[name]
    graph = copy.graph
    function, arguments, keywords = operation.over(position)
    with graph.inserting_before(copy):
        given = _in_copy(arguments, copies, graph), _in_copy(keywords, copies, graph)
        made = graph.call_function(function, *given)
    made.meta = dict(copy.meta)
    copy.replace_all_uses_with(made)
    graph.erase_node(copy)
    made.name = name
    copies[name] = made


def _in_copy(argument: Any, copies: Mapping[str, fx.Node], graph: fx.Graph) -> Any:
    if isinstance(argument, Attribute):
        return graph.get_attr(argument.name)
    if isinstance(argument, fx.Node):
        return copies[argument.name]
    if isinstance(argument, (tuple, list)):
        return tuple(_in_copy(x, copies, graph) for x in argument)
    if isinstance(argument, dict):
        return {key: _in_copy(x, copies, graph) for key, x in argument.items()}
    return argument


class _Proof:
    """Whether an operation may be written over an operand."""

    def __init__(self, graph_module: fx.GraphModule, found: Liveness) -> None:
        self.owner, self.found = graph_module, found
        self.nodes = {node.name: node for node in graph_module.graph.nodes}
        self.holders: dict[int, list[fx.Node]] = {}
        self.makers: dict[int, fx.Node] = {}
        for moment in found.moments:
            for piece in moment.holds:
                self.holders.setdefault(piece, []).append(self.nodes[moment.node])
            for piece in moment.made:
                self.makers[piece] = self.nodes[moment.node]

    def against(self, node: fx.Node, operand: fx.Node, operation: Elementwise) -> str:
        """What speaks against it; empty where nothing does."""
        result, over = self.found.lying.get(node.name), self.found.lying.get(operand.name)
        if result is None or over is None:
            return "isn't known to be an ordinary tensor"
        if over.piece is None or not self._is_new(over.piece):
            return "may be the caller's"
        if not (result.dtype.is_floating_point or result.dtype.is_complex):
            return "holds whole numbers"
        if over._replace(piece=None) != result._replace(piece=None, is_whole=over.is_whole):
            return "has another shape, layout or dtype than the result"
        if not over.is_whole:
            return "is a part of something larger"
        if self.found.freed.get(over.piece) != node.name:
            return "is read afterwards"
        for other in operation.operands:
            if isinstance(other, fx.Node) and other is not operand and self._may_overlap(other, over):
                return f"may share memory with {other.name}"
        holders = self.holders.get(over.piece, [])
        for reader in dict.fromkeys((*holders, *(user for x in holders for user in x.users))):
            if not self._is_known(reader):
                return f"may be kept by {reader.name}"
        return ""

    def _may_overlap(self, other: fx.Node, over: Lying) -> bool:
        lying = self.found.lying.get(other.name, _UNKNOWN)
        return lying is _UNKNOWN or (lying is not None and lying.piece == over.piece)

    def _is_new(self, piece: int) -> bool:
        """Whether memory is sure to be allocated where that is seen here."""
        maker = self.makers.get(piece)
        contraction = None if maker is None else as_contraction(maker)
        # An einsum of one tensor is a view of it in some of the ways in which it may be computed.
        return maker is not None and (contraction is None or len(contraction.tensors) > 1)

    def _is_known(self, node: fx.Node) -> bool:
        if node.op in ("output", "call_method"):
            return True
        if node.op == "call_function":
            return is_known_function(node)
        if node.op != "call_module":
            return False
        module = self.owner.get_submodule(str(node.target))
        return type(module).__module__.startswith("torch.nn.") and not is_watched(module)


_UNKNOWN: Any = object()
