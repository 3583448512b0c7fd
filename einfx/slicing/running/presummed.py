"""Gradients of a block over logarithms, some of whose operands have labels for themselves alone.

What an operand sums over labels that nothing else has is summed first: what then remains may be a product of
matrices, where the terms of all labels would be many times as many. The gradient of such a sum goes to its
terms by their shares of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from ...equation import Equation
from ...kernels.log_shares import add_shares
from ...layout import contiguous_strides
from ...machine import item_bytes
from ...options import Options
from .into import Into, Place, into
from .shares_work import shares_work
from .work import Work

__all__ = ["Presummed", "alone"]

Labels = tuple[int, ...]
Scratch = Callable[[Sequence[int]], Tensor]
Choice = Callable[[Equation, tuple[Place, ...]], "Remaining"]

SUMMING_SECONDS = 60e-6
"""What an operand's own sum takes beside its arithmetic: with small blocks, more than all terms do."""


class Remaining(Protocol):
    """How gradients are found of what remains.

    Attributes:
        work: what that takes.
    """

    @property
    def work(self) -> Work: ...

    def add(
        self,
        operands: Sequence[Tensor],
        targets: Sequence[Tensor | None],
        total: Tensor,
        gradient: Tensor,
        scratch: Scratch,
        *,
        consumed: bool,
    ) -> None:
        """Add to the gradient of each operand."""


def alone(equation: Equation) -> list[Labels]:
    """For each operand the labels that neither the others nor the result have.

    Example:
        >>> alone(Equation.parse("ij,jkl->ik"))
        [(), (3,)]
    """
    made = []
    for position, labels in enumerate(equation.inputs):
        others = [own for i, own in enumerate(equation.inputs) if i != position]
        there = {label for own in (*others, equation.output) for label in own}
        made.append(tuple(label for label in labels if label not in there))
    return made


