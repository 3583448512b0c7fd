"""Contractions of a graph as networks of :mod:`einfx.conv`, and what they are predicted to cost."""

from __future__ import annotations

from functools import lru_cache

import torch

from ..conv.planning import ConvPlan, plan_network
from ..conv.symbolic.network import Network, Operand
from ..conv.symbolic.views import View
from ..errors import OperandError
from .nodes import Contraction, pattern_of, value_of

__all__ = ["network_of", "plan_of"]


def network_of(contraction: Contraction) -> Network | None:
    """A contraction by the shapes and the patterns of its operands, for the example inputs.

    Args:
        contraction: one with index patterns; a tensor that it has twice is one tensor.

    Returns:
        None where a shape isn't known.

    Example:
        >>> from torch import fx
        >>> from einfx.graphs.nodes import as_contraction
        >>> from einfx.graphs.shapes import propagate
        >>> import einfx
        >>> pattern = einfx.IndexPattern(8, 3)
        >>> traced = fx.symbolic_trace(lambda x, w: einfx.einsum("ni,koi,k->no", x, pattern, w))
        >>> propagate(traced, (torch.ones(2, 8), torch.ones(3)))
        []
        >>> nodes = [node for node in traced.graph.nodes if as_contraction(node)]
        >>> print(network_of(as_contraction(nodes[0])))
        ab,cdb,c->ad (tensor 0 of (2, 8), IndexPattern(8, 3), tensor 2 of (3,)) -> (2, 6)
    """
    operands: list[Operand] = []
    first: dict[object, int] = {}
    for position, node in enumerate(contraction.operands):
        pattern, value = pattern_of(node), value_of(node)
        if value is None:
            return None
        operands.append(View(first.setdefault(node, position), value.shape) if pattern is None else pattern)
    made = Network(contraction.equation, tuple(operands))
    try:
        made.sizes  # noqa: B018 (sizes that disagree fail in the call, as they always did)
    except OperandError:
        return None
    return made


def plan_of(contraction: Contraction) -> ConvPlan | None:
    """The plan of a contraction with index patterns, or None where its shapes aren't known."""
    network = network_of(contraction)
    values = [value for tensor in contraction.tensors if (value := value_of(tensor)) is not None]
    if network is None or not values or not values[0].dtype.is_floating_point:
        return None
    return _plan(network, values[0].dtype, values[0].device.type, torch.get_num_threads())


@lru_cache(maxsize=4096)
def _plan(network: Network, dtype: torch.dtype, device: str, threads: int) -> ConvPlan:
    return plan_network(network, dtype, device)
