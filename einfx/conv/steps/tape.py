"""Operations on windows while they are written down: registers, with what is known of each."""

from __future__ import annotations

from math import prod

import torch

from ...costs.cost import StepCost
from ...layout import contiguous_strides
from ...machine import item_bytes
from ..symbolic.views import View
from .operations import Number, Operation, Windows
from .program import WindowProgram

__all__ = ["Tape"]


class Tape:
    """The operations of a program, in order, each of which makes a register.

    Registers are numbered: first come views of the caller's tensors, then the results of operations.

    Args:
        dtype: of all tensors.
        device: where the program runs, as text.

    Attributes:
        item: bytes of an element.
        shapes: of every register.
        strides: of every register, in elements.
    """

    def __init__(self, dtype: torch.dtype, device: str) -> None:
        self.dtype, self.device = dtype, device
        self.item = item_bytes(dtype)
        self.shapes: list[tuple[int, ...]] = []
        self.strides: list[tuple[int, ...]] = []
        self._views: list[View] = []
        self._bytes: list[int] = []
        self._operations: list[Operation] = []
        self._costs: list[StepCost] = []
        self._reads: list[tuple[int, ...]] = []

    def view(self, view: View) -> int:
        """The register of a view of one of the caller's tensors."""
        if view in self._views:
            return self._views.index(view)
        # Registers of views come before all that operations make.
        assert not self._operations
        self._views.append(view)
        self.shapes.append(view.shape)
        self.strides.append(view.strides)
        self._bytes.append(0)
        return len(self._views) - 1

    def emit(
        self,
        operation: Operation,
        reads: tuple[int, ...],
        shape: tuple[int, ...],
        cost: StepCost,
        *,
        strides: tuple[int, ...] | None = None,
        written: int | None = None,
    ) -> int:
        """Write an operation down, or find the register of an equal one.

        Args:
            operation: what makes the register.
            reads: the registers that it reads.
            shape: of what it makes.
            cost: what it costs.
            strides: of what it makes; contiguous where None.
            written: the bytes that it makes, 0 for a view; those of its shape where None.
        """
        if operation in self._operations:
            return len(self._views) + self._operations.index(operation)
        self._operations.append(operation)
        self._costs.append(cost)
        self._reads.append(reads)
        self.shapes.append(shape)
        self.strides.append(contiguous_strides(shape) if strides is None else strides)
        self._bytes.append(self.item * prod(shape) if written is None else written)
        return len(self.shapes) - 1

    def maker(self, register: int) -> Operation | None:
        """The operation that makes a register; None for a view of a tensor."""
        return self._operations[register - len(self._views)] if register >= len(self._views) else None

    def reads(self, register: int) -> tuple[int, ...]:
        """What the operation that makes a register reads."""
        return self._reads[register - len(self._views)]

    def shares(self, register: int) -> bool:
        """Whether a register is a view of windows, whose elements may share memory."""
        while register >= len(self._views) and not isinstance(self.maker(register), Windows):
            if self._bytes[register] or not self.reads(register):
                return False
            register = self.reads(register)[0]
        return register >= len(self._views)

    def number(self, register: int) -> float | None:
        """The value of a register that is a number known beforehand."""
        operation = self.maker(register)
        return operation.value if isinstance(operation, Number) else None

    def program(self, result: int) -> WindowProgram:
        """The program that makes a register, without the operations that nothing reads."""
        first = len(self._views)
        needed = {result}
        for number in reversed(range(len(self._operations))):
            if first + number in needed:
                needed |= set(self._reads[number])
        kept = [number for number in range(len(self._operations)) if first + number in needed]
        place = {register: register for register in range(first)}
        place.update({first + number: first + p for p, number in enumerate(kept)})
        operations = [_renumbered(self._operations[number], place) for number in kept]
        last = [-1] * (first + len(kept))
        for p, number in enumerate(kept):
            for register in self._reads[number]:
                last[place[register]] = p
        # The base of a view lives as long as the view does.
        for number in reversed(kept):
            register = first + number
            if not self._bytes[register]:
                for read in self._reads[number]:
                    last[place[read]] = max(last[place[read]], last[place[register]])
        last[place[result]] = len(kept)
        peak, alive, seconds, flops, moved = 0, 0, 0.0, 0, 0
        for p, number in enumerate(kept):
            cost = self._costs[number]
            alive += self._bytes[first + number]
            peak = max(peak, alive + cost.workspace_bytes)
            alive -= sum(self._bytes[r] for r, q in place.items() if last[q] == p)
            seconds, flops, moved = seconds + cost.seconds, flops + cost.flops, moved + cost.bytes
        return WindowProgram(
            tuple(self._views), tuple(operations), tuple(last), StepCost(flops, moved, seconds, peak)
        )


def _renumbered(operation: Operation, place: dict[int, int]) -> Operation:
    values = {name: getattr(operation, name) for name in operation.__dataclass_fields__}  # type: ignore[attr-defined]
    for name in ("source", "factor"):
        if name in values:
            values[name] = place[values[name]]
    for name in ("sources", "factors"):
        if name in values:
            values[name] = tuple(place[x] for x in values[name])
    return type(operation)(**values)
