"""What is alive in a graph while each node runs: bytes, and whose they are.

The graph runs on tensors without data, and every piece of memory is counted from the operation that
allocates it until the last tensor that holds it goes, as it does in generated code: after the last use. So
views, writes in place and what composed functions make on their way count as they do in a call. What
operations allocate inside is added by :mod:`einfx.graph_memory.workspace`; contractions of einfx are counted
as they are planned.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ..contract import einsum
from ..conv.planning.limits import within
from ..conv.symbolic.network import Network, Operand
from ..conv.symbolic.views import View
from ..equation import Equation
from ..errors import MemoryLimitError
from ..graphs.nodes import in_any_order
from ..graphs.shapes import ShapeInterpreter
from ..pattern import IndexPattern
from ..rewrite import copied_graph
from ..sources import source_line
from .contraction_bytes import needed_bytes, planned_bytes
from .workspace import workspace_bytes

__all__ = ["Held", "Liveness", "Lying", "Moment", "liveness"]


class Held(NamedTuple):
    """Memory that is in use: who allocated it, and how much it is."""

    node: str
    bytes: int


class Moment(NamedTuple):
    """What is in use while a node runs.

    Attributes:
        node: its name.
        line: where in the program it comes from.
        bytes: the most that is in use at a time, the caller's tensors left out.
        before: what is in use when it starts, in the order in which it was allocated.
        made: the numbers of the pieces of memory that it allocated and that are still in use after it.
        holds: the numbers of those that its result lies in.
        random: whether it draws random numbers.
    """

    node: str
    line: str
    bytes: int
    before: tuple[Held, ...]
    made: tuple[int, ...]
    holds: tuple[int, ...]
    random: bool

    @property
    def bytes_before(self) -> int:
        """What is in use when the node starts."""
        return sum(held.bytes for held in self.before)


class Lying(NamedTuple):
    """How the tensor that a node returns lies in memory.

    Attributes:
        shape: its sizes.
        strides: in elements.
        dtype: of its elements.
        device: where it lies.
        piece: the number of its piece of memory; None for memory that is the caller's.
        is_whole: whether it fills that piece, each element in a place of its own.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    piece: int | None
    is_whole: bool


@dataclass(frozen=True)
class Liveness:
    """What is in use at every node of a graph.

    Attributes:
        moments: in the order of computation; inputs and attributes have none.
        uncovered: nodes of which it isn't known what they take, each with the reason.
        sizes: the bytes of every piece of memory, by its number.
        lying: how what a node returns lies in memory, by its name, where that is one ordinary tensor; None
            for a number.
        freed: by the number of a piece of memory, the node in or after which it went; pieces that are
            returned have none.
    """

    moments: tuple[Moment, ...]
    uncovered: tuple[tuple[str, str], ...]
    sizes: tuple[int, ...]
    lying: Mapping[str, Lying | None] = field(default_factory=dict)
    freed: Mapping[int, str] = field(default_factory=dict)

    @property
    def peak(self) -> Moment | None:
        """Where most is in use; the first such place."""
        return max(self.moments, key=lambda moment: moment.bytes, default=None)

    @property
    def peak_bytes(self) -> int:
        """The most that is in use at a time."""
        return self.peak.bytes if self.peak is not None else 0


