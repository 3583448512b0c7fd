"""The module that :func:`einfx.optimize` returns: an ``fx.GraphModule`` with its state and its report."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from .errors import MemoryLimitError, UsageError
from .graphs.folding import PLAIN_TENSORS, FoldedConstant
from .graphs.pickling import GraphData, read_graph, write_graph
from .sized_programs import SizedPrograms

if TYPE_CHECKING:
    from .report import Report

__all__ = ["OptimizedModule", "compiled", "deferred_compilation"]


class OptimizedModule(fx.GraphModule):
    """A model whose contractions were optimised: an ordinary ``fx.GraphModule``, with a report.

    Parameters, buffers and submodules are those of the original, under their original names. Under
    autocast the original program runs, since autocast casts by operation and would see other operations.

    With a memory limit, a call whose inputs take more than those that the program was planned for runs a
    program that is planned for them, and remembered. ``forward``, and what is compiled, scripted or exported,
    is the program for the example inputs.

    Attributes:
        original_graph: the program before it was optimised.

    Example:
        >>> import torch, einfx
        >>> inputs = torch.ones(2, 3), torch.ones(3, 4)
        >>> optimized = einfx.optimize(lambda a, b: torch.einsum("ij,jk", a, b), inputs)
        >>> optimized(torch.ones(5, 3), torch.ones(3, 2)).shape
        torch.Size([5, 2])
    """

    original_graph: fx.Graph

    # TorchScript compiles the forward pass alone.
    __jit_ignored_attributes__ = ("original_graph", "_report", "_folded", "_original_forward", "_sized")
    __jit_unused_properties__ = [  # noqa: RUF012
        *fx.GraphModule.__jit_unused_properties__,
        "original_code",
        "report",
    ]

    def __init__(self, root: torch.nn.Module, graph: fx.Graph, class_name: str = "OptimizedModule") -> None:
        super().__init__(root, graph, class_name)
        _adopt_state(self, root)
        self._finish(graph, (), None)

    def recompile(self) -> fx.graph.PythonCode:
        """Generate the code of the graph, unless :func:`deferred_compilation` puts it off."""
        if _deferred.get():
            return fx.graph.PythonCode("", {}, None, 0)
        return super().recompile()

    def _finish(
        self,
        original_graph: fx.Graph,
        folded: Sequence[FoldedConstant],
        report: Report | Callable[[OptimizedModule], Report] | None,
        sized: SizedPrograms | None = None,
    ) -> None:
        object.__setattr__(self, "original_graph", original_graph)
        object.__setattr__(self, "_folded", tuple(folded))
        object.__setattr__(self, "_original_forward", None)
        object.__setattr__(self, "_report", report)
        object.__setattr__(self, "_sized", sized)

    @property
    def report(self) -> Report:
        """What was done, see :func:`einfx.explain`; written when it is first asked for."""
        report = self.__dict__["_report"]
        if report is None:
            raise UsageError("this module was captured, but not optimised: it has no report")
        if callable(report):
            report = report(self)
            object.__setattr__(self, "_report", report)
        result: Report = report
        return result

    @property
    def original_code(self) -> str:
        """The code of the program before it was optimised."""
        from .rewrite import readable_code

        graph: fx.Graph = self.__dict__["original_graph"]
        return readable_code(graph)

    def refresh_constants(self) -> None:
        """Fold constants again whose sources changed; calls and conversions do this by themselves."""
        for folded in self.__dict__["_folded"]:
            folded.refresh(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the optimised program, or under autocast the original one.

        Raises:
            MemoryLimitError: inputs of these sizes can't stay within the limit.
        """
        sized = None if torch.compiler.is_compiling() else self.__dict__["_sized"]
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            if sized is not None:
                sized.program(self, args, kwargs)
            return self._run_original(*args, **kwargs)
        if self.__dict__["_folded"] and not torch.compiler.is_compiling():
            self.refresh_constants()
        if sized is not None:
            forward = sized.program(self, args, kwargs)
            if forward is not None:
                return self._run_other(forward, *args, **kwargs)
        return super().__call__(*args, **kwargs)

    def _run_other(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run another program over the state of this module, with its hooks.

        Raises:
            MemoryLimitError: a contraction with its gradients can't stay within the limit.
        """
        try:
            return self._run_hooked(forward, *args, **kwargs)
        except MemoryLimitError as error:
            if not torch.is_grad_enabled():
                raise
            raise MemoryLimitError(
                f"{error}; as gradients are recorded, each contraction has to stay within the limit with its "
                "gradients, and parts of the model aren't cut together: where none are wanted, call it under "
                "torch.no_grad()",
                error.needed_bytes,
            ) from None

    def _run_hooked(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not (self._forward_hooks or self._forward_pre_hooks or self._backward_hooks):
            return forward(self, *args, **kwargs)
        like: OptimizedModule = object.__new__(
            type(type(self).__name__, (OptimizedModule,), {"forward": forward})
        )
        object.__setattr__(like, "__dict__", self.__dict__)
        return torch.nn.Module.__call__(like, *args, **kwargs)

    def _run_original(self, *args: Any, **kwargs: Any) -> Any:
        if self.__dict__["_original_forward"] is None:
            object.__setattr__(self, "_original_forward", compiled(self.__dict__["original_graph"]))
        return self.__dict__["_original_forward"](self, *args, **kwargs)

    def _adopt_constants(self, folded: Sequence[FoldedConstant], owner: torch.nn.Module) -> None:
        """Take over constants that another program over this module's state folded."""
        known = self.__dict__["_folded"]
        for constant in folded[len(known) :]:
            self.register_buffer(constant.name, getattr(owner, constant.name), persistent=False)
        object.__setattr__(self, "_folded", tuple(folded))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> OptimizedModule:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.refresh_constants()
        if self.__dict__["_sized"] is not None:
            self.__dict__["_sized"].forget()
        return self

    def _deepcopy_init(self) -> Callable[..., None]:
        return OptimizedModule.__init__

    def __deepcopy__(self, memo: dict[int, Any]) -> OptimizedModule:
        forward = self.__dict__["_original_forward"]
        object.__setattr__(self, "_original_forward", None)
        try:
            result: OptimizedModule = super().__deepcopy__(memo)  # type: ignore[assignment]
        finally:
            object.__setattr__(self, "_original_forward", forward)
        result._finish(
            copy.deepcopy(self.__dict__["original_graph"], memo),
            copy.deepcopy(self.__dict__["_folded"], memo),
            copy.deepcopy(self._written_report(), memo),
            copy.deepcopy(self.__dict__["_sized"], memo),
        )
        return result

    def _written_report(self) -> Report | None:
        return None if self.__dict__["_report"] is None else self.report

    def __copy__(self) -> OptimizedModule:
        result = OptimizedModule(self, self.graph, type(self).__name__)
        rest = self._written_report(), copy.copy(self.__dict__["_sized"])
        result._finish(self.__dict__["original_graph"], self.__dict__["_folded"], *rest)
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        state = {key: value for key, value in self.__dict__.items() if key not in _REBUILT}
        return _rebuild, (
            type(self).__name__,
            write_graph(self.graph),
            write_graph(self.__dict__["original_graph"]),
            self.__dict__["_folded"],
            self._written_report(),
            self.__dict__["_sized"],
            state,
        )


_deferred: ContextVar[bool] = ContextVar("deferred", default=False)


@contextmanager
def deferred_compilation() -> Iterator[None]:
    """Make modules whose code isn't generated before somebody calls ``recompile``."""
    token = _deferred.set(True)
    try:
        yield
    finally:
        _deferred.reset(token)


_REBUILT = {
    "_graph",
    "_code",
    "original_graph",
    "_folded",
    "_original_forward",
    "_report",
    "_sized",
    "_lineno_map",
    "_prologue_start",
}


def _rebuild(
    name: str,
    graph: GraphData,
    original: GraphData,
    folded: Sequence[FoldedConstant],
    report: Report | None,
    sized: SizedPrograms | None,
    state: dict[str, Any],
) -> OptimizedModule:
    root = torch.nn.Module()
    root.__dict__.update(state)
    result = OptimizedModule(root, read_graph(graph), name)
    for key, value in state.items():
        if key not in result.__dict__:
            object.__setattr__(result, key, value)
    result.training = state["training"]
    result._finish(read_graph(original), folded, report, sized)
    return result


def compiled(graph: fx.Graph) -> Callable[..., Any]:
    """The code of a graph as a function of the module that owns its state, and of the inputs."""
    code = graph.python_code("self")
    namespace = dict(code.globals)
    exec(compile(code.src, "<original program>", "exec"), namespace)
    forward: Callable[..., Any] = namespace["forward"]
    return forward


def _adopt_state(module: OptimizedModule, root: torch.nn.Module) -> None:
    """Give ``module`` every parameter and buffer of ``root`` that its graph doesn't use."""
    kept: dict[str, torch.Tensor] = dict(root.named_parameters(remove_duplicate=False))
    kept.update(root.named_buffers(remove_duplicate=False))
    for path, tensor in kept.items():
        owner, name = _owner(module, path, root)
        if name not in owner._parameters and name not in owner._buffers:
            if isinstance(tensor, torch.nn.Parameter):
                owner.register_parameter(name, tensor)
            else:
                owner.register_buffer(name, tensor)
    _reorder(module, root)
    persistent = _persistent_buffers(root)
    for path, _ in list(module.named_buffers(remove_duplicate=False)):
        owner, name = _owner(module, path, root)
        if path in persistent:
            owner._non_persistent_buffers_set.discard(name)
        else:
            owner._non_persistent_buffers_set.add(name)
    plain = {path for path, _ in module.named_buffers(remove_duplicate=False)} - set(kept)
    if plain:
        module.meta[PLAIN_TENSORS] = plain


def _reorder(module: torch.nn.Module, root: torch.nn.Module) -> None:
    """Bring parameters, buffers and submodules into the order of ``root``, on which optimizers rely."""
    if module is root:
        return
    for own, wanted in (
        (module._parameters, root._parameters),
        (module._buffers, root._buffers),
        (module._modules, root._modules),
    ):
        kept: dict[str, Any] = dict(own)
        own.clear()
        own.update({name: kept[name] for name in (*wanted, *kept) if name in kept})
    for name, child in module._modules.items():
        other = root._modules.get(name)
        if child is not None and other is not None:
            _reorder(child, other)


def _persistent_buffers(root: torch.nn.Module) -> set[str]:
    result = set()
    for prefix, module in root.named_modules(remove_duplicate=False):
        for name, value in module._buffers.items():
            if value is not None and name not in module._non_persistent_buffers_set:
                result.add(f"{prefix}.{name}" if prefix else name)
    return result


def _owner(module: torch.nn.Module, path: str, root: torch.nn.Module) -> tuple[torch.nn.Module, str]:
    *parents, name = path.split(".")
    for parent in parents:
        root = getattr(root, parent)
        child = module._modules.get(parent)
        if child is None:
            child = torch.nn.Module()
            child.training = root.training
            module.add_module(parent, child)
        module = child
    return module, name
