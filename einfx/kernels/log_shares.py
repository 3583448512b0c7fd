"""What a sum over logarithms passes on of its gradient to the operands of a part of its terms, term by term.

With ``out = log(sum of exp(a + b))``, the gradient of ``a`` is the sum of ``exp(a + b - out)`` times that of
``out``, over the labels that ``a`` lacks; likewise that of ``b``. The terms are made once for all operands,
so many at a time as stay in the cache, and their sums are added to gradients where these are kept. ``out``
may be the sum of more terms than those of these operands. Where there is C code for it, that does the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from ..layout import Layout, Loops, contiguous_strides, iteration_order
from . import log_strided

__all__ = ["BLOCK_TERMS", "Shares", "add_shares", "shares_of"]

BLOCK_TERMS = 1 << 17
"""So many terms are made at a time."""

Labels = tuple[int, ...]
Sizes = tuple[int, ...]
Scratch = Callable[[Sequence[int]], Tensor]


@dataclass(frozen=True)
class Shares:
    """How terms are made and summed, for tensors that lie as they do.

    Attributes:
        shape: of all terms, the innermost label last.
        block: how many of them are made at a time, along each label.
        steps: how far apart the elements of each tensor are along them, 0 where it lacks a label: of the
            operands, the sum, its gradient, and the gradients that are added to.
        summed: for each gradient that is added to, the dimensions to sum along.
        inner: how many terms are made in a row.
    """

    shape: Sizes
    block: Sizes
    steps: tuple[Sizes, ...]
    summed: tuple[Sizes, ...]
    inner: int

    @property
    def buffers(self) -> tuple[int, int]:
        """How many terms are made at a time, and how many sums of them there are at most."""
        kept = [[n for dim, n in enumerate(self.block) if dim not in dims] for dims in self.summed if dims]
        return math.prod(self.block), max(map(math.prod, kept), default=0)

    @property
    def blocks(self) -> int:
        """How many times terms are made."""
        return math.prod([-(-n // length) for n, length in zip(self.shape, self.block, strict=True)])

    def add(self, tensors: Sequence[Tensor], scratch: Scratch, empty: float) -> None:
        """Add to gradients.

        Args:
            tensors: in the order of ``steps``.
            scratch: gives memory.
            empty: the derivative of a sum that is -inf by each of its terms.
        """
        terms, sums = self.buffers
        memory = scratch((terms,))
        partial = scratch((sums,)) if sums else memory
        count = len(tensors) - len(self.summed) - 2
        some_empty = not float(tensors[count].amin()) > -math.inf
        starts = [int(x.storage_offset()) for x in tensors]
        for lengths, offsets in self._blocks(starts):
            views = [
                x.as_strided([n if step else 1 for n, step in zip(lengths, own, strict=True)], own, offset)
                for x, own, offset in zip(tensors, self.steps, offsets, strict=True)
            ]
            total, gradient = views[count : count + 2]
            made = memory.as_strided(lengths, contiguous_strides(lengths))
            if count == 1:
                torch.sub(views[0].expand(lengths), total, out=made)
            else:
                torch.add(views[0].expand(lengths), views[1], out=made)
                for operand in views[2:count]:
                    made.add_(operand)
                made.sub_(total)
            made.exp_()
            if some_empty:
                _fill_empty(made, total, gradient, empty)
            made.mul_(gradient)
            for target, dims in zip(views[count + 2 :], self.summed, strict=True):
                if all(lengths[dim] == 1 for dim in dims):
                    target.add_(made)
                    continue
                shape = [1 if dim in dims else n for dim, n in enumerate(lengths)]
                part = partial.as_strided(shape, contiguous_strides(shape))
                target.add_(torch.sum(made, dims, keepdim=True, out=part))

    def _blocks(self, starts: Sequence[int]) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
        """The lengths of every block, and where each tensor starts in it."""
        if self.block == self.shape:
            yield self.shape, starts
            return
        cuts = [range(0, n, length) for n, length in zip(self.shape, self.block, strict=True)]
        for first in product(*cuts):
            lengths = [
                min(length, n - start) for start, length, n in zip(first, self.block, self.shape, strict=True)
            ]
            offsets = [
                start + sum([x * step for x, step in zip(first, own, strict=True)])
                for start, own in zip(starts, self.steps, strict=True)
            ]
            yield lengths, offsets


@lru_cache(maxsize=16384)
def shares_of(
    inputs: tuple[Labels, ...],
    output: Labels,
    needs: tuple[bool, ...],
    shapes: tuple[Sizes, ...],
    strides: tuple[Sizes, ...],
) -> Shares:
    """Choose an order of labels and blocks of terms.

    Args:
        inputs: the labels of the operands, each once in an operand.
        output: those of the sum.
        needs: for each operand whether its gradient is added to.
        shapes: of the operands.
        strides: of all tensors, in the order of :attr:`Shares.steps`.

    Example:
        >>> square = (300, 1)
        >>> shares_of(((0, 1), (1, 2)), (0, 2), (True, True), ((300, 300),) * 2, (square,) * 6).block
        (150, 2, 300)
    """
    needed = [labels for labels, need in zip(inputs, needs, strict=True) if need]
    labels = [*inputs, output, output, *needed]
    sizes = {x: n for own, shape in zip(inputs, shapes, strict=True) for x, n in zip(own, shape, strict=True)}
    layouts = [
        Layout.of(own, [sizes[x] for x in own], steps, False)
        for own, steps in zip(labels, strides, strict=True)
    ]
    everything = tuple(x for x in dict.fromkeys(x for own in inputs for x in own) if sizes[x] != 1)
    # The largest tensor had better be walked as it lies.
    ordered = sorted(layouts[: len(inputs)], key=lambda x: -x.elements) + layouts[len(inputs) :]
    order = iteration_order(ordered, everything, sizes)
    block = _lengths(order, [x for x in order if all(x in own for own in needed)], sizes)
    summed = tuple(tuple(dim for dim, x in enumerate(order) if x not in own) for own in needed)
    steps = tuple(tuple(layout.stride.get(x, 0) for x in order) for layout in layouts)
    inner = Loops.over(layouts, order, sizes).inner
    return Shares(tuple(sizes[x] for x in order), block, steps, summed, inner)


def _lengths(order: Labels, shared: Sequence[int], sizes: Mapping[int, int]) -> Sizes:
    """How long blocks are along labels, the innermost of which comes last.

    Labels that all gradients have are cut first: along those, no block adds to what another one has added to.
    """
    lengths = {x: sizes[x] for x in order}
    first = [x for x in shared if x != order[-1]]
    for x in dict.fromkeys((*first, *order)):
        parts = max(1, -(-math.prod(list(lengths.values())) // BLOCK_TERMS))
        lengths[x] = max(1, -(-lengths[x] // parts))
    return tuple(lengths.values())


def _fill_empty(made: Tensor, total: Tensor, gradient: Tensor, empty: float) -> None:
    """Put the shares in sums that are -inf, in place of -inf - -inf."""
    nothing = total == -math.inf
    if math.isnan(empty):
        # Where nothing depends on the sum, nan times 0 would be nan.
        made.masked_fill_(nothing & (gradient == 0), 0)
    else:
        made.masked_fill_(nothing, empty)


def add_shares(
    inputs: Sequence[Labels],
    output: Labels,
    operands: Sequence[Tensor],
    total: Tensor,
    gradient: Tensor,
    targets: Sequence[Tensor | None],
    scratch: Scratch,
    empty: float,
) -> None:
    """Add what a sum passes on of its gradient to the gradients of operands.

    Args:
        inputs: the labels of the operands, each once in an operand.
        output: those of the sum, each of which an operand has.
        operands: logarithms, of one dtype and on one device like all others.
        total: logarithms of sums of these terms, or of these and more.
        gradient: of those.
        targets: the gradients of operands; None where none is wanted.
        scratch: gives memory.
        empty: the derivative of a sum that is -inf by each of its terms.

    Example:
        >>> x, w = torch.tensor([0.0, 1.0]), torch.zeros(2)
        >>> add_shares([(0,)], (), [x], x.logsumexp(0), torch.tensor(2.0), [w], torch.empty, math.nan)
        >>> torch.equal(w, 2 * x.softmax(0))
        True
    """
    if gradient.numel() == 0 or any(x.numel() == 0 for x in operands):
        return
    shapes = tuple([tuple(x.shape) for x in operands])
    if log_strided.suits(
        inputs, output, shapes, gradient.dtype, gradient.device.type
    ) and log_strided.add_shares(tuple(inputs), output, operands, total, gradient, targets, empty):
        return
    tensors = [*operands, total, gradient, *(x for x in targets if x is not None)]
    needs = tuple([x is not None for x in targets])
    strides = tuple([x.stride() for x in tensors])
    shares_of(tuple(inputs), output, needs, shapes, strides).add(tensors, scratch, empty)
