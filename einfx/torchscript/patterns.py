"""Contractions with index patterns as TorchScript takes them: convolutions, windows, or zeros and ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..conv.guards import fixed_sizes
from ..conv.scriptable import pattern_tensor, pattern_windows
from ..equation import Equation
from ..graphs.native_calls import native_call
from ..graphs.native_writing import write_native
from ..graphs.nodes import Contraction, as_contraction, is_pattern, size_read, value_of
from ..legality import same_floating_dtype

__all__ = ["patterns_by_torch_functions"]


def patterns_by_torch_functions(node: fx.Node) -> bool:
    """Rewrite a contraction with index patterns by functions of torch alone; False for any other node.

    Example:
        >>> import einfx
        >>> pattern = einfx.IndexPattern(8, 3)
        >>> graph = fx.symbolic_trace(lambda x: einfx.einsum("ci,koi->cko", x, pattern)).graph
        >>> [patterns_by_torch_functions(node) for node in graph.nodes], list(graph.nodes)[-2].args
        ([False, False, True, False], ('abc->acb', pattern_windows))
    """
    contraction = as_contraction(node)
    if contraction is None or not contraction.has_patterns:
        return False
    call = native_call(contraction) if same_floating_dtype(contraction.tensors) else None
    value = None if call is None else value_of(call.data)
    if call is None or (call.kind == "weight" and value is not None and value.dtype.is_complex):
        _by_windows(node, contraction)
        return True
    with node.graph.inserting_before(node):
        result = write_native(_Emitter(node.graph), call)
    node.op, node.target, node.args, node.kwargs = result.op, result.target, result.args, result.kwargs
    node.graph.erase_node(result)
    return True


class _Emitter:
    """Writes calls of functions, and of methods where it is given a name."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph

    def __call__(self, function: Any, *arguments: Any) -> fx.Node:
        if isinstance(function, str):
            return self._graph.call_method(function, arguments)
        return self._graph.call_function(function, arguments)


def _by_windows(node: fx.Node, contraction: Contraction) -> None:
    """Write each pattern as windows of the only tensor that has its input, or as a tensor."""
    emit = _Emitter(node.graph)
    operands, inputs = list(contraction.operands), list(contraction.equation.inputs)
    like = contraction.tensors[0]
    with node.graph.inserting_before(node):
        while (position := next((p for p, x in enumerate(operands) if is_pattern(x)), None)) is not None:
            pattern, labels = operands.pop(position), inputs.pop(position)
            size, kernel, stride, padding, dilation = _numbers(pattern)
            carriers = [p for p, there in enumerate(inputs) if labels[2] in there]
            seen = (
                carriers[0] if len(carriers) == 1 and labels[2] not in contraction.equation.output else None
            )
            if seen is None or is_pattern(operands[seen]) or inputs[seen].count(labels[2]) > 1:
                made = emit(pattern_tensor, size, kernel, stride, padding, dilation, like)
                operands.append(made)
                inputs.append(labels)
                continue
            dim = inputs[seen].index(labels[2])
            x = operands[seen]
            if not isinstance(size, fx.Node) or size_read(size) != (x, dim):
                x = emit(fixed_sizes, x, [dim], [size])
            operands[seen] = emit(pattern_windows, x, dim, kernel, stride, padding, dilation)
            inputs[seen] = (*inputs[seen][:dim], labels[1], labels[0], *inputs[seen][dim + 1 :])
    equation = Equation(tuple(inputs), contraction.equation.output)
    node.target, node.args, node.kwargs = torch.functional.einsum, (str(equation), *operands), {}


def _numbers(pattern: fx.Node) -> tuple[Any, Any, Any, list[Any], Any]:
    """The five numbers of a pattern as its call gives them: the size may be a node."""
    names = ("input_size", "kernel_size", "stride", "padding", "dilation")
    given = {"stride": 1, "padding": 0, "dilation": 1, **dict(zip(names, pattern.args, strict=False))}
    given.update(pattern.kwargs)
    padding = given["padding"]
    both = list(padding) if isinstance(padding, list | tuple) else [padding, padding]
    return given["input_size"], given["kernel_size"], given["stride"], both, given["dilation"]
