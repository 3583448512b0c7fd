"""Write convolutions, unfoldings and averages as contractions where that makes them cheaper."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import inf, prod
from typing import ClassVar

from torch import fx

from ..conv.capture.averages import averages_of, pooling_seconds
from ..conv.capture.forms import Leaf, Slide
from ..conv.capture.pieces import Piece, pieces_of
from ..conv.capture.readings import Reading
from ..conv.capture.regions import Region, form_of, only_for, region_of
from ..conv.capture.spellings import native_call
from ..conv.capture.writing import FormWriter, form_seconds, shape_of
from ..conv.functional import unfoldNd
from ..errors import EinfxError
from ..graphs.folding import attribute
from ..graphs.nodes import Value, inherit, set_value, value_of
from ..graphs.scaling import Scale
from ..legality import Effects
from ..machine import machine_for
from ..rewrite import Pass, decline

_CALL_SECONDS = 10e-6
"""What making patterns costs in every call."""


UNFOLDED_SECONDS = 3e-9
"""What an element takes that torch's own unfolding writes, on one core of a CPU."""


@dataclass(frozen=True)
class CaptureConvolutions(Pass):
    """Read convolutions, unfoldings and poolings with the linear operations around them as one contraction.

    Beside a convolution are products, views, flattenings, averages, numbers and other convolutions, as long
    as nothing else uses what is in between. Where the plan of all of it as one einsum with index patterns is
    clearly faster than the calls as they are, the einsum takes their place; a number next to a single
    convolution goes into its weight. Every other convolution stays the very call it is.

    Args:
        worth: which part of the time of the calls a contraction may be predicted to take at most, to take
            their place; infinite to capture whatever can be.

    Example:
        >>> import torch
        >>> from einfx.rewrite import readable_code
        >>> from einfx.graphs.shapes import propagate
        >>> traced = fx.symbolic_trace(lambda x, w: torch.nn.functional.conv2d(x, w, padding=1) / 8)
        >>> propagate(traced, (torch.ones(8, 64, 32, 32), torch.ones(64, 64, 3, 3)))
        []
        >>> CaptureConvolutions().apply(traced)
        1
        >>> print(readable_code(traced.graph))
        def forward(self, x, w):
            truediv_1 = w / 8
            conv2d_1 = torch.conv2d(x, truediv_1, padding = 1)
            return conv2d_1
        >>> traced = fx.symbolic_trace(lambda x: torch.nn.functional.unfold(x, 3).mean(-1))
        >>> propagate(traced, (torch.ones(8, 64, 32, 32),))
        []
        >>> CaptureConvolutions().apply(traced)
        1
        >>> print(readable_code(traced.graph))
        def forward(self, x):
            size = x.size(2)
            index_pattern = einfx_pattern_IndexPattern(size, 3, 1, (0, 0), 1)
            size_1 = x.size(3)
            index_pattern_1 = einfx_pattern_IndexPattern(size_1, 3, 1, (0, 0), 1)
            einsum = einfx_contract_einsum('abcd,efc,ghd->abeg', x, index_pattern, index_pattern_1)
            flatten = einsum.flatten(1, 3)
            sub = size - 2
            sub_1 = size_1 - 2
            mul = sub * sub_1
            truediv = flatten / mul
            return truediv
    """

    name: ClassVar[str] = "capture-convolutions"

    worth: float = 0.9

    def apply(self, graph_module: fx.GraphModule) -> int:
        """Capture in place; one rewrite is one region that became an einsum, or a number that went inside."""
        graph = graph_module.graph
        pieces, unread = pieces_of(graph, graph_module)
        windows = [node for node, piece in pieces.items() if piece.has_windows]
        for node, reason in unread.items():
            decline(node, reason)
        if not windows:
            return 0
        effects = Effects.of(graph, graph_module)
        captured: set[fx.Node] = set()
        reasons: dict[fx.Node, str] = {}
        rewrites = 0
        for node in reversed(list(graph.nodes)):
            piece = pieces.get(node)
            if piece is None or piece.is_view or node in captured:
                continue
            for region in _regions(node, pieces, effects, reasons):
                if _rewritten(graph_module, region, reasons, self.worth):
                    captured.update(piece.node for piece in region.pieces)
                    rewrites += 1
                    break
        for node in windows:
            if node not in captured:
                decline(node, reasons.get(node, "no linear operation stands next to it"))
        return rewrites


