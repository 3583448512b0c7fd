"""Going through a contraction block by block: ranges of labels, views of operands, partial sums that meet.

What a block computes is a :class:`Kernel`'s matter; here are the order of the loops, how long the range of
every label may be, and how little is allocated on the way.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..accumulators import State
from ..layout import Layout, iteration_order

__all__ = [
    "Block",
    "Kernel",
    "Limits",
    "Subscripts",
    "blocks_of",
    "digits",
    "part_of",
    "ranges_within",
    "view_along",
    "walk",
]

Labels = tuple[int, ...]
Block = dict[int, tuple[int, int]]
"""Start and length of the range of each label."""

CACHED_BYTES = 1 << 20
"""What the terms of a block may take on a CPU, for each thread: half of a cache of 2 MiB.

With several threads it is twice that: they wait for one another after every operation.
"""

SHORTEST_RUN = 1024
"""Ranges of the innermost label that are this short aren't cut while another one can be."""

FEWEST_TERMS = 64
"""A block doesn't add fewer terms than this to a sum while it can be cut along the output."""

SMALL = 1 << 12
"""Up to so many terms are computed in one block, in whatever order."""

PENDING_BYTES = 1 << 16
"""What partial sums may take that wait for being merged."""


class Subscripts(NamedTuple):
    """An equation whose operands carry every label at most once, and at its full size.

    Unlike those of an :class:`~einfx.equation.Equation`, labels keep their numbers.
    """

    inputs: tuple[Labels, ...]
    output: Labels
    summed: Labels

    def sizes(self, tensors: Sequence[Tensor]) -> dict[int, int]:
        """The size of every label."""
        return {
            label: size
            for labels, tensor in zip(self.inputs, tensors, strict=True)
            for label, size in zip(labels, tensor.shape, strict=True)
        }

    def mapped(self, dims: Sequence[int | None]) -> Subscripts:
        """With a further label in front of the output and of those inputs that have a ``dim``.

        Example:
            >>> Subscripts(((0, 1), (1,)), (0,), (1,)).mapped((0, None))
            Subscripts(inputs=((2, 0, 1), (1,)), output=(2, 0), summed=(1,))
        """
        label = 1 + max((*self.output, *self.summed), default=-1)
        inputs = tuple(x if dim is None else (label, *x) for x, dim in zip(self.inputs, dims, strict=True))
        return Subscripts(inputs, (label, *self.output), self.summed)

    def as_text(self) -> str:
        """As text, for operators that take no other description.

        Example:
            >>> Subscripts(((0, 1), (1,)), (0,), (1,)).as_text()
            '0 1,1,>0>1'
        """
        inputs = "".join([_text(x) + "," for x in self.inputs])
        return ">".join((inputs, _text(self.output), _text(self.summed)))

    @classmethod
    def from_text(cls, text: str) -> Subscripts:
        """Undo :meth:`as_text`."""
        inputs, output, summed = text.split(">")
        parts = inputs.split(",")[:-1]
        return cls(tuple(map(_numbers, parts)), _numbers(output), _numbers(summed))


_DIGITS = tuple("0123456789")


def digits(number: int) -> str:
    """``str(number)`` for a natural number, which torch.compile may hold for a variable and can't write.

    Example:
        >>> digits(1024), digits(0)
        ('1024', '0')
    """
    text = _DIGITS[number % 10]
    while number >= 10:
        number //= 10
        text = _DIGITS[number % 10] + text
    return text


def _text(labels: Labels) -> str:
    return " ".join([digits(x) for x in labels])


def _numbers(text: str) -> Labels:
    return tuple(int(x) for x in text.split())


class Limits(NamedTuple):
    """How large blocks may be.

    Args:
        block_size: the longest range of a summed label, if there's such a limit.
        budget_bytes: for temporaries, beyond the operands and the output.
    """

    block_size: int | None
    budget_bytes: int


