"""Give a graph the form that TorchScript accepts."""

from __future__ import annotations

import builtins
import math
import operator
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

import torch
from torch import fx

from ..errors import UsageError
from ..graphs.nodes import erase_unused_patterns
from ..rewrite import Pass
from ..torchscript.convolutions import convolutions_by_torch_functions
from ..torchscript.einsums import einsum_as_text, semiring_by_torch_functions
from ..torchscript.patterns import patterns_by_torch_functions

__all__ = ["Jitable", "jitable"]

GraphOrModule = TypeVar("GraphOrModule", fx.Graph, fx.GraphModule)


@dataclass(frozen=True)
class Jitable(Pass):
    """Rewrite the calls that Python accepts and ``torch.jit.script`` doesn't, without changing a number.

    Graph modules inside the graph module are rewritten too, since scripting compiles them with it. The
    graph stays an ordinary one that also runs eagerly, trains and prints. Contractions over other semirings
    become calls of a function of torch functions alone, which a process without einfx can run; those with
    index patterns become convolutions, or contractions of windows.

    Raises:
        UsageError: a contraction over a semiring of one's own, with a memory limit or an argmax: TorchScript
            has no function for it.

    Example:
        >>> from einfx.rewrite import readable_code
        >>> def program(a, b):
        ...     c = torch.einsum(a, (0, 1), b, (1, ...), (0, ...))
        ...     return torch.tensordot(abs(c), b, dims=((1,), (1,))).sum(axis=0)
        >>> traced = fx.symbolic_trace(program)
        >>> print(readable_code(traced.graph))
        def forward(self, a, b):
            einsum = torch.functional.einsum(a, (0, 1), b, (1, Ellipsis), (0, Ellipsis))
            abs_1 = _operator_abs(einsum)
            tensordot = torch.functional.tensordot(abs_1, b, dims = ((1,), (1,)), out = None)
            sum_1 = tensordot.sum(axis = 0)
            return sum_1
        >>> Jitable().apply(traced)
        4
        >>> print(readable_code(traced.graph))
        def forward(self, a, b):
            einsum = torch.functional.einsum('AB,B...->A...', a, b)
            abs_1 = torch.abs(einsum)
            tensordot = torch.functional.tensordot(abs_1, b, dims = ([1], [1]), out = None)
            sum_1 = tensordot.sum(dim = 0)
            return sum_1
    """

    name: ClassVar[str] = "jitable"

    def apply(self, graph_module: fx.GraphModule) -> int:
        """Rewrite the graph, and those of graph modules inside, in place; return the number of rewrites."""
        total = 0
        for module in graph_module.modules():
            if isinstance(module, fx.GraphModule):
                count = _rewrite(module.graph)
                if count:
                    module.recompile()
                total += count
        return total


def jitable(graph_module_or_graph: GraphOrModule) -> GraphOrModule:
    """Turn a graph into one that ``torch.jit.script`` accepts, in place.

    Args:
        graph_module_or_graph: a ``GraphModule``, which is recompiled, or a ``Graph``.

    Returns:
        The argument itself.

    Raises:
        UsageError: the argument is neither.

    Example:
        >>> traced = jitable(fx.symbolic_trace(lambda a, b: torch.einsum(a, (0, 1), b, (1, 2))))
        >>> torch.jit.script(traced)(torch.ones(2, 3), torch.ones(3, 1))
        tensor([[3.],
                [3.]])
    """
    if isinstance(graph_module_or_graph, fx.GraphModule):
        Jitable().apply(graph_module_or_graph)
        graph_module_or_graph.recompile()
    elif isinstance(graph_module_or_graph, fx.Graph):
        _rewrite(graph_module_or_graph)
    else:
        raise UsageError(
            f"jitable takes a GraphModule or a Graph, not a {type(graph_module_or_graph).__name__}: call "
            "einfx.optimize first, or torch.fx.symbolic_trace"
        )
    return graph_module_or_graph


def _rewrite(graph: fx.Graph) -> int:
    count = _name_its_source(graph) + _types_of_torchscript(graph)
    for node in list(graph.nodes):
        if node.op in ("call_function", "call_method"):
            count += sum(rule(node) for rule in _RULES)
    if count:
        erase_unused_patterns(graph)
        graph.lint()
    return count


def _name_its_source(graph: fx.Graph) -> int:
    """TorchScript finds no source for code said to come from a ``<lambda>``."""
    made_in: dict[str, Any] = getattr(graph, "_co_fields", {})
    if not str(made_in.get("co_name", "")).endswith(">"):
        return 0
    graph._co_fields = {**made_in, "co_name": str(made_in["co_name"]).strip("<>")}
    return 1


_TYPE_NAMES = {**vars(typing), **vars(builtins), "torch": torch, "typing": typing, "Tensor": torch.Tensor}


