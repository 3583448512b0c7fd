"""Which nodes around a convolution are one linear program, and what that is as one contraction."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import fx

from ...graphs.nodes import Contraction, size_read, value_of
from ...graphs.scaling import Scale, may_cross_contraction
from ...legality import Effects, same_floating_dtype
from .forms import ONE, Apart, Bias, Form, Leaf, Size, SizeOf, Slid, Slide, contracted, fresh, leaf, stepped
from .pieces import Piece, Product, Viewed
from .readings import Reading, Window

__all__ = ["Region", "form_of", "only_for", "region_of"]


@dataclass(frozen=True)
class Region:
    """A node and the producers that nothing but the region uses.

    Args:
        root: the node whose value is wanted.
        pieces: those of the region, in the order of the graph.
        form: what the region computes.
    """

    root: fx.Node
    pieces: tuple[Piece, ...]
    form: Form


def region_of(
    root: fx.Node, pieces: Mapping[fx.Node, Piece], effects: Effects, allowed: Iterable[fx.Node] | None = None
) -> tuple[Region | None, str | None]:
    """The largest region that ends at a node.

    Args:
        root: the node.
        pieces: what nodes compute.
        effects: of the graph.
        allowed: the nodes that may be in the region; all, where none are given.

    Returns:
        The region, of which the root may be all; and a reason why it isn't larger, if one was met.
    """
    reason: str | None = None
    banned: set[fx.Node] = set() if allowed is None else set(pieces) - set(allowed)
    while True:
        inside = _closure(root, pieces, banned)
        for node in inside:
            if (why := _why_apart(node, root, pieces, effects)) is not None:
                if node is root:
                    return None, why
                banned.add(node)
                reason = reason or why
        if not banned.isdisjoint(inside):
            continue
        try:
            form = form_of(root, {node: pieces[node] for node in inside})
        except _ApartAt as apart:
            reason = reason or f"{apart}, at {apart.node}"
            inner = [x for x in pieces[apart.node].producers if x in inside]
            if not inner and apart.node is root:
                return None, reason
            banned.update(inner or [apart.node])
            continue
        return Region(root, tuple(pieces[node] for node in reversed(inside)), form), reason


def _closure(root: fx.Node, pieces: Mapping[fx.Node, Piece], banned: set[fx.Node]) -> list[fx.Node]:
    """The root and what only feeds it, from the root backwards."""
    inside = {root: None}
    wanted = {x for x in pieces[root].producers if x in pieces and x not in banned}
    node = root
    while wanted:
        node = node.prev
        if node not in wanted:
            continue
        wanted.discard(node)
        if all(x in inside or only_for(x, inside) for x in node.users):
            inside[node] = None
            wanted.update(x for x in pieces[node].producers if x in pieces and x not in banned)
    # A tensor that is only reshaped is as good from outside, where it is one that can be split.
    kept: list[fx.Node] = []
    for node in reversed(inside):
        reads = any(producer in kept for producer in pieces[node].producers)
        if node is root or reads or not pieces[node].is_view:
            kept.append(node)
    return kept[::-1]


def only_for(node: fx.Node, inside: Container[fx.Node]) -> bool:
    """Whether a node reads sizes for nobody but the nodes inside: they go with them."""
    reads = size_read(node)[0] is not None or (
        (node.target is getattr and node.args[1] == "shape") or node.target == "size"
    )
    return reads and all(user in inside or only_for(user, inside) for user in node.users)


def _why_apart(node: fx.Node, root: fx.Node, pieces: Mapping[fx.Node, Piece], effects: Effects) -> str | None:
    """Why a node can't be computed where the root is, or None if it can."""
    if effects.is_mutated(node):
        return f"something writes to {node}"
    outside = [*node.all_input_nodes]
    if node.op == "call_module":
        # Its parameters are memory from outside, like that of any input.
        outside += [x for x in node.graph.nodes if x.op in ("placeholder", "get_attr")][:1]
    if any(effects.is_written(x) for x in node.all_input_nodes):
        return f"something writes to what {node} reads"
    if not effects.may_move_reads(outside, node, root):
        return f"something writes to what {node} reads before {root}"
    value, wanted = value_of(node), value_of(root)
    if value is None or wanted is None or (value.dtype, value.device) != (wanted.dtype, wanted.device):
        return f"{node} has another dtype than {root}"
    scale = pieces[node].what
    if isinstance(scale, Scale) and not may_cross_contraction(scale, node):
        return f"moving the factor {scale} from {node} could overflow or underflow"
    if value.dtype == torch.float16:
        return "in float16 an average taken at the end could overflow"
    tensors = [x for x in node.all_input_nodes if value_of(x) is not None]
    if tensors and not same_floating_dtype([*tensors, node]):
        return f"the operands of {node} aren't all known to be of one floating dtype on one device"
    return None


class _ApartAt(Exception):
    """No contraction of one node and its producers."""

    def __init__(self, node: fx.Node, reason: str) -> None:
        super().__init__(reason)
        self.node = node


