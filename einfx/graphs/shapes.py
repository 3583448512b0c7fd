"""Shapes, dtypes and devices of every node, without running the model or touching its state."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.utils import _pytree as pytree

from ..errors import EinfxError, OperandError
from ..kernels.results import Dense, result_of
from ..legality import Effects
from ..pattern import IndexPattern
from ..sources import source_line
from .folding import attribute
from .meta_einsums import over_semiring, with_patterns
from .nodes import VALUE, Value, as_contraction, forget_value, is_einsum, is_pattern
from .writes import FRESH, function_name, is_known_function, writes_in_place

__all__ = ["ShapeInterpreter", "propagate"]


class _Unknown:
    """Stands for a value that can't be known without data."""


_UNKNOWN = _Unknown()

_NEEDS_DATA = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
    NotImplementedError,
)


def propagate(graph_module: fx.GraphModule, arguments: Sequence[Any]) -> list[str]:
    """Record the value of every node for example arguments, for :func:`einfx.graphs.nodes.value_of`.

    Nothing is computed: the arguments and the module's state are replaced by fakes, and leaf modules by
    copies over fakes, so that no batch-norm counts a step and no random number is drawn.

    Args:
        graph_module: the graph; only its nodes' metadata change.
        arguments: an example for each placeholder, in order; any pytree of tensors and other objects.
            Placeholders without one use their default.

    Returns:
        A line for each node whose value can't be known without data (``.item()``, ``nonzero`` …); it and
        what depends on it keep no value, and the passes leave them alone.

    Raises:
        OperandError: the arguments don't fit the program: some operation of torch refuses their shapes.

    Example:
        >>> import torch
        >>> traced = fx.symbolic_trace(lambda x, w: x @ w)
        >>> propagate(traced, (torch.ones(2, 3), torch.ones(3, 4)))
        []
        >>> from einfx.graphs.nodes import value_of
        >>> value_of(list(traced.graph.nodes)[2]).shape
        (2, 4)
    """
    for node in graph_module.graph.nodes:
        forget_value(node)
    if _propagate_on_meta(graph_module, arguments):
        return _forget_unstable_ranks(graph_module.graph)
    interpreter = ShapeInterpreter(graph_module)
    with interpreter.mode:
        fakes = pytree.tree_map_only(torch.Tensor, interpreter.fake, tuple(arguments))
    interpreter.run(*fakes)
    _forget_reshaped(graph_module)
    return interpreter.unknown + _forget_unstable_ranks(graph_module.graph)


def _forget_unstable_ranks(graph: fx.Graph) -> list[str]:
    """Drop the values of tensors whose number of dimensions may differ for other inputs.

    ``squeeze`` leaves a dimension that isn't of size 1 where it is. What follows has an unknown rank too,
    until an explicit equation or a list of sizes fixes it again.
    """
    unstable: set[fx.Node] = set()
    notes = []
    for node in graph.nodes:
        if node.op == "output":
            continue
        starts = node.op in ("call_function", "call_method") and function_name(node) == "squeeze"
        if starts and all(x.op == "get_attr" for x in node.all_input_nodes):
            continue
        if not starts and (unstable.isdisjoint(node.all_input_nodes) or _fixes_rank(node)):
            continue
        unstable.add(node)
        forget_value(node)
        if starts:
            notes.append(f"{node.name}: how many dimensions squeeze leaves depends on their sizes")
    return notes


def _fixes_rank(node: fx.Node) -> bool:
    if is_einsum(node):
        equation = node.args[0]
        return isinstance(equation, str) and "->" in equation and "." not in equation
    return node.op == "call_method" and node.target in ("reshape", "view")


_RESHAPING_WRITES = frozenset(
    "transpose_ t_ swapaxes_ swapdims_ unsqueeze_ squeeze_ resize_ resize_as_ set_ as_strided_ data".split()
)


