"""How a contraction with patterns is taken apart into operations on windows, pattern by pattern.

A pattern is a view of the tensors that have its input: windows. Where nothing else carries their position,
windows are summed and never built; where the output has the input, windows of the result are added up. What
is left is a contraction without patterns. Only a pattern for which none of this holds is built as a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import torch

from ...costs.cost import StepCost
from ...equation import Equation
from ...layout import contiguous_strides
from ...pattern import IndexPattern
from ..symbolic.network import Constant, Network
from ..symbolic.rules import unbroadcast
from ..symbolic.simplify import simplified
from .cost import GATHERED_SECONDS, sum_cost, window_cost
from .folding import Folding, add_up, order_before
from .operations import Contract, Dense, Form, Number, Ones, Pool, SumWindows, Windows
from .program import WindowProgram
from .remainder import Remainder
from .tape import Tape

__all__ = ["window_programs"]

Named = tuple[IndexPattern, tuple[int, int, int]]
"""A pattern with the labels of its kernel, its outputs and its input."""

FORMS: tuple[Form, ...] = ("view", "copy", "channels first")


@lru_cache(maxsize=8192)
def window_programs(network: Network, dtype: torch.dtype, device: str) -> tuple[WindowProgram, ...]:
    """The ways to compute a contraction by windows, the fastest first.

    Args:
        network: any contraction that has a tensor.
        dtype: of its tensors.
        device: where it runs, as text.
    """
    plain = simplified(network, (unbroadcast,))
    made = [_Builder(plain, dtype, device, form).program() for form in FORMS]
    found = [program for program in dict.fromkeys(made) if program is not None]
    return tuple(sorted(found, key=lambda program: program.cost.seconds))


class _Builder:
    """Takes a network apart, pattern by pattern, writing down the operations."""

    def __init__(self, network: Network, dtype: torch.dtype, device: str, form: Form) -> None:
        self.tape, self.form = Tape(dtype, device), form
        self.sizes = network.sizes
        self.output = list(network.equation.output)
        self.operands: list[tuple[int, list[int]]] = []
        self.patterns: list[Named] = []
        self.factors: list[int] = []
        self.foldings: list[Folding] = []
        numbers: list[float] = []
        for operand, labels in zip(network.operands, network.equation.inputs, strict=True):
            if isinstance(operand, IndexPattern):
                self.patterns.append((operand, (labels[0], labels[1], labels[2])))
            elif isinstance(operand, Constant):
                numbers.append(operand.value)
            else:
                self.operands.append((self.tape.view(operand), list(labels)))
        for value in numbers:
            self.factors.append(self.tape.emit(Number(value), (), (), StepCost(0, 0, 1e-6, 0)))
        self._settle_numbers()

    def _settle_numbers(self) -> None:
        """Tensors of one element multiply the result; labels that are left without a carrier get ones."""
        numbers = [
            prod(self.tape.shapes[register]) == 1 and all(self.sizes[label] == 1 for label in labels)
            for register, labels in self.operands
        ]
        if all(numbers):
            numbers[:1] = [False] * len(numbers[:1])
        for (register, _), number in zip(self.operands, numbers, strict=True):
            if number:
                self.factors.append(register)
        self.operands = [each for each, number in zip(self.operands, numbers, strict=True) if not number]
        self._carry(self.output)

    def _carry(self, labels: Sequence[int]) -> None:
        """Operands of ones for labels that nothing carries."""
        carried = {x for _, there in self.operands for x in there} | {
            x for _, there in self.patterns for x in there
        }
        for label in labels:
            if label not in carried:
                self._add_ones(label)

    def _add_ones(self, label: int) -> None:
        size = self.sizes[label]
        cost = StepCost(0, self.tape.item * size, 2e-6, 0)
        self.operands.append((self.tape.emit(Ones(size), (), (size,), cost), [label]))

    def program(self) -> WindowProgram | None:
        """The program, or None where this form would hand out a view whose elements share memory."""
        self._take_diagonals()
        while self.patterns:
            if not (self._see() or self._fold() or self._read_ones()):
                self._build_one()
            self._take_diagonals()
        labels = list(self.output)
        if self.foldings:
            # Kernels and outputs last, as folding takes them.
            names = self.foldings[-1].names
            last = [each[0] for each in names] + [each[1] for each in names]
            labels = [x for x in labels if x not in last] + last
        registers = tuple(register for register, _ in self.operands)
        inputs = tuple(tuple(there) for _, there in self.operands)
        rest = Remainder(self.tape, self.sizes, registers, inputs, self.factors, self.form)
        result = rest.contract(labels)
        if result is None:
            return None
        for number in reversed(range(len(self.foldings))):
            order = order_before(self.foldings[number + 1 :], self.output)
            result, labels = add_up(self.tape, self.sizes, result, labels, self.foldings[number], order)
        return self.tape.program(result)

    def _take_diagonals(self) -> None:
        for position, (register, labels) in enumerate(self.operands):
            if len(set(labels)) < len(labels):
                kept = list(dict.fromkeys(labels))
                equation = Equation((tuple(labels),), tuple(kept))
                shape = tuple(self.sizes[x] for x in kept)
                strides = tuple(
                    sum(s for s, y in zip(self.tape.strides[register], labels, strict=True) if y == x)
                    for x in kept
                )
                cost = StepCost(0, 0, 2e-6, 0)
                operation = Contract(equation, (register,))
                made = self.tape.emit(operation, (register,), shape, cost, strides=strides, written=0)
                self.operands[position] = (made, kept)

    def _elsewhere(self, label: int, pattern: int, operand: int = -1) -> bool:
        """Whether anything but a pattern and an operand has a label."""
        if label in self.output:
            return True
        others = (labels for p, (_, labels) in enumerate(self.patterns) if p != pattern)
        return any(label in labels for labels in others) or any(
            label in labels for p, (_, labels) in enumerate(self.operands) if p != operand
        )

    def _see(self) -> bool:
        """Take all patterns away whose input only tensors have; whether there were any."""
        ready = []
        for number, (pattern, labels) in enumerate(self.patterns):
            read = labels[2]
            carriers = [p for p, (_, there) in enumerate(self.operands) if read in there]
            met = any(read in there for p, (_, there) in enumerate(self.patterns) if p != number)
            if len(set(labels)) == 3 and carriers and read not in self.output and not met:
                alone = "none"
                if len(carriers) == 1 and not self._elsewhere(labels[1], number):
                    alone = "output"
                elif len(carriers) == 1 and not self._elsewhere(labels[0], number):
                    alone = "kernel"
                ready.append((number, pattern, labels, carriers, alone))
        if not ready:
            return False
        gone = {number for number, *_ in ready}
        self.patterns = [each for number, each in enumerate(self.patterns) if number not in gone]
        # Roles are those of the labels once all of these patterns are gone.
        for position in range(len(self.operands)):
            for over in ("output", "kernel"):
                sums = [
                    (p, labels)
                    for _, p, labels, carriers, alone in ready
                    if carriers == [position] and alone == over
                ]
                if sums:
                    self._sum(position, sums, over)
        self._take_diagonals()
        seen = [(p, labels, carriers) for _, p, labels, carriers, alone in ready if alone == "none"]
        renamed = {
            position: [(p, labels) for p, labels, carriers in seen if position in carriers]
            for position in range(len(self.operands))
        }
        for position, windows in renamed.items():
            if windows:
                self._slide(position, windows, renamed)
        return True

    def _sum(self, position: int, sums: list[Named], over: str) -> None:
        """Sum windows of an operand over their outputs, or over their kernel."""
        register, labels = self.operands[position]
        sums.sort(key=lambda each: labels.index(each[1][2]))
        dims = tuple(labels.index(names[2]) for _, names in sums)
        patterns = tuple(pattern for pattern, _ in sums)
        shape_before = self.tape.shapes[register]
        shape, labels = list(shape_before), list(labels)
        for dim, (_, names) in zip(dims, sums, strict=True):
            labels[dim] = names[0] if over == "output" else names[1]
            shape[dim] = self.sizes[labels[dim]]
        elements, whole = prod(self.tape.shapes[register]), tuple(shape)
        kind = SumWindows if over == "output" else Pool
        patterns_ = patterns if over == "output" else tuple(pattern.swapped() for pattern in patterns)
        cost = sum_cost(elements, patterns_, self.tape.dtype, self.tape.device)
        if kind is Pool:
            # Every sum but the last of a dimension is a tensor of its own.
            first = elements // shape_before[dims[0]] * whole[dims[0]]
            cost = cost._replace(workspace_bytes=2 * self.tape.item * max(first, prod(whole)))
        if self.tape.shares(register):
            cost = cost._replace(seconds=cost.seconds + GATHERED_SECONDS[2] * elements)
        made = self.tape.emit(kind(register, dims, patterns), (register,), whole, cost)
        self.operands[position] = (made, labels)

    def _slide(
        self,
        position: int,
        windows: list[Named],
        renamed: dict[int, list[Named]],
    ) -> None:
        register, labels = self.operands[position]
        windows = sorted(windows, key=lambda each: labels.index(each[1][2]))
        patterns = tuple(pattern for pattern, _ in windows)
        kernels, outputs = [names[0] for _, names in windows], [names[1] for _, names in windows]
        reads = [names[2] for _, names in windows]
        others: set[int] = {x for _, there in self.patterns for x in there}
        for p, (_, there) in enumerate(self.operands):
            if p != position:
                others |= set(there) | {x for _, names in renamed[p] for x in names}
        leading = [label for label in labels if label not in reads]
        roles = {label: (label in others, label in self.output) for label in (*leading, *kernels, *outputs)}
        batch, channels = leading[:1], leading[1:]
        if self.form == "channels first":
            # Matrices: what plays the part of kernels, then what plays that of outputs.
            batch = [x for x in leading if roles[x] == roles[outputs[0]] and roles[x] != roles[kernels[0]]]
            channels = sorted((x for x in leading if x not in batch), key=lambda x: roles[x] != (True, True))
        dims = {label: dim for dim, label in enumerate(labels)}
        operation = Windows(
            register,
            tuple(dims[x] for x in batch),
            tuple(dims[x] for x in channels),
            tuple(dims[x] for x in reads),
            patterns,
            self.form,
        )
        if self.form == "channels first":
            made = [*channels, *kernels, *batch, *outputs]
        else:
            made = [*batch, *channels, *kernels, *outputs]
        shape = tuple(self.sizes[x] for x in made)
        copied = self.form != "view"
        strides = contiguous_strides(shape)
        written = self.tape.item * prod(shape)
        if not copied:
            steps = dict(zip(labels, self.tape.strides[register], strict=True))
            for pattern, names in windows:
                steps[names[0]] = steps[names[2]] * pattern.dilation
                steps[names[1]] = steps[names[2]] * pattern.stride
            strides = tuple(steps[x] for x in made)
            written = 0
        cost = window_cost(
            prod(self.tape.shapes[register]), patterns, self.tape.dtype, self.tape.device, copied
        )
        if not copied and cost.workspace_bytes:
            written, cost = cost.workspace_bytes, cost._replace(workspace_bytes=0)
        register = self.tape.emit(operation, (register,), shape, cost, strides=strides, written=written)
        self.operands[position] = (register, made)

    def _fold(self) -> bool:
        """Take all patterns away whose input the output alone has; whether there were any."""
        ready: list[Named] = []
        for number, (pattern, labels) in enumerate(self.patterns):
            kernel, outputs, read = labels
            free = len(set(labels)) == 3 and read in self.output and not {kernel, outputs} & set(self.output)
            mine = any(read in there for _, there in self.operands) or any(
                read in there for p, (_, there) in enumerate(self.patterns) if p != number
            )
            taken = {x for _, names in ready for x in names}
            if free and not mine and not taken & set(labels):
                ready.append((pattern, labels))
        if not ready:
            return False
        for pattern, labels in ready:
            self.patterns.remove((pattern, labels))
            at = self.output.index(labels[2])
            self.output[at : at + 1] = labels[:2]
            self._carry(labels[:2])
        ready.sort(key=lambda each: self.output.index(each[1][0]))
        self.foldings.append(Folding(tuple(p for p, _ in ready), tuple(labels for _, labels in ready)))
        return True

    def _read_ones(self) -> bool:
        """Patterns whose input nothing else has see a vector of ones."""
        for number, (_, labels) in enumerate(self.patterns):
            read = labels[2]
            if len(set(labels)) == 3 and not self._elsewhere(read, number):
                self._add_ones(read)
                return True
        return False

    def _build_one(self) -> None:
        """Build the smallest pattern."""
        pattern, labels = min(self.patterns, key=lambda each: prod(each[0].shape))
        self.patterns.remove((pattern, labels))
        written = self.tape.item * prod(pattern.shape)
        cost = StepCost(0, written, 2e-6 * min(pattern.shape[:2]) + 1e-6 + written / 10e9, 0)
        self.operands.append((self.tape.emit(Dense(pattern), (), pattern.shape, cost), list(labels)))