def _regions(
    root: fx.Node, pieces: Mapping[fx.Node, Piece], effects: Effects, reasons: dict[fx.Node, str]
) -> Iterator[Region]:
    """All that can be one contraction with a node, then the node with one of its producers."""
    region, reason = region_of(root, pieces, effects)
    if reason is not None and pieces[root].has_windows:
        reasons.setdefault(root, reason)
    if region is None or not _is_worthwhile(region):
        return
    yield region
    inner = [piece for piece in region.pieces if not piece.is_view and piece.node is not root]
    if len(inner) < 2:
        return
    views = [piece.node for piece in region.pieces if piece.is_view]
    for piece in inner:
        smaller, _ = region_of(root, pieces, effects, (root, piece.node, *views))
        if smaller is not None and _is_worthwhile(smaller):
            yield smaller


def _is_worthwhile(region: Region) -> bool:
    computing = [piece for piece in region.pieces if not piece.is_view]
    return len(computing) > 1 and any(piece.has_windows for piece in computing)


def _rewritten(
    graph_module: fx.GraphModule, region: Region, reasons: dict[fx.Node, str], worth: float
) -> bool:
    """Whether a region was faster in another form, and took it."""
    like = value_of(region.root)
    if like is None:
        return False
    try:
        # A convolution that stays the call it is costs the same before and after.
        changed = [piece for piece in region.pieces if piece is not _single(region)]
        apart = sum(_alone_seconds(graph_module, piece, like) for piece in changed)
        ways = list(_ways(graph_module, region, like))
    except EinfxError as error:
        reasons.setdefault(region.root, f"it has no plan: {error}")
        return False
    seconds, write = min(ways, key=lambda way: way[0], default=(inf, None))
    if write is None or seconds == inf or not seconds <= worth * apart:
        others = ", ".join(piece.node.name for piece in region.pieces if not piece.is_view)
        for piece in region.pieces:
            reasons.setdefault(piece.node, f"one contraction of {others} isn't predicted to be faster")
        return False
    graph = graph_module.graph
    writer = FormWriter(graph, graph_module)
    with graph.inserting_before(region.root):
        new = write(writer)
    for written in writer.written:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack"):
            if key in region.root.meta:
                written.meta.setdefault(key, region.root.meta[key])
    inherit(new, region.root)
    region.root.replace_all_uses_with(new)
    for piece in reversed(region.pieces):
        _erase(graph, piece.node)
    return True


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    """Drop a node that nothing uses but what reads its sizes for nothing."""
    for user in list(node.users):
        assert only_for(user, ())
        _erase(graph, user)
    sources = [x for x in node.all_input_nodes if only_for(x, (node,))]
    graph.erase_node(node)
    for source in sources:
        if not source.users:
            _erase_sizes(graph, source)


def _erase_sizes(graph: fx.Graph, node: fx.Node) -> None:
    """Drop a size that nothing uses any more, and the shape that it was read from."""
    sources = node.all_input_nodes
    graph.erase_node(node)
    for source in sources:
        if not source.users and only_for(source, ()):
            _erase_sizes(graph, source)


_Way = tuple[float, Callable[[FormWriter], fx.Node]]


