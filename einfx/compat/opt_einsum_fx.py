"""The interface of opt_einsum_fx 0.1.4 over einfx.

The functions have that package's names, signatures and documented behaviour; what they compute comes from
einfx's passes. So a program keeps working and gets einfx's results, also where opt_einsum_fx gives wrong
ones (``b / (2.0 * a)``, ``t = 2 * a; t * t``, integers, writes in place, ...).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import opt_einsum
import torch
from torch import fx

from ..errors import UsageError
from ..graphs.nodes import VALUE, Value, as_contraction, is_einsum, value_of
from ..graphs.shapes import propagate
from ..optimize import optimize
from ..passes.choose_paths import ChoosePaths
from ..passes.fold_scalars import FoldScalars
from ..passes.fuse_einsums import FuseEinsums
from ..passes.jitable import Jitable, jitable
from ..passes.lower_kernels import LowerKernels
from ..passes.place_scalars import PlaceScalars
from ..rewrite import Pass, copied_graph

__version__ = "0.1.4"

__all__ = [
    "EfficientShapeProp",
    "fuse_einsums",
    "fuse_scalars",
    "jitable",
    "optimize_einsums",
    "optimize_einsums_full",
]


def optimize_einsums_full(
    model: torch.nn.Module | Callable[..., Any] | fx.Graph,
    example_inputs: Sequence[Any],
    contract_kwargs: Mapping[str, Any] = {},
    tracer_class: Callable[[], fx.Tracer] = fx.Tracer,
) -> fx.GraphModule | fx.Graph:
    """Optimise the einsums of a model, as :func:`einfx.optimize` does.

    Args:
        model: a module, a function, a ``GraphModule`` or a ``Graph``; it isn't changed.
        example_inputs: arguments, of which only shapes and dtypes are read.
        contract_kwargs: keyword arguments as for ``opt_einsum.contract_path``: ``optimize``,
            ``memory_limit`` in elements. By default einfx chooses paths.
        tracer_class: what traces a module or function.

    Returns:
        An optimised ``GraphModule``, or for a ``Graph`` an optimised ``Graph``.

    Raises:
        CaptureError: the model can't be traced.
        OperandError: the example inputs don't fit it.

    Example:
        >>> def product(a, b, vector):
        ...     return torch.einsum("ij,jk,k->i", a, b, vector)
        >>> optimized = optimize_einsums_full(product, (torch.ones(4, 5), torch.ones(5, 3), torch.ones(3)))
        >>> optimized(torch.ones(2, 5), torch.ones(5, 3), torch.ones(3))
        tensor([15., 15.])
    """
    result = optimize(model, tuple(example_inputs), path=_path(contract_kwargs), tracer=tracer_class)
    Jitable().apply(result)
    _describe(result.graph)
    return result.graph if isinstance(model, fx.Graph) else result


def optimize_einsums(graph: fx.Graph, contract_kwargs: Mapping[str, Any] = {}) -> fx.Graph:
    """Split the einsums of a graph into pairs along the best path, each the fastest call for its shapes.

    Args:
        graph: with shapes in ``node.meta["tensor_meta"]``, as :class:`EfficientShapeProp` or torch's
            ``ShapeProp`` leaves them. An einsum without them stays as it is, with a ``RuntimeWarning``.
        contract_kwargs: as for :func:`optimize_einsums_full`.

    Returns:
        A new graph.

    Example:
        >>> traced = fx.symbolic_trace(lambda a, b, c: torch.einsum("ij,jk,kl->il", a, b, c))
        >>> _ = EfficientShapeProp(traced).run(torch.ones(50, 60), torch.ones(60, 70), torch.ones(70, 5))
        >>> traced.graph = optimize_einsums(traced.graph)
        >>> print(len(traced.graph.nodes))
        6
    """
    for node in graph.nodes:
        if is_einsum(node) and any(value_of(x) is None for x in node.all_input_nodes):
            warnings.warn(
                f"einsum {node!r} has operands without known shapes, so it is left as it is; "
                "run EfficientShapeProp on the graph before",
                RuntimeWarning,
                stacklevel=2,
            )
    result = copied_graph(graph)
    _apply([ChoosePaths(optimize=_path(contract_kwargs)), LowerKernels()], result, graph.owning_module)
    return result


def fuse_einsums(graph: fx.Graph, in_place: bool = False) -> fx.Graph:
    """Make one einsum of einsums that feed only one another.

    No shapes are needed.

    Args:
        graph: the graph.
        in_place: whether to change ``graph`` itself.

    Returns:
        ``graph``, or a changed copy of it.

    Raises:
        RuntimeError: an einsum labels the result of another with more or fewer dimensions than it has.

    Example:
        >>> def chain(x, y):
        ...     z = torch.einsum("ij,jk->ik", x, y)
        ...     return torch.einsum("ik,ij->i", z, x)
        >>> fused = fuse_einsums(fx.symbolic_trace(chain).graph)
        >>> [node.args[0] for node in fused.nodes if node.op == "call_function"]
        ['ab,bc,ad->a']
    """
    result = graph if in_place else copied_graph(graph)
    _check_ranks(result)
    _apply([FuseEinsums(assume_same_dtype=True)], result, graph.owning_module)
    return result


def fuse_scalars(graph: fx.Graph, in_place: bool = False) -> fx.Graph:
    """Merge the numbers that multiply or divide a chain of linear operations into one factor.

    Where shapes are known the factor goes to the smallest tensor of the chain. Where they aren't, tensors
    are taken to be floating point. Nothing is removed because nobody uses it.

    Args:
        graph: the graph, with or without shapes.
        in_place: whether to change ``graph`` itself.

    Returns:
        ``graph``, or a changed copy of it.

    Example:
        >>> traced = fx.symbolic_trace(lambda x, y: 7.0 * torch.einsum("ij,jk->ik", x, y / 3) / 2)
        >>> [node.op for node in fuse_scalars(traced.graph).nodes]
        ['placeholder', 'placeholder', 'call_function', 'call_function', 'output']
    """
    result = graph if in_place else copied_graph(graph)
    _apply([FoldScalars(assume_floating=True), PlaceScalars()], result, graph.owning_module)
    return result


class TensorMeta(NamedTuple):
    """What :class:`EfficientShapeProp` records of a tensor."""

    shape: torch.Size
    dtype: torch.dtype
    stride: tuple[int, ...] | None
    device: torch.device


class EfficientShapeProp(fx.Interpreter):
    """Record the shape and dtype of every tensor in a graph, without computing any of them.

    Afterwards ``node.meta["tensor_meta"]`` of every node that gives a tensor has ``.shape`` and ``.dtype``.

    Args:
        module: the graph module to look through.

    Example:
        >>> traced = fx.symbolic_trace(lambda a, b: torch.einsum("ij,jk->ik", a, b))
        >>> result = EfficientShapeProp(traced).run(torch.ones(2, 3), torch.ones(3, 4))
        >>> result.shape, list(traced.graph.nodes)[2].meta["tensor_meta"].shape
        (torch.Size([2, 4]), torch.Size([2, 4]))
    """

    def run(self, *args: Any, **_: Any) -> Any:
        """Look at the graph with example arguments.

        Args:
            *args: an example for every argument; only shapes and dtypes are read.

        Returns:
            What the graph gives for such arguments, with zeros in its tensors.

        Raises:
            OperandError: the examples don't fit the program.
        """
        module = self.module
        if not isinstance(module, fx.GraphModule):
            raise UsageError(f"EfficientShapeProp takes a GraphModule, not {type(module).__name__}")
        graph = module.graph
        for node in graph.nodes:
            node.meta.pop("tensor_meta", None)
        propagate(module, args)
        output = next(node for node in graph.nodes if node.op == "output")
        result = fx.map_arg(output.args[0], lambda node: _zeros(value_of(node)))
        _describe(graph)
        return result

    def propagate(self, *args: Any) -> Any:
        """As :meth:`run`."""
        return self.run(*args)


def _zeros(value: Value | None) -> torch.Tensor | None:
    """Zeros that take up no memory."""
    if value is None:
        return None
    return torch.zeros((), dtype=value.dtype, device=value.device).expand(value.shape)


def _describe(graph: fx.Graph) -> None:
    """Turn what einfx knows of each value into the metadata that opt_einsum_fx's users read."""
    for node in graph.nodes:
        value = value_of(node)
        node.meta.pop(VALUE, None)
        node.meta.pop("val", None)
        if value is not None:
            node.meta["tensor_meta"] = TensorMeta(
                torch.Size(value.shape), value.dtype, value.strides, value.device
            )


