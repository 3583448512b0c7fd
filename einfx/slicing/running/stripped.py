"""Running a schedule whose numbers are beyond the range of their dtype: every buffer beside a power of two.

What a buffer holds, times two to its power, is the value. A part of a buffer that is written or added to in a
loop comes to the power of the whole: whichever of both is smaller is scaled down, in place. A buffer is read
only when it is near 1, so that a product of two stays in range. Scaling by powers of two changes no digit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from ...exponents import largest
from ...options import REAL
from ...progress import Progress
from ..schedules.schedule import Adjoint, Allocate, Contract, Schedule
from .gradients import shares
from .memory import Demand
from .parts import Part, Rounds, Step
from .run import Running, used

__all__ = ["near_one", "run_stripped", "scale"]

_NEAR = {torch.float32: 16, torch.complex64: 16}
"""Up to this power of two, and down to its inverse, the largest magnitude of a factor may be, ..."""

_NEAR_ELSE = 200
"""... in the wide dtypes."""

_FAR = {torch.float32: 40, torch.complex64: 40}
_FAR_ELSE = 300
"""Beyond this difference of powers nothing is scaled down by it before it was measured."""


def run_stripped(
    schedule: Schedule, operands: Sequence[Tensor], powers: Sequence[int], found: Demand
) -> tuple[tuple[Tensor, ...], list[int]]:
    """Run a schedule over real or complex numbers.

    Args:
        schedule: the program.
        operands: as for :func:`.run.run`, each with its largest magnitude near 1, as :func:`near_one` says.
        powers: the number that each operand stands for is its own times two to this power.
        found: what the program takes, by :func:`.memory.demand`.

    Returns:
        The outputs, near 1, and the power of two of each.

    Example:
        >>> from einfx.equation import Equation
        >>> from einfx.slicing.running.memory import demand
        >>> from einfx.slicing.schedules.tree import ContractionTree, Cut
        >>> from einfx.slicing.schedules.tree import schedule as program
        >>> tree = ContractionTree(Equation.parse("ij,jk->ik"), (2, 600, 2), ((0, 1),))
        >>> cut = program(tree, [Cut(2, 1, 256)])
        >>> a, b = torch.ones(2, 600), torch.ones(600, 2)
        >>> run_stripped(cut, (a, b), (1000, 1000), demand(cut, a.dtype, "cpu"))
        ((tensor([[600., 600.],
                [600., 600.]]),), [2000])
    """
    with torch.no_grad(), Progress.of(False, 0, 0) as unshown:
        running = _Stripped(schedule, operands, found, powers)
        running.progress = unshown
        outputs = running.outputs()
        return outputs, [running.final(value) for value in schedule.outputs]


def near_one(x: Tensor) -> int:
    """The power of two by which a tensor is to be scaled before it is a factor; 0 where it needn't.

    Numbers that aren't finite need none, and neither do zeros.

    Example:
        >>> near_one(torch.tensor([1.0, 3.0])), near_one(torch.tensor([1.0, 3e30]))
        (0, -102)
    """
    return _power(largest(x).item(), x.dtype)


def _power(magnitude: float, dtype: torch.dtype) -> int:
    power = _exponent(magnitude) or 0
    return 0 if abs(power) <= _NEAR.get(dtype, _NEAR_ELSE) else -power


def _exponent(magnitude: float) -> int | None:
    """The power of two next to a magnitude; 0 of one that isn't finite, None of zero."""
    if magnitude == 0:
        return None
    return math.frexp(magnitude)[1] if math.isfinite(magnitude) else 0


def scale(x: Tensor, power: int) -> None:
    """Multiply a tensor by a power of two, in place, whether or not that is itself a number of its dtype.

    Example:
        >>> x = torch.tensor([1e-30])
        >>> scale(x, 200)
        >>> x
        tensor([1.6069e+30])
    """
    step = 100 if x.dtype in _NEAR else 1000
    while power and step:
        part = max(-step, min(step, power))
        x.mul_(2.0**part)
        power -= part
        if part == -step and power < -4 * step:
            power = -4 * step  # all of it is 0 by then


