"""Write every contraction of one or two operands as the fastest calls of torch that compute it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ..costs.cost import choose_kernel
from ..equation import Equation, label_text
from ..graphs.estimate import LOWERED, Lowered, contraction_flops
from ..graphs.nodes import VALUE, VISIBLE_STRIDES, Contraction, Value, as_contraction, inherit, value_of
from ..kernels import helpers
from ..kernels.real import lower
from ..kernels.results import Dense, result_of
from ..layout import contiguous_strides
from ..legality import Effects, is_layout_free, same_floating_dtype
from ..rewrite import Pass, decline

Strides = tuple[int, ...]

_EINSUM_SECONDS = 15e-6
"""What a call of torch.einsum takes apart from its arithmetic."""


@dataclass(frozen=True)
class LowerKernels(Pass):
    """Replace each einsum of one or two operands by the kernel predicted to be fastest for its shapes.

    What is written is right for every size: where a kernel needs equal sizes, it checks them and
    broadcasts otherwise. Einsums over other semirings, or with index patterns, stay calls of
    ``einfx.einsum``, which has their kernels. A result whose strides somebody may see keeps those of the
    einsum.

    Example:
        >>> import torch
        >>> from einfx.graphs.shapes import propagate
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
        written = Effects.of(graph, graph_module).written_nodes()
        rewrites = 0
        for node in list(graph.nodes):
            contraction = as_contraction(node)
            if contraction is None or not contraction.options.is_plain or contraction.has_patterns:
                continue
            if not same_floating_dtype(contraction.operands):
                decline(node, "its operands aren't all known to be of one floating dtype on one device")
            elif not written.isdisjoint(contraction.operands):
                decline(node, "something writes to its operands, which autograd may have saved")
            elif len(contraction.operands) > 2:
                decline(node, "no path was chosen for it")
            else:
                rewrites += _lower(graph, node, contraction, node in free)
        for node in reversed(list(graph.nodes)):
            if node.target is torch.permute and LOWERED in node.meta and not node.users:
                graph.erase_node(node)
        return rewrites


def _lower(graph: fx.Graph, node: fx.Node, contraction: Contraction, layout_free: bool) -> int:
    values = [value for operand in contraction.operands if (value := value_of(operand)) is not None]
    shapes = [value.shape for value in values]
    wanted = node.meta.get(VISIBLE_STRIDES) or getattr(value_of(node), "strides", None)
    if wanted is None or _is_reshaped(node):
        wanted = contiguous_strides(contraction.equation.output_shape(shapes))
    with graph.inserting_before(node):
        squeezed = _squeezed(contraction, values)
        if squeezed is not None:
            result, emitted = _emit_squeezed(
                graph, contraction, values, squeezed, None if layout_free else wanted
            )
        else:
            result, emitted = _emit(graph, contraction, values, contiguous=False)
            if not layout_free and not _has_strides(result, wanted):
                for new in reversed(emitted):
                    graph.erase_node(new)
                result, emitted = _emit_in_order(graph, contraction, values, wanted)
    if len(emitted) == 1 and result.target is torch.functional.einsum:
        graph.erase_node(result)
        return 0
    flops = contraction_flops(contraction.equation, tuple(shapes))
    for new in emitted:
        inherit(new, node)
        new.meta[LOWERED] = Lowered(node.name, str(contraction.equation), tuple(shapes), flops)
    node.replace_all_uses_with(result)
    graph.erase_node(node)
    return 1


def _is_reshaped(node: fx.Node) -> bool:
    """Whether all that sees the strides of ``node`` is a reshape that made a contiguous tensor of it.

    Of a contiguous result it makes one again, without the copy that other strides may cost it.
    """
    for user in node.users:
        value = value_of(user)
        if user.target != "reshape" or value is None or value.strides != contiguous_strides(value.shape):
            return False
    return bool(node.users)


Squeezed = tuple[Equation, list[tuple[int, ...]]]


def _squeezed(contraction: Contraction, values: Sequence[Value]) -> Squeezed | None:
    """The contraction without dimensions of size 1 that broadcast, and which they are, if that is faster."""
    equation = contraction.equation
    if len(values) != 2:
        return None
    shapes = [value.shape for value in values]
    sizes = equation.sizes(shapes)
    inputs, dims = [], []
    for labels, shape in zip(equation.inputs, shapes, strict=True):
        unit = tuple(i for i, x in enumerate(labels) if shape[i] == 1 != sizes[x] and labels.count(x) == 1)
        dims.append(unit)
        inputs.append(tuple(x for i, x in enumerate(labels) if i not in unit))
    if not any(dims):
        return None
    small = Equation(tuple(inputs), equation.output)
    dense = [tuple(n for i, n in enumerate(s) if i not in unit) for s, unit in zip(shapes, dims, strict=True)]
    dtype, device = values[0].dtype, values[0].device
    before = choose_kernel(equation, shapes, dtype, device, guarded=True).cost.seconds
    after = choose_kernel(small, dense, dtype, device).cost.seconds
    return (small, dims) if after + _EINSUM_SECONDS < 0.7 * before else None


