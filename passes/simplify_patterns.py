"""Write contractions whose index patterns are views of their tensors as contractions of these views."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import torch
from torch import fx

from ..conv.guards import fixed_sizes
from ..conv.steps.lowering import Native
from ..conv.symbolic import rules
from ..conv.symbolic.draft import Draft
from ..conv.symbolic.network import Constant, Network
from ..conv.symbolic.views import Flip, Merge, Slice, Split, Squeeze, Step, View, Window
from ..equation import Equation
from ..graphs.emission import emitter
from ..graphs.networks import network_of, plan_of
from ..graphs.nodes import (
    VISIBLE_STRIDES,
    Contraction,
    as_contraction,
    erase_unused_patterns,
    inherit,
    insert_contraction,
    pattern_of,
    value_of,
)
from ..legality import Effects, same_floating_dtype
from ..rewrite import Pass, decline

Emit = Callable[..., fx.Node]


@dataclass(frozen=True)
class SimplifyPatterns(Pass):
    """Replace patterns whose windows share no element by reshapes and slices, where that is faster.

    A convolution whose stride is the size of its kernel is a matrix product then, one with a kernel of one
    element a slice, and either can fuse with its neighbours. Where a native convolution is predicted to be as
    fast, it is left to be one. A pattern that is made for the size of its input is replaced where that is
    right for every size.

    Example:
        >>> import einfx
        >>> from einfx.rewrite import readable_code
        >>> from einfx.graphs.shapes import propagate
        >>> pattern = einfx.IndexPattern(8, 2, stride=2)
        >>> traced = fx.symbolic_trace(lambda x, w: einfx.einsum("ni,koi,dk->ndo", x, pattern, w))
        >>> propagate(traced, (torch.ones(2, 8), torch.ones(4, 2)))
        []
        >>> SimplifyPatterns().apply(traced)
        1
        >>> print(readable_code(traced.graph))
        def forward(self, x, w):
            fixed_sizes = einfx_conv_guards_fixed_sizes(x, [1], [8])
            fixed_sizes_1 = einfx_conv_guards_fixed_sizes(w, [1], [2])
            unflatten = fixed_sizes.unflatten(1, [4, 2])
            einsum_1 = torch.functional.einsum('abc,dc->adb', unflatten, fixed_sizes_1)
            return einsum_1
    """

    name: ClassVar[str] = "simplify-patterns"

    def apply(self, graph_module: fx.GraphModule) -> int:
        """Simplify in place; one rewrite is one contraction that lost its patterns."""
        graph = graph_module.graph
        nodes = [x for x in graph.nodes if (c := as_contraction(x)) is not None and c.has_patterns]
        if not nodes:
            return 0
        written = Effects.of(graph, graph_module).written_nodes()
        rewrites = 0
        for node in nodes:
            contraction = as_contraction(node)
            assert contraction is not None
            if not same_floating_dtype(contraction.tensors) or not written.isdisjoint(contraction.operands):
                continue
            small = _small(contraction)
            if small is None:
                continue
            if _is_native(contraction):
                decline(node, "its patterns are views, but a native convolution is predicted to be as fast")
            elif (opened := _opened(contraction)) is None:
                decline(
                    node, "its patterns are views for the example inputs, but not for those of every size"
                )
            else:
                _write(graph, node, contraction, small, opened)
                rewrites += 1
        erase_unused_patterns(graph)
        return rewrites


class _Small(NamedTuple):
    """A contraction without patterns, and what its output is before dimensions are merged."""

    network: Network
    merged: tuple[int, ...]
    """The dimensions of the result that are merged with the next one, the last first."""
    inserted: tuple[int, ...]
    """The dimensions of size 1 that are inserted then, the first one first."""


def _small(contraction: Contraction) -> _Small | None:
    """What a contraction becomes when all of its patterns are views; None where one is not."""
    network = network_of(contraction)
    if network is None or not _is_even(network):
        return None
    return _simplified(network)


@lru_cache(maxsize=4096)
def _simplified(network: Network) -> _Small | None:
    draft = Draft(network)
    while any(rule(draft) for rule in _RULES):
        pass
    small = draft.network()
    reshaped = _reshaped(network, draft)
    return None if reshaped is None or small.patterns else _Small(small, *reshaped)


def _is_even(network: Network) -> bool:
    """Whether nothing is stretched from size 1 for the example inputs."""
    return all(
        size == network.sizes[label]
        for operand, labels in zip(network.operands, network.equation.inputs, strict=True)
        for size, label in zip(operand.shape, labels, strict=True)
    )


def _squeeze_patterns(draft: Draft) -> bool:
    """Labels of size 1 that a pattern fixes go from the tensors; other sizes of 1 may be larger in a call."""
    for position, _pattern, labels in draft.patterns():
        for label in labels:
            held = label in draft.output or draft.carried(label, position)
            if draft.sizes[label] != 1 or not held:
                continue
            if all(isinstance(draft.operands[p], View) for p in draft.carriers(label, position)):
                draft.replace(label, position, [Squeeze(0)], [])
                draft.output = [x for x in draft.output if x != label]
                return True
    return False


_RULES: tuple[rules.Rule, ...] = (
    _squeeze_patterns,
    rules.drop_duplicate,
    rules.drop_dead_positions,
    rules.sum_unread_input,
    rules.prune_identity,
    rules.skip_unread_inputs,
    rules.see_windows,
    rules.compose_shift,
    rules.split_dense_output,
)
"""Those that look at nothing but sizes which a pattern fixes: they hold for every size of the others."""


def _reshaped(network: Network, draft: Draft) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Which dimensions of the simplified output are merged with the next one, and which are inserted."""
    merged: list[int] = []
    inserted: list[int] = []
    labels = list(draft.output)
    for dim, label in enumerate(network.equation.output):
        if network.sizes[label] == 1 and label not in draft.output:
            inserted.append(dim)
            continue
        if not labels:
            return None
        first = labels.pop(0)
        if first != label:
            if not labels or draft.sizes[first] * draft.sizes[labels[0]] != network.sizes[label]:
                return None
            merged.append(len(draft.output) - len(labels) - 1)
            labels.pop(0)
    return None if labels else (tuple(merged[::-1]), tuple(inserted))


