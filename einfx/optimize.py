"""optimize(): from a model to an optimised ``fx.GraphModule``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import fx

from .capture import bind_arguments, capture
from .errors import OperandError, UsageError
from .estimate import estimate
from .folding import attribute
from .optimized import OptimizedModule, deferred_compilation
from .passes import DEFAULT
from .passes.choose_paths import ChoosePaths
from .passes.fold_constants import FoldConstants, folded_constants
from .report import Report, contraction_rows
from .rewrite import Pass, PassResult, Pipeline, copied_graph, readable_code, readable_source
from .shapes import propagate

__all__ = ["optimize"]


def optimize(
    model: Any,
    example_inputs: Sequence[Any] = (),
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    passes: Sequence[Pass] = DEFAULT,
    path: Any = "auto",
    constants: Sequence[str] = (),
    tracer: Callable[[], fx.Tracer] = fx.Tracer,
    verbose: bool = False,
) -> OptimizedModule:
    """Optimise the contractions of a model.

    The model is traced, not run; neither it nor the example inputs change. The result computes the same
    values for inputs of every size, shares parameters and buffers with the model, and trains as it does.

    Args:
        model: a module, a function, or a graph of torch.fx.
        example_inputs: positional arguments of typical sizes, which decide about paths and kernels.
            Without them only rewrites that are right for all shapes and dtypes are made.
        example_kwargs: keyword arguments likewise.
        passes: what to apply, in order.
        path: how contraction paths are chosen, as ``optimize`` of :func:`einfx.contract_path`.
        constants: names of buffers (and of parameters that don't require gradients) that may be folded
            into others ahead of the call; they are folded again when they change. Other state never is.
        tracer: the class of the tracer, for models with leaf modules of their own.
        verbose: print the report.

    Returns:
        An ``fx.GraphModule`` with a ``report``.

    Raises:
        CaptureError: symbolic tracing can't follow the model.
        OperandError: the example inputs don't fit it.
        UsageError: a name in ``constants`` isn't one of the model's.

    Example:
        >>> import torch, einfx
        >>> class Bilinear(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.w = torch.nn.Parameter(torch.ones(3, 4))
        ...     def forward(self, x, y):
        ...         return 2 * torch.einsum("bi,ij,bj->b", x, self.w, y) / 4
        >>> optimized = einfx.optimize(Bilinear(), (torch.ones(8, 3), torch.ones(8, 4)))
        >>> optimized(torch.ones(2, 3), torch.ones(2, 4))
        tensor([6., 6.], grad_fn=<MulBackward0>)
    """
    if isinstance(example_inputs, torch.Tensor):
        raise UsageError("example_inputs is a tuple of arguments; for one tensor write (tensor,)")
    with _without_autocast():
        return _optimized(
            model, example_inputs, dict(example_kwargs or {}), passes, path, constants, tracer, verbose
        )


def _optimized(
    model: Any,
    example_inputs: Sequence[Any],
    keywords: dict[str, Any],
    passes: Sequence[Pass],
    path: Any,
    constants: Sequence[str],
    tracer: Callable[[], fx.Tracer],
    verbose: bool,
) -> OptimizedModule:
    with deferred_compilation():
        result = capture(model, example_inputs, keywords, tracer)
    _check_constants(result, constants)
    unknown: list[str] = []
    if example_inputs or keywords or not _needs_arguments(result.graph):
        arguments = bind_arguments(result.graph, tuple(example_inputs), keywords)
        try:
            unknown = propagate(result, arguments)
        except OperandError:
            propagate(capture(model, example_inputs, keywords, tracer, record_stacks=True), arguments)
            raise
    original = copied_graph(result.graph)
    steps = tuple(_with_options(step, path, tuple(constants)) for step in passes)
    results = Pipeline(steps).run(result, original)
    result._finish(original, folded_constants(result), partial(_report, results, unknown))
    result.refresh_constants()
    if verbose:
        print(result.report)
    return result


@contextmanager
def _without_autocast() -> Iterator[None]:
    """Optimise for the dtypes that the program has by itself; under autocast the original runs."""
    enabled = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
    for device in enabled:
        torch.set_autocast_enabled(device, False)
    try:
        yield
    finally:
        for device in enabled:
            torch.set_autocast_enabled(device, True)


def _report(results: Sequence[PassResult], unknown: Sequence[str], module: OptimizedModule) -> Report:
    original = module.original_graph
    return Report(
        name=type(module).__name__,
        passes=tuple(results),
        before=results[0].before if results else estimate(original, module),
        after=results[-1].after if results else estimate(module.graph, module),
        code_before=readable_code(original),
        code_after=readable_source(module.code),
        contractions_before=contraction_rows(original),
        contractions_after=contraction_rows(module.graph),
        unknown=tuple(unknown),
    )


def _needs_arguments(graph: fx.Graph) -> bool:
    return any(node.op == "placeholder" and not node.args for node in graph.nodes)


def _check_constants(module: OptimizedModule, constants: Sequence[str]) -> None:
    for name in constants:
        try:
            value = attribute(module, name)
        except AttributeError:
            value = None
        if not isinstance(value, torch.Tensor):
            raise UsageError(f"constants names {name!r}, which is no tensor of {type(module).__name__}")
        if value.requires_grad:
            raise UsageError(
                f"constants names {name!r}, which requires gradients: folding it would stop them; "
                "call requires_grad_(False) on it first, or leave it out"
            )


def _with_options(step: Pass, path: Any, constants: tuple[str, ...]) -> Pass:
    if isinstance(step, ChoosePaths):
        optimize = step.optimize if path == "auto" else path
        return dataclasses.replace(step, optimize=optimize, constants=constants or step.constants)
    if isinstance(step, FoldConstants) and constants:
        return dataclasses.replace(step, constants=constants)
    return step