class _Program:
    """What a pass reads of a graph module, for a graph without one: its graph, and the modules it calls."""

    def __init__(self, graph: fx.Graph, owner: torch.nn.Module | None) -> None:
        self.graph = graph
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._owner, name)


def _apply(passes: Sequence[Pass], graph: fx.Graph, owner: torch.nn.Module | None) -> None:
    program: Any = _Program(graph, owner)
    for step in passes:
        step.apply(program)
    _describe(graph)
    graph.lint()


def _check_ranks(graph: fx.Graph) -> None:
    for node in graph.nodes:
        consumer = as_contraction(node)
        if consumer is None:
            continue
        for position, operand in enumerate(consumer.operands):
            producer = as_contraction(operand)
            if producer is None:
                continue
            labels, rank = consumer.equation.inputs[position], len(producer.equation.output)
            if len(labels) != rank:
                raise RuntimeError(
                    f"einsum {node} ({consumer.equation}) labels its operand {position} with {len(labels)} "
                    f"dimension(s), but it is the result of {operand} ({producer.equation}), which has {rank}"
                )


def _path(contract_kwargs: Mapping[str, Any]) -> Any:
    """The ``optimize`` of einfx that stands for keyword arguments of ``opt_einsum.contract_path``."""
    options = dict(contract_kwargs)
    strategy = options.pop("optimize", True)
    limit = options.pop("memory_limit", None)
    options.pop("use_blas", None)
    if options:
        raise UsageError(
            f"contract_kwargs: {', '.join(map(repr, options))} isn't known; optimize and memory_limit are"
        )
    if limit in (None, -1) and strategy is True:
        return "auto"
    if limit in (None, -1) and strategy is not False:
        return strategy

    def find(inputs: list[Any], output: Any, sizes: dict[str, int], _: Any = None) -> Any:
        if strategy is False:
            return [tuple(range(len(inputs)))]
        most = max(_elements(x, sizes) for x in [*inputs, output]) if limit == "max_input" else limit
        chosen = "optimal" if strategy is True else strategy
        finder = opt_einsum.paths.get_path_fn(chosen) if isinstance(chosen, str) else chosen
        return finder(inputs, output, sizes, most)

    return find


def _elements(labels: Any, sizes: dict[str, int]) -> int:
    result = 1
    for label in labels:
        result *= sizes[label]
    return result