def _is_native(contraction: Contraction) -> bool:
    """Whether its plan has a native convolution, or isn't known."""
    chosen = plan_of(contraction)
    return chosen is None or any(isinstance(step.lowering.method, Native) for step in chosen.steps)


def _opened(contraction: Contraction) -> bool | None:
    """Whether patterns are made for the sizes of inputs; None where views replace them for some sizes only.

    For every size that is so for a kernel of one element without padding, where every n-th input is read.
    """
    patterns = {x: p for x in contraction.operands if (p := pattern_of(x)) is not None}
    made = [pattern for node, pattern in patterns.items() if node.all_input_nodes]
    if not made:
        return False
    plain = all(p.kernel_size == 1 and p.left == p.right == 0 and p.output_size > 1 for p in made)
    return True if plain and len(made) == len(patterns) else None


def _write(graph: fx.Graph, node: fx.Node, contraction: Contraction, small: _Small, opened: bool) -> None:
    emitted: list[fx.Node] = []
    with graph.inserting_before(node):
        emit = emitter(graph, emitted)
        seen = _guarded(emit, contraction)
        operands, inputs = [], []
        scale: float = 1
        made: dict[View, fx.Node] = {}
        for operand, labels in zip(small.network.operands, small.network.equation.inputs, strict=True):
            if isinstance(operand, View):
                if operand not in made:
                    made[operand] = _view(emit, seen[operand.position], operand.steps, opened)
                operands.append(made[operand])
                inputs.append(labels)
            elif isinstance(operand, Constant):
                scale *= operand.value
        equation = Equation(tuple(inputs), small.network.equation.output)
        result = insert_contraction(graph, equation, operands)
        if small.merged or small.inserted or scale != 1:
            # Others see the strides of what follows.
            value = value_of(result)
            result.meta[VISIBLE_STRIDES] = None if value is None else value.strides
        emitted.append(result)
        for dim in small.merged:
            result = emit("flatten", result, dim, dim + 1)
        for dim in small.inserted:
            result = emit("unsqueeze", result, dim)
        if scale != 1:
            result = emit(operator.mul, result, scale)
    for new in emitted:
        inherit(new, node)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _guarded(emit: Emit, contraction: Contraction) -> list[fx.Node]:
    """The tensors, each checked for the sizes that patterns fix."""
    fixed: dict[int, int] = {}
    for operand, labels in zip(contraction.operands, contraction.equation.inputs, strict=True):
        pattern = pattern_of(operand)
        if pattern is not None:
            closed = not operand.all_input_nodes
            sizes = pattern.shape if closed else (pattern.kernel_size,)
            fixed.update(zip(labels, sizes, strict=False))
    seen = []
    for operand, labels in zip(contraction.operands, contraction.equation.inputs, strict=True):
        dims = [dim for dim, label in enumerate(labels) if label in fixed]
        if dims and pattern_of(operand) is None:
            operand = emit(fixed_sizes, operand, dims, [fixed[labels[dim]] for dim in dims])
        seen.append(operand)
    return seen


def _view(emit: Emit, node: fx.Node, steps: Sequence[Step], opened: bool) -> fx.Node:
    for step in steps:
        if isinstance(step, Split):
            node = emit("unflatten", node, step.dim, list(step.sizes))
        elif isinstance(step, Merge):
            node = emit("flatten", node, step.dim, step.dim + 1)
        elif isinstance(step, Squeeze):
            node = emit("select", node, step.dim, 0)
        elif isinstance(step, Slice):
            node = _slice(emit, node, step, opened)
        elif isinstance(step, Window):
            span = step.dilation * (step.size - 1) + 1
            node = emit("unfold", node, step.dim, span, step.stride)
            node = emit("narrow", node, step.dim, 0, step.count)
            if step.dilation > 1:
                node = emit(operator.getitem, node, (Ellipsis, slice(None, None, step.dilation)))
            node = emit("movedim", node, -1, step.dim + 1)
        else:
            assert isinstance(step, Flip)
            node = emit(torch.flip, node, [step.dim])
    return node


def _slice(emit: Emit, node: fx.Node, step: Slice, opened: bool) -> fx.Node:
    if opened:
        return emit(operator.getitem, node, (*(slice(None),) * step.dim, slice(None, None, step.step)))
    if step.step == 1:
        return emit("narrow", node, step.dim, step.start, step.length)
    stop = step.start + (step.length - 1) * step.step + 1
    return emit(operator.getitem, node, (slice(None),) * step.dim + (slice(step.start, stop, step.step),))