def _forget_reshaped(graph_module: fx.GraphModule) -> None:
    """Drop the values of tensors whose shape a method changes in place: they differ from use to use."""
    graph = graph_module.graph
    writers = [n for n in graph.nodes if n.op == "call_method" and n.target in _RESHAPING_WRITES]
    if not writers:
        return
    effects = Effects(graph, graph_module)
    changed = frozenset().union(*(effects.memory_of(n) for n in writers))
    for node in graph.nodes:
        if effects.memory_of(node) & changed:
            forget_value(node)


_SHAPE_ONLY = frozenset(
    "reshape view flatten unflatten unsqueeze squeeze expand expand_as view_as contiguous narrow select "
    "permute transpose swapaxes swapdims movedim moveaxis t size dim numel diagonal chunk split "
    "broadcast_shapes broadcast_tensors broadcast_to".split()
)
_READ_ATTRIBUTES = {"shape", "T", "mT", "ndim", "dtype"}
_ELEMENTWISE = {"add", "sub", "mul", "truediv", "div", "multiply"}
_FACTORIES = {"empty", "zeros", "ones", "full"}
_NEEDS_DEVICE = {"rand_like", "zeros_like", "ones_like", "empty_like", "where", "einsum"}


def _propagate_on_meta(graph_module: fx.GraphModule, arguments: Sequence[Any]) -> bool:
    """Propagate through torch's meta device, many times faster than fakes, where that tells the same.

    That is the case for programs on one device of operations that look at nothing but shapes and dtypes.
    """
    graph = graph_module.graph
    if not all(_is_plain(node) for node in graph.nodes):
        return False
    tensors = [x for x in pytree.tree_leaves(list(arguments)) if isinstance(x, torch.Tensor)]
    attributes: dict[fx.Node, torch.Tensor] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            value = attribute(graph_module, str(node.target))
            if not isinstance(value, torch.Tensor):
                return False
            attributes[node] = value
    tensors += attributes.values()
    if len({x.device for x in tensors}) != 1 or not all(_is_ordinary(x) for x in tensors):
        return False
    interpreter = _MetaInterpreter(graph_module, tensors[0].device, garbage_collect_values=False)
    try:
        interpreter.run(*pytree.tree_map_only(torch.Tensor, _on_meta, tuple(arguments)))
    except Exception:
        for node in interpreter.values:
            del node.meta[VALUE]
        return False
    for node, value in interpreter.values.items():
        node.meta[VALUE] = value
    return True


def _is_plain(node: fx.Node) -> bool:
    if node.op in ("placeholder", "output", "get_attr"):
        return True
    if node.op == "call_module" or not is_known_function(node) or node.kwargs.get("out") is not None:
        return False
    if is_einsum(node) or is_pattern(node) or node.target is operator.getitem:
        return True
    name = function_name(node)
    if name in _FACTORIES and node.op == "call_function":
        return True
    if name == "getattr":
        return len(node.args) == 2 and node.args[1] in _READ_ATTRIBUTES
    if node.op == "call_function" and getattr(node.target, "__module__", "") == "math":
        return True
    plain = name in _SHAPE_ONLY or (name in FRESH and name not in _NEEDS_DEVICE)
    return plain and not writes_in_place(node) and "device" not in node.kwargs


def _is_ordinary(tensor: torch.Tensor) -> bool:
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


class _BoundInterpreter(fx.Interpreter):
    """An interpreter that takes one value for each placeholder: ``*args`` as a tuple."""

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        return (
            next(self.args_iter) if str(target).startswith("*") else super().placeholder(target, args, kwargs)
        )