def liveness(graph_module: fx.GraphModule, arguments: Sequence[Any]) -> Liveness:
    """What is in use while each node of a graph runs, without gradients.

    Args:
        graph_module: the graph and its state; neither changes.
        arguments: an example for each placeholder, as :func:`einfx.graphs.shapes.propagate` takes them.

    Raises:
        OperandError: the arguments don't fit the program.

    Example:
        >>> traced = fx.symbolic_trace(lambda x, w: torch.relu(x @ w).sum(0))
        >>> found = liveness(traced, (torch.ones(2, 3), torch.ones(3, 4)))
        >>> [(moment.node, moment.bytes) for moment in found.moments]
        [('matmul', 32), ('relu', 64), ('sum_1', 48)]
    """
    copied = fx.GraphModule(graph_module, copied_graph(graph_module.graph))
    interpreter = _Interpreter(copied)
    with torch.no_grad(), interpreter.mode:
        fakes = pytree.tree_map_only(torch.Tensor, interpreter.fake, tuple(arguments))
    tracker = interpreter.tracker
    with torch.no_grad():
        result = interpreter.run(*fakes)
        freed = dict(tracker.freed)
        del result
    moments, uncovered = tuple(interpreter.moments), tuple(interpreter.uncovered.items())
    return Liveness(moments, uncovered, tuple(tracker.sizes), interpreter.lying, freed)


class _Interpreter(ShapeInterpreter):
    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.tracker = _Tracker()
        self.moments: list[Moment] = []
        self.uncovered: dict[str, str] = {}
        self.lying: dict[str, Lying | None] = {}

    def run_node(self, n: fx.Node) -> Any:
        known = {key: n.meta[key] for key in ("val",) if key in n.meta}
        outside = n.op in ("placeholder", "get_attr", "output")
        if not outside:
            self.tracker.start(n.name)
        value = super().run_node(n)
        n.meta.pop("val", None)
        n.meta.update(known)
        if outside:
            if n.op == "output":
                self.tracker.end()
            else:
                self.tracker.leave_out(value)
                self._note(n.name, value)
            return value
        self.tracker.see(value)
        self._note(n.name, value)
        self._add_planned(n)
        line = self.unknown[-1] if self.unknown and self.unknown[-1].startswith(f"{n.name}: ") else ""
        if line:
            self.uncovered[n.name] = line.partition(": ")[2]
        elif self.tracker.strange:
            names = ", ".join(dict.fromkeys(self.tracker.strange))
            self.uncovered[n.name] = f"what {names} allocates inside isn't known"
        self.moments.append(self.tracker.moment(source_line(n), value))
        return value

    def _note(self, name: str, value: Any) -> None:
        """Note how a tensor lies in memory, if it is an ordinary one."""
        if isinstance(value, (int, float, complex)):
            self.lying[name] = None
        if type(value) not in (FakeTensor, torch.nn.Parameter) or value.layout is not torch.strided:
            return
        plain = not value.is_conj() and not value.is_neg()
        whole = plain and _is_dense(value) and value.untyped_storage().nbytes() == value.nbytes
        rest = value.dtype, value.device, self.tracker.piece(value), whole
        self.lying[name] = Lying(tuple(value.shape), value.stride(), *rest)

    def _add_planned(self, node: fx.Node) -> None:
        """Count what a contraction of einfx takes that didn't run."""
        contraction = in_any_order(node)
        if contraction is None or contraction.options.is_plain:
            return
        operands = [self.env[x] for x in contraction.operands]
        if not all(isinstance(x, Tensor) for x in operands):
            return
        try:
            taken = planned_bytes(
                contraction.equation, operands, contraction.options, str(operands[0].device)
            )
        except MemoryLimitError as error:
            taken = needed_bytes(error) or 2 * sum(x.numel() * x.dtype.itemsize for x in operands)
        self.tracker.take(taken)

    def fetch_attr(self, target: str) -> Any:
        value = super().fetch_attr(target)
        self.tracker.leave_out(value)
        return value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        limit = kwargs.get("memory_limit") if target is einsum else None
        if limit is not None and any(isinstance(x, IndexPattern) for x in args[1:]):
            return self._limited_with_patterns(args[0], args[1:], limit)
        with self.tracker:
            return super().call_function(target, args, kwargs)

    def _limited_with_patterns(self, text: str, operands: Sequence[Any], limit: int) -> Tensor:
        """What a contraction with patterns returns, which would run block after block."""
        equation = Equation.parse(text, [len(x.shape) for x in operands])
        tensors = [x for x in operands if isinstance(x, Tensor)]
        network = Network(equation, tuple(_symbol(i, x) for i, x in enumerate(operands)))
        strided = [i for i, x in enumerate(operands) if isinstance(x, Tensor) and not x.is_contiguous()]
        like = tensors[0]
        found = within(network, like.dtype, like.device, limit, strided=frozenset(strided))
        taken = found if isinstance(found, int) else found.peak_bytes
        with self.tracker:
            shape = equation.output_shape([x.shape for x in operands])
            made = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.tracker.take(taken)
        return made

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        with self.tracker:
            return super().call_method(target, args, kwargs)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fake_module(self.fetch_module(target))
        self.tracker.leave_out([*module.parameters(), *module.buffers()])
        with self.tracker:
            return super().call_module(target, args, kwargs)

    def _snapshot(self, value: Any) -> Any:
        return value


