"""The contraction nodes of a graph: one reader, one writer, and one accessor of a node's value.

Every pass sees a contraction through :func:`as_contraction`, whatever the style of the call that made it,
and makes one through :func:`insert_contraction`; no pass reads shapes from anywhere but :func:`value_of`.

Among the operands may be symbolic index patterns, which a graph holds as calls that make them. A pattern is
read by :func:`pattern_of`; it is a constant without memory, and of no dtype and device of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import fx

from ..contract import einsum as einfx_einsum
from ..equation import Equation
from ..errors import EinfxError
from ..options import KEYWORDS, REAL, Options
from ..pattern import IndexPattern
from .values import (
    VALUE,
    Value,
    erase_unused_patterns,
    is_pattern,
    number_of,
    pattern_of,
    set_value,
    size_read,
    value_of,
)

__all__ = [
    "VALUE",
    "Contraction",
    "Value",
    "as_contraction",
    "canonical_target",
    "erase_unused_patterns",
    "forget_value",
    "in_any_order",
    "insert_contraction",
    "is_einsum",
    "is_pattern",
    "number_of",
    "pattern_of",
    "set_value",
    "size_read",
    "value_of",
]

_TORCH_EINSUM = torch.functional.einsum
_ATEN_EINSUM = torch.ops.aten.einsum
_OPERATORS = (torch.ops.einfx.einsum, torch.ops.einfx.contract)
"""What torch.export and torch.compile record of einfx.einsum, with all of its options in order."""
_OVERLOADS = (_ATEN_EINSUM.default, *(operator.default for operator in _OPERATORS))

_READ = "einfx_read"
"""The metadata key of what :func:`as_contraction` read, with the arguments it was read from."""

VISIBLE_STRIDES = "einfx_visible_strides"
"""The metadata key of the strides that the node had in the original program whose place a node takes."""


class Contraction(NamedTuple):
    """A node read as a contraction: its equation, the node of each operand, and what it means beside."""

    equation: Equation
    operands: tuple[fx.Node, ...]
    options: Options = REAL

    @property
    def tensors(self) -> tuple[fx.Node, ...]:
        """The operands that aren't index patterns."""
        return tuple([operand for operand in self.operands if operand.target is not IndexPattern])

    @property
    def has_patterns(self) -> bool:
        """Whether index patterns are among the operands."""
        return IndexPattern in [operand.target for operand in self.operands]

    @property
    def arranges(self) -> bool:
        """Whether it only reorders dimensions and takes diagonals, which means the same in any semiring."""
        return len(self.operands) == 1 and not self.equation.summed and self.options == REAL

    def with_operands(self, equation: Equation, operands: Sequence[fx.Node]) -> Contraction:
        """The same over other operands, one in the place of each of these."""
        return Contraction(equation, tuple(operands), self.options)


def forget_value(node: fx.Node) -> None:
    """Drop what is known of the value of ``node``, and what its users were read as with it."""
    for key in (VALUE, "val", "example_value", "tensor_meta"):
        node.meta.pop(key, None)
    for user in node.users:
        user.meta.pop(_READ, None)


def is_einsum(node: fx.Node) -> bool:
    """Whether ``node`` calls an einsum, of torch or of einfx, in any style, or an operator that is one."""
    if node.op != "call_function":
        return False
    return node.target in (_TORCH_EINSUM, einfx_einsum, _ATEN_EINSUM, *_OPERATORS, *_OVERLOADS)


def as_contraction(node: Any) -> Contraction | None:
    """Read a node as a contraction, over real numbers or over another semiring.

    Args:
        node: any node; einsum calls of torch, einfx and aten are read in every style: an implicit output,
            an ellipsis (where the ranks are known), the sublist form, a list of operands. Operands may be
            index patterns beside tensors.

    Returns:
        None where the node isn't an einsum or can't be read: a keyword that changes its meaning (an argmax,
        an order of steps that the caller chose), operands that aren't nodes, an equation or options that
        are invalid (which then fail at run time, as they always did).

    Example:
        >>> import torch
        >>> graph = torch.fx.symbolic_trace(lambda a, b: torch.einsum("xy, yz", a, b)).graph
        >>> as_contraction(list(graph.nodes)[2])[:2]
        (Equation('ab,bc->ac'), (a, b))
    """
    if not isinstance(node, fx.Node) or not is_einsum(node):
        return None
    arguments, keywords, contraction = node.meta.get(_READ, (None, None, None))
    if arguments is not node.args or keywords is not node.kwargs:
        contraction = _read(node)
        if contraction is not None:
            node.meta[_READ] = node.args, node.kwargs, contraction
    result: Contraction | None = contraction
    return result


def in_any_order(node: fx.Node) -> Contraction | None:
    """Read an einsum in whatever order it is computed, and whether or not it returns an argmax beside.

    A pass that rewrites takes :func:`as_contraction` instead.
    """
    return _read(node, in_any_order=True) if is_einsum(node) else None


_STEPS = ("path", "optimize", "return_argmax")
"""Keywords of einsums that say nothing of the value itself."""


