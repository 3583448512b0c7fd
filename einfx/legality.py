"""What a pass may touch: reads and writes, aliases, escapes, dtypes and factors.

A graph says which values a node reads, but not which tensors share memory or change under it.
:class:`Effects` works that out, always on the safe side: an operation it doesn't know may write to
anything and keep anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import fx

from .graphs.nodes import as_contraction, is_einsum, is_pattern, value_of
from .graphs.writes import (
    FRESH,
    function_name,
    is_known_function,
    may_write,
    writes_in_place,
    written_arguments,
)

__all__ = [
    "Effects",
    "is_layout_free",
    "same_floating_dtype",
    "scalar_factor",
    "unchanged_graphs",
    "use_count",
]

_FRESH_MODULES: tuple[type[torch.nn.Module], ...] = (
    torch.nn.Linear, torch.nn.Bilinear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d,
    torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.Embedding, torch.nn.ReLU, torch.nn.GELU, torch.nn.SiLU,
    torch.nn.Sigmoid, torch.nn.Tanh, torch.nn.Softmax, torch.nn.LogSoftmax, torch.nn.Softplus,
    torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.ELU, torch.nn.LeakyReLU,
)  # fmt: skip

Root = fx.Node | str
OUTSIDE: Root = "inputs and attributes"
ANYTHING: Root = "any memory"


_unchanged: ContextVar[dict[fx.Graph, Effects] | None] = ContextVar("unchanged", default=None)


@contextmanager
def unchanged_graphs() -> Iterator[dict[fx.Graph, Effects]]:
    """Let :meth:`Effects.of` remember its answers, until whoever changes a graph clears them."""
    cache: dict[fx.Graph, Effects] = {}
    token = _unchanged.set(cache)
    try:
        yield cache
    finally:
        _unchanged.reset(token)


class Effects:
    """Which memory each node of a graph may share, write and let out.

    Inputs and attributes may alias one another when the program is called, so they count as one piece of
    memory. The analysis is that of the graph as it was; nodes that a pass adds take the place of an old
    one by :meth:`adopt`.

    Args:
        graph: the graph to read.
        owner: the module that the graph's ``call_module`` nodes refer to.
    """

    @classmethod
    def of(cls, graph: fx.Graph, owner: torch.nn.Module | None = None) -> Effects:
        """The effects of a graph, computed once while a pipeline knows that nothing changed it."""
        cache = _unchanged.get()
        if cache is None:
            return cls(graph, owner)
        if graph not in cache:
            cache[graph] = cls(graph, owner)
        return cache[graph]

    def __init__(self, graph: fx.Graph, owner: torch.nn.Module | None = None) -> None:
        self._owner = owner
        self._position: dict[fx.Node, int] = {}
        self._roots: dict[fx.Node, frozenset[Root]] = {}
        self._writes: list[tuple[int, frozenset[Root]]] = []
        self._sources: dict[fx.Node, frozenset[Root]] = {}
        self._written_sources: set[Root] = set()
        self._escaped: set[Root] = set()
        self._mutated: set[Root] = set()
        for position, node in enumerate(graph.nodes):
            self._position[node] = position
            written = frozenset(self._written(node))
            if written:
                self._writes.append((position, written))
                self._mutated |= written
                for argument in written_arguments(node):
                    self._written_sources |= self._sources[argument]
            self._roots[node] = self._roots_of(node)
            self._sources[node] = self._sources_of(node)
            for escaping in self._escaping(node):
                self._escaped |= self._roots[escaping]

    @property
    def pure(self) -> bool:
        """Whether nothing in the graph writes to any memory."""
        return not self._writes

    def memory_of(self, node: fx.Node) -> frozenset[Root]:
        """The pieces of memory that ``node`` may share: the nodes that made them, or those outside."""
        return self._roots[node]

    def adopt(self, node: fx.Node, place_of: fx.Node) -> None:
        """Treat a new node, which computes new memory, as standing where an old one stood."""
        self._position[node] = self._position[place_of]
        old = self._roots[place_of]
        self._roots[node] = self._sources[node] = frozenset({node})
        if old & self._escaped:
            self._escaped.add(node)
        if old & self._mutated or ANYTHING in self._mutated:
            self._mutated.add(node)

    def may_move_reads(self, values: Iterable[fx.Node], start: fx.Node, end: fx.Node) -> bool:
        """Whether ``values``, read at ``start``, hold the same numbers when they are read at ``end``."""
        if not self._writes:
            return True
        first, last = sorted((self._position[start], self._position[end]))
        read = frozenset[Root]().union(*(self._roots[value] for value in values))
        for position, written in self._writes:
            if first <= position <= last and (written & read or ANYTHING in written):
                return False
        return True

    def is_mutated(self, node: fx.Node) -> bool:
        """Whether something writes to the memory of ``node``."""
        return ANYTHING in self._mutated or bool(self._roots[node] & self._mutated)

    def is_written(self, node: fx.Node) -> bool:
        """Whether the program itself writes to ``node``, or to what it is a view of.

        Unlike :meth:`is_mutated` this takes different inputs and attributes for different memory. It tells
        whether autograd, having saved ``node`` for the backward pass, would find it changed.
        """
        return ANYTHING in self._mutated or bool(self._sources[node] & self._written_sources)

    def written_nodes(self) -> set[fx.Node]:
        """Every node of the graph, as it was, of which :meth:`is_written` is true."""
        return {node for node in self._sources if self.is_written(node)}

    def escapes(self, node: fx.Node) -> bool:
        """Whether the memory of ``node`` is returned, or kept by an operation einfx doesn't know."""
        return bool(self._roots[node] & self._escaped)

    def _roots_of(self, node: fx.Node) -> frozenset[Root]:
        if node.op in ("placeholder", "get_attr"):
            return frozenset({OUTSIDE})
        if is_pattern(node):
            return frozenset()
        shared = frozenset[Root]().union(*(self._roots[x] for x in node.all_input_nodes))
        if node.op == "output":
            return shared
        if self._is_fresh(node):
            return frozenset({node})
        return shared | {node} if self._is_known(node) else shared | {node, OUTSIDE}

    def _sources_of(self, node: fx.Node) -> frozenset[Root]:
        if node.op == "placeholder":
            return frozenset({node})
        if node.op == "get_attr":
            return frozenset({f"attribute {node.target}"})
        if self._roots[node] == {node}:
            return frozenset({node})
        return frozenset[Root]({node}).union(*(self._sources[x] for x in node.all_input_nodes))

    def _is_fresh(self, node: fx.Node) -> bool:
        if may_write(node) and writes_in_place(node):
            return False
        if node.op == "call_module":
            return type(self._module(node)) in _FRESH_MODULES
        name = function_name(node)
        if is_einsum(node) or name == "einsum":
            contraction = as_contraction(node)
            # One tensor, seen through patterns, may be a view of it.
            return contraction is not None and len(contraction.tensors) > 1
        if name == "sum" and node.op == "call_function" and node.target is sum:
            return False
        return name in FRESH and is_known_function(node)

    def _is_known(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            kind = type(self._module(node))
            return kind.__module__.startswith("torch.nn.") or _checks_only(kind)
        return node.op in ("call_method", "output") or is_known_function(node)

    def _module(self, node: fx.Node) -> torch.nn.Module | None:
        module: Any = self._owner
        for name in str(node.target).split("."):
            module = getattr(module, name, None)
        return module if isinstance(module, torch.nn.Module) else None

    def _written(self, node: fx.Node) -> Iterator[Root]:
        if node.op in ("placeholder", "get_attr", "output"):
            return
        if not self._is_known(node):
            yield ANYTHING
            return
        if node.op == "call_module":
            module = self._module(node)
            if module is None or module._forward_hooks or module._forward_pre_hooks:
                yield ANYTHING
            elif getattr(module, "inplace", False):
                for argument in node.all_input_nodes:
                    yield from self._roots[argument]
            elif _changes_its_state(module) and self._reads_state_of(node):
                yield OUTSIDE
            return
        if may_write(node):
            for argument in written_arguments(node):
                yield from self._roots[argument]

    def _reads_state_of(self, node: fx.Node) -> bool:
        prefix = f"{node.target}."
        return any(n.op == "get_attr" and str(n.target).startswith(prefix) for n in node.graph.nodes)

    def _escaping(self, node: fx.Node) -> list[fx.Node]:
        if node.op == "output" or not (node.op in ("placeholder", "get_attr") or self._is_known(node)):
            return node.all_input_nodes
        return []


def _checks_only(kind: type) -> bool:
    """Whether a module of this type checks its arguments alone: what torch.export puts before a program."""
    return (kind.__module__, kind.__name__) == ("torch.export._unlift", "GuardsFn")


def _changes_its_state(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.modules.batchnorm._NormBase) or any(True for _ in module.buffers())


def use_count(node: fx.Node) -> int:
    """How often ``node`` is used: edges, not users (``t * t`` uses ``t`` twice)."""
    count = 0

    def visit(argument: fx.Node) -> fx.Node:
        nonlocal count
        count += argument is node
        return argument

    for user in node.users:
        fx.map_arg((user.args, user.kwargs), visit)
    return count


def same_floating_dtype(nodes: Iterable[fx.Node]) -> bool:
    """Whether the values of all nodes are known to be of one dtype, floating or complex, on one device.

    Index patterns have no dtype and no device, and don't count.
    """
    values = [value_of(node) for node in nodes if not is_pattern(node)]
    known = [value for value in values if value is not None]
    if not known or len(known) != len(values):
        return False
    dtype, device = known[0].dtype, known[0].device
    return (dtype.is_floating_point or dtype.is_complex) and all(
        v.dtype == dtype and v.device == device for v in known
    )


def scalar_factor(number: Any, dtype: torch.dtype) -> bool:
    """Whether a Python number may be a factor of tensors of ``dtype`` wherever it stands in a product.

    It must keep the dtype, be finite and not zero, and be a normal number in it: 1e20 is, in float32, and
    1e40 is not.
    """
    if isinstance(number, bool) or not isinstance(number, int | float | complex):
        return False
    if isinstance(number, complex) and not dtype.is_complex:
        return False
    if not (dtype.is_floating_point or dtype.is_complex):
        return False
    try:
        size = abs(complex(number)) if isinstance(number, complex) else abs(float(number))
    except OverflowError:
        return False
    limits = torch.finfo(dtype)
    return math.isfinite(size) and limits.smallest_normal <= size <= limits.max


def is_layout_free(node: fx.Node) -> bool:
    """Whether nobody sees the strides of ``node``: only contractions that make new memory read it."""
    for user in node.users:
        contraction = as_contraction(user)
        if contraction is None or len(contraction.tensors) < 2:
            return False
    return bool(node.users)
