"""Elementwise operations of a graph, in every spelling, as they are when they write over an operand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import fx, nn

from ..graphs.nodes import as_contraction
from ..graphs.writes import function_name, is_known_function
from ..options import REAL
from .in_place import elementwise, in_parts, product

__all__ = ["Attribute", "Elementwise", "elementwise_of", "is_watched"]


class Attribute(NamedTuple):
    """A parameter or a buffer, by its name, which no node reads yet."""

    name: str


Call = tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]


class Elementwise(NamedTuple):
    """An operation whose result has an element for each element of an operand, made from that one.

    Softmax and normalisations are among them: they combine elements along some dimensions, and are computed
    part by part along the others.

    Attributes:
        operands: all that it reads, numbers among them.
        positions: of the operands that it may be written over, if their shape is that of the result.
        over: from a position, the call that writes over that operand: a function, its arguments and keyword
            arguments, in which an :class:`Attribute` may stand for a parameter.
        together: the dimensions along which elements are combined.
    """

    operands: tuple[Any, ...]
    positions: tuple[int, ...]
    over: Callable[[int], Call]
    together: tuple[int, ...] = ()


def elementwise_of(node: fx.Node, owner: nn.Module) -> Elementwise | None:
    """Read a node as an elementwise operation.

    Args:
        node: any node.
        owner: the module that its graph's ``call_module`` nodes refer to.

    Returns:
        None where it isn't one that is known.

    Example:
        >>> import torch
        >>> traced = fx.symbolic_trace(lambda x, y: torch.sub(x, y, alpha=2))
        >>> found = elementwise_of(list(traced.graph.nodes)[2], traced)
        >>> found.operands, found.positions, found.over(1)[1:]
        ((x, y), (0, 1), (('sub', 1, x, y), {'alpha': 2}))
    """
    if node.op == "call_module":
        return _of_module(node, owner.get_submodule(str(node.target)))
    if node.op not in ("call_function", "call_method") or not is_known_function(node):
        return None
    contraction = as_contraction(node)
    if contraction is not None:
        return _of_einsum(node)
    name = function_name(node)
    name = _SYNONYMS.get(name, name)
    if name in _UNARY and len(node.args) == 1 and not node.kwargs:
        return _operation(name, node.args, {})
    if name in _KEYWORDS:
        return _of_several(name, node)
    return _of_parts(name, node)


_SYNONYMS = {
    "absolute": "abs",
    "clip": "clamp",
    "divide": "div",
    "multiply": "mul",
    "negative": "neg",
    "subtract": "sub",
    "true_divide": "div",
    "truediv": "div",
}

_UNARY = frozenset(
    """
    abs acos acosh asin asinh atan atanh ceil cos cosh erf erfc exp exp2 expm1 floor frac log log10 log1p log2
    neg reciprocal round rsqrt sigmoid sign sin sinh sqrt square tan tanh trunc
    """.split()
)
"""Functions of one tensor that take ``out``."""

_KEYWORDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "add": (2, ("alpha",)),
    "addcdiv": (3, ("value",)),
    "addcmul": (3, ("value",)),
    "atan2": (2, ()),
    "clamp": (1, ("min", "max")),
    "div": (2, ("rounding_mode",)),
    "logaddexp": (2, ()),
    "maximum": (2, ()),
    "minimum": (2, ()),
    "mul": (2, ()),
    "pow": (2, ()),
    "sub": (2, ("alpha",)),
    "where": (3, ()),
}
"""Functions that take ``out``, each with how many operands it has, and further arguments by name."""


def _operation(name: str, operands: Sequence[Any], keywords: Mapping[str, Any]) -> Elementwise | None:
    def over(position: int) -> Call:
        return elementwise, (name, position, *operands), keywords

    positions = tuple(i for i, x in enumerate(operands) if isinstance(x, fx.Node))
    if name == "where":
        positions = tuple(i for i in positions if i)
    return Elementwise(tuple(operands), positions, over) if positions else None


def _of_several(name: str, node: fx.Node) -> Elementwise | None:
    count, allowed = _KEYWORDS[name]
    operands, rest = list(node.args[:count]), node.args[count:]
    if len(operands) < count or not all(isinstance(x, (fx.Node, int, float, complex)) for x in operands):
        return None
    keywords = dict(zip(allowed if name == "clamp" else (), rest, strict=False)) | dict(node.kwargs)
    if len(keywords) != len(rest) + len(node.kwargs) or not keywords.keys() <= set(allowed):
        return None
    if any(isinstance(x, fx.Node) for x in keywords.values()):
        return None
    if isinstance(operands[0], fx.Node):
        if name == "where" and not all(isinstance(x, fx.Node) for x in operands):
            return None
        return _operation(name, operands, keywords)
    if name in ("add", "mul") and not keywords:
        return _operation(name, operands[::-1], {})
    if name == "pow":
        return _operation(name, operands, keywords)
    if name in ("sub", "div") and not keywords:
        return _in_parts("rsub" if name == "sub" else "rtruediv", operands[1], (), (operands[0],), {})
    return None


def _of_einsum(node: fx.Node) -> Elementwise | None:
    """A product of two tensors of which one has all labels of the result, in their order."""
    contraction = as_contraction(node)
    if contraction is None or contraction.options != REAL or contraction.has_patterns:
        return None
    inputs, output = contraction.equation.inputs, contraction.equation.output
    operands = contraction.operands
    if len(operands) != 2 or contraction.equation.summed:
        return None
    if any(len(set(labels)) < len(labels) for labels in inputs):
        return None

    def over(position: int) -> Call:
        labels = inputs[1 - position]
        order = tuple(labels.index(x) for x in output if x in labels)
        missing = tuple(i for i, x in enumerate(output) if x not in labels)
        return product, (operands[position], operands[1 - position], order, missing), {}

    positions = tuple(i for i, labels in enumerate(inputs) if labels == output)
    return Elementwise(operands, positions, over) if positions else None


_POINTWISE: dict[str, tuple[str, ...]] = {
    "celu": ("alpha",),
    "elu": ("alpha",),
    "gelu": ("approximate",),
    "hardsigmoid": (),
    "hardswish": (),
    "hardtanh": ("min_val", "max_val"),
    "leaky_relu": ("negative_slope",),
    "logsigmoid": (),
    "mish": (),
    "relu6": (),
    "selu": (),
    "silu": (),
    "softplus": ("beta", "threshold"),
}
"""Functions that are computed in parts, with the names of their further arguments."""


def _of_parts(name: str, node: fx.Node) -> Elementwise | None:
    given = {key: x for key, x in node.kwargs.items() if key not in ("_stacklevel", "inplace", "dtype")}
    if node.kwargs.get("inplace") or node.kwargs.get("dtype") is not None or not node.args:
        return None
    operand, *rest = node.args
    if not isinstance(operand, fx.Node):
        return None
    if name == "relu":
        return None if rest or given else _operation("relu_", (operand,), {})
    if name == "masked_fill":
        return None if given or len(rest) != 2 else _masked_fill(operand, *rest)
    if name == "rsub":
        number = rest[0] if len(rest) == 1 else None
        plain = isinstance(number, (int, float)) and not given
        return _in_parts("rsub", operand, (), (number,), {}) if plain else None
    names = {"layer_norm": _NORM, "softmax": ("dim",), "log_softmax": ("dim",), **_POINTWISE}.get(name)
    if names is None or len(rest) > len(names) or not given.keys() <= set(names[len(rest) :]):
        return None
    arguments = {**dict(zip(names, rest, strict=False)), **given}
    if name == "layer_norm":
        return _layer_norm(operand, arguments)
    if any(isinstance(x, (fx.Node, bool)) for x in arguments.values()):
        return None
    dim = arguments.get("dim", 0)
    if name in _POINTWISE:
        return _in_parts(name, operand, (), (), arguments)
    return _in_parts(name, operand, (dim,), (), arguments) if isinstance(dim, int) and arguments else None


_NORM = ("normalized_shape", "weight", "bias", "eps")


def _masked_fill(operand: fx.Node, mask: Any, number: Any) -> Elementwise | None:
    if not isinstance(mask, fx.Node) or not isinstance(number, (int, float)):
        return None
    return Elementwise(
        (operand, mask), (0,), lambda position: (elementwise, ("masked_fill_", 0, operand, mask, number), {})
    )


def _layer_norm(operand: fx.Node, arguments: Mapping[str, Any]) -> Elementwise | None:
    shape = arguments.get("normalized_shape")
    if not isinstance(shape, (tuple, list)) or not all(type(x) is int for x in shape):
        return None
    return _in_parts("layer_norm", operand, tuple(range(-len(shape), 0)), (), arguments)


def _in_parts(
    name: str,
    operand: Any,
    together: tuple[int, ...],
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any],
) -> Elementwise | None:
    if not isinstance(operand, fx.Node):
        return None
    others = [x for x in keywords.values() if isinstance(x, fx.Node)]
    call: Call = in_parts, (name, together, operand, *arguments), keywords
    return Elementwise((operand, *others), (0,), lambda position: call, together)


def _of_module(node: fx.Node, module: nn.Module) -> Elementwise | None:
    operand = node.args[0] if len(node.args) == 1 and not node.kwargs else None
    if not isinstance(operand, fx.Node) or getattr(module, "inplace", False) or is_watched(module):
        return None
    kind: Any = type(module)
    if kind is nn.ReLU:
        return _operation("relu_", (operand,), {})
    if kind in _UNARY_MODULES:
        return _operation(_UNARY_MODULES[kind], (operand,), {})
    if kind in (nn.Softmax, nn.LogSoftmax) and isinstance(module.dim, int):
        name = "softmax" if kind is nn.Softmax else "log_softmax"
        return _in_parts(name, operand, (module.dim,), (), {"dim": module.dim})
    if kind is nn.LayerNorm:
        state = {key: Attribute(f"{node.target}.{key}") for key in ("weight", "bias")}
        known = {key: x for key, x in state.items() if getattr(module, key) is not None}
        shape = tuple(module.normalized_shape)  # type: ignore[arg-type]
        return _layer_norm(operand, {"normalized_shape": shape, **known, "eps": module.eps})
    name = _MODULES.get(kind, "")
    keywords = {key: getattr(module, key) for key in _POINTWISE.get(name, ())}
    return _in_parts(name, operand, (), (), keywords) if name else None


_UNARY_MODULES: Mapping[type[nn.Module], str] = {nn.Sigmoid: "sigmoid", nn.Tanh: "tanh"}
_MODULES: Mapping[type[nn.Module], str] = {
    nn.CELU: "celu",
    nn.ELU: "elu",
    nn.GELU: "gelu",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Hardswish: "hardswish",
    nn.LeakyReLU: "leaky_relu",
    nn.LogSigmoid: "logsigmoid",
    nn.Mish: "mish",
    nn.SELU: "selu",
    nn.SiLU: "silu",
    nn.Softplus: "softplus",
}


def is_watched(module: nn.Module) -> bool:
    """Whether hooks see what a module or a part of it computes."""
    return any(x._forward_hooks or x._forward_pre_hooks for x in module.modules())