def _read(node: fx.Node, in_any_order: bool = False) -> Contraction | None:
    arguments, keywords = _call_of_einsum(node)
    chosen = keywords.get("optimize", "auto") != "auto"
    if not in_any_order and (chosen or keywords.get("return_argmax", False) is not False):
        return None
    keywords = {key: value for key, value in keywords.items() if key not in _STEPS}
    if keywords and (node.target in (_TORCH_EINSUM, _ATEN_EINSUM) or _holds_nodes(keywords)):
        return None
    if not arguments:
        return None
    try:
        equation, operands = _equation_and_operands(arguments)
        options = Options.read(**keywords) if keywords else REAL
    except (EinfxError, TypeError, ValueError):
        return None
    if not operands or not all(isinstance(x, fx.Node) for x in operands):
        return None
    if len(equation.inputs) != len(operands) or not _takes_patterns(operands, options):
        return None
    if not all(0 <= position < len(operands) for position in options.linear_operands):
        return None
    return Contraction(equation, tuple(operands), options)


def _takes_patterns(operands: Sequence[fx.Node], options: Options) -> bool:
    """Whether there are no patterns, or patterns that are multiplied and added with tensors."""
    patterns = sum(is_pattern(operand) for operand in operands)
    return not patterns or (patterns < len(operands) and options == REAL)


_OPTIONS = ("optimize", *KEYWORDS)


def _call_of_einsum(node: fx.Node) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call as einfx.einsum would take them."""
    arguments, keywords = list(node.args), dict(node.kwargs)
    if node.target in (_ATEN_EINSUM, _ATEN_EINSUM.default):
        return arguments[:2], keywords
    if node.target in (*_OPERATORS, *_OVERLOADS):
        given = {key: value for key, value in zip(_OPTIONS, arguments[2:], strict=False) if value is not None}
        arguments, keywords = arguments[:2], {**given, **keywords}
        gradient = keywords.get("grad_of_neg_inf", "uniform")
        if isinstance(gradient, str) and gradient != "uniform":
            keywords["grad_of_neg_inf"] = float(gradient)
    return arguments, keywords


def _holds_nodes(keywords: Mapping[str, Any]) -> bool:
    found: list[fx.Node] = []
    fx.map_arg(dict(keywords), lambda x: found.append(x))
    return bool(found)


def _equation_and_operands(arguments: list[Any]) -> tuple[Equation, list[Any]]:
    if isinstance(arguments[0], str):
        operands = arguments[1:]
        if len(operands) == 1 and isinstance(operands[0], list | tuple):
            operands = list(operands[0])
        return Equation.parse(arguments[0], _ranks(operands)), operands
    operands, sublists = arguments[0::2], arguments[1::2]
    output = operands.pop() if len(arguments) % 2 else None
    return Equation.from_sublists(sublists, output, _ranks(operands)), operands


def _ranks(operands: Sequence[fx.Node]) -> list[int] | None:
    values = [value_of(operand) for operand in operands]
    ranks = [len(value.shape) for value in values if value is not None]
    return ranks if len(ranks) == len(operands) else None


def insert_contraction(
    graph: fx.Graph, equation: Equation, operands: Sequence[fx.Node], options: Options = REAL
) -> fx.Node:
    """Write a contraction at the graph's insertion point, in its canonical form.

    The form is ``torch.functional.einsum(equation, *operands)`` with an explicit output; with options of its
    own or index patterns, ``einfx.contract.einsum(equation, *operands, **options)``. The node's value is
    recorded where those of the operands are known, and all tensors of one dtype.

    Example:
        >>> import torch
        >>> graph = torch.fx.Graph()
        >>> node = insert_contraction(graph, Equation.parse("ij,j->i"), [graph.placeholder(x) for x in "ab"])
        >>> node.args
        ('ab,b->a', a, b)
    """
    target = canonical_target(options, operands)
    node = graph.call_function(target, (str(equation), *operands), options.keywords())
    values = [value_of(operand) for operand in operands]
    known = [value for value in values if value is not None]
    tensors = [operand for operand in operands if not is_pattern(operand)]
    dtypes = {value.dtype for operand in tensors if (value := value_of(operand)) is not None}
    if len(known) == len(operands) and len(dtypes) == 1:
        set_value(node, equation.output_shape([value.shape for value in known]), tensors[0])
    return node


def canonical_target(options: Options, operands: Sequence[fx.Node] = ()) -> Callable[..., Any]:
    """The function that a contraction of these operands calls in its canonical form."""
    plain = options == REAL and not any(is_pattern(operand) for operand in operands)
    target: Callable[..., Any] = _TORCH_EINSUM if plain else einfx_einsum
    return target


def inherit(node: fx.Node, replaced: fx.Node) -> fx.Node:
    """Give ``node`` the metadata (stack trace, module path …) of the node whose place it takes."""
    own = VALUE in node.meta
    for key, item in replaced.meta.items():
        if not (own and key in ("val", "example_value", "tensor_meta")):
            node.meta.setdefault(key, item)
    if VISIBLE_STRIDES not in node.meta and (value := value_of(replaced)) is not None:
        node.meta[VISIBLE_STRIDES] = value.strides
    return node
