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

from ...cost import StepCost
from ...equation import Equation
from ...layout import contiguous_strides
from ...machine import item_bytes, machine_for
from ...pattern import IndexPattern
from ..symbolic.network import Constant, Network
from ..symbolic.rules import unbroadcast
from ..symbolic.simplify import simplified
from ..symbolic.views import View
from .cost import contraction_cost, fold_cost, sum_cost, window_cost
from .operations import (
    FOLDED_BY_TORCH,
    Contract,
    Dense,
    Fold,
    Form,
    Moment,
    Number,
    Ones,
    Operation,
    Pool,
    Scale,
    SumWindows,
    WindowMoment,
    Windows,
)
from .program import WindowProgram

__all__ = ["window_programs"]

GATHERED_SECONDS = (0.0, 1e-9, 15e-9)
"""What an element of windows costs that are contracted as a view: alone, with another operand, with more."""

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
        self.dtype, self.device, self.form = dtype, device, form
        self.item = item_bytes(dtype)
        self.sizes = network.sizes
        self.output = list(network.equation.output)
        self.views: list[View] = []
        self.shapes: list[tuple[int, ...]] = []
        self.strides: list[tuple[int, ...]] = []
        self.bytes: list[int] = []
        self.operations: list[Operation] = []
        self.costs: list[StepCost] = []
        self.reads: list[tuple[int, ...]] = []
        self.operands: list[tuple[int, list[int]]] = []
        self.patterns: list[tuple[IndexPattern, tuple[int, int, int]]] = []
        self.factors: list[int] = []
        self.folds: list[tuple[tuple[IndexPattern, ...], list[tuple[int, int, int]]]] = []
        numbers: list[float] = []
        for operand, labels in zip(network.operands, network.equation.inputs, strict=True):
            if isinstance(operand, IndexPattern):
                self.patterns.append((operand, (labels[0], labels[1], labels[2])))
            elif isinstance(operand, Constant):
                numbers.append(operand.value)
            else:
                self._add_view(operand, labels)
        for value in numbers:
            self.factors.append(self._emit(Number(value), (), (), (), StepCost(0, 0, 1e-6, 0), self.item))
        self._settle_numbers()

    def _add_view(self, view: View, labels: tuple[int, ...]) -> None:
        if view in self.views:
            register = self.views.index(view)
        else:
            # Registers of views come before all that operations make.
            assert not self.operations
            register = len(self.views)
            self.views.append(view)
            self.shapes.append(view.shape)
            self.strides.append(view.strides)
            self.bytes.append(0)
        self.operands.append((register, list(labels)))

    def _settle_numbers(self) -> None:
        """Tensors of one element multiply the result; labels that are left without a carrier get ones."""
        numbers = [
            prod(self.shapes[register]) == 1 and all(self.sizes[label] == 1 for label in labels)
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
        cost = StepCost(0, self.item * size, 2e-6, 0)
        self.operands.append((self._emit(Ones(size), (), (size,), (1,), cost, self.item * size), [label]))

    def _emit(
        self,
        operation: Operation,
        reads: tuple[int, ...],
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        cost: StepCost,
        written: int,
    ) -> int:
        """Write an operation down, or find the register of an equal one."""
        if operation in self.operations:
            return len(self.views) + self.operations.index(operation)
        self.operations.append(operation)
        self.costs.append(cost)
        self.reads.append(reads)
        self.shapes.append(shape)
        self.strides.append(strides)
        self.bytes.append(written)
        return len(self.shapes) - 1

    def program(self) -> WindowProgram | None:
        """The program, or None where this form would hand out a view whose elements share memory."""
        self._take_diagonals()
        while self.patterns:
            if not (self._see() or self._fold() or self._read_ones()):
                self._build_one()
            self._take_diagonals()
        result, labels = self._contract()
        if result < 0:
            return None
        for patterns, names in reversed(self.folds):
            result, labels = self._add_up(result, labels, patterns, names)
        return self._finished(result)

    def _take_diagonals(self) -> None:
        for position, (register, labels) in enumerate(self.operands):
            if len(set(labels)) < len(labels):
                kept = list(dict.fromkeys(labels))
                equation = Equation((tuple(labels),), tuple(kept))
                shape = tuple(self.sizes[x] for x in kept)
                strides = tuple(
                    sum(s for s, y in zip(self.strides[register], labels, strict=True) if y == x)
                    for x in kept
                )
                cost = StepCost(0, 0, 2e-6, 0)
                made = self._emit(Contract(equation, (register,)), (register,), shape, strides, cost, 0)
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

    def _sum(self, position: int, sums: list[tuple[IndexPattern, tuple[int, int, int]]], over: str) -> None:
        """Sum windows of an operand over their outputs, or over their kernel."""
        register, labels = self.operands[position]
        sums.sort(key=lambda each: labels.index(each[1][2]))
        dims = tuple(labels.index(names[2]) for _, names in sums)
        patterns = tuple(pattern for pattern, _ in sums)
        shape_before = self.shapes[register]
        shape, labels = list(shape_before), list(labels)
        for dim, (_, names) in zip(dims, sums, strict=True):
            labels[dim] = names[0] if over == "output" else names[1]
            shape[dim] = self.sizes[labels[dim]]
        elements, whole = prod(self.shapes[register]), tuple(shape)
        kind = SumWindows if over == "output" else Pool
        patterns_ = patterns if over == "output" else tuple(pattern.swapped() for pattern in patterns)
        cost = sum_cost(elements, patterns_, self.dtype, self.device)
        if kind is Pool:
            # Every sum but the last of a dimension is a tensor of its own.
            first = elements // shape_before[dims[0]] * whole[dims[0]]
            cost = cost._replace(workspace_bytes=2 * self.item * max(first, prod(whole)))
        if self._shares(register):
            cost = cost._replace(seconds=cost.seconds + GATHERED_SECONDS[2] * elements)
        written = self.item * prod(whole)
        strides = contiguous_strides(whole)
        made = self._emit(kind(register, dims, patterns), (register,), whole, strides, cost, written)
        self.operands[position] = (made, labels)

    def _slide(
        self,
        position: int,
        windows: list[tuple[IndexPattern, tuple[int, int, int]]],
        renamed: dict[int, list[tuple[IndexPattern, tuple[int, int, int]]]],
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
        written = self.item * prod(shape)
        if not copied:
            steps = dict(zip(labels, self.strides[register], strict=True))
            for pattern, names in windows:
                steps[names[0]] = steps[names[2]] * pattern.dilation
                steps[names[1]] = steps[names[2]] * pattern.stride
            strides = tuple(steps[x] for x in made)
            written = 0
        cost = window_cost(prod(self.shapes[register]), patterns, self.dtype, self.device, copied)
        if not copied and cost.workspace_bytes:
            written, cost = cost.workspace_bytes, cost._replace(workspace_bytes=0)
        self.operands[position] = (self._emit(operation, (register,), shape, strides, cost, written), made)

    def _fold(self) -> bool:
        """Take all patterns away whose input the output alone has; whether there were any."""
        ready: list[tuple[IndexPattern, tuple[int, int, int]]] = []
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
        self.folds.append((tuple(pattern for pattern, _ in ready), [labels for _, labels in ready]))
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
        written = self.item * prod(pattern.shape)
        cost = StepCost(0, written, 2e-6 * min(pattern.shape[:2]) + 1e-6 + written / 10e9, 0)
        made = self._emit(Dense(pattern), (), pattern.shape, contiguous_strides(pattern.shape), cost, written)
        self.operands.append((made, list(labels)))

    def _contract(self) -> tuple[int, list[int]]:
        """Contract what is left; the register of the result and its labels, or -1 for a shared view."""
        output = list(self.output)
        if self.folds:
            # Kernels and outputs last, as folding takes them.
            _, names = self.folds[-1]
            last = [labels[0] for labels in names] + [labels[1] for labels in names]
            output = [x for x in output if x not in last] + last
        registers = tuple(register for register, _ in self.operands)
        inputs = tuple(tuple(labels) for _, labels in self.operands)
        if not registers:
            scalar = self._emit(Number(1.0), (), (), (), StepCost(0, 0, 1e-6, 0), self.item)
            registers, inputs = (scalar,), ((),)
        if len(registers) == 2 and registers[0] == registers[1]:
            made = self._window_moment(registers[0], inputs, output)
            if made is not None:
                return self._scaled(made), output
            return self._moment(registers[0], inputs, output), output
        arranged = len(registers) == 1 and sorted(inputs[0]) == sorted(output)
        if arranged and self.form == "view" and self._shares(registers[0]):
            return -1, output
        if self.factors:
            sizes = [prod(self.shapes[register]) for register in registers]
            smallest = min(range(len(registers)), key=sizes.__getitem__)
            if sizes[smallest] < prod(self.sizes[x] for x in output):
                scaled = self._scaled(registers[smallest])
                registers = tuple(scaled if p == smallest else r for p, r in enumerate(registers))
        equation = Equation(inputs, tuple(output))
        shapes = tuple(self.shapes[register] for register in registers)
        strides = tuple(self.strides[register] for register in registers)
        cost = contraction_cost(equation, shapes, strides, self.dtype, self.device)
        gathered = sum(prod(self.shapes[r]) for r in registers if self._shares(r))
        each = GATHERED_SECONDS[min(len(registers), 3) - 1]
        copied = self.item * gathered if len(registers) > 2 else 0
        cost = cost._replace(
            seconds=cost.seconds + each * gathered, workspace_bytes=cost.workspace_bytes + copied
        )
        shape = tuple(self.sizes[x] for x in output)
        view = len(registers) == 1 and not equation.summed
        written = 0 if view else self.item * prod(shape)
        made_strides = contiguous_strides(shape)
        if view:
            steps = dict(zip(inputs[0], strides[0], strict=True))
            made_strides = tuple(steps[x] for x in output)
            if made_strides != contiguous_strides(shape):
                # Whoever reads it pays for how it lies.
                late = machine_for(self.device).copy(prod(shape), self.dtype)
                cost = cost._replace(seconds=cost.seconds + late)
        result = self._emit(Contract(equation, registers), registers, shape, made_strides, cost, written)
        return self._scaled(result), output

    def _shares(self, register: int) -> bool:
        """Whether a register is a view whose elements may share memory."""
        while register >= len(self.views) and not isinstance(
            self.operations[register - len(self.views)], Windows
        ):
            number = register - len(self.views)
            if self.bytes[register] or not self.reads[number]:
                return False
            register = self.reads[number][0]
        return register >= len(self.views)

    def _scaled(self, register: int) -> int:
        """A register times all numbers that are left."""
        for factor in self.factors:
            shape = self.shapes[register]
            size = self.item * prod(shape)
            cost = StepCost(prod(shape), 2 * size, 1.5e-6 + 2 * size / 28e9, 0)
            register = self._emit(
                Scale(register, factor), (register, factor), shape, self.strides[register], cost, max(size, 1)
            )
        self.factors = []
        return register

    def _taken_numbers(self) -> float:
        """The product of those factors whose values are known, which are factors no more."""
        if not (self.dtype.is_floating_point or self.dtype.is_complex):
            return 1.0
        values = [self._number(register) for register in self.factors]
        self.factors = [r for r, value in zip(self.factors, values, strict=True) if value is None]
        return prod([value for value in values if value is not None], start=1.0)

    def _number(self, register: int) -> float | None:
        operation = self.operations[register - len(self.views)] if register >= len(self.views) else None
        return operation.value if isinstance(operation, Number) else None

    def _moment(self, register: int, inputs: tuple[tuple[int, ...], ...], output: list[int]) -> int:
        equation = Equation(inputs, tuple(output))
        shape = tuple(self.sizes[x] for x in output)
        twice = (self.shapes[register],) * 2, (self.strides[register],) * 2
        cost = contraction_cost(equation, *twice, self.dtype, self.device)
        scale = self._taken_numbers()
        factors, self.factors = tuple(self.factors), []
        return self._emit(
            Moment(register, equation, factors, scale),
            (register, *factors),
            shape,
            contiguous_strides(shape),
            cost,
            self.item * prod(shape),
        )

    def _window_moment(
        self, register: int, inputs: tuple[tuple[int, ...], ...], output: list[int]
    ) -> int | None:
        """Windows that meet themselves, where both positions and the batch are summed."""
        number = register - len(self.views)
        operation = self.operations[number] if number >= 0 else None
        if not isinstance(operation, Windows) or self.form != "channels first":
            return None
        first, second = inputs
        n = len(operation.patterns)
        lead = len(operation.batch) + len(operation.channels)
        dims = (*operation.channels, *[-1] * n, *operation.batch, *[-1] * n)
        batch, groups, channels = [], [], []
        for place, (dim, a, b) in enumerate(zip(dims, first, second, strict=True)):
            output_place = place >= len(operation.channels) + n + len(operation.batch)
            kernel_place = len(operation.channels) <= place < len(operation.channels) + n
            if a == b and a not in output and not kernel_place:
                if not output_place:
                    batch.append((dim, a, b))
            elif a == b and a in output and dim >= 0:
                groups.append((dim, a, b))
            elif a != b and a in output and b in output and not output_place:
                if not kernel_place:
                    channels.append((dim, a, b))
            else:
                return None
        if len({*first}) < lead + 2 * n or len(batch) + len(groups) + len(channels) < lead:
            return None
        start = len(operation.channels)
        kernels = [(a, b) for a, b in zip(first[start : start + n], second[start : start + n], strict=True)]
        made = [a for _, a, _ in groups]
        made += [a for _, a, _ in channels] + [a for a, _ in kernels]
        made += [b for _, _, b in channels] + [b for _, b in kernels]
        if sorted(made) != sorted(output):
            return None
        source = self.reads[number][0]
        written = self.item * prod(self.sizes[x] for x in made)
        side = prod(self.sizes[a] for _, a, _ in channels) * prod(self.sizes[a] for a, _ in kernels)
        count = prod(self.sizes[a] for _, a, _ in groups)
        summed = prod(self.sizes[a] for _, a, _ in batch) * prod(p.output_size for p in operation.patterns)
        built = self.item * count * side * summed
        equation = Equation(((0, 1, 2), (0, 3, 2)), (0, 1, 3))
        shapes = ((count, side, summed),) * 2
        strides = (contiguous_strides(shapes[0]),) * 2
        product = contraction_cost(equation, shapes, strides, self.dtype, self.device)
        elements = prod(self.shapes[source])
        copies = window_cost(elements, operation.patterns, self.dtype, self.device, True)
        each = built // max(prod(self.sizes[a] for _, a, _ in batch), 1)
        total = copies + product
        total = total._replace(workspace_bytes=min(built, max(each, 32 << 20)) + copies.workspace_bytes)
        shape = tuple(self.sizes[x] for x in output)
        return self._emit(
            WindowMoment(
                source,
                tuple(dim for dim, _, _ in batch),
                tuple(dim for dim, _, _ in groups),
                tuple(dim for dim, _, _ in channels),
                operation.spatial,
                operation.patterns,
                tuple(made.index(x) for x in output),
                self._taken_numbers(),
            ),
            (source,),
            shape,
            contiguous_strides(shape),
            total,
            written,
        )

    def _add_up(
        self,
        register: int,
        labels: list[int],
        patterns: tuple[IndexPattern, ...],
        names: list[tuple[int, int, int]],
    ) -> tuple[int, list[int]]:
        """Add windows of the result up; its register and its labels."""
        kernels, outputs = [each[0] for each in names], [each[1] for each in names]
        leading = [x for x in labels if x not in kernels and x not in outputs]
        # Where a kernel was, its input goes.
        made = [
            names[kernels.index(x)][2] if x in kernels else x
            for x in self._order_before(names, labels)
            if x not in outputs
        ]
        unordered = [*leading, *(each[2] for each in names)]
        operation = Fold(
            register,
            tuple(labels.index(x) for x in leading),
            tuple(labels.index(x) for x in kernels),
            tuple(labels.index(x) for x in outputs),
            patterns,
            tuple(unordered.index(x) for x in made),
        )
        shape = tuple(self.sizes[x] for x in made)
        cost = fold_cost(prod(self.sizes[x] for x in leading), patterns, self.dtype, self.device)
        written = self.item * prod(shape)
        # A copy in the order of dimensions, and margins that are cut.
        order = (*operation.leading, *operation.kernels, *operation.outputs)
        ordered = tuple(self.strides[register][dim] for dim in order)
        sizes = tuple(self.shapes[register][dim] for dim in order)
        by_torch = len(patterns) == 2 and prod(sizes) < FOLDED_BY_TORCH
        in_place = ordered == contiguous_strides(sizes) and not by_torch
        copied = 0 if in_place else self.item * prod(sizes)
        margins = prod(p.input_size + max(p.left, 0) + max(p.right, 0) for p in patterns)
        padded = self.item * prod(self.sizes[x] for x in leading) * margins
        cost = cost._replace(workspace_bytes=copied + max(padded, written))
        made_register = self._emit(operation, (register,), shape, contiguous_strides(shape), cost, written)
        return made_register, made

    def _order_before(self, names: list[tuple[int, int, int]], labels: list[int]) -> list[int]:
        """The labels in the order of the output that this fold makes."""
        order = list(self.output)
        for _, inner in reversed(self.folds):
            if inner is names:
                break
            for kernel, outputs, read in inner:
                order[order.index(kernel)] = read
                order.remove(outputs)
        return order

    def _finished(self, result: int) -> WindowProgram:
        """The program without the operations that nothing reads."""
        first = len(self.views)
        needed = {result}
        for number in reversed(range(len(self.operations))):
            if first + number in needed:
                needed |= set(self.reads[number])
        kept = [number for number in range(len(self.operations)) if first + number in needed]
        place = {register: register for register in range(first)}
        place.update({first + number: first + p for p, number in enumerate(kept)})
        operations = [_renumbered(self.operations[number], place) for number in kept]
        last = [-1] * (first + len(kept))
        for p, number in enumerate(kept):
            for register in self.reads[number]:
                last[place[register]] = p
        # The base of a view lives as long as the view does.
        for number in reversed(kept):
            register = first + number
            if not self.bytes[register]:
                for read in self.reads[number]:
                    last[place[read]] = max(last[place[read]], last[place[register]])
        last[place[result]] = len(kept)
        peak, alive, seconds, flops, moved = 0, 0, 0.0, 0, 0
        for p, number in enumerate(kept):
            cost = self.costs[number]
            alive += self.bytes[first + number]
            peak = max(peak, alive + cost.workspace_bytes)
            alive -= sum(self.bytes[r] for r, q in place.items() if last[q] == p)
            seconds, flops, moved = seconds + cost.seconds, flops + cost.flops, moved + cost.bytes
        return WindowProgram(
            tuple(self.views), tuple(operations), tuple(last), StepCost(flops, moved, seconds, peak)
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
