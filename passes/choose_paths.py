"""Split contractions of many operands into pairs, along the path that is predicted to be fastest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ..conv.planning import ConvPlan
from ..equation import Equation
from ..graph_memory.bounds import ORIGIN
from ..graphs.folding import is_constant
from ..graphs.networks import plan_of
from ..graphs.nodes import (
    Contraction,
    as_contraction,
    erase_unused_patterns,
    inherit,
    insert_contraction,
    pattern_of,
    value_of,
)
from ..graphs.regrouping import why_not_regroup
from ..legality import Effects, same_floating_dtype
from ..options import Options
from ..pattern import IndexPattern
from ..planning import Plan, plan
from ..rewrite import Pass, decline
from ..shifted_log import ShiftedLog


@dataclass(frozen=True)
class ChoosePaths(Pass):
    """Replace an einsum of three or more operands by the steps of its plan.

    One over the log semiring stays whole where ``einfx.einsum`` contracts its exponentials at once, along the
    same path, unless some of its operands are constant.

    Index patterns go along with the step in which they are part of a convolution.

    Over another semiring than the real one a step may have more than two operands, where none of its
    intermediates would be smaller. The result of a step is a logarithm over ``log``, whatever its operands.

    Args:
        optimize: a strategy of opt_einsum, or whatever else ``einfx.contract_path`` takes.
        constants: names of attributes that may be folded, so that contracting them alone costs nothing.

    Example:
        >>> import torch
        >>> from einfx.rewrite import readable_code
        >>> from einfx.graphs.shapes import propagate
        >>> traced = fx.symbolic_trace(lambda a, b, c: torch.einsum("ij,jk,kl->il", a, b, c))
        >>> propagate(traced, (torch.ones(50, 60), torch.ones(60, 70), torch.ones(70, 5)))
        []
        >>> ChoosePaths().apply(traced)
        1
        >>> print(readable_code(traced.graph))
        def forward(self, a, b, c):
            einsum_1 = torch.functional.einsum('ab,bc->ac', b, c)
            einsum_2 = torch.functional.einsum('ab,bc->ac', a, einsum_1)
            return einsum_2
    """

    name: ClassVar[str] = "choose-paths"

    optimize: Any = "auto"
    constants: tuple[str, ...] = ()

    def apply(self, graph_module: fx.GraphModule) -> int:
        """Split in place; one rewrite is one einsum that became several."""
        graph = graph_module.graph
        written = Effects.of(graph, graph_module).written_nodes()
        rewrites = 0
        for node in list(graph.nodes):
            contraction = as_contraction(node)
            if contraction is None or len(contraction.operands) < 3 or len(contraction.tensors) < 2:
                continue
            if not written.isdisjoint(contraction.operands):
                decline(node, "something writes to its operands, which autograd may have saved")
                continue
            if contraction.has_patterns:
                rewrites += self._split(graph, node, contraction)
                continue
            chosen = self._plan(graph_module, node, contraction)
            if chosen is None or len(chosen.steps) < 2:
                continue
            if self.optimize == "auto" and self._is_at_once(graph_module, contraction, chosen):
                decline(node, "it is computed along its path without a logarithm for every step")
                continue
            steps = [(step.operands, step.equation, chosen.step_options(step)) for step in chosen.steps]
            node.replace_all_uses_with(_write(graph, node, contraction.operands, steps))
            graph.erase_node(node)
            rewrites += 1
        erase_unused_patterns(graph)
        return rewrites

    def _split(self, graph: fx.Graph, node: fx.Node, contraction: Contraction) -> int:
        """Replace a contraction with index patterns by the steps of its plan."""
        if not same_floating_dtype(contraction.tensors):
            decline(node, "its tensors aren't all known to be of one floating dtype on one device")
            return 0
        chosen = plan_of(contraction)
        if chosen is None or len(chosen.steps) < 2:
            return 0
        with graph.inserting_before(node):
            operands = _planned_operands(graph, contraction, chosen)
        if operands is None:
            decline(
                node, "its plan joins patterns that are made for the sizes of a call, as einsum does there"
            )
            return 0
        steps = [(step.operands, step.network.equation, contraction.options) for step in chosen.steps]
        node.replace_all_uses_with(_write(graph, node, operands, steps))
        graph.erase_node(node)
        return 1

    def _plan(self, graph_module: fx.GraphModule, node: fx.Node, contraction: Contraction) -> Plan | None:
        values = [value_of(operand) for operand in contraction.operands]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            decline(node, "the shapes of its operands aren't known")
            return None
        if (reason := why_not_regroup(contraction.options, contraction.operands)) is not None:
            if contraction.options.is_plain:
                dtypes = _names({value.dtype for value in known})
                reason = f"its operands are {dtypes}: another order could change the result's dtype"
            decline(node, reason)
            return None
        return plan(
            contraction.equation,
            [value.shape for value in known],
            dtype=known[0].dtype,
            device=str(known[0].device),
            optimize=self.optimize,
            constants=self._constants(graph_module, contraction),
            options=contraction.options,
        )

    def _is_at_once(self, graph_module: fx.GraphModule, contraction: Contraction, chosen: Plan) -> bool:
        """Whether einsum takes it along its path by one real contraction, with no constants to fold."""
        return ShiftedLog.of(chosen) is not None and not self._constants(graph_module, contraction)

    def _constants(self, graph_module: fx.GraphModule, contraction: Contraction) -> list[int]:
        operands = enumerate(contraction.operands)
        return [i for i, x in operands if is_constant(graph_module, x, self.constants)]


def _names(dtypes: set[torch.dtype]) -> str:
    return ", ".join(sorted(str(dtype) for dtype in dtypes))


def _planned_operands(
    graph: fx.Graph, contraction: Contraction, chosen: ConvPlan
) -> tuple[fx.Node, ...] | None:
    """The operands with the patterns of the plan, which may be others in the places of those of the call.

    Returns:
        None where there are others, and some are made for sizes that are only known in the call.
    """
    wanted = [x if isinstance(x, IndexPattern) else None for x in chosen.network.operands]
    given = [pattern_of(operand) for operand in contraction.operands]
    if wanted == given and chosen.network.equation == contraction.equation:
        return contraction.operands
    if len(wanted) != len(given) or any(
        pattern is not None and operand.all_input_nodes
        for pattern, operand in zip(given, contraction.operands, strict=True)
    ):
        return None
    return tuple(
        operand if pattern is None or pattern == old else graph.call_function(IndexPattern, pattern.numbers)
        for operand, pattern, old in zip(contraction.operands, wanted, given, strict=True)
    )


_Steps = Sequence[tuple[tuple[int, ...], Equation, Options]]
"""For each step the numbers of what it reads, what it computes, and over what."""


def _write(graph: fx.Graph, node: fx.Node, operands: Sequence[fx.Node], steps: _Steps) -> fx.Node:
    values = list(operands)
    with graph.inserting_before(node):
        for numbers, equation, options in steps:
            new = insert_contraction(graph, equation, [values[x] for x in numbers], options)
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack", ORIGIN):
                if key in node.meta:
                    new.meta[key] = node.meta[key]
            values.append(new)
    return inherit(values[-1], node)
