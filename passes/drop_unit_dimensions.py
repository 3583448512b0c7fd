"""Read operands of contractions as they were before dimensions were inserted or expanded."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from ..equation import Equation
from ..graphs.nodes import Contraction, as_contraction, inherit, insert_contraction, value_of
from ..graphs.writes import function_name, is_known_function
from ..legality import Effects
from ..rewrite import Pass, decline

_VIEWS = {"unsqueeze", "getitem", "broadcast_tensors"}


@dataclass(frozen=True)
class DropUnitDimensions(Pass):
    """Take ``x`` instead of ``x.unsqueeze(d)`` or ``x[:, None]``, and leave the label out.

    A dimension that was inserted has size 1 for every input, so its label only says where the others
    broadcast. Without it a broadcast product is often a matrix product. Results of
    ``torch.broadcast_tensors`` that meet in one contraction, with the same labels, are taken as they were
    before: a contraction broadcasts by itself.

    Example:
        >>> import torch
        >>> from einfx.rewrite import readable_code
        >>> from einfx.graphs.shapes import propagate
        >>> traced = fx.symbolic_trace(lambda a, b: torch.einsum("ijk,ijk->ik", a[:, :, None], b[None]))
        >>> propagate(traced, (torch.ones(2, 3), torch.ones(3, 4)))
        []
        >>> DropUnitDimensions().apply(traced)
        2
        >>> print(readable_code(traced.graph))
        def forward(self, a, b):
            einsum_2 = torch.functional.einsum('ab,bc->ac', a, b)
            return einsum_2
    """

    name: ClassVar[str] = "drop-unit-dimensions"

    def apply(self, graph_module: fx.GraphModule) -> int:
        """Rewrite in place; one rewrite is one operand that lost its inserted dimensions."""
        graph = graph_module.graph
        effects = Effects.of(graph, graph_module)
        rewrites = 0
        for node in list(graph.nodes):
            current: fx.Node | None = node
            while current is not None:
                current = _without_one(graph, effects, current)
                rewrites += current is not None
        return rewrites


def _without_one(graph: fx.Graph, effects: Effects, node: fx.Node) -> fx.Node | None:
    contraction = as_contraction(node)
    if contraction is None:
        return None
    narrow = _before_broadcasting(contraction)
    if narrow is not None and effects.may_move_reads(narrow.operands, contraction.operands[0], node):
        return _replaced(graph, effects, node, narrow)
    for position, operand in enumerate(contraction.operands):
        inserted = _inserted_dimensions(operand)
        if inserted is None:
            continue
        source, dims = inserted
        smaller = _dropped(contraction, position, source, dims)
        if smaller is None or not effects.may_move_reads([source], operand, node):
            continue
        if len(smaller.operands) == 1 and not smaller.equation.summed and contraction.equation.summed:
            decline(node, f"as a view of {source} it would share its memory")
            continue
        return _replaced(graph, effects, node, smaller)
    return None


def _replaced(graph: fx.Graph, effects: Effects, node: fx.Node, smaller: Contraction) -> fx.Node:
    with graph.inserting_before(node):
        new = inherit(insert_contraction(graph, *smaller), node)
    effects.adopt(new, node)
    node.replace_all_uses_with(new)
    unused = [node]
    while unused:
        old = unused.pop()
        inputs = old.all_input_nodes
        graph.erase_node(old)
        unused += [x for x in inputs if not x.users and function_name(x) in _VIEWS and x not in unused]
    return new


def _before_broadcasting(contraction: Contraction) -> Contraction | None:
    """The contraction on the arguments of one ``broadcast_tensors``, all of whose results it takes alike."""
    equation, operands, options = contraction
    sources = {x.args[0] for x in operands if x.target is operator.getitem and isinstance(x.args[0], fx.Node)}
    for source in sources:
        if source.op != "call_function" or function_name(source) != "broadcast_tensors" or source.kwargs:
            continue
        given = source.args[0] if isinstance(source.args[0], list | tuple) else source.args
        positions = [
            i for i, x in enumerate(operands) if x.target is operator.getitem and x.args[0] is source
        ]
        taken = {operands[i].args[1] for i in positions}
        labels = {equation.inputs[i] for i in positions}
        values = [value_of(x) for x in given]
        if taken != set(range(len(given))) or len(labels) != 1 or None in values:
            continue
        (together,) = labels
        if len(set(together)) < len(together):
            continue
        inputs, narrow = list(equation.inputs), list(operands)
        for i in positions:
            which = operands[i].args[1]
            rank = len(values[which].shape)  # type: ignore[index, union-attr]
            narrow[i] = given[which]  # type: ignore[index, assignment]
            inputs[i] = together[len(together) - rank :]
        return Contraction(Equation(tuple(inputs), equation.output), tuple(narrow), options)
    return None


def _dropped(contraction: Contraction, position: int, source: fx.Node, dims: set[int]) -> Contraction | None:
    """The contraction with ``source`` as operand, if every label of ``dims`` is in another operand too."""
    equation, operands, options = contraction
    labels = equation.inputs[position]
    kept = tuple(label for i, label in enumerate(labels) if i not in dims)
    others = [x for i, x in enumerate(equation.inputs) if i != position]
    for label in (labels[i] for i in dims):
        elsewhere = any(label in other for other in others)
        if labels.count(label) > 1 or not (elsewhere or label not in equation.output):
            return None
    inputs = (*equation.inputs[:position], kept, *equation.inputs[position + 1 :])
    narrow = (*operands[:position], source, *operands[position + 1 :])
    return Contraction(Equation(inputs, equation.output), narrow, options)


def _inserted_dimensions(node: fx.Node) -> tuple[fx.Node, set[int]] | None:
    """The tensor into which ``node`` inserts dimensions of size 1, and where they are in the result."""
    if node.op not in ("call_function", "call_method") or not is_known_function(node):
        return None
    value = value_of(node)
    source: Any = node.args[0] if node.args else None
    if value is None or not isinstance(source, fx.Node) or value_of(source) is None:
        return None
    rank = len(value.shape)
    if node.target is operator.getitem:
        return _indexed(source, node.args[1], rank)
    if function_name(node) == "unsqueeze":
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        return (source, {dim % rank}) if isinstance(dim, int) else None
    return None


def _indexed(source: fx.Node, index: Any, rank: int) -> tuple[fx.Node, set[int]] | None:
    entries = list(index) if isinstance(index, tuple) else [index]
    if not all(x is None or x is Ellipsis or x == slice(None) for x in entries) or None not in entries:
        return None
    if entries.count(Ellipsis) > 1:
        return None
    missing = rank - sum(x is not Ellipsis for x in entries)
    if Ellipsis in entries:
        at = entries.index(Ellipsis)
        entries[at : at + 1] = [slice(None)] * missing
    else:
        entries += [slice(None)] * missing
    return source, {i for i, x in enumerate(entries) if x is None}
