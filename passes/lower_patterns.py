"""Write contractions with index patterns as the native convolutions that they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..conv.steps.lowering import Native
from ..graphs.emission import emitter
from ..graphs.estimate import LOWERED, Lowered, flops_of
from ..graphs.native_calls import NativeCall, native_call
from ..graphs.native_writing import write_native
from ..graphs.networks import plan_of
from ..graphs.nodes import (
    VISIBLE_STRIDES,
    Contraction,
    as_contraction,
    erase_unused_patterns,
    inherit,
    value_of,
)
from ..kernels import helpers
from ..layout import contiguous_strides
from ..legality import Effects, is_layout_free, same_floating_dtype
from ..rewrite import Pass, decline


@dataclass(frozen=True)
class LowerPatterns(Pass):
    """Replace contractions with index patterns by calls of torch's convolutions and their gradients.

    What is written is right for every size that the patterns allow, and refuses others. What is no native
    convolution stays a call of ``einfx.einsum``, which sees windows or sums them.

    Example:
        >>> import einfx
        >>> from einfx.rewrite import readable_code
        >>> from einfx.graphs.shapes import propagate
        >>> pattern = einfx.IndexPattern(8, 3, padding=1)
        >>> traced = fx.symbolic_trace(lambda x, w: einfx.einsum("nci,koi,dck->ndo", x, pattern, w))
        >>> propagate(traced, (torch.ones(2, 5, 8), torch.ones(4, 5, 3)))
        []
        >>> LowerPatterns().apply(traced)
        1
        >>> print(readable_code(traced.graph))
        def forward(self, x, w):
            matched = einfx_conv_guards_matched(x, w, [-1, -1, 8], [-1, -1, 3], [1, 1])
            getitem = matched[0]
            getitem_1 = matched[1]
            conv1d = torch.conv1d(getitem, getitem_1, None, [1], [1], [1], 1)
            return conv1d
    """

    name: ClassVar[str] = "lower-patterns"

    def apply(self, graph_module: fx.GraphModule) -> int:
        """Lower in place; one rewrite is one contraction that was replaced."""
        graph = graph_module.graph
        nodes = [x for x in graph.nodes if (c := as_contraction(x)) is not None and c.has_patterns]
        if not nodes:
            return 0
        free = {node for node in nodes if is_layout_free(node)}
        written = Effects.of(graph, graph_module).written_nodes()
        rewrites = 0
        for node in nodes:
            contraction = as_contraction(node)
            assert contraction is not None
            call = native_call(contraction)
            if (reason := _why_not(contraction, call)) is not None:
                decline(node, reason)
            elif not written.isdisjoint(contraction.operands):
                decline(node, "something writes to its operands, which autograd may have saved")
            elif call is not None:
                _lower(graph, node, contraction, call, node in free)
                rewrites += 1
        erase_unused_patterns(graph)
        return rewrites


def _why_not(contraction: Contraction, call: NativeCall | None) -> str | None:
    if any(value_of(operand) is None for operand in contraction.operands):
        return "the shapes of its operands aren't known"
    if not same_floating_dtype(contraction.tensors):
        return "its tensors aren't all known to be of one floating dtype on one device"
    if call is None:
        return "it is no convolution of at most three dimensions: einfx.einsum takes its patterns"
    chosen = plan_of(contraction)
    if (
        chosen is not None
        and len(chosen.steps) == 1
        and not isinstance(chosen.steps[0].lowering.method, Native)
    ):
        return f"{chosen.steps[0].kind} is predicted to be faster than a native convolution"
    value = value_of(call.data)
    if call.kind == "weight" and value is not None and value.dtype.is_complex:
        return "torch has gradients of kernels for real numbers only"
    return None


def _lower(
    graph: fx.Graph, node: fx.Node, contraction: Contraction, call: NativeCall, layout_free: bool
) -> None:
    emitted: list[fx.Node] = []
    with graph.inserting_before(node):
        emit = emitter(graph, emitted)
        result = write_native(emit, call)
        wanted = node.meta.get(VISIBLE_STRIDES) or getattr(value_of(node), "strides", None)
        if not layout_free and wanted is not None:
            result = _laid_out(emit, result, wanted)
    shapes = tuple(value.shape for x in contraction.operands if (value := value_of(x)) is not None)
    lowered = Lowered(node.name, str(contraction.equation), shapes, flops_of(contraction) or 0)
    for new in emitted:
        inherit(new, node)
        new.meta[LOWERED] = lowered
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _laid_out(emit: Callable[..., fx.Node], result: fx.Node, wanted: tuple[int, ...]) -> fx.Node:
    """A result that is contiguous, or has the strides that somebody may see; a size of 1 may have any."""
    value = value_of(result)
    if value is None or value.strides is None:
        return result
    for strides in (wanted, contiguous_strides(value.shape)):
        pairs = zip(value.shape, value.strides, strides, strict=True)
        if all(have == want for size, have, want in pairs if size != 1):
            return result
    order = sorted(range(len(wanted)), key=lambda i: -wanted[i])
    if order == list(range(len(order))):
        return emit(helpers.contiguous, result)
    made = emit(helpers.contiguous, emit(torch.permute, result, tuple(order)))
    return emit(torch.permute, made, tuple(order.index(i) for i in range(len(order))))
