"""Write every contraction of one or two operands as the fastest calls of torch that compute it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ..estimate import LOWERED, Lowered, contraction_flops
from ..kernels.real import lower
from ..legality import is_layout_free, same_floating_dtype
from ..nodes import VALUE, VISIBLE_STRIDES, Contraction, Value, as_contraction, inherit, value_of
from ..rewrite import Pass, decline

Strides = tuple[int, ...]


@dataclass(frozen=True)
class LowerKernels(Pass):
    """Replace each einsum of one or two operands by the kernel predicted to be fastest for its shapes.

    What is written is right for every size: where a kernel needs equal sizes, it checks them and
    broadcasts otherwise. A result whose strides somebody may see keeps those of the einsum, or is contiguous.

    Example:
        >>> import torch
        >>> from einfx.shapes import propagate
        >>> traced = fx.symbolic_trace(lambda a, b: torch.einsum("nc,nc->n", a, b))
        >>> propagate(traced, (torch.ones(1000, 2), torch.ones(1000, 2)))
        []
        >>> LowerKernels().apply(traced)
        1
        >>> any(node.target is torch.functional.einsum for node in traced.graph.nodes)
        False
    """

    name: ClassVar[str] = "lower-kernels"

    def apply(self, graph_module: fx.GraphModule) -> int:
        """Lower in place; one rewrite is one einsum that was replaced."""
        graph = graph_module.graph
        free = {node for node in graph.nodes if is_layout_free(node)}
        rewrites = 0
        for node in list(graph.nodes):
            contraction = as_contraction(node)
            if contraction is None:
                continue
            if not same_floating_dtype(contraction.operands):
                decline(node, "its operands aren't all known to be of one floating dtype on one device")
            elif len(contraction.operands) > 2:
                decline(node, "no path was chosen for it")
            else:
                rewrites += _lower(graph, node, contraction, node in free)
        return rewrites


def _lower(graph: fx.Graph, node: fx.Node, contraction: Contraction, layout_free: bool) -> int:
    values = [value for operand in contraction.operands if (value := value_of(operand)) is not None]
    strides = [value.strides for value in values]
    wanted = node.meta.get(VISIBLE_STRIDES) or getattr(value_of(node), "strides", None)
    for contiguous in (False, True):
        emitted: dict[fx.Node, torch.Tensor] = {}
        with graph.inserting_before(node):
            result = lower(
                _emitter(graph, contraction.operands, emitted),
                contraction.equation,
                list(contraction.operands),
                [value.shape for value in values],
                values[0].dtype,
                values[0].device,
                guarded=True,
                strides=None if None in strides else [x for x in strides if x is not None],
                contiguous=contiguous,
            )
        for new, tensor in emitted.items():
            value = Value.of(tensor, values[0].device)
            if value is not None:
                new.meta[VALUE] = value
        if layout_free or contiguous or _looks_the_same(result, wanted):
            break
        for new in reversed(list(emitted)):
            graph.erase_node(new)
    if any(new.target is torch.functional.einsum for new in emitted) and len(emitted) == 1:
        for new in emitted:
            graph.erase_node(new)
        return 0
    shapes = tuple(value.shape for value in values)
    flops = contraction_flops(contraction.equation, shapes)
    for new in emitted:
        inherit(new, node)
        new.meta[LOWERED] = Lowered(node.name, str(contraction.equation), shapes, flops)
    node.replace_all_uses_with(result)
    graph.erase_node(node)
    return 1


def _looks_the_same(result: fx.Node, wanted: Strides | None) -> bool:
    got = value_of(result)
    if got is None or got.strides is None:
        return False
    seen = [(size, stride) for size, stride in zip(got.shape, got.strides, strict=True) if size != 1]
    if wanted is not None and seen == [
        (size, stride) for size, stride in zip(got.shape, wanted, strict=True) if size != 1
    ]:
        return True
    return got.on_meta().is_contiguous()


def _emitter(
    graph: fx.Graph, operands: Sequence[fx.Node], emitted: dict[fx.Node, torch.Tensor]
) -> Callable[..., fx.Node]:
    """Calls that become nodes of ``graph``, and run on the meta device to tell their strides."""
    tensors = {operand: value.on_meta() for operand in operands if (value := value_of(operand)) is not None}

    def emit(function: Callable[..., Any], *arguments: Any) -> fx.Node:
        node = graph.call_function(function, arguments)
        tensors[node] = emitted[node] = function(*fx.map_arg(arguments, tensors.__getitem__))
        return node

    return emit
