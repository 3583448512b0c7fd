"""Convolutions of any number of dimensions as TorchScript takes them: with lists of plain numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import fx

from ..conv.functional import foldNd, unfoldNd
from ..conv.modules import portable
from ..conv.native import conv_transposeNd, convNd
from ..errors import UsageError
from ..graphs.nodes import value_of
from ..padding import paddings

__all__ = ["convolutions_by_torch_functions"]


def convolutions_by_torch_functions(node: fx.Node) -> bool:
    """Rewrite convNd, conv_transposeNd, unfoldNd and foldNd by functions of torch alone.

    Returns:
        False for any other node.

    Raises:
        UsageError: how many dimensions there are isn't known, or a reduction is asked for.

    Example:
        >>> graph = fx.Graph()
        >>> x, w = graph.placeholder("x"), graph.placeholder("w")
        >>> node = graph.call_function(convNd, (x, w), {"padding": (1, 0)})
        >>> convolutions_by_torch_functions(node), node.args
        (True, (x, w, None, [1, 1], [0, 0, 1, 1], [1, 1], 1))
    """
    known = _WRITERS.get(node.target) if node.op == "call_function" else None
    if known is None:
        return False
    function, write = known
    bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    bound.apply_defaults()
    arguments = write(node, bound.arguments)
    node.target, node.args, node.kwargs = function, arguments, {}
    return True


def _convolution(node: fx.Node, given: dict[str, Any]) -> tuple[Any, ...]:
    n = _dimensions(node, given, ("stride", "padding", "dilation"), given["weight"])
    stride, dilation = _each(node, given["stride"], n), _each(node, given["dilation"], n)
    sides = _sides(node, given["padding"], n, stride, dilation, given["weight"])
    both = [side for pair in reversed(sides) for side in pair]
    return given["x"], given["weight"], given["bias"], stride, both, dilation, given["groups"]


def _transposed(node: fx.Node, given: dict[str, Any]) -> tuple[Any, ...]:
    names = ("stride", "padding", "output_padding", "dilation")
    n = _dimensions(node, given, names, given["weight"])
    stride, dilation = _each(node, given["stride"], n), _each(node, given["dilation"], n)
    padding = _even(node, _sides(node, given["padding"], n, stride, dilation, given["weight"]))
    extra = _each(node, given["output_padding"], n)
    start = given["x"], given["weight"], given["bias"], stride, padding, extra
    return (*start, given["groups"], dilation)


def _unfold(node: fx.Node, given: dict[str, Any]) -> tuple[Any, ...]:
    if given["groups"] != 1 or given["reduce"] is not None:
        raise _refusal(node, "TorchScript has no averages of patches, and no groups of them")
    n = _dimensions(node, given, ("kernel_size", "dilation", "padding", "stride"), given["x"])
    kernel, stride, dilation = (_each(node, given[x], n) for x in ("kernel_size", "stride", "dilation"))
    sides = _sides(node, given["padding"], n, stride, dilation, kernel)
    return given["x"], kernel, dilation, [side for pair in reversed(sides) for side in pair], stride


def _fold(node: fx.Node, given: dict[str, Any]) -> tuple[Any, ...]:
    names = ("output_size", "kernel_size", "dilation", "padding", "stride")
    n = _dimensions(node, given, names, None)
    size, kernel, stride, dilation = (
        _each(node, given[x], n) for x in ("output_size", "kernel_size", "stride", "dilation")
    )
    padding = _even(node, _sides(node, given["padding"], n, stride, dilation, kernel))
    return given["x"], size, kernel, dilation, padding, stride


_WRITERS: dict[Any, tuple[Callable[..., Any], Callable[[fx.Node, dict[str, Any]], tuple[Any, ...]]]] = {
    convNd: (portable.convolution, _convolution),
    conv_transposeNd: (portable.transposed_convolution, _transposed),
    unfoldNd: (portable.unfold, _unfold),
    foldNd: (portable.fold, _fold),
}


def _dimensions(node: fx.Node, given: dict[str, Any], names: tuple[str, ...], ranked: Any) -> int:
    """The number of spatial dimensions: that of any argument which has a number for each, or of a tensor."""
    for name in names:
        if isinstance(given[name], list | tuple):
            return len(given[name])
    value = value_of(ranked)
    if value is None:
        raise _refusal(
            node, "how many dimensions it has isn't known (optimize the program for example inputs first)"
        )
    return len(value.shape) - 2


def _each(node: fx.Node, argument: Any, n: int) -> list[int]:
    numbers = list(argument) if isinstance(argument, list | tuple) else [argument] * n
    if not all(isinstance(number, int) for number in numbers):
        raise _refusal(node, "its numbers are computed in the program")
    return numbers


def _sides(
    node: fx.Node, padding: Any, n: int, stride: list[int], dilation: list[int], kernel: Any
) -> list[tuple[int, int]]:
    """The zeros on the left and on the right of each dimension."""
    each = list(padding) if isinstance(padding, list | tuple) else [padding] * n
    sizes: Any = kernel
    if isinstance(kernel, fx.Node):
        value = value_of(kernel)
        if value is None and any(isinstance(side, str) and side != "valid" for side in each):
            raise _refusal(node, "the size of its kernel, which its padding depends on, isn't known")
        sizes = [1] * n if value is None else value.shape[2:]
    return [paddings(sizes[i], stride[i], each[i], dilation[i]) for i in range(n)]


def _even(node: fx.Node, sides: list[tuple[int, int]]) -> list[int]:
    if any(left != right for left, right in sides):
        raise _refusal(node, "TorchScript has the same padding on both sides only")
    return [left for left, _ in sides]


def _refusal(node: fx.Node, reason: str) -> UsageError:
    return UsageError(f"jitable: {node.format_node()} can't be written for TorchScript: {reason}")
