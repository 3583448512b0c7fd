"""The order of the nodes of a graph in which least is in use at a time.

What a node reads must come before it, and random numbers are drawn in the order of the program; everything
else may move where nothing is written in place. Looked at are three orders: that of the program, one that at
every point takes the node after which least is in use, and one that goes from the results to what they are
made from, the operand first that takes most on its way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import fx

from ..legality import Effects
from .liveness import Liveness

__all__ = ["less_at_a_time", "reorder"]


def less_at_a_time(
    graph_module: fx.GraphModule, found: Liveness, needs: Mapping[str, int]
) -> list[fx.Node] | None:
    """An order of the nodes in which less is in use at a time than in the graph as it is.

    Args:
        graph_module: the graph.
        found: what is alive in it.
        needs: for nodes whose moment doesn't tell: what they take beside what is there before them.

    Returns:
        All nodes that compute something, in another order; None where none is better, or where something is
        written in place.

    Example:
        >>> import torch
        >>> from einfx.graph_memory.liveness import liveness
        >>> def program(x):
        ...     large, other = torch.exp(x), torch.sin(x)
        ...     return large.sum() + other.sum()
        >>> traced = fx.symbolic_trace(program)
        >>> order = less_at_a_time(traced, liveness(traced, (torch.ones(1000),)), {})
        >>> [node.name for node in order]
        ['exp', 'sum_1', 'sin', 'sum_2', 'add']
    """
    if not Effects.of(graph_module.graph, graph_module).pure:
        return None
    program = _Program(graph_module.graph, found, needs)
    if len(program.nodes) < len(found.moments):
        return None
    best = min((program.nodes, program.greedy(), program.from_results()), key=program.peak)
    return best if program.peak(best) < program.peak(program.nodes) else None


def reorder(graph: fx.Graph, order: Sequence[fx.Node]) -> None:
    """Bring nodes into an order; inputs and attributes go before all others."""
    output = next(iter(reversed(graph.nodes)))
    for node in order:
        output.prepend(node)


@dataclass
class _Program:
    graph: fx.Graph
    found: Liveness
    needs: Mapping[str, int]

    def __post_init__(self) -> None:
        moments = {moment.node: moment for moment in self.found.moments}
        self.nodes = [node for node in self.graph.nodes if node.name in moments]
        self.extra: dict[fx.Node, int] = {}
        self.made: dict[fx.Node, tuple[int, ...]] = {}
        self.holds: dict[fx.Node, tuple[int, ...]] = {}
        self.after: dict[fx.Node, list[fx.Node]] = {}
        last: fx.Node | None = None
        for node in self.nodes:
            moment = moments[node.name]
            self.extra[node] = self.needs.get(node.name, moment.bytes - moment.bytes_before)
            self.made[node], self.holds[node] = moment.made, moment.holds
            self.after[node] = [x for x in node.all_input_nodes if x.name in moments]
            if moment.random:
                self.after[node] += [last] if last is not None else []
                last = node

    @cached_property
    def reads(self) -> dict[fx.Node, tuple[int, ...]]:
        """The pieces of memory that every node reads."""
        return {
            node: tuple(
                dict.fromkeys(x for operand in node.all_input_nodes for x in self.holds.get(operand, ()))
            )
            for node in (*self.nodes, self._output)
        }

    @cached_property
    def readers(self) -> dict[int, int]:
        """How many nodes read each piece of memory."""
        count = dict.fromkeys(range(len(self.found.sizes)), 0)
        for pieces in self.reads.values():
            for piece in pieces:
                count[piece] += 1
        return count

    @property
    def _output(self) -> fx.Node:
        output: fx.Node = next(iter(reversed(self.graph.nodes)))
        return output

    def _bytes(self, pieces: Sequence[int]) -> int:
        return sum(self.found.sizes[piece] for piece in pieces)

    def _freed(self, node: fx.Node, left: dict[int, int]) -> list[int]:
        """What goes after a node: what it is the last to read, and of its own what nothing reads."""
        own = [piece for piece in self.made[node] if not self.readers[piece]]
        return own + [piece for piece in self.reads[node] if left[piece] == 1]

    def peak(self, order: Sequence[fx.Node]) -> int:
        """The most that is in use in an order."""
        left, now, most = dict(self.readers), 0, 0
        for node in order:
            most = max(most, now + self.extra[node])
            now += self._bytes(self.made[node]) - self._bytes(self._freed(node, left))
            for piece in self.reads[node]:
                left[piece] -= 1
        return most

    def greedy(self) -> list[fx.Node]:
        """Always the node after which least is in use."""
        left = dict(self.readers)
        waiting = {node: len(set(self.after[node])) for node in self.nodes}
        users: dict[fx.Node, list[fx.Node]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for operand in set(self.after[node]):
                users[operand].append(node)
        place = {node: i for i, node in enumerate(self.nodes)}
        ready = [node for node in self.nodes if not waiting[node]]
        order: list[fx.Node] = []

        def grows(node: fx.Node) -> tuple[int, int, int]:
            growth = self._bytes(self.made[node]) - self._bytes(self._freed(node, left))
            return growth, self.extra[node], place[node]

        while ready:
            node = min(ready, key=grows)
            ready.remove(node)
            order.append(node)
            for piece in self.reads[node]:
                left[piece] -= 1
            for user in users[node]:
                waiting[user] -= 1
                if not waiting[user]:
                    ready.append(user)
        return order

    def from_results(self) -> list[fx.Node]:
        """What results are made from, the operand first that takes most on its way beside what it leaves."""
        takes: dict[fx.Node, int] = {}
        for node in self.nodes:
            beside = most = 0
            for operand in self._by_demand(self.after[node], takes):
                most = max(most, beside + takes[operand])
                beside += self._bytes(self.made[operand])
            takes[node] = max(most, beside + self.extra[node])
        order: dict[fx.Node, None] = {}
        roots = [node for node in self._output.all_input_nodes if node in takes]
        stack = [*reversed(self.nodes), *reversed(self._by_demand(roots, takes))]
        while stack:
            node = stack[-1]
            missing = [x for x in self._by_demand(self.after[node], takes) if x not in order]
            if missing and node not in order:
                stack.extend(reversed(missing))
            else:
                stack.pop()
                order[node] = None
        return list(order)

    def _by_demand(self, nodes: Sequence[fx.Node], takes: Mapping[fx.Node, int]) -> list[fx.Node]:
        different = list(dict.fromkeys(nodes))
        return sorted(different, key=lambda node: self._bytes(self.made[node]) - takes[node])
