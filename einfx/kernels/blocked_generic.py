"""Contractions over any semiring as ordinary torch functions, which autograd and torch.func follow.

The derivative of a semiring that only its owner knows is that of its laws. Where there are several blocks,
autograd keeps neither their terms nor their partial sums: halves of a sum are recomputed when its gradient
is asked for, and so are halves of those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..accumulators import State
from ..modes import is_captured
from .blocked_loops import Block, Kernel, Limits, Subscripts, blocks_of, part_of, ranges_within, view_along

__all__ = ["differentiable_sums"]


def differentiable_sums(
    subscripts: Subscripts, tensors: Sequence[Tensor], kernel: Kernel, limits: Limits
) -> Tensor:
    """A contraction whose derivatives are those of the semiring's laws.

    Args:
        subscripts: the labels of tensors and result; no label has size 0.
        tensors: at least one.
        kernel: of the semiring, in functions that autograd follows.
        limits: of blocks.

    Returns:
        A tensor of the labels of the output.
    """
    order = (*subscripts.output, *subscripts.summed)
    sizes = subscripts.sizes(tensors)
    ranges = ranges_within(order, sizes, subscripts.summed, limits, (kernel.per_term, kernel.per_output))
    views = [view_along(x, labels, order) for labels, x in zip(subscripts.inputs, tensors, strict=True)]
    inner = list(blocks_of(subscripts.summed, ranges, sizes))
    recompute = len(inner) > 1 and torch.is_grad_enabled() and _records(tensors)
    loop = _Loop(kernel, subscripts, ranges, sizes, inner, recompute)
    return loop.assembled(views, {}, subscripts.output).to(kernel.outputs[0][0])


def _records(tensors: Sequence[Tensor]) -> bool:
    """Whether autograd alone records: torch.func and torch.compile don't take checkpoints."""
    if is_captured() or torch._C._are_functorch_transforms_active():
        return False
    return any(tensor.requires_grad for tensor in tensors)


class _Loop(NamedTuple):
    kernel: Kernel
    subscripts: Subscripts
    ranges: dict[int, int]
    sizes: dict[int, int]
    inner: list[Block]
    recompute: bool

    def assembled(self, views: Sequence[Tensor], block: Block, labels: tuple[int, ...]) -> Tensor:
        """The output put together from its blocks along ``labels``, without writing into a tensor."""
        if not labels:
            order = (*self.subscripts.output, *self.subscripts.summed)
            parts = [part_of(view, order, block, self.ranges) for view in views]
            return self.kernel.finish(self.over(self.inner, *parts))[0]
        pieces = [
            self.assembled(views, {**block, **own}, labels[1:])
            for own in blocks_of(labels[:1], self.ranges, self.sizes)
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, self.subscripts.output.index(labels[0]))

    def over(self, blocks: list[Block], *views: Tensor) -> State:
        """The state of some blocks of the summed labels."""
        if len(blocks) == 1:
            order = (*self.subscripts.output, *self.subscripts.summed)
            parts = [part_of(view, order, blocks[0], self.ranges) for view in views]
            dims = tuple(range(len(self.subscripts.output), len(order)))
            return self.kernel.block(parts, dims, None, blocks[0])
        half = len(blocks) // 2
        return self.kernel.merge([self._half(blocks[:half], *views), self._half(blocks[half:], *views)])

    def _half(self, blocks: list[Block], *views: Tensor) -> State:
        if not self.recompute:
            return self.over(blocks, *views)
        state: State = checkpoint(self.over, blocks, *views, use_reentrant=False, preserve_rng_state=False)
        return state