def form_of(root: fx.Node, inside: Mapping[fx.Node, Piece]) -> Form:
    """A node as a contraction of what the pieces inside read from outside."""

    def of(node: fx.Node) -> Form:
        if node in inside:
            return form_of(node, inside)
        value = value_of(node)
        if value is None:
            raise Apart(f"the shape of {node} isn't known")
        return leaf(Leaf(node), len(value.shape))

    piece = inside[root]
    try:
        if isinstance(piece.what, Reading):
            return _of_reading(piece.what, of)
        if isinstance(piece.what, Contraction):
            equation, operands, _ = piece.what
            form, _ = contracted(equation.inputs, equation.output, [of(x) for x in operands])
            return form if piece.bias is None else replace(form, bias=Bias(piece.bias, ONE, 0))
        if isinstance(piece.what, Product):
            equation, weight = piece.what.equation, leaf(Leaf(piece.what.weight), 2)
            form, _ = contracted(equation.inputs, equation.output, [of(piece.what.data), weight])
            return form if piece.bias is None else replace(form, bias=Bias(piece.bias, ONE, 0))
        assert piece.tensor is not None
        if isinstance(piece.what, Viewed):
            return of(piece.tensor).viewed(piece.what.sizes)
        if isinstance(piece.what, Scale):
            return of(piece.tensor).scaled(piece.what)
        return of(piece.tensor).flattened(*piece.what)
    except Apart as apart:
        raise _ApartAt(root, str(apart)) from apart


def _of_reading(reading: Reading, of: Callable[[fx.Node], Form]) -> Form:
    equation, windows, weight = reading.equation, reading.windows, reading.weight
    if reading.boundary is None:
        data = of(reading.data)
    else:
        value = value_of(reading.data)
        if value is None:
            raise Apart("its shape isn't known")
        data = leaf(Leaf(reading.data, reading.boundary), len(value.shape))
    bias, data = _bias_behind(reading, data)
    divisors = []
    for dim in reading.averaged:
        for label in data.output[dim]:
            if label not in data.sizes:
                raise Apart("the number of elements isn't known that it averages")
            divisors.append(data.sizes[label])
    data = stepped(data, reading.data_steps)
    forms = [data]
    for i, window in enumerate(windows):
        group = data.output[window.dim]
        if len(group) != 1 or group[0] not in data.sizes:
            raise Apart("its window would slide over dimensions that are merged")
        fixed = weight is None or isinstance(weight, str) or weight.op == "get_attr"
        kernel = window.kernel_size if fixed else SizeOf(Leaf(weight), 2 + i)  # type: ignore[arg-type]
        forms.append(_pattern(window, data.sizes[group[0]], kernel))
    if weight is not None:
        # What is reshaped is a tensor by itself, a weight that is computed too.
        rank = len(equation.inputs[-1]) - sum(_DIMENSIONS[step.method] for step in reading.weight_steps)
        whole = isinstance(weight, fx.Node) and not reading.weight_steps
        forms.append(of(weight) if whole else stepped(leaf(Leaf(weight), rank), reading.weight_steps))  # type: ignore[arg-type]
    form, _ = contracted(equation.inputs, equation.output, forms)
    form = stepped(form, reading.result_steps).scaled(Scale(1, reading.divisor))
    form = replace(form, divisors=(*form.divisors, *divisors), bias=bias)
    if reading.bias is None:
        return form
    return replace(form, bias=Bias(reading.bias, ONE, len(windows)))


def _bias_behind(reading: Reading, data: Form) -> tuple[Bias | None, Form]:
    """The bias of what is averaged, as one of the averages: they are those of a constant."""
    bias = data.bias
    if bias is None or reading.weight is not None:
        return None, data
    first = len(data.output) - bias.trailing
    if reading.averaged:
        if min(reading.averaged) < first:
            return None, data
        kept = bias.trailing - len(reading.averaged) + len(reading.result_steps)
        return replace(bias, trailing=kept), replace(data, bias=None)
    plain = all(window.padding == (0, 0) and window.dim >= first for window in reading.windows)
    if plain and reading.divisor == prod(window.kernel_size for window in reading.windows) > 0:
        return (bias, replace(data, bias=None)) if not reading.result_steps else (None, data)
    return None, data


_DIMENSIONS = {"flatten": -1, "unflatten": 1}
"""How many dimensions a step of a weight adds."""


def _pattern(window: Window, size: Size, kernel: Size) -> Form:
    """The pattern of a window, which has kernel positions, outputs and inputs."""
    labels = fresh(3)
    slid = Slid(size, window, kernel)
    outputs, inputs = (slid, size) if window.extra is None else (size, slid)
    if window.input_size is not None:
        outputs, inputs = size, window.input_size
    sizes = dict(zip(labels, (kernel, outputs, inputs), strict=True))
    return Form((Slide(window, size, kernel),), (labels,), tuple((x,) for x in labels), sizes)
