"""Running a schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from ..equation import Equation
from ..options import REAL, Options
from .gradients import pass_on
from .into import Place, into
from .memory import ALIGNMENT, Arena, Demand, arena
from .schedule import Adjoint, Allocate, Contract, Free, Loop, Schedule, Statement

__all__ = ["run"]


def run(
    schedule: Schedule, operands: Sequence[Tensor], found: Demand, options: Options = REAL
) -> tuple[Tensor, ...]:
    """Run a schedule.

    Args:
        schedule: the program.
        operands: of one dtype, on one device, of the shapes of the program.
        found: what the program takes, by :func:`.memory.demand`.
        options: over which semiring.

    Returns:
        The outputs, new contiguous tensors.

    Example:
        >>> from .memory import demand
        >>> from .tree import ContractionTree, Cut
        >>> from .tree import schedule as program
        >>> tree = ContractionTree(Equation.parse("ij,jk->ik"), (4, 600, 5), ((0, 1),))
        >>> cut = program(tree, [Cut(2, 1, 256)])
        >>> a, b = torch.ones(4, 600), torch.ones(600, 5)
        >>> run(cut, (a, b), demand(cut, a.dtype, "cpu"))[0][0]
        tensor([600., 600., 600., 600., 600.])
    """
    with torch.no_grad():
        return _Running(schedule, operands, arena(found.intervals), options).outputs()


class _Running:
    def __init__(
        self, schedule: Schedule, operands: Sequence[Tensor], where: Arena, options: Options
    ) -> None:
        self.schedule, self.options, self.where = schedule, options, where
        self.dtype, self.device = operands[0].dtype, operands[0].device
        self.zero = options.semiring.zero_of(self.dtype)
        self.operands = operands
        self.moment = self.used = 0
        self.made: dict[int, Tensor] = {}
        size = where.bytes // self.dtype.itemsize
        # A little more, so that it can start where vectors like it.
        memory = torch.empty(size + ALIGNMENT // self.dtype.itemsize, dtype=self.dtype, device=self.device)
        skip = -memory.data_ptr() % ALIGNMENT // self.dtype.itemsize if self.device.type == "cpu" else 0
        self.memory = memory[skip : skip + size]

    def outputs(self) -> tuple[Tensor, ...]:
        self._run(self.schedule.statements, dict(enumerate(self.operands)), {})
        made = tuple(self.made[value] for value in self.schedule.outputs)
        if self.dtype.is_complex and self.schedule.is_adjoint:
            for gradient in made:
                gradient.conj_physical_()
        return made

    def _run(
        self, statements: Sequence[Statement], values: dict[int, Tensor], blocks: Mapping[int, int]
    ) -> None:
        for line in statements:
            if isinstance(line, Loop):
                self._loop(line, values, blocks)
                continue
            if isinstance(line, Allocate):
                values[line.value] = self._allocated(line, blocks)
            elif isinstance(line, Contract):
                self._contract(line, values)
            elif isinstance(line, Adjoint):
                pass_on(line, self.schedule, values, self.options, self)
            elif isinstance(line, Free):
                del values[line.value]
            self.moment += 1

    def _loop(self, line: Loop, values: Mapping[int, Tensor], blocks: Mapping[int, int]) -> None:
        size, first = self.schedule.sizes[line.label], self.moment
        dims = {
            value: self.schedule.labels[value].index(line.label)
            for value in values
            if line.label in self.schedule.labels[value]
        }
        for start in range(0, size, line.block):
            length = min(line.block, size - start)
            inside = {
                value: tensor.narrow(dims[value], start, length) if value in dims else tensor
                for value, tensor in values.items()
            }
            self.moment = first
            self._run(line.body, inside, {**blocks, line.label: length})

    def _allocated(self, line: Allocate, blocks: Mapping[int, int]) -> Tensor:
        shape = self.schedule.shape(line.value, blocks)
        if line.value in self.schedule.outputs:
            made = self.made[line.value] = torch.empty(shape, dtype=self.dtype, device=self.device)
        else:
            made = self._placed(self.where.offsets[line.value], shape)
        if line.gradient:
            return made.zero_()
        return made.fill_(self.zero) if line.filled else made

    def _placed(self, offset: int, shape: Sequence[int]) -> Tensor:
        start = offset // self.dtype.itemsize
        return self.memory[start : start + prod(shape)].view(tuple(shape))

    def scratch(self, shape: Sequence[int]) -> Tensor:
        """Memory out of the workspace of the line that runs, one piece behind the other.

        A last block that is shorter may be computed in another way, with a workspace of its own.
        """
        size = prod(shape) * self.dtype.itemsize
        if self.used + size > self.where.workspaces.get(self.moment, 0):
            return torch.empty(tuple(shape), dtype=self.dtype, device=self.device)
        self.used += size
        return self._placed(self.where.offsets[-1 - self.moment] + self.used - size, shape)

    def _contract(self, line: Contract, values: Mapping[int, Tensor]) -> None:
        labels = self.schedule.labels
        equation = Equation(tuple(labels[x] for x in line.operands), labels[line.target])
        self.write(equation, [values[x] for x in line.operands], values[line.target], line.accumulate)

    def write(
        self, equation: Equation, operands: Sequence[Tensor], target: Tensor, accumulate: bool, used: int = 0
    ) -> None:
        """Contract into a tensor, with so many bytes of the workspace of the line in use already."""
        how = into(
            equation,
            [_place(x) for x in operands],
            _place(target),
            accumulate,
            self.dtype,
            self.device.type,
            self.options,
        )
        self.used = used
        how.run(operands, target, self.scratch)


def _place(tensor: Tensor) -> Place:
    return Place(tuple(tensor.shape), tuple(tensor.stride()))
