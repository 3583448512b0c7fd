"""What is left of a contraction once its patterns are gone: tensors and numbers, contracted in one go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from ...costs.cost import StepCost
from ...equation import Equation
from ...layout import contiguous_strides
from ...machine import machine_for
from .cost import GATHERED_SECONDS, contraction_cost
from .moments import moment, window_moment, window_roles
from .operations import Contract, Form, Number, Scale, Windows
from .tape import Tape

__all__ = ["Remainder"]


@dataclass
class Remainder:
    """The last contraction of a program.

    Args:
        tape: where its operations are written down.
        sizes: the size of each label.
        registers: the operands.
        inputs: their labels.
        factors: registers of one element that multiply the result.
        form: in which form windows were made.
    """

    tape: Tape
    sizes: Mapping[int, int]
    registers: tuple[int, ...]
    inputs: tuple[tuple[int, ...], ...]
    factors: list[int]
    form: Form

    def contract(self, output: Sequence[int]) -> int | None:
        """The register of the result.

        Args:
            output: its labels, in order.

        Returns:
            None where this form would hand out a view whose elements share memory.
        """
        if not self.registers:
            scalar = self.tape.emit(Number(1.0), (), (), StepCost(0, 0, 1e-6, 0))
            self.registers, self.inputs = (scalar,), ((),)
        if len(self.registers) == 2 and self.registers[0] == self.registers[1]:
            return self._with_itself(self.registers[0], output)
        arranged = len(self.registers) == 1 and sorted(self.inputs[0]) == sorted(output)
        if arranged and self.form == "view" and self.tape.shares(self.registers[0]):
            return None
        if self.factors:
            self._scale_smallest(output)
        return self._scaled(self._contracted(output))

    def _with_itself(self, register: int, output: Sequence[int]) -> int:
        windows = self.tape.maker(register)
        if isinstance(windows, Windows) and self.form == "channels first":
            roles = window_roles(windows, self.inputs, output)
            if roles is not None:
                scale = self._taken_numbers()
                return self._scaled(window_moment(self.tape, self.sizes, register, roles, output, scale))
        scale = self._taken_numbers()
        factors, self.factors = tuple(self.factors), []
        equation = Equation(self.inputs, tuple(output))
        shape = tuple(self.sizes[x] for x in output)
        return moment(self.tape, register, equation, shape, factors, scale)

    def _contracted(self, output: Sequence[int]) -> int:
        registers = self.registers
        # An equation renames its labels: sizes are those of the names here.
        equation = Equation(self.inputs, tuple(output))
        shapes = tuple(self.tape.shapes[register] for register in registers)
        strides = tuple(self.tape.strides[register] for register in registers)
        cost = contraction_cost(equation, shapes, strides, self.tape.dtype, self.tape.device)
        gathered = sum(prod(self.tape.shapes[r]) for r in registers if self.tape.shares(r))
        each = GATHERED_SECONDS[min(len(registers), 3) - 1]
        copied = self.tape.item * gathered if len(registers) > 2 else 0
        cost = cost._replace(
            seconds=cost.seconds + each * gathered, workspace_bytes=cost.workspace_bytes + copied
        )
        shape = tuple(self.sizes[x] for x in output)
        operation = Contract(equation, registers)
        if len(registers) > 1 or equation.summed:
            return self.tape.emit(operation, registers, shape, cost)
        steps = dict(zip(self.inputs[0], strides[0], strict=True))
        made = tuple(steps[x] for x in output)
        if made != contiguous_strides(shape):
            # Whoever reads it pays for how it lies.
            late = machine_for(self.tape.device).copy(prod(shape), self.tape.dtype)
            cost = cost._replace(seconds=cost.seconds + late)
        return self.tape.emit(operation, registers, shape, cost, strides=made, written=0)

    def _scale_smallest(self, output: Sequence[int]) -> None:
        """Multiply the smallest operand by all numbers, where it is smaller than the result."""
        elements = [prod(self.tape.shapes[register]) for register in self.registers]
        smallest = min(range(len(elements)), key=elements.__getitem__)
        if elements[smallest] < prod(self.sizes[x] for x in output):
            scaled = self._scaled(self.registers[smallest])
            self.registers = tuple(scaled if p == smallest else r for p, r in enumerate(self.registers))

    def _scaled(self, register: int) -> int:
        """A register times all numbers that are left."""
        for factor in self.factors:
            shape = self.tape.shapes[register]
            size = self.tape.item * prod(shape)
            register = self.tape.emit(
                Scale(register, factor),
                (register, factor),
                shape,
                StepCost(prod(shape), 2 * size, 1.5e-6 + 2 * size / 28e9, 0),
                strides=self.tape.strides[register],
                written=max(size, 1),
            )
        self.factors = []
        return register

    def _taken_numbers(self) -> float:
        """The product of those factors whose values are known, which are factors no more."""
        if not (self.tape.dtype.is_floating_point or self.tape.dtype.is_complex):
            return 1.0
        values = [self.tape.number(register) for register in self.factors]
        self.factors = [r for r, value in zip(self.factors, values, strict=True) if value is None]
        return prod([value for value in values if value is not None], start=1.0)
