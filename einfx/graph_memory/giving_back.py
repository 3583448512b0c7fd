"""Programs that give free memory back where what was freed could add up beside a limit."""

from __future__ import annotations

from torch import fx

from ..free_memory import give_back
from ..rewrite import copied_graph
from .liveness import Liveness

__all__ = ["giving_back"]

SLACK_BYTES = 8 << 20
"""What may stay free beside a twentieth of the limit."""


def giving_back(graph: fx.Graph, alive: Liveness, limit: int) -> fx.Graph | None:
    """A graph with calls of :func:`give_back` before nodes at which too much could be resident.

    Args:
        graph: the graph, which doesn't change.
        alive: what is in use at its nodes.
        limit: in bytes.

    Returns:
        None where none is needed.

    Example:
        >>> import torch
        >>> from einfx.graph_memory.liveness import liveness
        >>> traced = fx.symbolic_trace(lambda x: x.exp().sin().cos().sum())
        >>> alive = liveness(traced, (torch.empty(1 << 23),))
        >>> made = giving_back(traced.graph, alive, 64 << 20)
        >>> [node.name for node in made.nodes]
        ['x', 'exp', 'sin', 'give_back', 'cos', 'sum_1', 'output']
    """
    most = limit + limit // 20 + SLACK_BYTES
    before: list[str] = []
    freed = 0
    for number, moment in enumerate(alive.moments):
        if freed > SLACK_BYTES and moment.bytes + freed > most:
            before.append(moment.node)
            freed = 0
        if number + 1 < len(alive.moments):
            freed += moment.bytes - alive.moments[number + 1].bytes_before
    if not before:
        return None
    made = copied_graph(graph)
    for node in list(made.nodes):
        if node.name in before and node.op not in ("placeholder", "get_attr", "output"):
            with made.inserting_before(node):
                made.call_function(give_back)
    return made