@dataclass(frozen=True)
class Kernel:
    """What is done with a block.

    Args:
        outputs: dtype of each output and sizes of the dimensions that it has beyond those of the equation.
        zero: a sum without terms.
        per_term: bytes of temporaries for every term of a block.
        per_output: bytes of temporaries for every element of a block of the output.
        block: ``(parts, dims, buffer, ranges)`` gives the partial sums of a block. ``parts`` are views of
            every operand with the same dimensions, of size 1 where it lacks a label; ``dims`` are those to
            sum along, if any; ``ranges`` are those of the summed labels. Where there are ``dims``, a partial
            sum is no view of a part or the buffer; elsewhere it may be one of the buffer.
        merge: partial sums of the same elements, put together.
        finish: the outputs from a partial sum.
        buffer: dtype of a buffer that takes all terms of a block; None for no buffer.
        summed_last: whether dimensions to sum along have to come last.
    """

    outputs: tuple[tuple[torch.dtype, Labels], ...]
    zero: Any
    per_term: int
    per_output: int
    block: Callable[[list[Tensor], Labels, Tensor | None, Block], State]
    merge: Callable[[list[State]], State]
    finish: Callable[[State], tuple[Tensor, ...]]
    buffer: torch.dtype | None = None
    summed_last: bool = False


