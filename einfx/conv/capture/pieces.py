"""The linear pieces of a graph: what each node computes that a convolution can be joined with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from ...equation import Equation
from ...graphs.folding import attribute
from ...graphs.nodes import Contraction, size_read, value_of
from ...graphs.scaling import Scale, as_scaled
from ...graphs.spellings import read_with_bias
from ...graphs.writes import function_name, is_known_function
from . import spellings
from .forms import Dimension, Leaf, Size, SizeOf
from .readings import Reading, Source

__all__ = ["Piece", "Product", "Viewed", "pieces_of"]


@dataclass(frozen=True)
class Product:
    """What a linear module computes: a tensor times a parameter."""

    equation: Equation
    data: fx.Node
    weight: str


@dataclass(frozen=True)
class Viewed:
    """A reshape, by the sizes that it is given."""

    sizes: tuple[Size | Dimension | None, ...]


@dataclass(frozen=True)
class Piece:
    """A node that is linear in some of its inputs.

    Args:
        node: the node.
        what: what it computes: a reading with windows or an average, a contraction, a factor, or a merge of
            dimensions from the first to the last.
        bias: what it adds.
    """

    node: fx.Node
    what: Reading | Contraction | Product | Scale | Viewed | tuple[int, int]
    bias: Source | None = None
    tensor: fx.Node | None = None

    @property
    def producers(self) -> tuple[fx.Node, ...]:
        """The nodes that it is linear in."""
        if isinstance(self.what, Reading):
            data = () if self.what.boundary is not None else (self.what.data,)
            return (*data, self.what.weight) if isinstance(self.what.weight, fx.Node) else data
        if isinstance(self.what, Product):
            return (self.what.data,)
        if isinstance(self.what, Contraction):
            return self.what.operands
        return () if self.tensor is None else (self.tensor,)

    @property
    def has_windows(self) -> bool:
        """Whether it is a convolution, an unfolding or a pooling."""
        return isinstance(self.what, Reading) and bool(self.what.windows)

    @property
    def is_view(self) -> bool:
        """Whether it only arranges its input."""
        if isinstance(self.what, Contraction):
            return self.what.arranges
        return isinstance(self.what, Viewed) or type(self.what) is tuple


def pieces_of(graph: fx.Graph, owner: nn.Module | None) -> tuple[dict[fx.Node, Piece], dict[fx.Node, str]]:
    """What each linear node of a graph computes; and why convolutions can't be read that aren't.

    Args:
        graph: a graph in which shapes were propagated.
        owner: the module whose submodules and attributes it names.
    """
    pieces: dict[fx.Node, Piece] = {}
    unread: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.op not in ("call_function", "call_method", "call_module"):
            continue
        reading = spellings.read(node, owner)
        if isinstance(reading, str):
            if function_name(node) != "mean":
                unread[node] = reading
        elif reading is not None:
            pieces[node] = Piece(node, reading, reading.bias)
        elif (piece := _plain_piece(node, owner)) is not None:
            pieces[node] = piece
    return pieces, unread


def _plain_piece(node: fx.Node, owner: nn.Module | None) -> Piece | None:
    if node.op == "call_module":
        return _linear_module(node, owner)
    contraction, bias = read_with_bias(node)
    if contraction is not None:
        plain = contraction.options.is_plain and not contraction.has_patterns
        return Piece(node, contraction, bias) if plain and _is_even(contraction) else None
    scaled = as_scaled(node)
    if scaled is not None:
        return Piece(node, scaled.scale, tensor=scaled.tensor)
    return _flattening(node)


def _linear_module(node: fx.Node, owner: nn.Module | None) -> Piece | None:
    """A module of torch that multiplies by a matrix: one more operand, which is an attribute."""
    module = None if owner is None else attribute(owner, str(node.target))
    value = value_of(node.args[0]) if node.args else None
    if type(module) is not nn.Linear or value is None or not spellings.is_plain(module):
        return None
    rank = len(value.shape)
    equation = Equation(((*range(2, rank + 1), 0), (1, 0)), (*range(2, rank + 1), 1))
    bias = None if module.bias is None else f"{node.target}.bias"
    return Piece(node, Product(equation, node.args[0], f"{node.target}.weight"), bias)  # type: ignore[arg-type]


def _is_even(contraction: Contraction) -> bool:
    """Whether no operand broadcasts: a label has one size, as far as the example tells."""
    sizes: dict[int, int] = {}
    for labels, operand in zip(contraction.equation.inputs, contraction.operands, strict=True):
        value = value_of(operand)
        if value is None:
            return False
        for label, size in zip(labels, value.shape, strict=True):
            if sizes.setdefault(label, size) != size:
                return False
    return True


def _flattening(node: fx.Node) -> Piece | None:
    """``flatten`` with numbers as its arguments, or a reshape that is one in every call."""
    if not is_known_function(node) or not node.args:
        return None
    if function_name(node) in ("reshape", "view", "unflatten"):
        return _reshaping(node)
    if function_name(node) != "flatten":
        return None
    tensor, value = node.args[0], value_of(node.args[0])
    names = ("start_dim", "end_dim")
    given = {**dict(zip(names, (0, -1), strict=True)), **dict(zip(names, node.args[1:], strict=False))}
    given.update(node.kwargs)
    if value is None or not isinstance(tensor, fx.Node) or set(given) != set(names):
        return None
    start, end = (given[name] for name in names)
    rank = len(value.shape)
    if not isinstance(start, int) or not isinstance(end, int) or not rank:
        return None
    return Piece(node, (start % rank, end % rank), tensor=tensor)


def _reshaping(node: fx.Node) -> Piece | None:
    """``reshape``, ``view`` or ``unflatten`` to numbers and to sizes of tensors."""
    tensor, sizes = node.args[0], node.args[1:]
    value = value_of(tensor)
    if value is None or not isinstance(tensor, fx.Node) or node.kwargs:
        return None
    if function_name(node) == "unflatten":
        if len(sizes) != 2 or not isinstance(sizes[0], int) or not isinstance(sizes[1], list | tuple):
            return None
        rank, at = len(value.shape), sizes[0] % max(len(value.shape), 1)
        parts = _sizes(sizes[1], tensor)
        kept = [Dimension(dim) for dim in range(rank)]
        if parts is None:
            return None
        return Piece(node, Viewed((*kept[:at], *parts, *kept[at + 1 :])), tensor=tensor)
    given = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], list | tuple) else sizes
    wanted = _sizes(given, tensor)
    return None if wanted is None else Piece(node, Viewed(wanted), tensor=tensor)


def _sizes(sizes: Any, tensor: fx.Node) -> tuple[Size | Dimension | None, ...] | None:
    """Sizes to reshape a tensor to; None where one is computed, or several are left open."""
    found: list[Size | Dimension | None] = []
    for size in sizes:
        source, dim = size_read(size) if isinstance(size, fx.Node) else (None, 0)
        if isinstance(size, int):
            found.append(None if size == -1 else size)
        elif source is None:
            return None
        else:
            value = value_of(source)
            if value is None or not -len(value.shape) <= dim < len(value.shape):
                return None
            dim %= len(value.shape)
            found.append(Dimension(dim) if source is tensor else SizeOf(Leaf(source), dim))
    return tuple(found) if found and found.count(None) <= 1 else None
