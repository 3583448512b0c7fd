"""Products of a tensor with a number: read in every spelling, written in one.

Over log, max_plus and min_plus a product is a sum: there an added constant is what a factor is elsewhere.
"""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import torch
from torch import fx

from ..legality import scalar_factor
from .nodes import Contraction, set_value, value_of
from .writes import function_name, is_known_function

__all__ = [
    "Scale",
    "Scaled",
    "Shift",
    "Shifted",
    "as_scalar",
    "as_scaled",
    "as_shifted",
    "insert_scaled",
    "is_factor",
    "may_cross_contraction",
    "why_not_through",
]

_MUL = {"mul", "multiply", "__mul__", "__rmul__"}
_DIV = {"div", "divide", "truediv", "true_divide", "__truediv__"}
_NEG = {"neg", "negative", "__neg__"}
_ADD = {"add", "__add__", "__radd__"}
_SUB = {"sub", "subtract", "__sub__"}

_ADDITIVE = {"log", "max_plus", "min_plus"}
"""Semirings over which adding a number multiplies by it."""

LARGEST_SHIFT = 32.0
"""The largest constant that moves from an operand of a contraction to its result, or back.

(a + c) + b and (a + b) + c are rounded at the magnitudes of a + c and of a + b, which differ by |c| at most:
where a is near -c, the second is less exact by eps·|c|, so by 32·eps here. The probability of one of 1e13
outcomes is exp(-30); constants that mark what is absent (-1e5, -1e9) stay where they are.
"""


class Scale(NamedTuple):
    """The factor ``numerator / denominator``, apart so that a division stays one."""

    numerator: Any
    denominator: Any

    @property
    def factor(self) -> Any:
        """The factor as one number; infinite where the denominator underflowed."""
        if self.denominator == 0:
            return math.inf
        return self.numerator if self.denominator == 1 else self.numerator / self.denominator

    @property
    def is_one(self) -> bool:
        """Whether it changes nothing."""
        return bool(self.factor == 1)

    def times(self, other: Any) -> Scale:
        """The product of two factors."""
        return Scale(self.numerator * other.numerator, self.denominator * other.denominator)

    def __str__(self) -> str:
        return str(self.factor)


class Shift(NamedTuple):
    """The constant that is added: a factor over log, max_plus and min_plus."""

    amount: Any

    @property
    def is_one(self) -> bool:
        """Whether it changes nothing."""
        return bool(self.amount == 0)

    def times(self, other: Any) -> Shift:
        """Both constants in one."""
        return Shift(self.amount + other.amount)

    def __str__(self) -> str:
        return str(self.amount)


class Scaled(NamedTuple):
    """A node read as a number times a tensor."""

    scale: Scale
    tensor: fx.Node


class Shifted(NamedTuple):
    """A node read as a number plus a tensor."""

    scale: Shift
    tensor: fx.Node


def as_scalar(node: Any, assume_floating: bool = False) -> Scaled | Shifted | None:
    """Read a node as a number times a tensor, or as a number plus a tensor."""
    return as_scaled(node, assume_floating) or as_shifted(node)


def as_shifted(node: Any) -> Shifted | None:
    """Read a node as a tensor of floating dtype, float16 apart, plus a number.

    Returns:
        None where it isn't one, where the number isn't one of the dtype, or where the call does more (scales
        what it adds, subtracts the tensor, writes to ``out``).

    Example:
        >>> import torch
        >>> from einfx.graphs.shapes import propagate
        >>> traced = fx.symbolic_trace(lambda x: torch.sub(3.0 + x, 1))
        >>> propagate(traced, (torch.ones(3),))
        []
        >>> [as_shifted(node).scale for node in traced.graph.nodes if as_shifted(node)]
        [Shift(amount=3.0), Shift(amount=-1)]
    """
    if not isinstance(node, fx.Node) or node.op not in ("call_function", "call_method"):
        return None
    name = function_name(node)
    if name not in _ADD | _SUB or not is_known_function(node):
        return None
    arguments = _arguments(node, {"out": None, "alpha": 1})
    if arguments is None or len(arguments) != 2:
        return None
    left, right = arguments
    if name in _ADD and _is_number(left):
        left, right = right, left
    if not isinstance(left, fx.Node) or not _is_number(right):
        return None
    read = Shifted(Shift(right if name in _ADD else -right), left)
    value, result = value_of(left), value_of(node)
    if value is None or result is None or value.dtype != result.dtype or value.device != result.device:
        return None
    if not value.dtype.is_floating_point or _is_half(value.dtype):
        return None
    return read if is_factor(read.scale, value.dtype) else None


def as_scaled(node: Any, assume_floating: bool = False) -> Scaled | None:
    """Read a node as a number times a tensor of floating or complex dtype.

    Args:
        node: any node.
        assume_floating: take a tensor of which nothing is known for one of float32.

    Returns:
        None where it isn't one, where the number isn't a normal number of the dtype, or where the call
        does more (rounds, writes to ``out``, divides by the tensor).

    Example:
        >>> import torch
        >>> from einfx.graphs.shapes import propagate
        >>> traced = fx.symbolic_trace(lambda x: torch.div(-x, 2.0))
        >>> propagate(traced, (torch.ones(3),))
        []
        >>> [as_scaled(node).scale for node in traced.graph.nodes if as_scaled(node)]
        [Scale(numerator=-1, denominator=1), Scale(numerator=1, denominator=2.0)]
    """
    if not isinstance(node, fx.Node) or node.op not in ("call_function", "call_method"):
        return None
    name = function_name(node)
    if name not in _MUL | _DIV | _NEG or not is_known_function(node):
        return None
    arguments = _arguments(node, {"out": None, "rounding_mode": None})
    read = None if arguments is None else _read(name, arguments)
    if read is None:
        return None
    value = value_of(read.tensor)
    result = value_of(node)
    if value is None and result is None and assume_floating:
        return read if is_factor(read.scale, torch.float32) else None
    if value is None or result is None or value.dtype != result.dtype or value.device != result.device:
        return None
    return read if is_factor(read.scale, value.dtype) else None


