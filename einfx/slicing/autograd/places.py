"""Where the terms that sums select come from: a schedule run within a limit, a place beside every number.

A place is one whole number: the index of each summed label times the product of the sizes of those after it,
added up. So what a value's terms add to the place is a sum too, and a block's best joins the best so far by
one comparison, of equal ones the earlier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...costs.semiring_cost import choose_step
from ...equation import Equation
from ...errors import MemoryLimitError, UsageError
from ...kernels.selected_product import selected_product
from ...kernels.steps import contract_step
from ...options import Options
from ...plans import size_text
from ..running.memory import Demand
from ..schedules.schedule import Allocate, Contract, Free, Loop, Schedule, Statement

__all__ = ["bytes_beside", "gathered", "places_of", "selected", "split"]

Labels = tuple[int, ...]

PLACE_BYTES = 8
LEAST_WORK_BYTES, MOST_WORK_BYTES = 1 << 10, 1 << 22
"""What one part of a line's result may take while it is computed."""

MOST_TERMS = 1 << 62


def places_of(problem: Any, operands: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """A contraction over a semiring that selects, and the place of each of its terms.

    Args:
        problem: the contraction, a :class:`.problem.Problem`.
        operands: of a dtype that sums are taken in.

    Returns:
        The value, and int64 places of the same shape; see :func:`split`.

    Raises:
        MemoryLimitError: both, and what leads to them, don't stay within the limit.
        UsageError: there are too many terms for a place to be one number.
    """
    equation, item = problem.equation, operands[0].element_size()
    steps = _steps(equation, [tuple(x.shape) for x in operands])
    limit = problem.options.memory_limit - problem.beside
    work = max(min(limit // 16, MOST_WORK_BYTES), LEAST_WORK_BYTES)
    share = item + PLACE_BYTES
    alone = problem._replace(
        options=replace(problem.options, memory_limit=max(limit - 2 * work, 0) * item // share), beside=0
    )
    try:
        sliced = alone.sliced(operands)
    except MemoryLimitError as error:
        if error.needed_bytes is None:
            raise
        needed = problem.beside + -(-error.needed_bytes * share // item)
        needed += 2 * max(min(needed // 14, MOST_WORK_BYTES), LEAST_WORK_BYTES)
        raise MemoryLimitError(
            f"einsum {str(equation)!r} of {', '.join(str(tuple(x.shape)) for x in operands)} over "
            f"{problem.options.semiring.name!r} with the places of what is selected: "
            f"memory_limit={problem.options.memory_limit} ({size_text(problem.options.memory_limit)}) is too "
            f"little; beside its operands it needs {needed} bytes ({size_text(needed)}), as far as was found",
            needed,
        ) from None
    with torch.no_grad():
        options = problem.options.unlimited()
        return _Placing(sliced.schedule, operands, sliced.demand, options, steps, work).both()


def split(
    equation: Equation, shapes: Sequence[Sequence[int]], places: Tensor, labels: Sequence[int]
) -> Tensor:
    """The index of each label, where it was summed, from places.

    Args:
        equation: that was contracted.
        shapes: of its operands.
        places: of any shape.
        labels: which indices are wanted, 0 for those that weren't summed.

    Returns:
        int64 of shape (*places, labels).
    """
    steps, sizes = _steps(equation, shapes), equation.sizes(shapes)
    made = torch.zeros((*places.shape, len(labels)), dtype=torch.int64, device=places.device)
    for position, label in enumerate(labels):
        if label in steps:
            index = made[..., position]
            torch.div(places, steps[label], rounding_mode="floor", out=index)
            index.remainder_(sizes[label])
    return made


def gathered(
    equation: Equation, operands: Sequence[Tensor], tensors: Sequence[Tensor | None], places: Tensor
) -> list[Tensor]:
    """What was selected.

    Args:
        equation: of the contraction; no label twice in an operand.
        operands: of the contraction.
        tensors: of which it's taken, for each operand one of its shape or None.
        places: by :func:`places_of`.

    Returns:
        Of each tensor that there is its numbers, of shapes that broadcast to that of the places.
    """
    shapes = [tuple(x.shape) for x in operands]
    steps, sizes = _steps(equation, shapes), equation.sizes(shapes)
    found = []
    for labels, tensor in zip(equation.inputs, tensors, strict=True):
        if tensor is None:
            continue
        where = [
            places.div(steps[label], rounding_mode="floor").remainder_(sizes[label])
            if label in steps
            else _range(label, sizes[label], equation.output, places.device)
            for label in labels
        ]
        found.append(tensor[tuple(where)] if where else tensor)
    return found


def selected(options: Options, factors: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """The product of what was selected: the contraction, as a function that has all derivatives.

    Args:
        options: over which semiring.
        factors: by :func:`gathered`, one for each operand.
        shape: of the contraction.
    """
    return reduce(lambda x, y: selected_product(options.semiring, x, y), factors).expand(tuple(shape))


def _steps(equation: Equation, shapes: Sequence[Sequence[int]]) -> dict[int, int]:
    """What an index of each summed label is multiplied by in a place."""
    sizes, steps, step = equation.sizes(shapes), {}, 1
    for label in reversed(equation.summed):
        steps[label] = step
        step *= max(sizes[label], 1)
    if step > MOST_TERMS:
        raise UsageError(
            f"einsum {str(equation)!r} with a memory_limit: each sum has {step} terms, too many for their "
            "places to be told apart within a limit; leave out memory_limit"
        )
    return steps


def _range(label: int, size: int, output: Labels, device: torch.device) -> Tensor:
    """The indices of a label along its dimension in an output."""
    return torch.arange(size, device=device).reshape([-1 if x == label else 1 for x in output])


class _Placing:
    """A run with a buffer of places beside every buffer.

    The program has more values for it: as many again, which are the places of those before, and for every
    label what its indices add to a place. Loops cut all of them.
    """

    def __init__(
        self,
        schedule: Schedule,
        operands: Sequence[Tensor],
        found: Demand,
        options: Options,
        steps: dict[int, int],
        work: int,
    ) -> None:
        first, count = operands[0], len(schedule.labels)
        alone = tuple((label,) for label in range(len(schedule.sizes)))
        self.schedule, self.options = schedule, options
        self.labels = (*schedule.labels, *schedule.labels, *alone)
        self.count, self.work, self.dtype, self.device = count, work, first.dtype, first.device
        self.values = dict(enumerate(operands)) | {
            2 * count + label: torch.arange(size, device=first.device) * steps.get(label, 0)
            for label, size in enumerate(schedule.sizes)
        }
        self.where = found.arena
        size = self.where.bytes // first.dtype.itemsize
        self.memory = torch.empty(size, dtype=first.dtype, device=first.device)
        self.places = torch.empty(size, dtype=torch.int64, device=first.device)
        self.made: dict[int, Tensor] = {}

    def both(self) -> tuple[Tensor, Tensor]:
        """The contraction and its places."""
        self._run(self.schedule.statements, self.values, {})
        (output,) = self.schedule.outputs
        return self.made[output], self.made[self.count + output]

    def _run(
        self, statements: Sequence[Statement], values: dict[int, Tensor], blocks: Mapping[int, int]
    ) -> None:
        for line in statements:
            if isinstance(line, Loop):
                size = self.schedule.sizes[line.label]
                for start in range(0, size, line.block):
                    length = min(line.block, size - start)
                    inside = {
                        value: tensor.narrow(self.labels[value].index(line.label), start, length)
                        if line.label in self.labels[value]
                        else tensor
                        for value, tensor in values.items()
                    }
                    self._run(line.body, inside, {**blocks, line.label: length})
            elif isinstance(line, Allocate):
                self._allocate(line, values, self.schedule.shape(line.value, blocks))
            elif isinstance(line, Free):
                del values[line.value], values[self.count + line.value]
            elif isinstance(line, Contract):
                self._contract(line, values)

    def _allocate(self, line: Allocate, values: dict[int, Tensor], shape: Sequence[int]) -> None:
        size = prod(shape)
        if line.value in self.schedule.outputs:
            made = torch.empty(size, dtype=self.dtype, device=self.device)
            beside = torch.empty(size, dtype=torch.int64, device=self.device)
        else:
            start = self.where.offsets[line.value] // self.dtype.itemsize
            made, beside = self.memory[start : start + size], self.places[start : start + size]
        made, beside = made.view(tuple(shape)), beside.view(tuple(shape))
        if line.filled:
            made.fill_(self.options.semiring.zero_of(self.dtype))
            beside.zero_()
        values[line.value], values[self.count + line.value] = made, beside
        if line.value in self.schedule.outputs:
            self.made |= {line.value: made, self.count + line.value: beside}

    def _contract(self, line: Contract, values: Mapping[int, Tensor]) -> None:
        labels = self.schedule.labels
        form = _Form(tuple(labels[x] for x in line.operands), labels[line.target])
        operands = [values[x] for x in line.operands]
        beside = [values.get(self.count + x) for x in line.operands]
        added = {label: values[2 * self.count + label] for label in form.summed}
        target, places = values[line.target], values[self.count + line.target]
        self._part(form, operands, beside, added, target, places, line.accumulate)

    def _part(
        self,
        form: _Form,
        operands: Sequence[Tensor],
        beside: Sequence[Tensor | None],
        added: dict[int, Tensor],
        target: Tensor,
        places: Tensor,
        accumulate: bool,
    ) -> None:
        """One line, half by half where all at once takes too much."""
        each = PLACE_BYTES * (len(form.summed) + 5) + 3 * self.dtype.itemsize
        if target.numel() * each > self.work and target.numel() > 1:
            dim = max(range(target.dim()), key=lambda x: target.shape[x])
            label, half = form.output[dim], target.shape[dim] // 2
            for start, length in ((0, half), (half, target.shape[dim] - half)):
                inside, others = [], []
                for own, operand, place in zip(form.inputs, operands, beside, strict=True):
                    if label in own:
                        at = own.index(label)
                        operand = operand.narrow(at, start, length)
                        place = None if place is None else place.narrow(at, start, length)
                    inside.append(operand)
                    others.append(place)
                ends = target.narrow(dim, start, length), places.narrow(dim, start, length)
                self._part(form, inside, others, added, *ends, accumulate)
            return
        made, found = self._terms(form, operands, beside, added)
        if accumulate:
            best = self.options.semiring.add(target, made)
            # A nan is selected once and for all.
            changed = (best != target).logical_and_(target == target)
            places.copy_(torch.where(changed, found, places))
            target.copy_(best)
        else:
            target.copy_(made)
            places.copy_(found)

    def _terms(
        self,
        form: _Form,
        operands: Sequence[Tensor],
        beside: Sequence[Tensor | None],
        added: dict[int, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """A contraction and its places; what only one operand has for itself is summed before."""
        equation, names = Equation(form.inputs, form.output), form.labels
        shapes, first = [tuple(x.shape) for x in operands], operands[0]
        own = choose_step(equation, shapes, first.dtype, first.device, self.options).presummed
        if any(own):
            inputs, values, others = [], [], []
            for labels, operand, place, gone in zip(form.inputs, operands, beside, own, strict=True):
                alone = {names[x] for x in gone}
                kept = tuple(x for x in labels if x not in alone)
                inputs.append(kept)
                if gone:
                    operand, place = self._terms(_Form((labels,), kept), [operand], [place], added)
                values.append(operand)
                others.append(place)
            return self._terms(_Form(tuple(inputs), form.output), values, others, added)
        made, indices = contract_step(
            equation, operands, self.options, budget_bytes=self.work, return_argmax=True
        )
        index = {names[label]: indices[..., i] for i, label in enumerate(equation.summed)}
        found = torch.zeros(made.shape, dtype=torch.int64, device=made.device)
        for label, at in index.items():
            found += added[label][at]
        for labels, operand, place in zip(form.inputs, operands, beside, strict=True):
            if place is None:
                continue
            where = [
                index[label] if label in index else _range(label, size, form.output, made.device)
                for label, size in zip(labels, operand.shape, strict=True)
            ]
            found += place[tuple(where)] if where else place
        return made, found


class _Form(NamedTuple):
    """What an equation is with the labels of a program, which an equation numbers anew."""

    inputs: tuple[Labels, ...]
    output: Labels

    @property
    def labels(self) -> Labels:
        """All of them, in the order of their first appearance."""
        return tuple(dict.fromkeys(x for labels in self.inputs for x in labels))

    @property
    def summed(self) -> Labels:
        """Those that the output lacks."""
        return tuple(x for x in self.labels if x not in self.output)


def bytes_beside(operands: Sequence[Tensor], elements: int) -> int:
    """What :func:`gathered` and :func:`selected` take for so many elements, the places not counted."""
    most = max([x.dim() for x in operands], default=0)
    return elements * (PLACE_BYTES * (most + 1) + operands[0].element_size() * 3 * len(operands))