def _symbol(position: int, operand: Any) -> Operand:
    return operand if isinstance(operand, IndexPattern) else View(position, tuple(operand.shape))


class _Tracker(TorchDispatchMode):
    """Counts the memory of tensors from when it is allocated until nothing holds it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held: dict[int, Held] = {}
        self.sizes: list[int] = []
        self.now = self.peak = 0
        self.strange: list[str] = []
        self._node = ""
        self._before: tuple[Held, ...] = ()
        self._bytes_before = self._first = 0
        self._random = False
        self._numbers: dict[int, int] = {}
        self.freed: dict[int, str] = {}
        self._outside: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "prim":
            return result
        self.see(result)
        self._random |= torch.Tag.nondeterministic_seeded in func.tags
        inside = workspace_bytes(func, (*args, *(kwargs or {}).values()), result)
        if inside is None:
            self.strange.append(func.overloadpacket.__name__)
        else:
            self.peak = max(self.peak, self.now + inside)
        return result

    def start(self, node: str) -> None:
        """A node begins."""
        self._node, self._before, self._bytes_before = node, tuple(self.held.values()), self.now
        self._first, self._random = len(self.sizes), False
        self.peak = self.now
        self.strange = []

    def end(self) -> None:
        """All nodes have run."""
        self._node = ""

    def moment(self, line: str, result: Any) -> Moment:
        """What was in use since the node began, which returns ``result``."""
        numbers = [self._numbers[key] for key in self.held if self._numbers[key] >= self._first]
        keys = dict.fromkeys(tensor.untyped_storage()._cdata for tensor in _tensors(result))
        holds = tuple(self._numbers[key] for key in keys if key in self.held)
        return Moment(self._node, line, self.peak, self._before, tuple(numbers), holds, self._random)

    def take(self, count: int) -> None:
        """The node takes so many bytes beside what was there before it."""
        self.peak = max(self.peak, self._bytes_before + count)

    def leave_out(self, values: Any) -> None:
        """Memory that is the caller's."""
        for tensor in _tensors(values):
            storage = tensor.untyped_storage()
            self._outside[storage._cdata] = storage

    def see(self, values: Any) -> None:
        """Count memory that wasn't there before."""
        for tensor in _tensors(values):
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self.held or key in self._outside:
                continue
            self.held[key] = Held(self._node, storage.nbytes())
            self._numbers[key] = len(self.sizes)
            self.sizes.append(storage.nbytes())
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, key)

    def piece(self, tensor: Tensor) -> int | None:
        """The number of the piece of memory in which a tensor lies; None where it is the caller's."""
        key = tensor.untyped_storage()._cdata
        return self._numbers[key] if key in self.held else None

    def _free(self, key: int) -> None:
        self.now -= self.held.pop(key).bytes
        self.freed[self._numbers[key]] = self._node


def _is_dense(tensor: Tensor) -> bool:
    """Whether its elements lie side by side in some order, each in a place of its own."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _tensors(values: Any) -> list[Tensor]:
    leaves = pytree.tree_leaves(values)
    return [x for x in leaves if isinstance(x, Tensor) and x.layout is torch.strided]
