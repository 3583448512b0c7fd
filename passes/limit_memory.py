"""Keep what a graph takes within a limit: reorder its nodes, and compute contractions in blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import fx

from ..equation import Equation
from ..errors import MemoryLimitError
from ..graph_memory.bounds import ORIGIN, REORDERED, GraphContraction, contractions_of, example_of
from ..graph_memory.liveness import Held, Liveness, Moment
from ..graph_memory.overwriting import alive_within
from ..graph_memory.reordering import less_at_a_time, reorder
from ..graphs.nodes import VISIBLE_STRIDES, inherit, insert_contraction, value_of
from ..layout import contiguous_strides
from ..legality import Effects, is_layout_free
from ..plans import size_text
from ..rewrite import Pass, decline


@dataclass(frozen=True)
class LimitMemory(Pass):
    """Put a limit on contractions that would take more than a limit on the whole graph leaves them.

    What is alive beside a contraction is left out of its share. Before that, nodes are put into an order in
    which less is alive at a time, if that of the program is over the limit. Where gradients are recorded,
    each contraction is kept within the limit by itself, its gradients included.

    Args:
        memory_limit: the most bytes beside inputs and attributes; without it nothing is done.
        gradients: whether gradients are recorded.
        beside: contractions by name, each with bytes to leave beside it, which are limited in any case.
        overwrite: whether what runs the graph writes elementwise operations over their operands.

    Example:
        >>> from einfx.rewrite import readable_code
        >>> from einfx.graphs.shapes import propagate
        >>> traced = fx.symbolic_trace(lambda a, b, c: torch.einsum("ij,jk,kl->il", a, b, c).exp())
        >>> propagate(traced, (torch.ones(80, 90), torch.ones(90, 99), torch.ones(99, 2)))
        []
        >>> LimitMemory(memory_limit=1300).apply(traced)
        1
        >>> print(readable_code(traced.graph))
        def forward(self, a, b, c):
            einsum_1 = einfx_contract_einsum('ab,bc,cd->ad', a, b, c, memory_limit = 1300)
            exp = einsum_1.exp()
            return exp
    """

    name: ClassVar[str] = "limit-memory"

    memory_limit: int | None = None
    gradients: bool = False
    beside: tuple[tuple[str, int], ...] = ()
    overwrite: bool = True

    def apply(self, graph_module: fx.GraphModule) -> int:
        """Limit in place; one rewrite is one contraction that was limited, or another order of nodes.

        Raises:
            MemoryLimitError: something takes more than the limit allows; it names the node, where in the
                program that is, what is alive beside it, and the smallest limit that is known to be enough.
        """
        if self.memory_limit is None:
            return 0
        found = contractions_of(graph_module.graph)
        for name, contraction in found.items():
            contraction.node.meta[ORIGIN] = name
        example = example_of(graph_module)
        if self.gradients:
            return self._limit_each(graph_module, found)
        return 0 if example is None else self._limit_all(graph_module, example, found)

    def _limit_each(self, graph_module: fx.GraphModule, found: Mapping[str, GraphContraction]) -> int:
        limit = self.memory_limit
        assert limit is not None
        chosen = {}
        for name, contraction in found.items():
            taken = contraction.gradient_bytes
            if (taken is None or taken > limit) and _may_limit(graph_module, contraction, gradients=True):
                chosen[name] = limit
        return _write(found, chosen)

    def _limit_all(
        self, graph_module: fx.GraphModule, example: Sequence[Any], found: Mapping[str, GraphContraction]
    ) -> int:
        limit = self.memory_limit
        assert limit is not None
        needs = {name: taken for name, x in found.items() if (taken := x.planned_bytes) is not None}
        alive, over = alive_within(graph_module, example, limit, self.overwrite, in_blocks=False)
        rewrites = 0
        results = {name: x.result_bytes for name, x in found.items()}
        for takes in (needs, results):
            if not self.beside and all(_most(moment, needs) <= limit for moment in alive.moments):
                return rewrites
            order = less_at_a_time(graph_module, alive, takes)
            if order is not None:
                reorder(graph_module.graph, order)
                alive, over = alive_within(graph_module, example, limit, self.overwrite, in_blocks=False)
                graph_module.meta[REORDERED] = True
                rewrites = 1
        alive, over = alive_within(graph_module, example, limit, self.overwrite)
        rewrites += self._cut(graph_module, alive, found, needs, over.declined)
        # What is computed in blocks is found again in the end, where its contractions are still whole.
        together = {name: found[name] for names, _ in over.parts for name in names if name in found}
        return rewrites + _write(found, {name: x.unlimited_bytes(limit) for name, x in together.items()})

    def _cut(
        self,
        graph_module: fx.GraphModule,
        alive: Liveness,
        found: Mapping[str, GraphContraction],
        needs: Mapping[str, int],
        declined: Mapping[str, str],
    ) -> int:
        limit = self.memory_limit
        assert limit is not None
        forced = dict(self.beside)
        cut: dict[str, int] = {}
        fixed: list[Moment] = []
        for moment in alive.moments:
            contraction = found.get(moment.node)
            if contraction is None or not (moment.node in forced or _most(moment, needs) > limit):
                fixed.append(moment)
            elif _may_limit(graph_module, contraction, gradients=False):
                cut[moment.node] = limit - moment.bytes_before - forced.get(moment.node, 0)
            else:
                fixed.append(moment)
        worst = max(fixed, key=lambda moment: _most(moment, needs), default=None)
        refused = None if worst is None or _most(worst, needs) <= limit else worst
        for name, rest in cut.items():
            if refused is not None:
                break
            try:
                found[name].within(max(rest, 0))
            except MemoryLimitError:
                refused = next(moment for moment in alive.moments if moment.node == name)
        if refused is not None:
            raise self._refusal(refused, alive, found, needs, cut, declined.get(refused.node, ""))
        return _write(found, cut)

    def _refusal(
        self,
        refused: Moment,
        alive: Liveness,
        found: Mapping[str, GraphContraction],
        needs: Mapping[str, int],
        cut: Mapping[str, int],
        declined: str,
    ) -> MemoryLimitError:
        limit = self.memory_limit
        assert limit is not None
        forced = dict(self.beside)
        least = max([_most(x, needs) for x in alive.moments if x.node not in cut], default=0)
        takes = refused.bytes - refused.bytes_before
        for moment in alive.moments:
            if moment.node not in cut:
                continue
            rest = moment.bytes_before + forced.get(moment.node, 0)
            most = needs.get(moment.node)
            if moment is refused or most is None or rest + most > least:
                smallest = found[moment.node].least_bytes
                least = max(least, rest + smallest)
                takes = smallest if moment is refused else takes
        in_place = f" (not in place, since {declined})" if declined else ""
        at_least = "at least " if refused.node in cut else ""
        return MemoryLimitError(
            f"memory_limit={limit} ({size_text(limit)}) is too little for the model: {refused.node} at "
            f"{refused.line} takes {at_least}{takes} bytes ({size_text(takes)})"
            f"{_beside(refused.before)}{in_place}; it needs {least} bytes ({size_text(least)})",
            least,
        )


def _most(moment: Moment, needs: Mapping[str, int]) -> int:
    """The most that is in use at a node, whose own need may be known otherwise."""
    need = needs.get(moment.node)
    return moment.bytes if need is None else moment.bytes_before + need


def _beside(before: Sequence[Held]) -> str:
    """What is alive beside a node, largest first, as text."""
    if not before:
        return ""
    largest = sorted(before, key=lambda held: -held.bytes)
    names = [f"{held.node} ({size_text(held.bytes)})" for held in largest[:4]]
    more = f" and {len(largest) - 4} more" if len(largest) > 4 else ""
    return f" beside {', '.join(names)}{more}"


def _may_limit(graph_module: fx.GraphModule, found: GraphContraction, gradients: bool) -> bool:
    node = found.node
    effects = Effects.of(graph_module.graph, graph_module)
    if effects.is_mutated(node):
        decline(node, "something writes to its result")
        return False
    if gradients and any(effects.is_written(operand) for operand in found.contraction.operands):
        decline(node, "something writes to its operands, which autograd may have saved")
        return False
    return True


def _write(found: Mapping[str, GraphContraction], limits: Mapping[str, int]) -> int:
    """Put limits on contractions, in the order of the graph; returns how many were not limited so before."""
    replaced: dict[fx.Node, fx.Node] = {}
    rewrites = 0
    for name, limit in limits.items():
        contraction = found[name]
        own = contraction.contraction.options.memory_limit
        if own is None or own > limit:
            replaced[contraction.node] = _limit(contraction, limit, replaced)
            rewrites += 1
    return rewrites


def _limit(found: GraphContraction, limit: int, replaced: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """Write a contraction with a limit, whose result lies in memory as that of the node does."""
    node, (equation, operands, options) = found.node, found.contraction
    operands = tuple(replaced.get(operand, operand) for operand in operands)
    wanted = node.meta.get(VISIBLE_STRIDES) or getattr(value_of(node), "strides", None)
    shape = equation.output_shape([value.shape for x in operands if (value := value_of(x)) is not None])
    order = list(range(len(shape)))
    if wanted is not None and not is_layout_free(node) and wanted != contiguous_strides(shape):
        order.sort(key=lambda i: -wanted[i])
    laid_out = Equation(equation.inputs, tuple(equation.output[i] for i in order))
    with node.graph.inserting_before(node):
        limited = replace(options, memory_limit=limit)
        result = inherit(insert_contraction(node.graph, laid_out, operands, limited), node)
        if order != sorted(order):
            back = tuple(order.index(i) for i in range(len(order)))
            result = inherit(node.graph.call_function(torch.permute, (result, back)), node)
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)
    return result
