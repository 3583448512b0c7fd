"""Products of a tensor with a number: read in every spelling, written in one."""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import torch
from torch import fx

from .legality import function_name, is_known_function, scalar_factor
from .nodes import set_value, value_of

__all__ = ["Scale", "Scaled", "as_scaled", "insert_scaled", "is_factor", "may_cross_contraction"]

_MUL = {"mul", "multiply", "__mul__", "__rmul__"}
_DIV = {"div", "divide", "truediv", "true_divide", "__truediv__"}
_NEG = {"neg", "negative", "__neg__"}


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

    def times(self, other: Scale) -> Scale:
        """The product of two factors."""
        return Scale(self.numerator * other.numerator, self.denominator * other.denominator)


class Scaled(NamedTuple):
    """A node read as a number times a tensor."""

    scale: Scale
    tensor: fx.Node


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
        >>> from einfx.shapes import propagate
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
    arguments = [*node.args]
    for key, argument in node.kwargs.items():
        if key in ("out", "rounding_mode") and argument is None:
            continue
        if key == "input" or key == "self":
            arguments.insert(0, argument)
        elif key == "other":
            arguments.append(argument)
        else:
            return None
    read = _read(name, arguments)
    if read is None:
        return None
    value = value_of(read.tensor)
    result = value_of(node)
    if value is None and result is None and assume_floating:
        return read if is_factor(read.scale, torch.float32) else None
    if value is None or result is None or value.dtype != result.dtype or value.device != result.device:
        return None
    return read if is_factor(read.scale, value.dtype) else None


def is_factor(scale: Scale, dtype: torch.dtype) -> bool:
    """Whether tensors of ``dtype`` may be multiplied by a factor, and by either part of it, anywhere."""
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


def insert_scaled(graph: fx.Graph, scale: Scale, tensor: fx.Node) -> fx.Node:
    """Write a number times a tensor at the insertion point, as a division where only that is exact."""
    if scale.numerator == 1 and scale.denominator != 1:
        node = graph.call_function(operator.truediv, (tensor, scale.denominator))
    else:
        node = graph.call_function(operator.mul, (tensor, scale.factor))
    value = value_of(tensor)
    if value is not None:
        set_value(node, value.shape, tensor)
    return node


def may_cross_contraction(scale: Scale, node: fx.Node, assume_floating: bool = False) -> bool:
    """Whether a factor may move from an operand of a contraction to its result, or back.

    Partial sums change by the factor, so it must be far from the ends of the dtype's range: within a
    quarter of its exponents. Never in float16, where a scale before a product is there to prevent overflow.
    """
    value = value_of(node)
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
