"""Parts of a graph that are computed block by block of one dimension, so that what they make is never whole.

Attention makes all scores, their softmax, and takes products with both; a perceptron widens its features,
applies a function, and narrows them. What is large in between depends, row by row, on rows of what comes
before alone, so a few rows at a time can go all the way. Such a part has one result; every node in it is an
elementwise operation, a contraction, a linear layer or a permutation, in which rows of the result are made of
rows of operands, or of operands as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional

from ..free_memory import give_back
from ..graphs.nodes import Contraction, as_contraction
from ..graphs.spellings import PRODUCTS, read
from ..graphs.writes import function_name
from ..options import REAL
from ..rewrite import copied_graph
from .elementwise import Attribute, Call, elementwise_of, is_watched
from .in_place import PARTWISE, in_parts
from .liveness import Liveness, liveness

__all__ = ["Blockwise", "computed_in_blocks", "needed_at_once"]

_MOST_BLOCKS = 64
_PARTS = 4
"""So many parts of a graph are computed in blocks at most."""


class Part(NamedTuple):
    """Nodes that are computed in blocks.

    Attributes:
        nodes: in order; the last is the only one that others read.
        axes: of every node the dimension of its result that is cut.
        edges: of every node what it reads: for each operand the dimension that is cut, None for the whole.
    """

    nodes: tuple[fx.Node, ...]
    axes: Mapping[fx.Node, int]
    edges: Mapping[fx.Node, Mapping[fx.Node, int | None]]

    @property
    def result(self) -> fx.Node:
        """The node that others read."""
        return self.nodes[-1]


@dataclass(frozen=True)
class Blockwise:
    """A graph with parts in blocks.

    Attributes:
        graph: the others of its nodes have the names of the original.
        parts: the names of the nodes of each part, with the number of blocks.
    """

    graph: fx.Graph
    parts: tuple[tuple[tuple[str, ...], int], ...]


def computed_in_blocks(
    graph_module: fx.GraphModule,
    arguments: Sequence[Any],
    limit: int,
    written_over: Callable[..., tuple[Liveness, Any]] | None = None,
) -> Blockwise | None:
    """Compute parts of a graph in blocks where what has to be there at a time takes more than a limit.

    Args:
        graph_module: the graph, in which nothing is written in place; it doesn't change.
        arguments: an example for each placeholder.
        limit: in bytes.
        written_over: of a module, arguments and a limit, what is alive when its graph runs, and something
            with that graph, which may write over operands.

    Returns:
        None where no part is found.

    Example:
        >>> def attention(q, k, v):
        ...     return torch.einsum("qk,kd->qd", torch.softmax(torch.einsum("qd,kd->qk", q, k), -1), v)
        >>> traced = fx.symbolic_trace(attention)
        >>> arguments = torch.ones(100, 8), torch.ones(100, 8), torch.ones(100, 8)
        >>> made = computed_in_blocks(traced, arguments, 25_000)
        >>> made.parts
        ((('einsum', 'softmax', 'einsum_1'), 4),)
        >>> module = fx.GraphModule(traced, made.graph)
        >>> liveness(traced, arguments).peak_bytes, liveness(module, arguments).peak_bytes <= 25_000
        (80000, True)
    """
    parts: list[tuple[tuple[str, ...], int]] = []
    current, failed = graph_module, set[str]()
    for _ in range(_PARTS):
        alive = liveness(current, arguments)
        tight = alive if written_over is None else written_over(current, arguments, limit)[0]
        part = next(_parts(current, alive, _too_large(current.graph, tight, limit), failed), None)
        if part is None:
            break
        names = tuple(node.name for node in part.nodes)
        size = _lying(alive, part.result).shape[part.axes[part.result]]
        blocks, best = 1, alive.peak_bytes
        while blocks < min(size, _MOST_BLOCKS):
            blocks = min(4 * blocks, size)
            made = fx.GraphModule(
                graph_module, _written(current, part, alive, -(-size // blocks), written_over)
            )
            found = liveness(made, arguments)
            name = f"{names[-1]}_blocks"
            if name in dict(found.uncovered):
                break
            taken = next(x.bytes for x in found.moments if x.node == name)
            best = min(best, taken)
            if taken <= limit:
                break
        if best >= alive.peak_bytes:
            failed.update(names)
            continue
        parts.append((names, blocks))
        current = made
    return Blockwise(current.graph, tuple(parts)) if parts else None


def _lying(alive: Liveness, node: fx.Node) -> Any:
    return alive.lying[node.name]


def needed_at_once(graph: fx.Graph, alive: Liveness) -> int:
    """The most that has to be there at a time, if contractions take nothing beside operands and results."""
    return max((needed for needed, _ in _needed(graph, alive)), default=0)


def _needed(graph: fx.Graph, alive: Liveness) -> Iterator[tuple[int, set[int]]]:
    """What has to be there while each node runs, with the pieces of memory of operands and results."""
    contractions = {node.name for node in graph.nodes if as_contraction(node) is not None}
    held = set[int]()
    for moment in alive.moments:
        there = held | set(moment.made)
        total = sum(alive.sizes[piece] for piece in there)
        yield (total if moment.node in contractions else max(total, moment.bytes)), there
        held = {piece for piece in there if alive.freed.get(piece) != moment.node}


def _too_large(graph: fx.Graph, alive: Liveness, limit: int) -> dict[str, int]:
    """Nodes with the sizes of what they make, where what has to be there at a time takes too much."""
    makers = {piece: moment.node for moment in alive.moments for piece in moment.made}
    found: dict[str, int] = {}
    for needed, there in _needed(graph, alive):
        if needed > limit:
            found |= {makers[piece]: alive.sizes[piece] for piece in there}
    return found


def _parts(
    owner: fx.GraphModule, alive: Liveness, large: Mapping[str, int], failed: set[str]
) -> Iterator[Part]:
    """Parts whose inner values are among those that take too much, those around the largest first."""
    nodes = {node.name: node for node in owner.graph.nodes}
    for name in sorted(large, key=lambda name: -large[name]):
        if name in failed or name.endswith("_blocks"):
            continue
        members = _members(owner, nodes[name], alive)
        if members is None or any(node.name in failed for node in members):
            continue
        result = alive.lying.get(members[-1].name)
        shape = result.shape if result is not None else ()
        for axis in sorted(range(len(shape)), key=lambda axis: -min(shape[axis], _MOST_BLOCKS)):
            part = _along(owner, members, axis, alive)
            if part is not None:
                yield part
                break


def _members(owner: fx.GraphModule, seed: fx.Node, alive: Liveness) -> list[fx.Node] | None:
    """The nodes around a large value, as far as they make and read values of its size; one alone is read."""
    lying = alive.lying.get(seed.name)
    if lying is None:
        return None

    def is_large(node: fx.Node) -> bool:
        found = alive.lying.get(node.name)
        return found is not None and found.piece is not None and 2 * _bytes(found) > _bytes(lying)

    chosen, waiting = {seed}, [seed]
    while waiting:
        node = waiting.pop()
        near = [x for x in node.all_input_nodes if is_large(x) and x.op not in ("placeholder", "get_attr")]
        near += node.users if is_large(node) else ()
        for other in near:
            if other.op == "output":
                return None
            if other not in chosen:
                chosen.add(other)
                waiting.append(other)
    ordered = [node for node in owner.graph.nodes if node in chosen]
    exits = [node for node in ordered if not chosen.issuperset(node.users) or not node.users]
    return ordered if exits == ordered[-1:] and len(ordered) > 1 else None


def _bytes(lying: Any) -> int:
    return int(torch.Size(lying.shape).numel()) * int(lying.dtype.itemsize)


def _along(owner: fx.GraphModule, members: Sequence[fx.Node], axis: int, alive: Liveness) -> Part | None:
    """A part in blocks of a dimension of its result, if every node in it can be."""
    axes: dict[fx.Node, int] = {members[-1]: axis}
    edges: dict[fx.Node, Mapping[fx.Node, int | None]] = {}
    for node in reversed(members):
        lying = alive.lying.get(node.name)
        if node not in axes or lying is None or lying.shape[axes[node]] < 2:
            return None
        found = _operand_axes(owner, node, axes[node], alive)
        if found is None:
            return None
        edges[node] = found
        for operand, cut in found.items():
            if operand in members and (cut is None or axes.setdefault(operand, cut) != cut):
                return None
    return Part(tuple(members), axes, edges)


def _operand_axes(
    owner: fx.GraphModule, node: fx.Node, axis: int, alive: Liveness
) -> dict[fx.Node, int | None] | None:
    """Which dimensions of its operands a node reads row by row, where its result is cut along one."""
    shape = _lying(alive, node).shape
    contraction = as_contraction(node)
    if contraction is not None:
        return _of_contraction(contraction, node, axis, alive)
    if function_name(node) == "linear" or _is_linear(node, owner):
        operands = node.all_input_nodes
        cuts = dict.fromkeys(operands, None) | {operands[0]: axis}
        return cuts if axis < len(shape) - 1 and node.args[:1] == (operands[0],) else None
    operation = elementwise_of(node, owner)
    if operation is None:
        named = node.op in ("call_function", "call_method") and function_name(node) in _READABLE
        contraction = read(node) if named else None
        return None if contraction is None else _of_contraction(contraction, node, axis, alive)
    if axis in {dimension % len(shape) for dimension in operation.together}:
        return None
    result: dict[fx.Node, int | None] = {}
    for operand in operation.operands:
        if not isinstance(operand, fx.Node):
            continue
        if operand.name not in alive.lying:
            return None
        known = alive.lying[operand.name]
        result[operand] = None
        if known is not None and len(known.shape) + axis >= len(shape):
            place = axis - len(shape) + len(known.shape)
            result[operand] = place if known.shape[place] > 1 else None
    return result


_READABLE = frozenset(PRODUCTS) - {"bilinear"} | {"permute", "transpose", "swapaxes", "swapdims"}
"""Spellings of contractions that are right for blocks as they are written: they name no sizes."""


def _of_contraction(
    contraction: Contraction, node: fx.Node, axis: int, alive: Liveness
) -> dict[fx.Node, int | None] | None:
    if contraction.has_patterns or contraction.options.unlimited() != REAL:
        return None
    label, found = contraction.equation.output[axis], dict[fx.Node, int | None]()
    for labels, operand in zip(contraction.equation.inputs, contraction.operands, strict=True):
        cut = labels.index(label) if label in labels else None
        broken = labels.count(label) > 1 or found.get(operand, cut) != cut
        if broken or not _has_rows(operand, cut, node, axis, alive):
            return None
        found[operand] = cut
    return found


def _has_rows(operand: fx.Node, cut: int | None, node: fx.Node, axis: int, alive: Liveness) -> bool:
    known, made = alive.lying.get(operand.name), alive.lying.get(node.name)
    if known is None or made is None:
        return False
    return cut is None or known.shape[cut] == made.shape[axis]


def _is_linear(node: fx.Node, owner: nn.Module) -> bool:
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return False
    module = owner.get_submodule(str(node.target))
    return type(module) is nn.Linear and not is_watched(module)


def _written(
    owner: fx.GraphModule,
    part: Part,
    alive: Liveness,
    length: int,
    written_over: Callable[..., tuple[Liveness, Any]] | None,
) -> fx.Graph:
    """The graph with a part in blocks of so many rows."""
    graph = copied_graph(owner.graph)
    copies = {node.name: node for node in graph.nodes}
    members = {node: copies[node.name] for node in part.nodes}
    module, inputs = _body(owner, part)
    if written_over is not None and all(
        isinstance(x, fx.Node) and alive.lying.get(x.name) for x, _ in inputs
    ):
        rows = [_rows(_lying(alive, x), cut, length) for x, cut in inputs if isinstance(x, fx.Node)]
        module = fx.GraphModule(module, written_over(module, rows, 0)[1].graph)
    body = module.forward
    lying = _lying(alive, part.result)
    order = sorted(range(len(lying.shape)), key=lambda i: -lying.strides[i])
    cuts = [cut for _, cut in inputs]
    with graph.inserting_before(members[part.result]):
        given = [graph.get_attr(x.name) if isinstance(x, Attribute) else copies[x.name] for x, _ in inputs]
        function = _in_blocks(body, cuts, part.axes[part.result], length, order)
        made = graph.call_function(function, tuple(given))
    last = members[part.result]
    made.meta = dict(last.meta)
    made.name = f"{last.name}_blocks"
    last.replace_all_uses_with(made)
    for node in reversed(part.nodes):
        graph.erase_node(members[node])
    graph.lint()
    return graph


def _rows(lying: Any, cut: int | None, length: int) -> Tensor:
    """A tensor without data like rows of another one."""
    shape = [length if i == cut else size for i, size in enumerate(lying.shape)]
    return torch.empty_strided(shape, lying.strides, dtype=lying.dtype, device="meta")


Source = tuple["fx.Node | Attribute", "int | None"]


def _body(owner: fx.GraphModule, part: Part) -> tuple[fx.GraphModule, list[Source]]:
    """What is computed for each block, and the inputs that it takes, each with its dimension that is cut."""
    graph = fx.Graph()
    inputs: dict[Source, fx.Node] = {}
    made: dict[fx.Node, fx.Node] = {}
    first = graph.call_function(len, ((),))

    def given(source: Source) -> fx.Node:
        if source not in inputs:
            with graph.inserting_before(first):
                inputs[source] = graph.placeholder(f"x{len(inputs)}")
        return inputs[source]

    for node in part.nodes:

        def operand(x: fx.Node, node: fx.Node = node) -> fx.Node:
            return made[x] if x in made else given((x, part.edges[node].get(x)))

        contraction = as_contraction(node)
        if contraction is not None:
            # A limit that it has is for the whole of it.
            text = str(contraction.equation)
            made[node] = graph.call_function(
                torch.functional.einsum, (text, *(operand(x) for x in contraction.operands))
            )
            continue
        if node.op != "call_module":
            made[node] = graph.node_copy(node, operand)
            continue
        function, *rest = _as_function(node, owner)
        arguments, keywords = (_resolved(x, operand, lambda name: given((name, None))) for x in rest)
        made[node] = graph.call_function(function, arguments, keywords)
    graph.erase_node(first)
    graph.output(made[part.result])
    return fx.GraphModule(nn.Module(), graph), list(inputs)


def _as_function(node: fx.Node, owner: nn.Module) -> Call:
    """What a module computes, as a call of a function of its operand and its parameters."""
    module = owner.get_submodule(str(node.target))
    if isinstance(module, nn.Linear):
        state = [
            Attribute(f"{node.target}.{key}")
            for key in ("weight", "bias")
            if getattr(module, key) is not None
        ]
        return functional.linear, (node.args[0], *state), {}
    operation = elementwise_of(node, owner)
    assert operation is not None
    function, arguments, keywords = operation.over(0)
    if function is in_parts:
        name, _, *rest = arguments
        return PARTWISE[name], tuple(rest), keywords
    name, _, *rest = arguments
    return getattr(torch, name.rstrip("_")), tuple(rest), keywords


def _resolved(argument: Any, of_node: Callable[[fx.Node], Any], of_state: Callable[[Attribute], Any]) -> Any:
    if isinstance(argument, fx.Node):
        return of_node(argument)
    if isinstance(argument, Attribute):
        return of_state(argument)
    if isinstance(argument, (tuple, list)):
        return tuple(_resolved(x, of_node, of_state) for x in argument)
    if isinstance(argument, Mapping):
        return {key: _resolved(x, of_node, of_state) for key, x in argument.items()}
    return argument


def _in_blocks(
    body: Callable[..., Tensor], cuts: Sequence[int | None], axis: int, length: int, order: Sequence[int]
) -> Callable[..., Tensor]:
    """A function that calls another one for one block of rows after the other.

    Args:
        body: computes rows of the result.
        cuts: the dimension of the rows of each operand; None for operands that all rows need.
        axis: the dimension of the rows of the result.
        length: how many rows a block has.
        order: the dimensions of the result, the outermost in memory first.
    """

    def in_blocks(*operands: Tensor) -> Tensor:
        simulated = any(isinstance(x, FakeTensor) for x in operands)
        rows = max(x.shape[cut] for x, cut in zip(operands, cuts, strict=True) if cut is not None)
        whole: Tensor | None = None
        starts: Sequence[int] = range(0, rows, length)
        if simulated and len(starts) > 3:
            # Every block between takes what the second does.
            starts = (*starts[:2], starts[-1])
        for start in starts:
            count = min(length, rows - start)
            given = [
                x if cut is None or x.shape[cut] < rows else x.narrow(cut, start, count)
                for x, cut in zip(operands, cuts, strict=True)
            ]
            block = body(*given)
            if whole is None:
                shape = [rows if i == axis else size for i, size in enumerate(block.shape)]
                laid = block.new_empty([shape[i] for i in order])
                whole = laid.permute([order.index(i) for i in range(len(order))])
            whole.narrow(axis, start, count).copy_(block)
            del block
            if not simulated:
                give_back()
        assert whole is not None
        return whole

    return in_blocks
