"""optimize(): from a model to an optimised ``fx.GraphModule``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import fx

from .capture import bind_arguments, capture
from .errors import OperandError, UsageError
from .graph_memory.report import MemoryReport
from .graphs.estimate import estimate
from .graphs.folding import attribute
from .graphs.shapes import propagate
from .limiting import optimized_within, planned_again
from .optimized import OptimizedModule, deferred_compilation
from .options import bytes_of
from .passes import DEFAULT
from .passes.choose_paths import ChoosePaths
from .passes.fold_constants import FoldConstants, folded_constants
from .passes.limit_memory import LimitMemory
from .paths.choices import refuse_unusable
from .report import Report, contraction_rows
from .rewrite import Pass, PassResult, Pipeline, copied_graph, readable_code, readable_source
from .sized_programs import Program, SizedPrograms

__all__ = ["optimize"]


def optimize(
    model: Any,
    example_inputs: Sequence[Any] = (),
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    passes: Sequence[Pass] = DEFAULT,
    path: Any = "auto",
    constants: Sequence[str] = (),
    memory_limit: int | str | None = None,
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
        memory_limit: the most bytes that a call may take beside its inputs, parameters and buffers, what it
            returns included, as a number or as text such as ``"512MiB"``. Values in between stay alive as
            long as they are needed, in an order in which that is little. Where too little is left,
            elementwise operations are written over their operands, contractions are computed in blocks, and
            so are parts such as attention, some rows all the way at a time. Inputs of other sizes get a
            program of their own when they first come, as they all do where there are no example inputs.
            Where gradients are recorded, every contraction and its gradients stay within the limit by
            themselves, and nothing is overwritten; what autograd saves between operations is not bounded,
            and comes on top.
        tracer: the class of the tracer, for models with leaf modules of their own.
        verbose: print the report.

    Returns:
        An ``fx.GraphModule`` with a ``report``.

    Raises:
        CaptureError: symbolic tracing can't follow the model.
        OperandError: the example inputs don't fit it.
        UsageError: a name in ``constants`` isn't one of the model's; the limit can't be read.
        MemoryLimitError: some operation takes more than the limit allows; the message says where, and which
            limit would be enough. Calls with inputs that take more raise it too.

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

        Triangles of a graph, without a product of its adjacency matrix with itself, which takes 360 kB:

        >>> def triangles(adjacent):
        ...     return torch.einsum("ij,jk,ki->", adjacent, adjacent, adjacent) / 6
        >>> complete = torch.ones(300, 300) - torch.eye(300)
        >>> limited = einfx.optimize(triangles, (complete,), memory_limit="64KiB")
        >>> limited(complete).int()
        tensor(4455100, dtype=torch.int32)
        >>> (cut,) = limited.report.memory.cuts
        >>> cut.bytes <= 65536, cut.blocks > 1
        (True, True)
    """
    if isinstance(example_inputs, torch.Tensor):
        raise UsageError("example_inputs is a tuple of arguments; for one tensor write (tensor,)")
    _check_words(example_kwargs, passes, constants)
    refuse_unusable(path)
    limit = None if memory_limit is None else bytes_of(memory_limit)
    if limit is not None and not any(isinstance(step, LimitMemory) for step in passes):
        raise UsageError("memory_limit is kept by einfx.passes.LimitMemory, which passes doesn't have")
    steps = tuple(_with_options(step, path, tuple(constants)) for step in passes)
    with _without_autocast():
        result = _optimized(
            model, example_inputs, dict(example_kwargs or {}), steps, constants, limit, tracer
        )
    if verbose:
        print(result.report)
    return result


def _check_words(example_kwargs: Any, passes: Any, constants: Any) -> None:
    """Refuse what can't be optimised with.

    Raises:
        UsageError: it says which argument, and what it is.
    """
    if not (example_kwargs is None or isinstance(example_kwargs, Mapping)):
        raise UsageError(f"example_kwargs={example_kwargs!r}: it is a mapping from names to arguments")
    if isinstance(passes, str) or not isinstance(passes, Sequence):
        raise UsageError(f"passes={passes!r}: it is a sequence of passes, such as einfx.passes.DEFAULT")
    for step in passes:
        if not isinstance(step, Pass):
            hint = f"; write {step.__name__}()" if isinstance(step, type) and issubclass(step, Pass) else ""
            raise UsageError(f"passes has {step!r}, which isn't a pass: einfx.passes lists them{hint}")
    if isinstance(constants, str) or not isinstance(constants, Collection):
        raise UsageError(f'constants={constants!r}: it is a sequence of names of buffers, such as ("basis",)')


def _optimized(
    model: Any,
    example_inputs: Sequence[Any],
    keywords: dict[str, Any],
    steps: tuple[Pass, ...],
    constants: Sequence[str],
    limit: int | None,
    tracer: Callable[[], fx.Tracer],
) -> OptimizedModule:
    with deferred_compilation():
        result = capture(model, example_inputs, keywords, tracer, record_stacks=limit is not None)
    _check_constants(result, constants)
    unknown: list[str] = []
    arguments: tuple[Any, ...] | None = None
    if example_inputs or keywords or not _needs_arguments(result.graph):
        arguments = bind_arguments(result.graph, tuple(example_inputs), keywords)
        try:
            unknown = propagate(result, arguments)
        except OperandError:
            propagate(capture(model, example_inputs, keywords, tracer, record_stacks=True), arguments)
            raise
    original = copied_graph(result.graph)
    memory: MemoryReport | None = None
    program: Program | None = None
    if limit is not None and arguments is not None:
        limited = optimized_within(result, arguments, steps, limit, gradients=False)
        result, results, memory = limited.module, limited.results, limited.memory
        program = limited.program
    else:
        results = Pipeline(steps).run(result, original)
    sized = None if limit is None else SizedPrograms(partial(planned_again, steps, limit))
    report = partial(_report, results, unknown, memory)
    result._finish(original, folded_constants(result), report, sized)
    result.refresh_constants()
    if sized is not None and program is not None:
        with torch.no_grad():
            sized.learn(result, example_inputs, keywords, program)
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


def _report(
    results: Sequence[PassResult],
    unknown: Sequence[str],
    memory: MemoryReport | None,
    module: OptimizedModule,
) -> Report:
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
        memory=memory,
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