class _Stripped(Running):
    """A run with the power of two of every value; None where the value is zero so far."""

    def __init__(
        self, schedule: Schedule, operands: Sequence[Tensor], found: Demand, powers: Sequence[int]
    ) -> None:
        first = operands[0]
        super().__init__(schedule, operands, found, REAL, first.device, first.dtype)
        self.powers: dict[int, int | None] = dict(enumerate(powers))
        self.whole: dict[int, Tensor] = {}
        self.written: set[int] = set()

    def final(self, output: int) -> int:
        """The power of an output, that is brought near 1."""
        self._settle(output)
        return self.powers[output] or 0

    def allocate(self, line: Allocate, scope: dict[int, Part], rounds: Rounds | None) -> list[Step]:
        """Make a buffer, that holds nothing yet."""
        steps, value = super().allocate(line, scope, rounds), line.value
        now, slot = self.views.now, self.views.slot(scope[value])

        def forget() -> None:
            self.whole[value], self.powers[value] = now[slot], None
            self.written.discard(value)

        return [*steps, forget]

    def compute(self, line: Contract | Adjoint, scope: Mapping[int, Part]) -> list[Step]:
        """What a line does; it adds to one gradient after the other, each with its own power."""
        if isinstance(line, Contract):
            return [self._near(line, scope, line.target, line.operands, line.accumulate)]
        steps = []
        for position, mine in enumerate(line.gradients):
            if mine >= 0:
                alone = [mine if i == position else -1 for i in range(len(line.gradients))]
                own = Adjoint(line.target, line.operands, line.gradient, tuple(alone))
                (share,) = shares(self.schedule, own)
                steps.append(self._near(own, scope, mine, share.operands, True))
        return steps

    def _near(
        self,
        line: Contract | Adjoint,
        scope: Mapping[int, Part],
        target: int,
        operands: Sequence[int],
        accumulate: bool,
    ) -> Step:
        """What writes one value near the power of what it holds."""
        steps, moment, now = super().compute(line, scope), self.moment, self.views.now
        # The value that a gradient passes through may not have been made: only its own gradient needs it.
        slots = {x: self.views.slot(scope[x]) for x in used(line) if x in scope}

        def write_near() -> None:
            values = {x: now[slot] for x, slot in slots.items()}

            def write(changed: Mapping[int, Tensor]) -> None:
                if changed is values:
                    for step in steps:
                        step()
                else:
                    self.at(moment, [partial(self.run_with, line, changed)])

            self._write_near(target, operands, accumulate, values, write)

        return write_near

    def _write_near(
        self,
        target: int,
        operands: Sequence[int],
        accumulate: bool,
        values: Mapping[int, Tensor],
        write: Callable[[Mapping[int, Tensor]], None],
    ) -> None:
        """Write a product into a buffer, or add it to that, both at one power."""
        for operand in operands:
            self._settle(operand)
        factors = [self.powers[operand] for operand in operands]
        power = sum(factor for factor in factors if factor is not None)
        whole = values[target].numel() == self.whole[target].numel()
        if None in factors:
            write(values)  # zeros, or what times zero is nan: at any power
        elif accumulate:
            self._add(target, operands, power, values, write)
        elif whole:
            self.powers[target] = power
            write(values)
        else:
            self._replace(target, power, values, write)
        self.written.add(target)

    def _add(
        self,
        target: int,
        operands: Sequence[int],
        power: int,
        values: Mapping[int, Tensor],
        write: Callable[[Mapping[int, Tensor]], None],
    ) -> None:
        before, far = self.powers[target], _FAR.get(self.dtype, _FAR_ELSE)
        if before is not None and abs(power - before) > far:
            # Powers are those of the factors: what was made of them may be much smaller.
            self._settle(target)
            before = self.powers[target]
        if before is None:
            self.powers[target] = power
            write(values)
        elif power <= before:
            write(self._lowered(operands, power - before, values) if power < before else values)
        elif power - before <= far:
            self.powers[target] = power
            scale(self.whole[target], before - power)
            write(values)
        else:
            apart = torch.zeros_like(values[target])
            write({**values, target: apart})
            found = _exponent(largest(apart).item())
            if found is not None:
                self.powers[target] = after = max(before, power + found)
                scale(self.whole[target], before - after)
                scale(apart, power - after)
                values[target].add_(apart)

    def _replace(
        self,
        target: int,
        power: int,
        values: Mapping[int, Tensor],
        write: Callable[[Mapping[int, Tensor]], None],
    ) -> None:
        """Write a part of a buffer whose other parts are written before or after."""
        part, before = values[target], self.powers[target]
        write(values)
        found = _exponent(largest(part).item())
        if found is None:
            return
        own = power + found
        scale(part, power - own)
        if before is None:
            self.powers[target] = own
        elif own <= before:
            scale(part, own - before)
        else:
            self.powers[target] = own
            scale(self.whole[target], before - own)
            # The part has been scaled with the whole.
            if own - before <= _FAR.get(self.dtype, _FAR_ELSE):
                scale(part, own - before)
            else:
                write(values)
                scale(part, power - own)

    def _lowered(
        self, operands: Sequence[int], power: int, values: Mapping[int, Tensor]
    ) -> Mapping[int, Tensor]:
        """The values with one factor scaled down: in place where it lies in a buffer of this run."""
        own = [operand for operand in operands if operand in self.whole]
        if not own:
            lowered = values[operands[0]].clone()
            scale(lowered, power)
            return {**values, operands[0]: lowered}
        chosen = min(own, key=lambda operand: self.whole[operand].numel())
        scale(self.whole[chosen], power)
        before = self.powers[chosen]
        assert before is not None
        self.powers[chosen] = before - power
        self.written.add(chosen)
        return values

    def _settle(self, value: int) -> None:
        """Bring what was written near 1."""
        if value not in self.written:
            return
        self.written.discard(value)
        magnitude = largest(self.whole[value]).item()
        before = self.powers[value]
        if magnitude == 0:
            self.powers[value] = None
        elif before is not None:
            power = _power(magnitude, self.dtype)
            scale(self.whole[value], power)
            self.powers[value] = before - power
