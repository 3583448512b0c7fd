"""What the functions of torch and Python write, read and make, by their names.

:class:`einfx.legality.Effects` is made of these answers. A function that isn't known here may write to
anything.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import fx

__all__ = [
    "FRESH",
    "IN_PLACE_OPERATORS",
    "function_name",
    "is_known_function",
    "may_write",
    "writes_in_place",
    "written_arguments",
]

IN_PLACE_OPERATORS = {
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod,
    operator.ipow, operator.iand, operator.ior, operator.ixor, operator.ilshift, operator.irshift,
    operator.imatmul, operator.setitem, operator.delitem, operator.iconcat,
}  # fmt: skip

FRESH = frozenset(
    """
    abs acos add addbmm addcdiv addcmul addmm addmv addr asin atan baddbmm bilinear bmm cat ceil clone conv1d
    conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d cos cosh cross cumprod cumsum div dot
    einsum elu eq erf exp expm1 floor ge gelu gt index_select layer_norm le leaky_relu linear log log1p
    log_softmax logsumexp lt matmul max maximum mean min minimum mm mul mv ne neg norm outer pow prod
    reciprocal relu round rsqrt rsub sigmoid sign silu sin sinh softmax softplus sqrt square stack std sub
    sum tan tanh tensordot truediv true_divide var vdot where zeros_like ones_like empty_like rand_like
    """.split()
)
"""Operations whose result is always new memory (a one-operand einsum, which may be a view, is excepted)."""

_READ_ONLY_FUNCTIONS = {getattr, operator.getitem, len, isinstance, type, int, float, bool, str}

_NEVER_WRITE = FRESH - {"elu", "leaky_relu", "relu", "silu"} | frozenset(
    "getattr getitem reshape view permute transpose unsqueeze squeeze expand t size dim flatten".split()
)
"""Operations that write to nothing unless a keyword asks them to."""


def function_name(node: fx.Node) -> str:
    """The name of the operation that ``node`` calls, the same for a function, a method and an operator."""
    return node.target if isinstance(node.target, str) else _name_of(node.target)


@lru_cache(maxsize=4096)
def _name_of(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1]
    return str(getattr(target, "__name__", target))


def is_known_function(node: fx.Node) -> bool:
    """Whether einfx knows what ``node`` writes to: calls of torch and of Python's operators."""
    if node.op == "call_method":
        return True
    return node.op == "call_function" and _is_known_target(node.target)


@lru_cache(maxsize=4096)
def _is_known_target(target: Any) -> bool:
    if target in _READ_ONLY_FUNCTIONS:
        return True
    if isinstance(target, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return True
    module = getattr(target, "__module__", None) or ""
    if not module:
        owner = getattr(target, "__self__", None)
        objclass = getattr(target, "__objclass__", None)
        return owner is torch._C._VariableFunctions or objclass is not None or _is_torch_builtin(target)
    top = module.split(".")[0]
    return top in ("torch", "_operator", "math", "einfx")


def _is_torch_builtin(target: Any) -> bool:
    name = getattr(target, "__name__", "")
    return any(getattr(space, name, None) is target for space in (torch, torch._C._nn, torch.Tensor))


def may_write(node: fx.Node) -> bool:
    """Whether a call is of a kind that can write to its arguments: a quick answer for those that can't."""
    return bool(node.kwargs) or not _never_writes(node.target)


@lru_cache(maxsize=4096)
def _never_writes(target: Any) -> bool:
    name = target if isinstance(target, str) else _name_of(target)
    overload = isinstance(target, torch._ops.OpOverload | torch._ops.OpOverloadPacket)
    return not overload and name in _NEVER_WRITE and target not in IN_PLACE_OPERATORS


def writes_in_place(node: fx.Node) -> bool:
    """Whether a known operation writes to one of its arguments."""
    return next(iter(written_arguments(node)), None) is not None


def written_arguments(node: fx.Node) -> Iterator[fx.Node]:
    """The arguments that a known operation writes to."""
    if node.op not in ("call_function", "call_method"):
        return
    target = node.target
    for out in (node.kwargs.get("out"),):
        yield from _nodes(out)
    if isinstance(target, torch._ops.OpOverload):
        for argument, schema in zip(node.args, target._schema.arguments, strict=False):
            if schema.alias_info is not None and schema.alias_info.is_write:
                yield from _nodes(argument)
        return
    name = function_name(node)
    in_place = target in IN_PLACE_OPERATORS or (name.endswith("_") and not name.endswith("__"))
    if (
        in_place
        or name in ("__setitem__", "__iadd__", "__imul__", "__isub__", "__itruediv__")
        or _asks_in_place(node)
    ):
        yield from _nodes(node.args[:1] or tuple(node.kwargs.values())[:1])
    if node.op == "call_function" and name in ("batch_norm", "instance_norm"):
        yield from _nodes(node.args[1:3])
        yield from _nodes((node.kwargs.get("running_mean"), node.kwargs.get("running_var")))
    if name in ("embedding", "embedding_bag") and (len(node.args) > 3 or "max_norm" in node.kwargs):
        yield from _nodes(node.args[:2])


def _asks_in_place(node: fx.Node) -> bool:
    if node.op != "call_function" or not inspect.isfunction(node.target):
        return False
    signature = _signature_with_inplace(node.target)
    if signature is None:
        return False
    try:
        bound = signature.bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):
        return False
    return bool(bound.arguments.get("inplace", False))


@lru_cache(maxsize=4096)
def _signature_with_inplace(function: Any) -> inspect.Signature | None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    return signature if "inplace" in signature.parameters else None


def _nodes(argument: Any) -> Iterator[fx.Node]:
    if isinstance(argument, fx.Node):
        yield argument
    elif isinstance(argument, list | tuple):
        for item in argument:
            yield from _nodes(item)
