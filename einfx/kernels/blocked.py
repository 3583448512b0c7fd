"""A contraction of any number of operands over any semiring, in blocks that take little memory.

All operands are multiplied at once, without pairwise intermediates, which ``ak,ak,ak->a`` has no use for. The
ranges of labels, those of the output too, are cut so that what a block takes beyond the operands and the
output stays within a budget.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .. import accumulators
from ..accumulators import State
from ..algebra import Semiring
from ..equation import Equation
from ..errors import OperandError, UsageError
from ..semiring import get
from .batching import accumulation_dtype, tracked

__all__ = ["BUDGET_BYTES", "contract"]

BUDGET_BYTES = 1 << 30
"""What temporaries may take by default."""

Block = dict[int, tuple[int, int]]
"""Start and length of the range of each label."""


def contract(
    equation: Equation,
    operands: Sequence[Tensor],
    semiring: str | Semiring,
    *,
    block_size: int | None = None,
    budget_bytes: int = BUDGET_BYTES,
    return_argmax: bool = False,
) -> Any:
    """Contract operands over a semiring.

    Differentiable by ordinary autograd; where there is more than one block, its terms are computed again in
    the backward pass. The gradient of a log sum that is -inf is nan, as that of torch.logsumexp.

    Args:
        equation: the contraction; labels may repeat within an operand.
        operands: one tensor for each input, of dtypes that the semiring takes; dtypes promote as torch's do.
        semiring: a name or a semiring.
        block_size: the longest range of each summed label; the budget alone limits it by default.
        budget_bytes: for temporaries of a block, beyond operands and output.
        return_argmax: for a semiring whose addition selects: also return where.

    Returns:
        The output. With ``return_argmax``, also int64 indices of shape (*output, S), for the S summed labels
        in the order of their first appearance: of the first of equal terms, in the order of these labels.

    Raises:
        OperandError: operands that don't fit the equation or the semiring; an argmax of nothing.
        UsageError: a block size below 1, or an argmax of sums that aren't one of their terms.

    Example:
        >>> a = torch.tensor([[1.0, 5.0], [2.0, 0.0]])
        >>> contract(Equation.parse("ak,ak,ak->a"), (a, a, a), "max_plus", return_argmax=True)
        (tensor([15.,  6.]), tensor([[1], [0]]))
    """
    algebra = get(semiring)
    if block_size is not None and block_size < 1:
        raise UsageError(f"a block size is at least 1, not {block_size}")
    sizes = equation.sizes([tuple(operand.shape) for operand in operands])
    algebra.check(*operands)
    dtype = operands[0].dtype
    for operand in operands[1:]:
        dtype = torch.promote_types(dtype, operand.dtype)
    if return_argmax:
        algebra.selection()
        if _count(equation.summed, sizes) == 0:
            raise OperandError(f"{str(equation)!r} over {algebra.name!r} sums no terms, so there's no argmax")
    views = [
        _aligned(operand, labels, equation) for operand, labels in zip(operands, equation.inputs, strict=True)
    ]
    work = _Contraction(equation, algebra, views, sizes, dtype, return_argmax)
    return work.run(work.ranges(block_size, budget_bytes))


def _count(labels: Sequence[int], sizes: dict[int, int]) -> int:
    total = 1
    for label in labels:
        total *= sizes[label]
    return total


def _aligned(operand: Tensor, labels: Sequence[int], equation: Equation) -> Tensor:
    """A view with one dimension for every label: those of the output, then the summed ones."""
    order = list(labels)
    while len(set(order)) < len(order):
        twice = next(label for label in order if order.count(label) > 1)
        first = order.index(twice)
        second = order.index(twice, first + 1)
        operand = operand.diagonal(0, first, second)
        order = [label for position, label in enumerate(order) if position not in (first, second)] + [twice]
    everything = (*equation.output, *equation.summed)
    operand = operand.permute([order.index(label) for label in everything if label in order])
    for position, label in enumerate(everything):
        if label not in order:
            operand = operand.unsqueeze(position)
    return operand


@dataclass(frozen=True)
class _Contraction:
    """One call: operands with a dimension for every label, output first."""

    equation: Equation
    semiring: Semiring
    views: list[Tensor]
    sizes: dict[int, int]
    dtype: torch.dtype
    argmax: bool

    def ranges(self, block_size: int | None, budget_bytes: int) -> dict[int, int]:
        """The longest range of every label: the longest is halved until a block fits the budget."""
        output, summed = self.equation.output, self.equation.summed
        ranges = {label: max(1, self.sizes[label]) for label in (*output, *summed)}
        if block_size is not None:
            ranges.update({label: min(ranges[label], block_size) for label in summed})
        itemsize = accumulation_dtype(self.dtype).itemsize
        # Two products and the terms less their maximum; indices; masks of what is zero. Then the state, the
        # update of it and both merged.
        per_term = 3 * itemsize + 8 * self.argmax + (itemsize + 4) * self.semiring.zero_annihilates
        per_output = 6 * itemsize + 40 * self.argmax
        while True:
            outputs = _count(output, ranges)
            terms = outputs * _count(summed, ranges)
            if terms == 1 or per_term * terms + per_output * outputs <= budget_bytes:
                return ranges
            longest = max(ranges, key=lambda label: ranges[label])
            ranges[longest] = (ranges[longest] + 1) // 2

    def run(self, ranges: dict[int, int]) -> Any:
        """Go through all blocks of the output."""
        blocks = list(self._blocks(self.equation.output, ranges))
        if len(blocks) == 1:
            value, index = self._block(blocks[0], ranges)
            return (value, self._by_label(index)) if self.argmax else value
        if tracked(*self.views):
            return self._assembled(ranges)
        shape = tuple(self.sizes[label] for label in self.equation.output)
        values = torch.empty(shape, dtype=self.dtype, device=self.views[0].device)
        places = (
            values.new_empty((*shape, len(self.equation.summed)), dtype=torch.int64) if self.argmax else None
        )
        for block in blocks:
            where = tuple(slice(start, start + length) for start, length in block.values())
            value, index = self._block(block, ranges)
            values[where] = value
            if places is not None:
                places[where] = self._by_label(index)
        return values if places is None else (values, places)

    def _assembled(self, ranges: dict[int, int]) -> Any:
        """The output put together from its blocks without writing into a tensor, for autograd and vmap."""

        def along(block: Block, labels: Sequence[int]) -> tuple[Tensor, Tensor]:
            if not labels:
                value, index = self._block(block, ranges)
                return value, self._by_label(index) if self.argmax else index
            parts = [along({**block, **own}, labels[1:]) for own in self._blocks(labels[:1], ranges)]
            dim = self.equation.output.index(labels[0])
            values = torch.cat([value for value, _ in parts], dim)
            return values, torch.cat([index for _, index in parts], dim) if self.argmax else values

        values, places = along({}, self.equation.output)
        return (values, places) if self.argmax else values

    def _blocks(self, labels: Sequence[int], ranges: dict[int, int]) -> Iterator[Block]:
        """All blocks of some labels, in order; one where none of them has elements."""
        cuts = [range(0, max(1, self.sizes[label]), ranges[label]) for label in labels]
        for starts in itertools.product(*cuts):
            yield {
                label: (start, min(ranges[label], self.sizes[label] - start))
                for label, start in zip(labels, starts, strict=True)
            }

    def _block(self, outputs: Block, ranges: dict[int, int]) -> tuple[Tensor, Tensor]:
        """The values of one block of the output, and the places of what was selected, in all terms."""
        sums = self.semiring.partial_sums
        dtype, device = accumulation_dtype(self.dtype), self.views[0].device
        state: State | None = None
        blocks = list(self._blocks(self.equation.summed, ranges))
        again = len(blocks) > 1 and torch.is_grad_enabled() and self._records()
        for summed in blocks:
            if 0 in (length for _, length in summed.values()):
                continue
            parts = [self._part(view, {**outputs, **summed}) for view in self.views]
            if self.argmax:
                own: State = self._selected(parts, summed)
                state = own if state is None else self._earlier(state, own)
                continue
            own = checkpoint(self._summed, *parts, use_reentrant=False) if again else self._summed(*parts)
            state = own if state is None else sums.merge(state, own)
        if state is None:
            shape = [length for _, length in outputs.values()]
            state = sums.init(shape, dtype, device)
        value = state[0] if self.argmax else sums.finish(state)
        return value.to(self.dtype), state[1] if self.argmax else value

    def _records(self) -> bool:
        """Whether autograd alone records this: torch.func and torch.compile don't take checkpoints."""
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return False
        return any(view.requires_grad for view in self.views)

    def _part(self, view: Tensor, block: Block) -> Tensor:
        for dim, label in enumerate((*self.equation.output, *self.equation.summed)):
            if view.shape[dim] != 1:
                view = view.narrow(dim, *block[label])
        return view

    def _terms(self, parts: Sequence[Tensor]) -> Tensor:
        """The products of a block, with all summed labels in the last dimension."""
        dtype = accumulation_dtype(self.dtype)
        terms = parts[0].to(dtype)
        for part in parts[1:]:
            terms = self.semiring.multiply(terms, part.to(dtype))
        return terms.flatten(len(self.equation.output)) if self.equation.summed else terms.unsqueeze(-1)

    def _summed(self, *parts: Tensor) -> State:
        terms = self._terms(parts)
        sums = self.semiring.partial_sums
        return sums.update(sums.init(terms.shape[:-1], terms.dtype, terms.device), terms, -1)

    def _selected(self, parts: Sequence[Tensor], block: Block) -> State:
        """Values, and places in the order of all terms."""
        value, local = accumulators.best_of(self.semiring.addition, self._terms(parts), -1)
        place = torch.zeros_like(local)
        stride = 1
        for label, (start, length) in reversed(block.items()):
            place += (local % length + start) * stride
            local = local // length
            stride *= self.sizes[label]
        return value, place

    def _earlier(self, left: State, right: State) -> State:
        """The better of two, and of equal ones the one with the smaller place."""
        total = self.semiring.addition(left[0], right[0])
        tie = ((left[0] == right[0]) | (left[0].isnan() & right[0].isnan())) & (right[1] < left[1])
        taken = ((total != left[0]) & (left[0] == left[0])) | tie
        return torch.where(taken, right[0], left[0]), torch.where(taken, right[1], left[1])

    def _by_label(self, place: Tensor) -> Tensor:
        """An index for each summed label, in a last dimension."""
        indices = []
        for label in reversed(self.equation.summed):
            indices.append(place % self.sizes[label])
            place = place // self.sizes[label]
        return torch.stack(indices[::-1], -1) if indices else place.new_empty((*place.shape, 0))
