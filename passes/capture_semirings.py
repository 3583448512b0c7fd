"""Write reductions of broadcast sums as contractions over log, max_plus and min_plus."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import fx

from ..equation import Equation
from ..graphs.nodes import Contraction, as_contraction, inherit, insert_contraction, value_of
from ..graphs.spellings import read
from ..graphs.writes import function_name, is_known_function
from ..legality import Effects, same_floating_dtype, use_count
from ..options import Options
from ..rewrite import Pass, decline

_SUMS = {"add", "__add__", "__radd__"}
_FIRST: dict[Any, Any] = {operator.getitem: 0, getattr: "values"}
_CHOICES = {"max": "max_plus", "min": "min_plus"}


@dataclass(frozen=True)
class CaptureSemirings(Pass):
    """Read ``logsumexp``, ``max`` and ``min`` of a broadcast sum as a contraction over a semiring.

    The sum is never made then: ``(a[:, :, None] + b[None]).logsumexp(1)`` is a matrix product over log.
    Captured are sums with more elements than their terms together, and reductions of what is a contraction
    over the semiring already. ``amax`` and ``amin`` stay, whose gradient equal terms share; here the first
    gets it, as with ``max(dim)``.

    Example:
        >>> import torch
        >>> from einfx.passes import DropUnitDimensions
        >>> from einfx.rewrite import readable_code
        >>> from einfx.graphs.shapes import propagate
        >>> traced = fx.symbolic_trace(lambda a, b: torch.logsumexp(a[:, :, None] + b, 1))
        >>> propagate(traced, (torch.ones(5, 6), torch.ones(6, 7)))
        []
        >>> CaptureSemirings().apply(traced), DropUnitDimensions().apply(traced)
        (1, 1)
        >>> print(readable_code(traced.graph))
        def forward(self, a, b):
            einsum_1 = einfx_contract_einsum('ab,bc->ac', a, b, semiring = 'log')
            return einsum_1
    """

    name: ClassVar[str] = "capture-semirings"

    def apply(self, graph_module: fx.GraphModule) -> int:
        """Capture in place; one rewrite is one reduction that became a contraction."""
        graph = graph_module.graph
        effects = Effects.of(graph, graph_module)
        rewrites = 0
        for node in list(graph.nodes):
            reduction = _reduction(node)
            if reduction is None:
                continue
            contraction, replaced = _captured(node, reduction)
            if contraction is None or not (_saves_memory(contraction) or _continues(contraction)):
                continue
            if (reason := _why_not(effects, node, reduction, contraction, replaced)) is not None:
                decline(node, reason)
                continue
            with graph.inserting_before(node):
                new = inherit(insert_contraction(graph, *contraction), reduction.values[0])
            effects.adopt(new, reduction.values[0])
            for value in reduction.values:
                value.replace_all_uses_with(new)
            for old in dict.fromkeys((*reduction.values, node, *replaced)):
                graph.erase_node(old)
            rewrites += 1
        return rewrites


class _Reduction(NamedTuple):
    """A call that sums over a semiring along dimensions."""

    semiring: str
    tensor: fx.Node
    dims: tuple[int, ...]
    values: tuple[fx.Node, ...]
    """The nodes of its result: itself, or what takes the values from beside their indices."""


def _reduction(node: fx.Node) -> _Reduction | None:
    if node.op not in ("call_function", "call_method") or not is_known_function(node):
        return None
    name = function_name(node)
    if name != "logsumexp" and name not in _CHOICES:
        return None
    arguments: list[Any] = [*node.args]
    if "input" in node.kwargs:
        arguments.insert(0, node.kwargs["input"])
    if "dim" in node.kwargs:
        arguments.append(node.kwargs["dim"])
    if len(arguments) != 2 or not node.kwargs.keys() <= {"input", "dim", "keepdim"}:
        return None
    tensor, dims = arguments[0], arguments[1]
    if node.kwargs.get("keepdim") or not isinstance(tensor, fx.Node):
        return None
    if name == "logsumexp":
        listed: tuple[Any, ...] = tuple(dims) if isinstance(dims, list | tuple) else (dims,)
        return _Reduction("log", tensor, listed, (node,)) if _all_dims(listed) else None
    values = tuple(node.users)
    if not _all_dims((dims,)) or not values or not all(_takes_values(user) for user in values):
        return None
    return _Reduction(_CHOICES[name], tensor, (dims,), values)


def _all_dims(dims: tuple[Any, ...]) -> bool:
    return bool(dims) and all(isinstance(x, int) and not isinstance(x, bool) for x in dims)


def _takes_values(node: fx.Node) -> bool:
    """Whether a node takes the first of the two results of ``max`` or ``min``."""
    function: Any = node.target
    return bool(function in _FIRST and node.args[1] == _FIRST[function])


def _captured(node: fx.Node, reduction: _Reduction) -> tuple[Contraction | None, list[fx.Node]]:
    """The contraction, and the sums that go into it."""
    sums: list[fx.Node] = []
    terms = list(_terms(reduction.tensor, sums))
    values = [value_of(x) for x in (reduction.tensor, *terms)]
    shapes = [value.shape for value in values if value is not None]
    if len(shapes) < len(values):
        return None, []
    rank = len(shapes[0])
    if not all(-rank <= x < rank for x in reduction.dims):
        return None, []
    gone = {x % rank for x in reduction.dims}
    inputs = tuple(tuple(range(rank - len(shape), rank)) for shape in shapes[1:])
    equation = Equation(inputs, tuple(x for x in range(rank) if x not in gone))
    if len(gone) != len(reduction.dims):
        return None, []
    return Contraction(equation, tuple(terms), Options.read(reduction.semiring)), sums


def _terms(node: fx.Node, sums: list[fx.Node]) -> Iterator[fx.Node]:
    """The tensors that a sum adds, sums of sums included; ``sums`` gets the additions, last ones first."""
    added = _added(node)
    if added is None or use_count(node) != 1:
        yield node
        return
    sums.append(node)
    for term in added:
        yield from _terms(term, sums)


def _added(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    if node.op not in ("call_function", "call_method") or function_name(node) not in _SUMS:
        return None
    if not is_known_function(node) or node.kwargs or len(node.args) != 2:
        return None
    left, right = node.args
    return (left, right) if isinstance(left, fx.Node) and isinstance(right, fx.Node) else None


def _saves_memory(contraction: Contraction) -> bool:
    """Whether the sum has more elements than its terms together, for the example inputs."""
    shapes = [value.shape for x in contraction.operands if (value := value_of(x)) is not None]
    sizes = contraction.equation.sizes(shapes)
    return math.prod(sizes.values()) > sum(math.prod(shape) for shape in shapes)


def _continues(contraction: Contraction) -> bool:
    """Whether a term is itself a contraction over the semiring, used by nothing else, which can fuse."""
    for term in contraction.operands:
        while use_count(term) == 1 and _only_arranges(term):
            (term,) = term.all_input_nodes
        source = as_contraction(term)
        if source is not None and source.options == contraction.options and use_count(term) == 1:
            return True
    return False


def _only_arranges(node: fx.Node) -> bool:
    view = read(node)
    return view is not None and view.arranges


def _why_not(
    effects: Effects,
    node: fx.Node,
    reduction: _Reduction,
    contraction: Contraction,
    sums: list[fx.Node],
) -> str | None:
    operands = contraction.operands
    values = [value for x in operands if (value := value_of(x)) is not None]
    if not same_floating_dtype(operands) or values[0].dtype.is_complex:
        return "its terms aren't all known to be of one floating dtype on one device"
    if any(effects.is_mutated(x) for x in (node, *reduction.values, *sums)):
        return "something writes to its result"
    if any(effects.is_written(x) for x in operands):
        return "something writes to its terms, which autograd may have saved"
    if not all(effects.may_move_reads(operands, x, node) for x in sums):
        return "something writes to its terms before it is computed"
    return None
