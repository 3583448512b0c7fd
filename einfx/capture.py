"""From a model, a function or a graph to an ``fx.Graph`` and the module that owns its state."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from .errors import CaptureError, UsageError
from .model_state import ModelState
from .optimized import OptimizedModule
from .rewrite import copied_graph
from .sources import deepest_user_line
from .tracing import record_writes, restore_arithmetic

__all__ = ["bind_arguments", "capture"]

_SPECIALISED = (type(None), bool, str)


def capture(
    model: Any,
    arguments: Sequence[Any] = (),
    keywords: Mapping[str, Any] | None = None,
    tracer: Callable[[], fx.Tracer] = fx.Tracer,
    *,
    record_stacks: bool = False,
) -> OptimizedModule:
    """Trace ``model`` without running it.

    Args:
        model: a module, a function, an ``fx.GraphModule`` or an ``fx.Graph`` that needs no module.
            Graphs are copied, never changed.
        arguments: example positional arguments. Those that are None, a bool or text are fixed at their
            value, since programs branch on them; so is a default of that kind for which no example is
            given. The traced program checks that it gets the same value.
        keywords: example keyword arguments.
        tracer: the class of the tracer, for models that need leaf modules of their own.
        record_stacks: keep for each node the line of the model that made it, which takes time.

    Returns:
        A module with a graph of its own that shares the parameters and buffers of ``model``, not yet
        optimised.

    Raises:
        CaptureError: the model can't be traced; the message has the line and the alternatives.

    Example:
        >>> print(capture(lambda x: x + 1).code.strip().splitlines()[0])
        def forward(self, x):
    """
    if isinstance(model, fx.GraphModule):
        return OptimizedModule(model, _forgetful_copy(model.graph), type(model).__name__)
    if isinstance(model, fx.Graph):
        owner = model.owning_module
        return OptimizedModule(owner if owner is not None else torch.nn.Module(), _forgetful_copy(model))
    if not callable(model):
        raise UsageError(f"a model is a module, a function or a graph, not {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError(
            "a TorchScript module can't be traced again: optimise the module it was scripted from"
        )
    if not isinstance(model, torch.nn.Module) and not inspect.isfunction(model):
        model = _as_function(model)
    concrete = _concrete(model, arguments, keywords or {})
    state = ModelState(model)
    try:
        root, graph = _traced(model, tracer, concrete, record_stacks, state)
    except Exception as error:
        state.restore()
        raise CaptureError(
            f"symbolic tracing can't follow the model at {deepest_user_line(error.__traceback__)} "
            f"({type(error).__name__}: {_first_line(error)}). Keep that part out of the trace with "
            "torch.fx.wrap, or with a tracer whose is_leaf_module names its module (optimize(..., "
            "tracer=...)); or give a GraphModule that torch.export or make_fx made"
        ) from error
    name = (
        type(model).__name__ if isinstance(model, torch.nn.Module) else getattr(model, "__name__", "function")
    )
    lost = state.lost_assignments()
    if lost:
        state.restore()
        raise CaptureError(
            f"the model assigns to {', '.join(lost)} while it runs, which a graph can't show; write to a "
            "buffer in place instead (self.count.add_(1)), or return the value"
        )
    constants = {
        str(node.target): getattr(root, str(node.target))
        for node in graph.nodes
        if node.op == "get_attr" and str(node.target).startswith("_tensor_constant")
    }
    state.restore()
    try:
        root.__dict__.update(constants)
        return OptimizedModule(root, graph, name if name.isidentifier() else "OptimizedModule")
    finally:
        state.restore()


def _restore_names(graph: fx.Graph, concrete: Mapping[str, Any]) -> None:
    """Give placeholders of fixed arguments the names of the parameters; torch numbers them."""
    for node in graph.nodes:
        if node.op == "placeholder":
            name, _, number = str(node.target).rpartition("_")
            if name in concrete and number.isdigit():
                node.target = name


def _forgetful_copy(graph: fx.Graph) -> fx.Graph:
    """A copy without what an earlier optimisation noted on the nodes, for other inputs perhaps."""
    copied = copied_graph(graph)
    for node in copied.nodes:
        for key in [key for key in node.meta if str(key).startswith("einfx_")]:
            del node.meta[key]
    return copied


def _remember_lines(tracer: fx.Tracer) -> None:
    """Let ``tracer`` record where nodes come from in functions too; torch does so below a ``forward``."""
    create_node = tracer.create_node

    def remembering(*arguments: Any, **keywords: Any) -> fx.Node:
        node = create_node(*arguments, **keywords)
        if not node.meta.get("stack_trace"):
            node.meta["stack_trace"] = "".join(traceback.format_stack())
        return node

    tracer.create_node = remembering  # type: ignore[method-assign]


def _traced(
    model: Any,
    tracer: Callable[[], fx.Tracer],
    concrete: dict[str, Any] | None,
    record_stacks: bool,
    state: ModelState,
) -> tuple[torch.nn.Module, fx.Graph]:
    """Trace with buffers as values of the graph: what is computed from one must not freeze.

    A model may look into a buffer while it is traced (``if self.mask.numel():``). Then buffers are read as
    they are, unless something was computed from one, which would stay as it is now for ever.
    """
    failure: Exception | None = None
    for proxied in (True, False):
        if not proxied:  # now a program that writes to a buffer really writes
            state.keep_buffers()
        trace = tracer()
        trace.record_stack_traces = record_stacks
        trace.proxy_buffer_attributes = proxied
        record_writes(trace)
        if record_stacks:
            _remember_lines(trace)
        try:
            graph = trace.trace(model, concrete_args=concrete)
        except Exception as error:
            failure = failure or error
            state.restore()
            state.restore_buffers()
            continue
        restore_arithmetic(graph)
        _restore_names(graph, concrete or {})
        frozen = any(n.op == "get_attr" and "_tensor_constant" in str(n.target) for n in graph.nodes)
        if failure is None or not (frozen or state.restore_buffers()):
            return trace.root, graph
    raise failure or AssertionError("unreachable")


def _as_function(model: Any) -> Any:
    """A function with the signature of a bound method, a partial or a callable object, which calls it."""
    signature = _signature(model)
    if signature is None:
        return model
    marks: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    parameters: list[str] = []
    arguments: list[str] = []
    defaults: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        keyword_only = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        if keyword_only and not any(x.startswith("*") for x in parameters):
            parameters.append("*")
        text = marks.get(parameter.kind, "") + name
        if parameter.default is not inspect.Parameter.empty:
            defaults[f"default_{name}"] = parameter.default
            text += f"=default_{name}"
        parameters.append(text)
        arguments.append(f"{name}={name}" if keyword_only else marks.get(parameter.kind, "") + name)
    namespace: dict[str, Any] = {"call": model, **defaults}
    exec(f"def function({', '.join(parameters)}):\n    return call({', '.join(arguments)})", namespace)
    function = namespace["function"]
    function.__name__ = getattr(model, "__name__", type(model).__name__)
    return function


def _signature(model: Any) -> inspect.Signature | None:
    function = model.forward if isinstance(model, torch.nn.Module) else model
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def _concrete(model: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any] | None:
    signature = _signature(model)
    if signature is None or not (arguments or keywords):
        return None
    try:
        bound = signature.bind(*arguments, **keywords)
    except TypeError as error:
        raise UsageError(
            f"the example inputs don't fit {getattr(model, '__name__', type(model).__name__)}: {error}"
        ) from error
    fixed: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = bound.arguments.get(name, parameter.default)
        if isinstance(value, _SPECIALISED):
            fixed[name] = value
    return fixed or None


def bind_arguments(graph: fx.Graph, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> tuple[Any, ...]:
    """The example of each placeholder, in the order in which an interpreter takes them.

    Raises:
        UsageError: too many examples, or a keyword that the graph has no placeholder for.
    """
    if isinstance(graph._codegen, fx.graph._PyTreeCodeGen):
        return tuple(graph.process_inputs(*arguments, *keywords.values()))
    names = [str(node.target) for node in graph.nodes if node.op == "placeholder"]
    plain = [name for name in names if not name.startswith("*")]
    positional = list(arguments)
    result: list[Any] = []
    rest = dict(keywords)
    for name in names:
        if name.startswith("**"):
            result.append(rest)
            rest = {}
        elif name.startswith("*"):
            result.append(tuple(positional))
            positional = []
        elif positional:
            result.append(positional.pop(0))
        elif name in rest:
            result.append(rest.pop(name))
        elif any(later in rest for later in names[names.index(name) :]):
            default = next(n for n in graph.nodes if n.op == "placeholder" and n.target == name).args
            if not default:
                raise UsageError(f"no example for argument {name!r}; the graph takes {', '.join(names)}")
            result.append(default[0])
        else:
            break
    if positional or rest:
        extra = (
            f"{len(positional)} example input(s) too many"
            if positional
            else f"no argument {next(iter(rest))!r}"
        )
        raise UsageError(f"{extra}: the graph takes {', '.join(plain) or 'no arguments'}")
    return tuple(result)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0].rstrip(".")
