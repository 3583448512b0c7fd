"""Every way in which torch spells a contraction without saying einsum.

:func:`read` gives the contraction that a call of matmul, tensordot, permute, sum … computes, from the ranks
of its operands. What a call means beyond that (another dtype, a kept dimension, an output given) makes it
unreadable, never misread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from ..equation import Equation
from .nodes import Contraction, as_contraction, value_of
from .writes import function_name, is_known_function

__all__ = ["PRODUCTS", "REDUCTIONS", "VIEWS", "broadcast_product", "read", "read_with_bias"]

Labels = tuple[int, ...]
Arguments = dict[str, Any]
Reader = Callable[[Arguments], Contraction | None]


def read(node: Any) -> Contraction | None:
    """The contraction that ``node`` computes, whether it says einsum or anything else.

    Args:
        node: a node of a graph in which shapes were propagated.

    Returns:
        None where the node isn't a contraction or its operands' ranks aren't known.

    Example:
        >>> import torch
        >>> from einfx.graphs.shapes import propagate
        >>> traced = fx.symbolic_trace(lambda x, w: torch.matmul(x, w.transpose(0, 1)))
        >>> propagate(traced, (torch.ones(5, 2, 3), torch.ones(4, 3)))
        []
        >>> [str(read(node).equation) for node in traced.graph.nodes if read(node)]
        ['ab->ba', 'abc,cd->abd']
    """
    contraction = as_contraction(node)
    if contraction is not None or not isinstance(node, fx.Node):
        return contraction
    if node.op not in ("call_function", "call_method") or not is_known_function(node):
        return None
    name = function_name(node)
    reader = PRODUCTS.get(name) or VIEWS.get(name) or REDUCTIONS.get(name)
    if name == "getattr":
        reader = _read_attribute
    if reader is None or (name == "sum" and node.target is sum):
        return None
    arguments = _bind(node, _PARAMETERS.get(name, ("input",)))
    return None if arguments is None else reader(arguments)


def read_with_bias(node: fx.Node) -> tuple[Contraction | None, fx.Node | None]:
    """The contraction that ``linear`` or ``bilinear`` computes, and the bias that it adds to it.

    For every other node the contraction that :func:`read` gives, and no bias.
    """
    name = function_name(node) if node.op in ("call_function", "call_method") else ""
    parameters = _PARAMETERS.get(name, ())
    if "bias" not in parameters or not is_known_function(node):
        return read(node), None
    arguments = _bind(node, parameters)
    if arguments is None:
        return None, None
    bias = arguments.pop("bias", None)
    if bias is not None and not isinstance(bias, fx.Node):
        return None, None
    return PRODUCTS[name](arguments), bias


def broadcast_product(left: Any, right: Any) -> Contraction | None:
    """The elementwise product of two tensors as a contraction; broadcast dimensions share a label."""
    ranks = _ranks(left, right)
    if ranks is None:
        return None
    rank = max(ranks)
    labels = [tuple(range(rank - r, rank)) for r in ranks]
    return _contraction(tuple(labels), tuple(range(rank)), left, right)


_PARAMETERS: dict[str, tuple[str, ...]] = {
    "matmul": ("input", "other"),
    "mm": ("input", "mat2"),
    "bmm": ("input", "mat2"),
    "mv": ("input", "vec"),
    "dot": ("input", "tensor"),
    "inner": ("input", "other"),
    "outer": ("input", "vec2"),
    "ger": ("input", "vec2"),
    "tensordot": ("a", "b", "dims", "out"),
    "linear": ("input", "weight", "bias"),
    "bilinear": ("input1", "input2", "weight", "bias"),
    "permute": ("input", "*dims"),
    "transpose": ("input", "dim0", "dim1"),
    "swapaxes": ("input", "axis0", "axis1"),
    "swapdims": ("input", "dim0", "dim1"),
    "movedim": ("input", "source", "destination"),
    "moveaxis": ("input", "source", "destination"),
    "sum": ("input", "*dim"),
    "getattr": ("input", "name"),
}


def _bind(node: fx.Node, parameters: Sequence[str]) -> Arguments | None:
    result: Arguments = {}
    positional = list(node.args)
    for parameter in parameters:
        name = parameter.removeprefix("*")
        if parameter.startswith("*") and positional:
            result[name] = positional[0] if isinstance(positional[0], list | tuple) else tuple(positional)
            if isinstance(positional[0], list | tuple) and len(positional) > 1:
                return None
            positional = []
        elif positional:
            result[name] = positional.pop(0)
    if positional:
        return None
    aliases = {"self": "input", "mat1": "input", "axis": "dim", "x": "input"}
    for key, value in node.kwargs.items():
        key = key if key in parameters or "*" + key in parameters else aliases.get(key, key)
        if key in result or key not in {p.removeprefix("*") for p in parameters}:
            if not (key in ("keepdim", "dtype", "out") and not value):
                return None
            continue
        result[key] = value
    return result


def _contraction(inputs: tuple[Labels, ...], output: Labels, *operands: Any) -> Contraction:
    return Contraction(Equation(inputs, output), operands)


def _rank(node: Any) -> int | None:
    value = value_of(node)
    return None if value is None else len(value.shape)


def _ranks(*nodes: Any) -> list[int] | None:
    ranks = [_rank(node) for node in nodes]
    known = [rank for rank in ranks if rank is not None]
    return known if len(known) == len(ranks) else None


def _matmul(left: Any, right: Any, allowed: tuple[int, int] | None = None) -> Contraction | None:
    ranks = _ranks(left, right)
    if ranks is None or (allowed is not None and tuple(ranks) != allowed) or 0 in ranks:
        return None
    i, k, j = 0, 1, 2
    batch = max(ranks[0] - 2, ranks[1] - 2, 0)
    shared = tuple(range(3, 3 + batch))
    first = (*shared[batch - max(ranks[0] - 2, 0) :], i, k) if ranks[0] > 1 else (k,)
    second = (*shared[batch - max(ranks[1] - 2, 0) :], k, j) if ranks[1] > 1 else (k,)
    output = (*shared, *((i,) if ranks[0] > 1 else ()), *((j,) if ranks[1] > 1 else ()))
    return _contraction((first, second), output, left, right)


def _of_ranks(left: int, right: int, second: str) -> Reader:
    return lambda a: _matmul(a.get("input"), a.get(second), (left, right))


def _read_dot(arguments: Arguments) -> Contraction | None:
    return _matmul(arguments.get("input"), arguments.get("tensor"), (1, 1))


def _read_inner(arguments: Arguments) -> Contraction | None:
    left, right = arguments.get("input"), arguments.get("other")
    ranks = _ranks(left, right)
    if ranks is None or 0 in ranks:
        return None
    first = (*range(1, ranks[0]), 0)
    second = (*range(ranks[0], ranks[0] + ranks[1] - 1), 0)
    return _contraction((first, second), first[:-1] + second[:-1], left, right)


def _read_outer(arguments: Arguments) -> Contraction | None:
    left, right = arguments.get("input"), arguments.get("vec2")
    if _ranks(left, right) != [1, 1]:
        return None
    return _contraction(((0,), (1,)), (0, 1), left, right)


def _read_tensordot(arguments: Arguments) -> Contraction | None:
    left, right, dims = arguments.get("a"), arguments.get("b"), arguments.get("dims", 2)
    ranks = _ranks(left, right)
    if ranks is None or arguments.get("out") is not None:
        return None
    if isinstance(dims, int):
        pairs: list[tuple[Any, Any]] = [(ranks[0] - dims + i, i) for i in range(dims)]
    else:
        try:
            first, second = dims
            first = [first] if isinstance(first, int) else list(first)
            second = [second] if isinstance(second, int) else list(second)
            pairs = list(zip(first, second, strict=True))
        except (TypeError, ValueError):
            return None
    if not all(isinstance(x, int) and isinstance(y, int) for x, y in pairs):
        return None
    labels = [list(range(ranks[0])), list(range(ranks[0], sum(ranks)))]
    for x, y in pairs:
        if not (-ranks[0] <= x < ranks[0] and -ranks[1] <= y < ranks[1]):
            return None
        labels[1][y] = labels[0][x]
    summed = {labels[0][x] for x, _ in pairs}
    output = tuple(x for part in labels for x in part if x not in summed)
    if len(summed) != len(pairs) or len(set(output)) != len(output):
        return None
    return _contraction((tuple(labels[0]), tuple(labels[1])), output, left, right)


def _read_linear(arguments: Arguments) -> Contraction | None:
    if arguments.get("bias") is not None:
        return None
    x, weight = arguments.get("input"), arguments.get("weight")
    ranks = _ranks(x, weight)
    if ranks is None or ranks[0] == 0 or ranks[1] not in (1, 2):
        return None
    first = (*range(2, ranks[0] + 1), 0)
    second = (1, 0) if ranks[1] == 2 else (0,)
    return _contraction((first, second), first[:-1] + second[:-1], x, weight)


def _read_bilinear(arguments: Arguments) -> Contraction | None:
    if arguments.get("bias") is not None:
        return None
    x, y, weight = (arguments.get(name) for name in ("input1", "input2", "weight"))
    ranks = _ranks(x, y, weight)
    if ranks is None or ranks[0] != ranks[1] or ranks[0] == 0 or ranks[2] != 3:
        return None
    batch = tuple(range(3, ranks[0] + 2))
    return _contraction(((*batch, 1), (*batch, 2), (0, 1, 2)), (*batch, 0), x, y, weight)


def _permutation(node: Any, order: Sequence[Any]) -> Contraction | None:
    rank = _rank(node)
    if rank is None or len(order) != rank or not all(isinstance(x, int) for x in order):
        return None
    dims = [x + rank if x < 0 else x for x in order]
    if sorted(dims) != list(range(rank)):
        return None
    return _contraction((tuple(range(rank)),), tuple(dims), node)


def _read_permute(arguments: Arguments) -> Contraction | None:
    dims = arguments.get("dims")
    return None if not isinstance(dims, list | tuple) else _permutation(arguments.get("input"), dims)


def _swap(first: str, second: str) -> Reader:
    def reader(arguments: Arguments) -> Contraction | None:
        return _swapped(arguments.get("input"), arguments.get(first), arguments.get(second))

    return reader


def _swapped(node: Any, first: Any, second: Any) -> Contraction | None:
    rank = _rank(node)
    if rank is None or not isinstance(first, int) or not isinstance(second, int):
        return None
    if not (-rank <= first < rank and -rank <= second < rank):
        return None
    order = list(range(rank))
    order[first], order[second] = order[second], order[first]
    return _permutation(node, order)


def _read_t(arguments: Arguments) -> Contraction | None:
    node = arguments.get("input")
    return _swapped(node, 0, 1) if _rank(node) == 2 else None


def _read_movedim(arguments: Arguments) -> Contraction | None:
    node = arguments.get("input")
    rank = _rank(node)
    moves = [arguments.get("source"), arguments.get("destination")]
    source, destination = ([x] if isinstance(x, int) else x for x in moves)
    if rank is None or not isinstance(source, list | tuple) or not isinstance(destination, list | tuple):
        return None
    if len(source) != len(destination) or not all(isinstance(x, int) for x in (*source, *destination)):
        return None
    if not all(-rank <= x < rank for x in (*source, *destination)):
        return None
    target = {y % rank: x % rank for x, y in zip(source, destination, strict=True)}
    if len(target) != len(source) or len(set(target.values())) != len(source):
        return None
    rest = iter([x for x in range(rank) if x not in target.values()])
    return _permutation(node, [target[i] if i in target else next(rest) for i in range(rank)])


def _read_attribute(arguments: Arguments) -> Contraction | None:
    node, name = arguments.get("input"), arguments.get("name")
    rank = _rank(node)
    if rank is None:
        return None
    if name == "T" and rank == 2:
        return _swapped(node, 0, 1)
    if name == "mT" and rank >= 2:
        return _swapped(node, -2, -1)
    return None


def _read_sum(arguments: Arguments) -> Contraction | None:
    node, dims = arguments.get("input"), arguments.get("dim")
    rank = _rank(node)
    if rank is None:
        return None
    if isinstance(dims, list | tuple) and dims and isinstance(dims[-1], bool):
        *dims, keep = dims
        if keep or len(dims) > 1:
            return None
    if isinstance(dims, tuple) and len(dims) == 1 and isinstance(dims[0], list | tuple):
        dims = dims[0]
    if isinstance(dims, int):
        dims = (dims,)
    if dims is None or dims == (None,):
        dims = tuple(range(rank))
    if not dims and rank:
        dims = tuple(range(rank))
    if not all(isinstance(x, int) and not isinstance(x, bool) and -rank <= x < rank for x in dims):
        return None
    summed = {x % rank for x in dims}
    if len(summed) != len(dims):
        return None
    kept = tuple(x for x in range(rank) if x not in summed)
    return _contraction((tuple(range(rank)),), kept, node)


PRODUCTS: dict[str, Reader] = {
    "matmul": lambda a: _matmul(a.get("input"), a.get("other")),
    "mm": _of_ranks(2, 2, "mat2"),
    "bmm": _of_ranks(3, 3, "mat2"),
    "mv": _of_ranks(2, 1, "vec"),
    "dot": _read_dot,
    "inner": _read_inner,
    "outer": _read_outer,
    "ger": _read_outer,
    "tensordot": _read_tensordot,
    "linear": _read_linear,
    "bilinear": _read_bilinear,
}
"""Readers of the calls that multiply tensors."""

VIEWS: dict[str, Reader] = {
    "permute": _read_permute,
    "transpose": _swap("dim0", "dim1"),
    "swapaxes": _swap("axis0", "axis1"),
    "swapdims": _swap("dim0", "dim1"),
    "movedim": _read_movedim,
    "moveaxis": _read_movedim,
    "t": _read_t,
}
"""Readers of the calls that only reorder dimensions."""

REDUCTIONS: dict[str, Reader] = {"sum": _read_sum}
"""Readers of the calls that sum over dimensions."""
