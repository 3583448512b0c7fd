"""Contractions of a graph with what they take: as they are, within a limit, at least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from ..conv.planning.cut_plan import CutPlan
from ..conv.planning.limits import plan_within, within
from ..equation import label_text
from ..errors import MemoryLimitError
from ..graphs.networks import network_of, plan_of
from ..graphs.nodes import Contraction, as_contraction, is_einsum, value_of
from ..graphs.spellings import read
from ..legality import same_floating_dtype
from .contraction_bytes import Bounded, bounded, gradient_bytes, least_bytes, planned_bytes

__all__ = ["EXAMPLE", "ORIGIN", "REORDERED", "GraphContraction", "contractions_of", "example_of"]

EXAMPLE = "einfx_example"
"""The key of a module's ``meta`` for the arguments that its graph is optimised for."""

ORIGIN = "einfx_origin"
"""The metadata key of the name that a contraction had when it was decided whether it is cut."""


REORDERED = "einfx_reordered"
"""The key of a module's ``meta`` that says that nodes were put into another order."""


@dataclass(frozen=True)
class GraphContraction:
    """A contraction of two tensors or more in a graph, over operands whose shapes are known.

    Args:
        node: the node.
        contraction: what it computes.
    """

    node: fx.Node
    contraction: Contraction

    @cached_property
    def tensors(self) -> list[Tensor]:
        """Tensors without data like the operands."""
        values = [value_of(operand) for operand in self.contraction.tensors]
        return [value.on_meta() for value in values if value is not None]

    @cached_property
    def device(self) -> str:
        """Where it is computed."""
        value = value_of(self.contraction.tensors[0])
        return "cpu" if value is None else str(value.device)

    @property
    def result_bytes(self) -> int:
        """What its result takes."""
        value = value_of(self.node)
        return 0 if value is None else value.bytes

    @cached_property
    def planned_bytes(self) -> int | None:
        """What it takes as it is; None where torch computes it in its own way."""
        if not is_einsum(self.node):
            return None
        if self.contraction.has_patterns:
            chosen = plan_of(self.contraction)
            return None if chosen is None else chosen.peak_bytes
        equation, _, options = self.contraction
        try:
            return planned_bytes(equation, self.tensors, options, self.device)
        except MemoryLimitError:
            return None

    def unlimited_bytes(self, least: int) -> int:
        """A limit that changes nothing: what it takes as a whole, or more."""
        if self.contraction.has_patterns:
            return max(least, self.planned_bytes or 0)
        equation, _, options = self.contraction
        return max(least, planned_bytes(equation, self.tensors, options.unlimited(), self.device))

    @cached_property
    def gradient_bytes(self) -> int | None:
        """What it takes at most with all of its gradients; None where that isn't known."""
        if self.contraction.has_patterns:
            return None
        equation, _, options = self.contraction
        return gradient_bytes(equation, self.tensors, options, self.device)

    @cached_property
    def least_bytes(self) -> int:
        """The smallest limit that is known to be enough."""
        if self.contraction.has_patterns:
            found = within(*self._network(), 1, strided=self._strided)
            return found if isinstance(found, int) else found.peak_bytes
        equation, _, options = self.contraction
        return least_bytes(equation, self.tensors, options, self.device)

    def within(self, limit: int) -> Bounded:
        """How it stays within a limit.

        Raises:
            MemoryLimitError: the limit is too small.
        """
        equation, _, options = self.contraction
        if not self.contraction.has_patterns:
            return bounded(equation, self.tensors, replace(options, memory_limit=limit), self.device)
        network, dtype, device = self._network()
        chosen = plan_within(network, dtype, device, limit, strided=self._strided)
        cuts = chosen.cuts if isinstance(chosen, CutPlan) else ()
        loops = [(label_text((label,)), -(-network.sizes[label] // length)) for label, length in cuts]
        return Bounded(chosen.peak_bytes, chosen.seconds, tuple(loops))

    def _network(self) -> tuple[Any, torch.dtype, str]:
        network = network_of(self.contraction)
        assert network is not None
        return network, self.tensors[0].dtype, self.device

    @property
    def _strided(self) -> frozenset[int]:
        values = [value_of(x) for x in self.contraction.operands]
        return frozenset(
            position
            for position, (x, value) in enumerate(zip(self.contraction.operands, values, strict=True))
            if value is not None and x in self.contraction.tensors and not value.on_meta().is_contiguous()
        )


def contractions_of(graph: fx.Graph) -> dict[str, GraphContraction]:
    """The contractions of a graph that a limit can be put on, by the names of their nodes.

    Products in other spellings than einsum are among them; sums of one tensor aren't.

    Example:
        >>> from einfx.graphs.shapes import propagate
        >>> traced = fx.symbolic_trace(lambda x, w: torch.relu(x @ w).sum(0))
        >>> propagate(traced, (torch.ones(2, 3), torch.ones(3, 4)))
        []
        >>> found = contractions_of(traced.graph)
        >>> list(found), found["matmul"].result_bytes, found["matmul"].least_bytes
        (['matmul'], 32, 32)
    """
    found = {}
    for node in graph.nodes:
        contraction = as_contraction(node) or read(node)
        if contraction is None or len(contraction.tensors) < 2:
            continue
        if any(value_of(operand) is None for operand in contraction.operands):
            continue
        if same_floating_dtype(contraction.tensors):
            found[node.name] = GraphContraction(node, contraction)
    return found


def example_of(graph_module: fx.GraphModule) -> Sequence[Any] | None:
    """Arguments for the placeholders of a graph: those it is optimised for, or tensors like its values."""
    known: Sequence[Any] | None = graph_module.meta.get(EXAMPLE)
    if known is not None:
        return known
    inputs = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    values = [value for node in inputs if (value := value_of(node)) is not None]
    if len(values) < len(inputs):
        return None
    return [torch.empty(value.shape, dtype=value.dtype, device=value.device) for value in values]