def _emit_squeezed(
    graph: fx.Graph,
    contraction: Contraction,
    values: Sequence[Value],
    squeezed: Squeezed,
    wanted: Strides | None,
) -> tuple[fx.Node, list[fx.Node]]:
    equation, operands, _ = contraction
    letters = {x: label_text((x,)) for x in equation.labels}
    written = [
        "".join(letters[x] for i, x in enumerate(labels) if i not in unit)
        for labels, unit in zip(equation.inputs, squeezed[1], strict=True)
    ]
    output = "".join(letters[x] for x in equation.output)
    emitted: dict[fx.Node, Dense] = {}
    emit = _emitter(graph, operands, emitted)
    result = emit(
        helpers.squeezed_einsum, *operands, str(equation), *squeezed[1], f"{','.join(written)}->{output}"
    )
    _record(emitted, values[0])
    if wanted is not None and not _has_strides(result, wanted):
        order = tuple(sorted(range(len(wanted)), key=lambda i: -wanted[i]))
        result = emit(helpers.contiguous, emit(torch.permute, result, order))
        result = emit(torch.permute, result, tuple(order.index(i) for i in range(len(order))))
        _record(emitted, values[0])
    return result, list(emitted)


def _record(emitted: dict[fx.Node, Dense], like: Value) -> None:
    for new, dense in emitted.items():
        new.meta[VALUE] = Value(*dense, like.dtype, like.device)


def _emit(
    graph: fx.Graph, contraction: Contraction, values: Sequence[Value], contiguous: bool
) -> tuple[fx.Node, list[fx.Node]]:
    """Write the kernel at the insertion point; returns its result and all nodes written."""
    emitted: dict[fx.Node, Dense] = {}
    strides = [value.strides for value in values]
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
    _record(emitted, values[0])
    return result, list(emitted)


def _emit_in_order(
    graph: fx.Graph, contraction: Contraction, values: Sequence[Value], wanted: Strides
) -> tuple[fx.Node, list[fx.Node]]:
    """The kernel with a result laid out in the order of the strides ``wanted``: contiguous, then permuted."""
    equation, operands, _ = contraction
    rank = len(equation.output)
    order = sorted(range(rank), key=lambda i: -wanted[i])
    laid_out = Equation(equation.inputs, tuple(equation.output[i] for i in order))
    result, emitted = _emit(graph, Contraction(laid_out, operands), values, contiguous=True)
    if order != list(range(rank)):
        written: dict[fx.Node, Dense] = {}
        back = tuple(order.index(i) for i in range(rank))
        result = _emitter(graph, [result], written)(torch.permute, result, back)
        _record(written, values[0])
        emitted.append(result)
    return result, emitted


def _has_strides(result: fx.Node, wanted: Strides) -> bool:
    """Whether a result is laid out as ``wanted``; dimensions of size 1 may have any stride."""
    got = value_of(result)
    if got is None or got.strides is None:
        return False
    pairs = zip(got.shape, got.strides, wanted, strict=True)
    return all(have == want for size, have, want in pairs if size != 1)


def _emitter(
    graph: fx.Graph, operands: Sequence[fx.Node], emitted: dict[fx.Node, Dense]
) -> Callable[..., fx.Node]:
    """Calls that become nodes of ``graph``; ``emitted`` gets what each returns."""
    known = {operand: _dense(value) for operand in operands if (value := value_of(operand)) is not None}

    def emit(function: Callable[..., Any], *arguments: Any) -> fx.Node:
        if function is torch.permute:
            arguments = _composed(*arguments)
            if arguments[0] not in known:
                known[arguments[0]] = _dense_of(arguments[0])
        node = graph.call_function(function, arguments)
        known[node] = emitted[node] = result_of(
            function, *(known[x] if isinstance(x, fx.Node) else x for x in arguments)
        )
        return node

    return emit


def _composed(node: fx.Node, dims: Sequence[int]) -> tuple[fx.Node, tuple[int, ...]]:
    """One permutation for a permutation of what lowering has just permuted."""
    if node.target is torch.permute and LOWERED in node.meta and isinstance(node.args[0], fx.Node):
        first: Any = node.args[1]
        return node.args[0], tuple(first[i] for i in dims)
    return node, tuple(dims)


def _dense_of(node: fx.Node) -> Dense:
    value = value_of(node)
    if value is None:
        raise AssertionError(f"the value of {node} was known when it was lowered")
    return _dense(value)


def _dense(value: Value) -> Dense:
    return Dense.contiguous(value.shape) if value.strides is None else Dense(value.shape, value.strides)