def _types_of_torchscript(graph: fx.Graph) -> int:
    """Annotations left as text become types; those that TorchScript can't use, ``Any`` among them, go.

    An argument without one has the type of its default.
    """
    count = 0
    for node in graph.nodes:
        if node.type is None and node.op != "placeholder":
            continue
        usable = _usable_type(node.type)
        if usable is None and node.op == "placeholder" and node.args:
            usable = _type_of_default(node.args[0])
        if usable is not node.type:
            node.type = usable
            count += 1
    return count


def _usable_type(annotation: Any) -> Any:
    if annotation is None or annotation is torch.Tensor:
        return annotation
    try:
        resolved = eval(annotation, _TYPE_NAMES) if isinstance(annotation, str) else annotation
        known = torch.jit.annotations.try_ann_to_type(resolved, None)
    except Exception:  # whatever evaluating somebody's annotation, or compiling their class, raises
        return None
    return None if known is None or known.kind() == "AnyType" else resolved


def _type_of_default(value: Any) -> Any:
    if value is None:
        return typing.Optional[torch.Tensor]  # noqa: UP045  (this form prints as TorchScript reads it)
    return type(value) if isinstance(value, bool | int | float | complex | str) else None


def _tensordot_dims_as_lists(node: fx.Node) -> bool:
    """``tensordot(a, b, dims=((1,), (0,)))`` → ``tensordot(a, b, dims=([1], [0]))``."""
    if not _calls(node, torch.functional.tensordot):
        return False
    dims = node.kwargs.get("dims", node.args[2] if len(node.args) > 2 else None)
    if not isinstance(dims, list | tuple) or len(dims) != 2:
        return False
    if not all(isinstance(axes, list | tuple) for axes in dims):
        return False
    if isinstance(dims, tuple) and all(isinstance(axes, list) for axes in dims):
        return False
    lists = tuple(list(axes) for axes in dims if isinstance(axes, list | tuple))
    if "dims" in node.kwargs:
        node.kwargs = {**node.kwargs, "dims": lists}
    else:
        node.args = (*node.args[:2], lists, *node.args[3:])
    return True


_NUMPY_NAMES = {
    "axis": "dim",
    "keepdims": "keepdim",
    "a": "input",
    "x": "input",
    "x1": "input",
    "x2": "other",
}


def _torch_argument_names(node: fx.Node) -> bool:
    """``x.sum(axis=0, keepdims=True)`` → ``x.sum(dim=0, keepdim=True)``."""
    if not _NUMPY_NAMES.keys() & node.kwargs.keys():
        return False
    known = _argument_names(str(getattr(node.target, "__name__", node.target)))
    renamed = {}
    for name, value in node.kwargs.items():
        torch_name = _NUMPY_NAMES.get(name, name)
        schema_name = "self" if torch_name == "input" else torch_name
        renamed[torch_name if name not in known and schema_name in known else name] = value
    if renamed.keys() == node.kwargs.keys():
        return False
    node.kwargs = renamed
    return True


@lru_cache(maxsize=1024)
def _argument_names(operator_name: str) -> frozenset[str]:
    schemas = torch._C._jit_get_schemas_for_operator(f"aten::{operator_name}")
    return frozenset(argument.name for schema in schemas for argument in schema.arguments)


def _functions_for_methods(node: fx.Node) -> bool:
    """``x.norm(dim=0)`` → ``torch.norm(x, dim=0)``, ``x.nelement()`` → ``x.numel()``."""
    if node.op != "call_method":
        return False
    if node.target == "nelement":
        node.target = "numel"
        return True
    if node.target == "norm" and len(node.args) <= 4:
        node.op, node.target = "call_function", torch.functional.norm
        return True
    return False


def _torch_abs(node: fx.Node) -> bool:
    """``abs(x)`` → ``torch.abs(x)``."""
    is_abs = _calls(node, builtins.abs) or _calls(node, operator.abs)
    if not is_abs or not isinstance(node.args[0], fx.Node) or _is_a_size(node.args[0]):
        return False
    node.target = torch.abs
    return True


def _no_unary_plus(node: fx.Node) -> bool:
    """``+x`` → ``x``, which it returns."""
    if not _calls(node, operator.pos) or not isinstance(node.args[0], fx.Node):
        return False
    node.replace_all_uses_with(node.args[0])
    node.graph.erase_node(node)
    return True


def _meshgrid_of_a_list(node: fx.Node) -> bool:
    """``meshgrid(x, y)`` → ``meshgrid([x, y])``."""
    if not _calls(node, torch.functional.meshgrid) or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    node.args = (list(node.args),)
    node.kwargs = {name: value for name, value in node.kwargs.items() if value is not None}
    return True