class _MetaInterpreter(_BoundInterpreter):
    def __init__(self, graph_module: fx.GraphModule, device: torch.device, **options: Any) -> None:
        super().__init__(graph_module, **options)
        self.values: dict[fx.Node, Value] = {}
        self._device = device

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if getattr(target, "__name__", "") in _FACTORIES:
            device = torch.device(kwargs.get("device") or torch.get_default_device())
            if device != self._device:
                raise NotImplementedError("a tensor on another device")
            kwargs = {**kwargs, "device": "meta"}
        return super().call_function(target, args, kwargs)

    def _arithmetic(self, node: fx.Node) -> torch.Tensor | None:
        if node.op not in ("call_function", "call_method") or node.kwargs:
            return None
        if function_name(node) not in _ELEMENTWISE:
            return None
        return _elementwise([self.env[x] if isinstance(x, fx.Node) else x for x in node.args])

    def _einsum(self, node: fx.Node) -> Any:
        product = over_semiring(node, self.env)
        product = with_patterns(node, self.env, self._device) if product is None else product
        return self._product(node) if product is None else product

    def _product(self, node: fx.Node) -> torch.Tensor | None:
        """The result of an einsum that multiplies two operands and sums nothing: torch.mul lays it out."""
        contraction = as_contraction(node)
        if contraction is None or len(contraction.operands) != 2 or contraction.equation.summed:
            return None
        operands = [self.env[x] for x in contraction.operands]
        inputs, output = contraction.equation.inputs, contraction.equation.output
        if any(len(set(labels)) < len(labels) for labels in inputs):
            return None
        if operands[0].dtype != operands[1].dtype:
            return None
        dense = [_operand_layout(x, tensor, output) for x, tensor in zip(inputs, operands, strict=True)]
        shape, strides = result_of(torch.mul, *dense)
        return torch.empty_strided(shape, strides, dtype=operands[0].dtype, device="meta")

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "get_attr":
            result = _on_meta(attribute(self.module, str(n.target)))
        else:
            product = self._einsum(n) if is_einsum(n) else self._arithmetic(n)
            result = super().run_node(n) if product is None else product
        if isinstance(result, torch.Tensor) and n.op != "output":
            value = Value.of(result, self._device)
            if value is not None:
                self.values[n] = value
                n.meta[VALUE] = value
        return result


def _operand_layout(labels: tuple[int, ...], tensor: torch.Tensor, output: tuple[int, ...]) -> Dense:
    """How torch.einsum looks at an operand: the output's dimensions, those that it lacks having size 1."""
    at = {label: i for i, label in enumerate(labels)}
    shape = [tensor.shape[at[x]] if x in at else 1 for x in output]
    return Dense(tuple(shape), tuple(tensor.stride(at[x]) if x in at else 1 for x in output))


def _elementwise(arguments: Sequence[Any]) -> torch.Tensor | None:
    """The result of an arithmetic operation on tensors of one floating dtype, and numbers."""
    tensors = [x for x in arguments if isinstance(x, torch.Tensor)]
    if len(arguments) != 2 or not tensors or not tensors[0].dtype.is_floating_point:
        return None
    if not all(isinstance(x, torch.Tensor | int | float) for x in arguments):
        return None
    if any(x.dtype != tensors[0].dtype for x in tensors):
        return None
    operands = [
        Dense(tuple(x.shape), x.stride()) if isinstance(x, torch.Tensor) else Dense((), ()) for x in arguments
    ]
    shape, strides = result_of(torch.mul, *operands)
    return torch.empty_strided(shape, strides, dtype=tensors[0].dtype, device="meta")