def _ways(graph_module: fx.GraphModule, region: Region, like: Value) -> Iterator[_Way]:
    """How a region can be computed, each with its predicted time."""
    single = _single(region)
    if single is not None:
        scaling = _scaling_seconds(graph_module, single, like)
        yield scaling, partial(_write_scaled, graph_module, region, single)
        return
    averages = averages_of(region)
    for average in averages:
        yield average.seconds(graph_module, like), average.write
    if not averages and not _may_be_view(region):
        seconds = form_seconds(region.form, graph_module, like) + _CALL_SECONDS
        yield seconds, lambda writer: writer.write(region.form)


def _may_be_view(region: Region) -> bool:
    """Whether what a region computes could be its input's memory, where the calls make their own."""
    form = region.form
    leaves = [operand for operand in form.operands if isinstance(operand, Leaf)]
    single = all(x.window.kernel_size == 1 for x in form.operands if isinstance(x, Slide))
    return len(leaves) == 1 and single and form.scale.is_one and not form.divisors and form.bias is None


def _alone_seconds(graph_module: fx.GraphModule, piece: Piece, like: Value) -> float:
    """The predicted time of a piece as the call that it is."""
    machine = machine_for(like.device)
    item = like.dtype.itemsize
    made = prod(shape_of(piece.node, graph_module))
    if piece.is_view:
        return 0.0
    if isinstance(piece.what, Scale):
        return machine.op_seconds + machine.stream(2 * item * made)
    plain = replace(form_of(piece.node, {piece.node: piece}), scale=Scale(1, 1), divisors=(), bias=None)
    if isinstance(piece.what, Reading) and piece.what.weight is None:
        read = prod(shape_of(piece.what.data, graph_module))
        if piece.what.averaged:
            return machine.op_seconds + machine.stream(item * (read + made))
        if piece.what.divisor != 1:
            return pooling_seconds(machine, read)
        if piece.node.target is not unfoldNd and piece.what.result_steps and not machine.gpu:
            return machine.op_seconds + made * UNFOLDED_SECONDS / machine.threads
    return form_seconds(plain, graph_module, like)


def _single(region: Region) -> Piece | None:
    """The convolution with a weight of which a region is, if all others are numbers."""
    others = [piece for piece in region.pieces if not isinstance(piece.what, Scale)]
    if len(others) != 1 or not isinstance(others[0].what, Reading) or others[0].what.weight is None:
        return None
    return others[0]


def _scaling_seconds(graph_module: fx.GraphModule, piece: Piece, like: Value) -> float:
    """The predicted time of multiplying the weight and the bias of a convolution."""
    assert isinstance(piece.what, Reading)
    machine = machine_for(like.device)
    sources = [source for source in (piece.what.weight, piece.what.bias) if source is not None]
    elements = sum(prod(shape_of(source, graph_module)) for source in sources)
    return len(sources) * machine.op_seconds + machine.stream(2 * like.dtype.itemsize * elements)


def _write_scaled(graph_module: fx.GraphModule, region: Region, piece: Piece, writer: FormWriter) -> fx.Node:
    """The very convolution, of a weight and a bias that are multiplied."""
    form, reading = region.form, piece.what
    assert isinstance(reading, Reading)
    (data, *_, kernel) = (operand for operand in form.operands if isinstance(operand, Leaf))
    bias = None if form.bias is None else writer.scaled(writer.bias(form.bias.source), form.bias.scale)
    weight = writer.scaled(kernel.source, form.scale)
    if piece.node.op == "call_module":
        function, numbers = native_call(attribute(graph_module, str(piece.node.target)))
        new = writer.call(function, writer.base(data), weight, bias, *numbers)
    else:
        replaced = {reading.data: writer.base(data)}
        if isinstance(reading.weight, fx.Node):
            replaced[reading.weight] = weight
        if isinstance(reading.bias, fx.Node) and bias is not None:
            replaced[reading.bias] = bias
        new = writer.copy(piece.node, replaced)
    value = value_of(region.root)
    assert value is not None
    set_value(new, value.shape, region.root)
    return new