def _product_of_sizes(node: fx.Node) -> bool:
    """``x.shape.numel()`` → ``number_of_elements(x.shape)``."""
    if node.op != "call_method" or node.target != "numel" or not _is_sizes(node.args[0]):
        return False
    node.op, node.target = "call_function", number_of_elements
    return True


def number_of_elements(sizes: list[int]) -> int:
    """How many elements a tensor of these sizes has: ``torch.Size.numel`` where sizes are a list.

    Example:
        >>> number_of_elements([2, 3, 4])
        24
    """
    result = 1
    for size in sizes:
        result = result * size
    return result


def _none_by_scriptable_check(node: fx.Node) -> bool:
    """The check of an argument that was None in the trace becomes one that TorchScript compiles."""
    if not _calls(node, fx._symbolic_trace._assert_is_none):
        return False
    node.target = check_none
    for argument in node.all_input_nodes:
        argument.type = typing.Optional[torch.Tensor]  # noqa: UP045
    return True


def check_none(value: torch.Tensor | None, message: str) -> None:
    """Refuse an argument for which the program was traced with None.

    Raises:
        AssertionError: ``value`` is something, with ``message``.

    Example:
        >>> check_none(None, "scale must be None")
    """
    if value is not None:
        raise AssertionError(message)


def _number_second(node: fx.Node) -> bool:
    """``x.item() * y`` → ``y * x.item()``: a number of no known type may stand on the right only."""
    if not (_calls(node, operator.mul) or _calls(node, operator.add)):
        return False
    left, right = node.args
    if not _is_an_item(left) or not isinstance(right, fx.Node) or _is_an_item(right) or _is_a_size(right):
        return False
    node.args = (right, left)
    return True


def _overload_by_arguments(node: fx.Node) -> bool:
    """``torch.ops.aten.mul.Tensor(x, y)`` → ``torch.ops.aten.mul(x, y)``."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    node.target = node.target.overloadpacket
    return True


def _nan_from_text(node: fx.Node) -> bool:
    """``masked_fill(x, mask, nan)`` → ``masked_fill(x, mask, float('nan'))``."""
    if _calls(node, float) or not any(_is_nan(x) for x in _leaves((node.args, tuple(node.kwargs.values())))):
        return False
    with node.graph.inserting_before(node):
        nan = node.graph.call_function(float, ("nan",))
    node.args = fx.node.map_aggregate(node.args, lambda x: nan if _is_nan(x) else x)
    node.kwargs = fx.node.map_aggregate(node.kwargs, lambda x: nan if _is_nan(x) else x)
    return True


_RULES: tuple[Callable[[fx.Node], bool], ...] = (
    convolutions_by_torch_functions,
    patterns_by_torch_functions,
    semiring_by_torch_functions,
    einsum_as_text,
    _tensordot_dims_as_lists,
    _torch_argument_names,
    _functions_for_methods,
    _torch_abs,
    _meshgrid_of_a_list,
    _none_by_scriptable_check,
    _number_second,
    _overload_by_arguments,
    _nan_from_text,
    _product_of_sizes,
    _no_unary_plus,
)
"""Applied to every node in this order; the last erases the node it matches."""


def _calls(node: fx.Node, function: Callable[..., Any]) -> bool:
    return node.op == "call_function" and node.target is function


def _is_sizes(node: Any) -> bool:
    """Whether ``node`` is a ``torch.Size``: a shape, a part of one, or several one after another."""
    if not isinstance(node, fx.Node):
        return False
    if _calls(node, getattr):
        return node.args[1] == "shape"
    if _calls(node, operator.getitem):
        return isinstance(node.args[1], slice) and _is_sizes(node.args[0])
    if _calls(node, operator.add):
        return any(_is_sizes(x) for x in node.args)
    return node.op == "call_method" and node.target == "size" and len(node.args) == 1 and not node.kwargs


def _is_a_size(node: fx.Node) -> bool:
    """Whether ``node`` is a number of elements: read off a shape, or arithmetic on what was."""
    if _calls(node, operator.getitem):
        return not isinstance(node.args[1], slice) and _is_sizes(node.args[0])
    if _calls(node, getattr):
        return node.args[1] == "ndim"
    if _calls(node, number_of_elements):
        return True
    if node.op == "call_method":
        return node.target in ("dim", "numel") or (node.target == "size" and not _is_sizes(node))
    if node.op == "call_function" and getattr(node.target, "__module__", "") == "_operator":
        return all(_is_a_size(x) for x in node.all_input_nodes) and bool(node.all_input_nodes)
    return False


def _is_an_item(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.op == "call_method" and value.target == "item"


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _leaves(arguments: Sequence[Any]) -> Iterator[Any]:
    for argument in arguments:
        if isinstance(argument, list | tuple):
            yield from _leaves(argument)
        else:
            yield argument