class ShapeInterpreter(_BoundInterpreter):
    """Runs a graph on fakes, and records what every node returns."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.unknown: list[str] = []
        self._fake_modules: dict[int, torch.nn.Module] = {}
        self._memo: dict[int, Any] = {}
        self._alive: list[Any] = []
        self.extra_traceback = False
        self._mutates_metadata = any(
            n.op == "call_method" and str(n.target).endswith("_") for n in graph_module.graph.nodes
        )

    def fake(self, tensor: torch.Tensor) -> torch.Tensor:
        """The fake of a tensor, the same at every call."""
        if id(tensor) not in self._memo:
            self._memo[id(tensor)] = self.mode.from_tensor(tensor)
            self._alive.append(tensor)
        result: torch.Tensor = self._memo[id(tensor)]
        return result

    def fetch_attr(self, target: str) -> Any:
        """The fake of an attribute."""
        value = super().fetch_attr(target)
        return self.fake(value) if isinstance(value, torch.Tensor) else value

    def fake_module(self, module: torch.nn.Module) -> torch.nn.Module:
        """A copy of a leaf module over fakes, the same at every call."""
        if id(module) not in self._fake_modules:
            for tensor in [*module.parameters(), *module.buffers()]:
                self.fake(tensor)
            self._fake_modules[id(module)] = copy.deepcopy(module, dict(self._memo))
        return self._fake_modules[id(module)]

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run a leaf module over fakes."""
        for module in self.fetch_module(target).modules():
            if module._forward_hooks or module._forward_pre_hooks:
                raise NotImplementedError("its hooks may change what it returns")
        return self.fake_module(self.fetch_module(target))(*args, **kwargs)

    def fetch_module(self, target: str) -> torch.nn.Module:
        """The leaf module that a dotted path names."""
        module = self.module
        for name in target.split("."):
            module = getattr(module, name)
        return module

    def run_node(self, n: fx.Node) -> Any:
        """Run a node where all that it reads is known."""
        if any(self.env.get(x) is _UNKNOWN for x in n.all_input_nodes):
            return _UNKNOWN
        try:
            _check_sizes(n, self.env)
            with self.mode:
                value = over_semiring(n, self.env)
                value = super().run_node(n) if value is None else value
        except EinfxError as error:
            raise OperandError(f"{error}, at {source_line(n)}") from error
        except _NEEDS_DATA as error:
            return self._give_up(n, error)
        except Exception as error:
            if n.op == "placeholder":
                raise OperandError(
                    f"no example for argument {n.target!r} of the model, which has no default"
                ) from error
            if not _is_torch(n) or not isinstance(error, (RuntimeError, IndexError)) or "Fake" in str(error):
                return self._give_up(n, error)
            first = str(error).strip().splitlines()[0]
            what = "einsum" if is_einsum(n) else str(n.target if n.op != "call_function" else n.name)
            raise OperandError(
                f"the example inputs don't fit the model: {what} ({n.format_node()}) fails with "
                f"{first!r}, at {source_line(n)}"
            ) from error
        if n.op != "output":
            n.meta["val"] = self._snapshot(value) if self._mutates_metadata else value
        return value

    def _snapshot(self, value: Any) -> Any:
        with self.mode:
            return pytree.tree_map_only(
                torch.Tensor,
                lambda t: (
                    torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device)
                    if t.layout is torch.strided
                    else t
                ),
                value,
            )

    def _give_up(self, node: fx.Node, error: Exception) -> Any:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        self.unknown.append(f"{node.name}: its shape depends on data ({type(error).__name__}: {reason})")
        return _UNKNOWN


def _check_sizes(node: fx.Node, environment: dict[fx.Node, Any]) -> None:
    contraction = as_contraction(node)
    if contraction is not None:
        values = [environment.get(operand) for operand in contraction.operands]
        shapes = [value.shape for value in values if isinstance(value, torch.Tensor | IndexPattern)]
        if len(shapes) == len(values):
            try:
                contraction.equation.sizes(shapes)
            except OperandError as error:
                written = node.args[0] if isinstance(node.args[0], str) else "the sublist form"
                raise OperandError(f"{written!r}, read as {str(error).removeprefix('einsum ')}") from error


def _is_torch(node: fx.Node) -> bool:
    if node.op == "call_method":
        return True
    if node.op == "call_function":
        module = getattr(node.target, "__module__", "") or ""
        return module.split(".")[0] in ("torch", "_operator", "einfx", "")
    return node.op == "call_module"
