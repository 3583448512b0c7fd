"""What a pass is, and how passes run one after another with a check behind each."""

from __future__ import annotations

import difflib
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import fx

from .errors import PassError
from .graphs.estimate import Estimate, estimate
from .graphs.nodes import is_einsum, value_of
from .legality import Effects, unchanged_graphs

__all__ = ["Declined", "Pass", "PassResult", "Pipeline", "decline", "readable_code", "readable_source"]


class Declined(NamedTuple):
    """A rewrite that a pass left undone, and why."""

    node: str
    reason: str


_declined: ContextVar[list[Declined] | None] = ContextVar("declined", default=None)


def decline(node: fx.Node, reason: str) -> None:
    """Note in the report that the running pass leaves ``node`` as it is, and why."""
    log = _declined.get()
    entry = Declined(node.name, reason)
    if log is not None and entry not in log:
        log.append(entry)


@contextmanager
def collect_declined() -> Iterator[list[Declined]]:
    """Gather what :func:`decline` notes inside the block."""
    log: list[Declined] = []
    token = _declined.set(log)
    try:
        yield log
    finally:
        _declined.reset(token)


@dataclass(frozen=True)
class Pass(ABC):
    """One rewrite of a graph: a frozen dataclass whose fields are its options.

    A subclass lives in a file of its own in ``passes/``, states its ``name``, shows code before and after
    in its docstring, and rewrites ``graph_module.graph`` in place. Before it runs the graph is valid, and
    so it must be afterwards: that is checked, and a failure names the pass.
    """

    name: ClassVar[str]

    @abstractmethod
    def apply(self, graph_module: fx.GraphModule) -> int:
        """Rewrite the graph in place and return how many rewrites were made."""


@dataclass(frozen=True)
class PassResult:
    """What one pass did."""

    name: str
    rewrites: int
    seconds: float
    declined: tuple[Declined, ...]
    before: Estimate
    after: Estimate


@dataclass(frozen=True)
class Pipeline:
    """Passes in order, each followed by a check of what it left.

    Example:
        >>> import torch
        >>> from einfx.passes import NormalizeEinsums
        >>> traced = fx.symbolic_trace(lambda a, b: torch.einsum("xy, yz", a, b))
        >>> [(result.name, result.rewrites) for result in Pipeline((NormalizeEinsums(),)).run(traced)]
        [('normalize-einsums', 1)]
    """

    passes: tuple[Pass, ...]

    def run(self, graph_module: fx.GraphModule, original: fx.Graph | None = None) -> list[PassResult]:
        """Apply every pass to ``graph_module`` in place.

        Args:
            graph_module: what to rewrite.
            original: an equal graph, if there is one already: a failing pass is run again on a copy, to
                show what it changed.

        Raises:
            PassError: a pass failed, or left a graph that is invalid or computes values of another
                shape, dtype or device; the message names the pass and shows what it changed.
        """
        with unchanged_graphs() as unchanged:
            copied = copied_graph(graph_module.graph) if original is None else original
            return self._run(graph_module, copied, unchanged)

    def _run(
        self, graph_module: fx.GraphModule, original: fx.Graph, unchanged: dict[fx.Graph, Effects]
    ) -> list[PassResult]:
        results: list[PassResult] = []
        before = estimate(graph_module.graph, graph_module)
        outputs = _output_values(graph_module.graph)
        for step in self.passes:
            start = time.perf_counter()
            with collect_declined() as declined:
                rewrites = step.apply(graph_module)
            seconds = time.perf_counter() - start
            if rewrites:
                unchanged.clear()
            problem = find_problem(graph_module, outputs) if rewrites else None
            if problem is not None:
                difference = self._difference(graph_module, original, len(results))
                raise PassError(f"pass {step.name!r} broke the graph: {problem}\n{difference}")
            after = estimate(graph_module.graph, graph_module) if rewrites else before
            results.append(PassResult(step.name, rewrites, seconds, tuple(declined), before, after))
            before = after
        graph_module.recompile()
        return results

    def _difference(self, graph_module: fx.GraphModule, original: fx.Graph, failed: int) -> str:
        """What the failed pass changed: the passes before it run again, on the graph as it was."""
        broken = readable_code(graph_module.graph).splitlines()
        graph_module.graph = copied_graph(original)
        for step in self.passes[:failed]:
            step.apply(graph_module)
        sound = readable_code(graph_module.graph).splitlines()
        return "\n".join(difflib.unified_diff(sound, broken, "before", "after", lineterm=""))


def copied_graph(graph: fx.Graph) -> fx.Graph:
    """A graph equal to ``graph``, with nodes and metadata dictionaries of its own."""
    new = fx.Graph(tracer_cls=graph._tracer_cls)
    output = new.graph_copy(graph, {}, return_output_node=True)
    value, old = output if isinstance(output, tuple) else (output, None)
    result = new.output(value)
    if old is not None:
        result.meta = dict(old.meta)
        result.type = old.type
    new.set_codegen(graph._codegen)
    return new


def find_problem(graph_module: fx.GraphModule, outputs: Sequence[Any] = ()) -> str | None:
    """What is wrong with a graph after a pass, or None.

    Args:
        graph_module: the graph, checked by torch's lint and for einfx's invariants: a written einsum has
            an explicit equation with one operand per part, and the shapes it implies.
        outputs: the output values before the pass; the graph must still return the same shapes, dtypes
            and devices.
    """
    try:
        graph_module.graph.lint()
    except Exception as error:
        return str(error)
    for node in graph_module.graph.nodes:
        if (
            not is_einsum(node)
            or not (node.args and isinstance(node.args[0], str))
            or "->" not in node.args[0]
        ):
            continue
        text, operands = node.args[0], node.args[1:]
        if operands and all(isinstance(x, fx.Node) for x in operands):
            parts = text.split("->")[0].split(",")
            if len(parts) != len(operands):
                return f"{node.name}: equation {text!r} has {len(operands)} operand(s)"
            for part, operand in zip(parts, operands, strict=True):
                value = value_of(operand)
                labels = part.replace(" ", "")
                if value is not None and "." not in part and len(labels) != len(value.shape):
                    return f"{node.name}: {labels!r} labels operand {operand} of shape {value.shape}"
    for old, new in zip(outputs, _output_values(graph_module.graph), strict=False):
        if old is not None and new is not None and old != new:
            return f"an output was {old} and is now {new}"
    return None


def _output_values(graph: fx.Graph) -> list[tuple[Any, ...] | None]:
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    returned: list[fx.Node] = []
    fx.map_arg(output.args, lambda node: returned.append(node))
    values = [value_of(node) for node in returned]
    return [None if v is None else (v.shape, v.dtype, v.device) for v in values]


_DELETION = re.compile(r";  (\w+ = )+None")


def readable_code(graph: fx.Graph) -> str:
    """The graph as code to read: one line a node, without the deletions that torch adds.

    Example:
        >>> import torch
        >>> print(readable_code(fx.symbolic_trace(lambda a, b: torch.einsum("ij,jk", a, b)).graph))
        def forward(self, a, b):
            einsum = torch.functional.einsum('ij,jk', a, b)
            return einsum
    """
    return readable_source(graph.python_code("self", verbose=False).src)


def readable_source(source: str) -> str:
    """Code that torch generated for a graph, as :func:`readable_code` shows it."""
    lines = []
    for line in source.splitlines():
        line = _DELETION.sub("", line).rstrip()
        if line and not line.startswith("import ") and not line.startswith("torch.fx"):
            lines.append(line)
    return "\n".join(lines)