@dataclass(frozen=True)
class Presummed:
    """How a block's part of gradients is computed where operands are summed first.

    Args:
        equation: the contraction of the block.
        sums: for each operand how it is summed; None where all its labels remain.
        remaining: how gradients are found of the contraction of these sums.
        inside_bytes: what is given to find the gradients of these sums, and to pass them on.
        work: what it takes.
    """

    equation: Equation
    sums: tuple[Into | None, ...]
    remaining: Remaining
    inside_bytes: int
    work: Work

    @classmethod
    def of(
        cls,
        equation: Equation,
        places: tuple[Place, ...],
        needs: Sequence[bool],
        dtype: torch.dtype,
        device: str,
        options: Options,
        choose: Choice,
    ) -> Presummed:
        """Choose.

        Args:
            equation: the contraction of the block, of several operands.
            places: of the operands, the sum, its gradient, and the gradients that are wanted.
            needs: which gradients are wanted.
            dtype: of all of them.
            device: where they are.
            options: over which semiring.
            choose: how gradients of what remains are found.
        """
        count, item = len(equation.inputs), item_bytes(dtype)
        inputs, sums = [], list[Into | None]()
        places_now, work, held = [*places], Work(), 0
        for position, private in enumerate(alone(equation)):
            labels, place = equation.inputs[position], places[position]
            inputs.append(tuple(label for label in labels if label not in private))
            if not private:
                sums.append(None)
                continue
            shape = _without(labels, place.shape, private)
            summed = places_now[position] = Place(shape, contiguous_strides(shape))
            summing = Equation((labels,), inputs[-1])
            how = into(summing, [place], summed, False, dtype, device, options)
            sums.append(how)
            work = work.then(Work.of(how)).then(Work(seconds=SUMMING_SECONDS))
            held += item * prod(shape) * (1 + needs[position])
            if needs[position]:
                target = count + 2 + sum(needs[:position])
                work = work.then(_passing(summing, place, summed, places[target], dtype, device))
                places_now[target] = summed
        remaining = choose(Equation(tuple(inputs), equation.output), tuple(places_now))
        work = work.then(remaining.work)
        # Gradients of sums that are -inf are taken apart from those of others, one after the other: beside a
        # copy is kept which sums these are, and while it is made, which others.
        results = prod(places[count].shape)
        apart = max(work.apart, (item + 2) * results, remaining.work.apart + (item + 1) * results)
        taken = work._replace(inside=held + work.inside, apart=apart)
        return cls(equation, tuple(sums), remaining, work.inside, taken)

    def add(
        self,
        operands: Sequence[Tensor],
        targets: Sequence[Tensor | None],
        total: Tensor,
        gradient: Tensor,
        scratch: Scratch,
    ) -> None:
        """Add to the gradient of each operand.

        Args:
            operands: the current blocks.
            targets: the gradients that are wanted, None for others.
            total: the whole sums.
            gradient: of these.
            scratch: gives memory.
        """
        if gradient.numel() == 0 or any(x.numel() == 0 for x in operands):
            return
        sums, parts = [*operands], [*targets]
        for position, how in enumerate(self.sums):
            if how is None:
                continue
            operand, target = operands[position], targets[position]
            shape = _without(how.equation.inputs[0], operand.shape, how.equation.summed)
            made = sums[position] = scratch(shape)
            how.run([operand], made, scratch)
            if target is not None:
                parts[position] = scratch(shape)
        memory = scratch((self.inside_bytes // total.itemsize,))
        # Shares of an operand's own sum tell nothing about the terms of a whole sum that is -inf: another
        # operand may be what makes it so.
        nothing = None if float(total.amin()) > -math.inf else total == -math.inf
        present = gradient if nothing is None else gradient.masked_fill(nothing, 0)
        self._remain(sums, parts, total, present, memory)
        del present
        for position, how in enumerate(self.sums):
            target, part = targets[position], parts[position]
            if how is not None and target is not None and part is not None:
                (labels,), kept = how.equation.inputs, how.equation.output
                values = [operands[position]]
                add_shares([labels], kept, values, sums[position], part, [target], _pieces(memory), 0.0)
        if nothing is None:
            return
        for position, (how, target) in enumerate(zip(self.sums, targets, strict=True)):
            if target is None:
                continue
            # What remains of a sum stands for as many terms as the others were summed over first.
            others = prod([x.numel() // y.numel() for x, y in zip(operands, sums, strict=True)])
            others //= operands[position].numel() // sums[position].numel()
            own = [part if i == position else None for i, part in enumerate(parts)]
            empty = gradient.masked_fill(~nothing, 0).mul_(others)
            self._remain(sums, own, total, empty, memory)
            del empty
            part = parts[position]
            if how is not None and part is not None:
                # Each of the terms has what any of them has.
                target.add_(_spread(part, how.equation.inputs[0], how.equation.output))

    def _remain(
        self,
        sums: Sequence[Tensor],
        parts: Sequence[Tensor | None],
        total: Tensor,
        gradient: Tensor,
        memory: Tensor,
    ) -> None:
        """The gradients of sums, and those of operands that aren't summed first, which are added to."""
        for how, part in zip(self.sums, parts, strict=True):
            if how is not None and part is not None:
                part.zero_()
        self.remaining.add(sums, parts, total, gradient, _pieces(memory), consumed=False)


def _without(labels: Labels, shape: Sequence[int], private: Sequence[int]) -> tuple[int, ...]:
    return tuple([n for label, n in zip(labels, shape, strict=True) if label not in private])


def _spread(tensor: Tensor, labels: Labels, kept: Labels) -> Tensor:
    """A view with a dimension for every label, of size 1 where the tensor lacks it."""
    for dim, label in enumerate(labels):
        if label not in kept:
            tensor = tensor.unsqueeze(dim)
    return tensor


def _pieces(memory: Tensor) -> Scratch:
    """Gives parts of a memory, one behind the other."""
    used = 0

    def piece(shape: Sequence[int]) -> Tensor:
        nonlocal used
        start, used = used, used + prod(shape)
        if used > memory.numel():
            return memory.new_empty(tuple(shape))
        return memory[start:used].view(tuple(shape))

    return piece


def _passing(
    summing: Equation, operand: Place, summed: Place, target: Place, dtype: torch.dtype, device: str
) -> Work:
    """What passing the gradient of an operand's own sum on to its terms takes."""
    places = operand, summed, summed, target
    strides = tuple([place.strides for place in places])
    return shares_work(summing.inputs, summing.output, (True,), (operand.shape,), strides, dtype, device)