def _arguments(node: fx.Node, harmless: dict[str, Any]) -> list[Any] | None:
    """The one or two operands of a call, by name or not; None where a keyword says more."""
    arguments = [*node.args]
    for key, argument in node.kwargs.items():
        if key in harmless and argument == harmless[key]:
            continue
        if key == "input" or key == "self":
            arguments.insert(0, argument)
        elif key == "other":
            arguments.append(argument)
        else:
            return None
    return arguments


def is_factor(scale: Scale | Shift, dtype: torch.dtype) -> bool:
    """Whether tensors of ``dtype`` may be multiplied by a factor, and by either part of it, anywhere.

    A constant may be added to them if it is a finite real number of the dtype.
    """
    if isinstance(scale, Shift):
        number = scale.amount
        return not isinstance(number, complex) and abs(number) <= torch.finfo(dtype).max
    try:
        return all(scalar_factor(x, dtype) for x in (*scale, scale.factor))
    except (OverflowError, ZeroDivisionError):
        return False


def _read(name: str, arguments: list[Any]) -> Scaled | None:
    if name in _NEG:
        valid = len(arguments) == 1 and isinstance(arguments[0], fx.Node)
        return Scaled(Scale(-1, 1), arguments[0]) if valid else None
    if len(arguments) != 2:
        return None
    left, right = arguments
    if name in _DIV:
        if isinstance(left, fx.Node) and _is_number(right) and right != 0:
            return Scaled(Scale(1, right), left)
        return None
    if isinstance(left, fx.Node) and _is_number(right):
        return Scaled(Scale(right, 1), left)
    if isinstance(right, fx.Node) and _is_number(left):
        return Scaled(Scale(left, 1), right)
    return None


def _is_number(argument: Any) -> bool:
    return isinstance(argument, int | float | complex) and not isinstance(argument, bool)


def insert_scaled(graph: fx.Graph, scale: Scale | Shift, tensor: fx.Node) -> fx.Node:
    """Write a number times (or plus) a tensor at the insertion point; a division where only that is exact."""
    if isinstance(scale, Shift):
        node = graph.call_function(operator.add, (tensor, scale.amount))
    elif scale.numerator == 1 and scale.denominator != 1:
        node = graph.call_function(operator.truediv, (tensor, scale.denominator))
    else:
        node = graph.call_function(operator.mul, (tensor, scale.factor))
    value = value_of(tensor)
    if value is not None:
        set_value(node, value.shape, tensor)
    return node


def why_not_through(scale: Scale | Shift, contraction: Contraction, operand: fx.Node) -> str | None:
    """Why a scalar of an operand isn't one of the contraction's result, or None if it is.

    Example:
        >>> from einfx.equation import Equation
        >>> from einfx.options import Options
        >>> x = fx.Graph().placeholder("x")
        >>> over_log = Contraction(Equation.parse("ij->i"), (x,), Options.read("log"))
        >>> why_not_through(Shift(3.0), over_log, x), why_not_through(Scale(2, 1), over_log, x)
        (None, "over log a factor isn't one of the result")
    """
    if contraction.arranges:
        return None
    options = contraction.options
    name = options.semiring.name
    if isinstance(scale, Shift):
        if name not in _ADDITIVE:
            return f"over {name} an added constant isn't one of the result"
        if any(contraction.operands[position] is operand for position in options.linear_operands):
            return "a constant added to a linear operand isn't one of the logarithm"
        return None
    if name == "real":
        return None
    if name != "max_times":
        return f"over {name} a factor isn't one of the result"
    if isinstance(scale.factor, complex) or scale.factor <= 0:
        return "max_times has no negative numbers, so no such factors"
    return None


def may_cross_contraction(scale: Scale | Shift, node: fx.Node, assume_floating: bool = False) -> bool:
    """Whether a factor may move from an operand of a contraction to its result, or back.

    Partial sums change by the factor, so it must be far from the ends of the dtype's range: within a
    quarter of its exponents. Never in float16, where a scale before a product is there to prevent overflow.
    A constant must be at most ``LARGEST_SHIFT``, and not in half precision, which has few digits to lose.
    """
    value = value_of(node)
    if isinstance(scale, Shift):
        known = value is not None and value.dtype.itemsize >= 4
        return bool(known and abs(scale.amount) <= LARGEST_SHIFT)
    if value is None and assume_floating:
        return bool(2.0**-32 <= abs(scale.factor) <= 2.0**32)
    if value is None or (
        value.dtype.itemsize == 2 and value.dtype.is_floating_point and _is_half(value.dtype)
    ):
        return False
    limit = 2.0**32 if value.dtype.itemsize // (2 if value.dtype.is_complex else 1) <= 4 else 2.0**256
    return bool(1 / limit <= abs(scale.factor) <= limit)


def _is_half(dtype: Any) -> bool:
    return str(dtype) == "torch.float16"
