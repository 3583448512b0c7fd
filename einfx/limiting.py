"""Optimising a graph within a memory limit: passes, a look at what the result takes, and again if need be.

What is alive beside a contraction is known before it is split and lowered; afterwards it may be a little
more, since a factor was placed or a result is copied into its order. What then is over the limit is limited
further. Where the limit is too small for values that are kept for several uses, they are computed again for
each. What then runs writes elementwise operations over their operands where too much would be in use
otherwise; the graph of the module itself never does, since it is differentiated, scripted and exported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from .capture import bind_arguments
from .errors import MemoryLimitError
from .graph_memory.bounds import EXAMPLE, ORIGIN, REORDERED
from .graph_memory.giving_back import giving_back
from .graph_memory.liveness import Liveness, liveness
from .graph_memory.overwriting import Overwriting, alive_within
from .graph_memory.report import MemoryReport, memory_report, moment_text
from .graphs.folding import PLAIN_TENSORS
from .graphs.nodes import as_contraction, size_read
from .graphs.shapes import propagate
from .graphs.writes import FRESH, function_name
from .kernels import helpers
from .optimized import OptimizedModule, compiled, deferred_compilation
from .passes import FuseEinsums, LimitMemory, ShareContractions
from .passes.fold_constants import folded_constants
from .plans import size_text
from .rewrite import Pass, PassResult, Pipeline, copied_graph
from .sized_programs import Program

__all__ = ["Limited", "optimized_within", "planned_again", "takes_less_when_smaller"]

_ROUNDS = 6
"""How often what is over the limit after all is limited further."""


@dataclass(frozen=True)
class Limited:
    """A graph that stays within a limit.

    Attributes:
        module: the optimised module.
        results: what every pass did.
        memory: what it takes; None where gradients are recorded.
        program: what runs a call.
    """

    module: OptimizedModule
    results: list[PassResult]
    memory: MemoryReport | None
    program: Program


def optimized_within(
    captured: OptimizedModule,
    arguments: Sequence[Any],
    passes: Sequence[Pass],
    limit: int,
    gradients: bool,
    overwrite: bool = True,
) -> Limited:
    """Apply passes so that what the graph takes stays within a limit.

    Args:
        captured: the module, with the values of its nodes; it doesn't change.
        arguments: for which the values are, one for each placeholder.
        passes: in order; :class:`einfx.passes.LimitMemory` among them.
        limit: in bytes.
        gradients: whether gradients are recorded: then contractions stay within the limit each by itself.
        overwrite: whether operations may be written over their operands.

    Raises:
        MemoryLimitError: there is no way that is known.
    """
    first: MemoryLimitError | None = None
    for steps in _ways(passes, limit):
        try:
            return _limited(captured, arguments, steps, limit, gradients, overwrite)
        except MemoryLimitError as error:
            if first is None or (error.needed_bytes or limit) < (first.needed_bytes or limit):
                first = error
    assert first is not None
    raise first


def _ways(passes: Sequence[Pass], limit: int) -> Iterator[tuple[Pass, ...]]:
    """As wanted; then with less and less kept for several uses that can be computed again.

    At last with every contraction as the program has it: what is one contraction keeps all its operands.
    """
    yield _computing_again(passes, limit)
    apart = tuple(step for step in passes if not isinstance(step, ShareContractions))
    yield _computing_again(apart, limit // 4)
    yield _computing_again(apart, limit // 64)
    if any(isinstance(step, FuseEinsums) for step in passes):
        yield tuple(step for step in apart if not isinstance(step, FuseEinsums))


def _computing_again(passes: Sequence[Pass], least: int) -> tuple[Pass, ...]:
    """With contractions of at least so many bytes computed again for each use."""
    return tuple(
        replace(step, compute_again_bytes=least) if isinstance(step, FuseEinsums) else step for step in passes
    )


def _limited(
    captured: OptimizedModule,
    arguments: Sequence[Any],
    passes: Sequence[Pass],
    limit: int,
    gradients: bool,
    overwrite: bool,
) -> Limited:
    before = None if gradients else liveness(captured, arguments)
    beside: dict[str, int] = {}
    for _ in range(_ROUNDS):
        chosen = LimitMemory(limit, gradients, tuple(beside.items()), overwrite)
        steps = tuple(chosen if isinstance(step, LimitMemory) else step for step in passes)
        module = _copied(captured)
        module.meta[EXAMPLE] = arguments
        with deferred_compilation():
            results = Pipeline(steps).run(module)
        del module.meta[EXAMPLE]
        if before is None:
            module.recompile()
            own = Program(compiled(module.graph), takes_less_when_smaller(module.graph))
            return Limited(module, results, None, own)
        after, over = alive_within(module, arguments, limit, overwrite)
        if after.peak_bytes <= limit:
            module.recompile()
            reordered = bool(module.meta.pop(REORDERED, False))
            memory = memory_report(limit, before, after, module.graph, reordered, over)
            return Limited(module, results, memory, _program(module.graph, over, after, limit))
        further = _further(module.graph, after, limit, beside)
        if further == beside:
            break
        beside = further
    peak = after.peak
    assert peak is not None
    raise MemoryLimitError(
        f"memory_limit={limit} ({size_text(limit)}) is too little for the model: {moment_text(peak)}; it "
        f"needs {peak.bytes} bytes ({size_text(peak.bytes)}), as far as was found",
        peak.bytes,
    )


def _program(graph: fx.Graph, over: Overwriting, alive: Liveness, limit: int) -> Program:
    """What runs a graph as it is, or writing over operands and giving memory back on its way."""
    returning = giving_back(over.graph, alive, limit)
    runs = over.graph if returning is None else returning
    forward = None if runs is graph else compiled(runs)
    return Program(forward, takes_less_when_smaller(graph), runs is not graph)


def _copied(captured: OptimizedModule) -> OptimizedModule:
    with deferred_compilation():
        module = OptimizedModule(captured, copied_graph(captured.graph), type(captured).__name__)
    folded_constants(module).extend(folded_constants(captured))
    if PLAIN_TENSORS in captured.meta:
        module.meta[PLAIN_TENSORS] = captured.meta[PLAIN_TENSORS]
    return module


def _further(graph: fx.Graph, after: Liveness, limit: int, beside: dict[str, int]) -> dict[str, int]:
    """Contractions to limit, or to limit further, with what is to be left beside each."""
    nodes = {node.name: node for node in graph.nodes}
    result = dict(beside)
    for moment in after.moments:
        if moment.bytes <= limit:
            continue
        for name in (moment.node, *(held.node for held in moment.before)):
            # A part in blocks is one node where the program runs, and none in the graph.
            origin = nodes[name].meta.get(ORIGIN) if name in nodes else None
            if origin is None:
                continue
            excess = moment.bytes - limit if name == moment.node and origin in beside else 0
            result[origin] = max(result.get(origin, 0), beside.get(origin, 0) + excess)
            if name == moment.node:
                break
    return result


def planned_again(
    passes: Sequence[Pass],
    limit: int,
    module: OptimizedModule,
    arguments: Sequence[Any],
    keywords: Mapping[str, Any],
    gradients: bool,
    overwrite: bool = True,
) -> Program:
    """A program of a module within its limit, for other inputs than those that it was optimised for.

    Args:
        passes: what it was optimised with.
        limit: in bytes.
        module: the module; constants that the program has folded are added to its buffers.
        arguments: positional arguments of a call.
        keywords: its keyword arguments.
        gradients: whether gradients are recorded.
        overwrite: whether operations may be written over their operands.

    Raises:
        MemoryLimitError: there is no way that is known.
    """
    original = module.original_graph
    bound = bind_arguments(original, tuple(arguments), dict(keywords))
    if torch._C._is_any_autocast_enabled():
        return _under_autocast(module, bound, limit)
    if not gradients:
        alive, over = alive_within(module, bound, limit, overwrite)
        if alive.peak_bytes <= limit:
            return _program(module.graph, over, alive, limit)
    with deferred_compilation():
        captured = OptimizedModule(module, copied_graph(original), type(module).__name__)
    folded_constants(captured).extend(module.__dict__["_folded"])
    if PLAIN_TENSORS in module.meta:
        captured.meta[PLAIN_TENSORS] = module.meta[PLAIN_TENSORS]
    propagate(captured, bound)
    limited = optimized_within(captured, bound, passes, limit, gradients, overwrite)
    found, program = limited.module, limited.program
    module._adopt_constants(folded_constants(found), found)
    return program if program.forward is not None else program._replace(forward=compiled(found.graph))


def _under_autocast(module: OptimizedModule, arguments: Sequence[Any], limit: int) -> Program:
    """The original program, if it stays within the limit as it is."""
    alive = liveness(fx.GraphModule(module, module.original_graph), arguments)
    if alive.peak_bytes > limit:
        assert alive.peak is not None
        raise MemoryLimitError(
            f"memory_limit={limit} ({size_text(limit)}) is too little under autocast, where the original "
            f"program runs: {moment_text(alive.peak)}; it needs {alive.peak_bytes} bytes. Leave autocast, "
            "and convert the model and its inputs instead",
            alive.peak_bytes,
        )
    return Program(None, False)


_MONOTONE = (FRESH - {"bilinear", "conv1d", "conv2d", "conv3d", "einsum", "tensordot"}) | frozenset(
    "permute transpose t unsqueeze squeeze flatten reshape view expand narrow select diagonal contiguous "
    "movedim swapaxes getitem".split()
)
"""Operations that make no more of smaller inputs, and take no more inside."""


def takes_less_when_smaller(graph: fx.Graph) -> bool:
    """Whether a graph is known to take no more memory for inputs of which none is larger.

    Sizes that the program computes with might grow where those of its inputs shrink.

    Example:
        >>> takes_less_when_smaller(fx.symbolic_trace(lambda x: torch.relu(x).sum(0)).graph)
        True
        >>> takes_less_when_smaller(fx.symbolic_trace(lambda x: torch.zeros(9 - x.size(0)) + x).graph)
        False
    """
    return all(_is_monotone(node) for node in graph.nodes)


def _is_monotone(node: fx.Node) -> bool:
    if node.op in ("placeholder", "get_attr", "output"):
        return True
    contraction = as_contraction(node)
    if contraction is not None:
        return not contraction.has_patterns
    if node.op not in ("call_function", "call_method") or size_read(node)[0] is not None:
        return False
    if getattr(node.target, "__module__", "") == helpers.__name__:
        # A product that is made in blocks may be made as a whole where it is smaller.
        return node.target is not helpers.multiply_sum
    return function_name(node) in _MONOTONE