def ranges_within(
    order: Labels,
    sizes: Mapping[int, int],
    summed: Labels,
    limits: Limits,
    costs: tuple[int, int],
    most_terms: float = math.inf,
) -> dict[int, int]:
    """The longest range of every label.

    Args:
        order: all labels, the innermost last.
        sizes: of all labels.
        summed: the labels that are summed.
        limits: what to stay within; single terms are the least that a block computes.
        costs: bytes for a term and for an element of the output.
        most_terms: in a block.

    Example:
        >>> ranges_within((0, 1), {0: 8, 1: 10**6}, (1,), Limits(None, 1 << 20), (4, 0))
        {0: 1, 1: 250000}
    """
    ranges = {label: max(1, sizes[label]) for label in order}
    if limits.block_size is not None:
        ranges.update({label: min(ranges[label], limits.block_size) for label in summed})
    while True:
        terms = math.prod(list(ranges.values()))
        added = math.prod([ranges[label] for label in summed])
        taken = costs[0] * terms + costs[1] * (terms // added)
        if terms == 1 or (taken <= limits.budget_bytes and terms <= most_terms):
            return ranges
        cut = max(ranges, key=lambda label: ranges[label])
        for label in order:
            shortest = SHORTEST_RUN if label == order[-1] else 1
            if ranges[label] > shortest and (label not in summed or added > FEWEST_TERMS):
                cut = label
                break
        ranges[cut] = (ranges[cut] + 1) // 2


def blocks_of(labels: Labels, ranges: Mapping[int, int], sizes: Mapping[int, int]) -> Iterator[Block]:
    """All blocks of some labels, in order; one where there are no labels.

    Example:
        >>> list(blocks_of((4,), {4: 2}, {4: 3}))
        [{4: (0, 2)}, {4: (2, 1)}]
    """
    cuts = [range(0, sizes[label], ranges[label]) for label in labels]
    for starts in itertools.product(*cuts):
        yield {
            label: (start, min(ranges[label], sizes[label] - start))
            for label, start in zip(labels, starts, strict=True)
        }


def view_along(tensor: Tensor, labels: Labels, order: Labels) -> Tensor:
    """A view with a dimension for every label of ``order``, of size 1 where the tensor lacks it."""
    view = tensor.permute([labels.index(label) for label in order if label in labels])
    for position, label in enumerate(order):
        if label not in labels:
            view = view.unsqueeze(position)
    return view


def part_of(view: Tensor, order: Labels, block: Block, ranges: Mapping[int, int]) -> Tensor:
    """The part of a view along ``order`` that lies in a block."""
    for dim, label in enumerate(order):
        if label in block and (size := view.shape[dim]) != 1 and ranges[label] < size:
            view = view.narrow(dim, *block[label])
    return view


def walk(
    subscripts: Subscripts, tensors: Sequence[Tensor], kernel: Kernel, limits: Limits
) -> tuple[Tensor, ...]:
    """Compute a contraction of plain tensors, recording nothing.

    Args:
        subscripts: which labels they carry.
        tensors: at least one.
        kernel: what to compute.
        limits: how large blocks may be. On a CPU they are also kept as small as its caches.

    Returns:
        The kernel's outputs, with the labels of the output in their order and then its own dimensions.
    """
    output, summed = subscripts.output, subscripts.summed
    sizes, device = subscripts.sizes(tensors), tensors[0].device
    shape = [sizes[label] for label in output]
    if 0 in sizes.values():
        return tuple(
            torch.full((*shape, *tail), 0 if position else kernel.zero, dtype=dtype, device=device)
            for position, (dtype, tail) in enumerate(kernel.outputs)
        )
    order = (*output, *summed)
    if limits.block_size is None and math.prod(sizes.values()) <= SMALL <= limits.budget_bytes >> 6:
        return _at_once(subscripts, tensors, kernel, sizes)
    if not kernel.summed_last:
        layouts = [
            Layout.of(labels, x.shape, x.stride(), True)
            for labels, x in zip(subscripts.inputs, tensors, strict=True)
        ]
        order = iteration_order(layouts, order, sizes)
    itemsize = 8 if kernel.buffer is None else kernel.buffer.itemsize
    cached: float = math.inf
    if device.type == "cpu" and kernel.per_term:
        threads = torch.get_num_threads()
        cached = CACHED_BYTES * (threads if threads == 1 else 2 * threads) // itemsize
    costs = kernel.per_term, kernel.per_output
    ranges = ranges_within(order, sizes, summed, limits, costs, cached)
    views = [view_along(x, labels, order) for labels, x in zip(subscripts.inputs, tensors, strict=True)]
    loop = _Loop(kernel, order, summed, ranges, sizes, views, limits)
    # The dimensions of a partial sum are those of the output as they stand in ``order``.
    kept = [label for label in order if label in output]
    turn = [kept.index(label) for label in output]
    blocks = list(blocks_of(output, ranges, sizes))
    results: list[Tensor] = []
    if len(blocks) > 1:
        results = [torch.empty((*shape, *tail), dtype=dtype, device=device) for dtype, tail in kernel.outputs]
    for block in blocks:
        values = [
            value.permute((*turn, *range(len(turn), value.ndim))) for value in kernel.finish(loop.sums(block))
        ]
        if len(blocks) == 1:
            return tuple(
                x.to(dtype).contiguous() for x, (dtype, _) in zip(values, kernel.outputs, strict=True)
            )
        where = tuple(slice(start, start + length) for start, length in block.values())
        for result, value in zip(results, values, strict=True):
            result[where].copy_(value)
    return tuple(results)


def _at_once(
    subscripts: Subscripts, tensors: Sequence[Tensor], kernel: Kernel, sizes: Mapping[int, int]
) -> tuple[Tensor, ...]:
    """The same for few terms, in one block, without a thought."""
    order = (*subscripts.output, *subscripts.summed)
    parts = [view_along(x, labels, order) for labels, x in zip(subscripts.inputs, tensors, strict=True)]
    buffer = None
    if kernel.buffer is not None:
        shape = [sizes[label] for label in order]
        buffer = torch.empty(shape, dtype=kernel.buffer, device=tensors[0].device)
    dims = tuple(range(len(subscripts.output), len(order)))
    ranges = {label: (0, sizes[label]) for label in subscripts.summed}
    values = kernel.finish(kernel.block(parts, dims, buffer, ranges))
    return tuple(x.to(dtype) for x, (dtype, _) in zip(values, kernel.outputs, strict=True))


class _Loop:
    """The loop over the summed labels, for one block of the output after the other."""

    def __init__(
        self,
        kernel: Kernel,
        order: Labels,
        summed: Labels,
        ranges: dict[int, int],
        sizes: dict[int, int],
        views: list[Tensor],
        limits: Limits,
    ) -> None:
        self.kernel, self.order, self.ranges, self.views = kernel, order, ranges, views
        self.dims = tuple(dim for dim, label in enumerate(order) if label in summed)
        self.summed = list(blocks_of(summed, ranges, sizes))
        self.scratch: Tensor | None = None
        if kernel.buffer is not None:
            count = math.prod(ranges.values())
            self.scratch = torch.empty(count, dtype=kernel.buffer, device=views[0].device)
        outputs = math.prod([ranges[label] for label in order if label not in summed])
        waiting = min(PENDING_BYTES, limits.budget_bytes // 8) // max(1, outputs * 16)
        self.most_waiting = max(2, min(64, waiting))

    def sums(self, outputs: Block) -> State:
        """The sums of one block of the output."""
        narrowed = [part_of(view, self.order, outputs, self.ranges) for view in self.views]
        states: list[State] = []
        for summed in self.summed:
            if len(states) == self.most_waiting:
                states = [self.kernel.merge(states)]
            parts = [part_of(view, self.order, summed, self.ranges) for view in narrowed]
            buffer = None
            if self.scratch is not None:
                where = {**outputs, **summed}
                shape = [where[label][1] for label in self.order]
                buffer = self.scratch[: math.prod(shape)].view(shape)
            states.append(self.kernel.block(parts, self.dims, buffer, summed))
        return states[0] if len(states) == 1 else self.kernel.merge(states)
