"""A contraction with patterns, planned as one block after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...equation import label_text
from ...kernels.batching import tracked
from ...machine import accumulation_dtype, item_bytes
from ...pattern import IndexPattern
from ...plans import size_text
from ..steps.step import ConvStep
from ..symbolic.network import Network
from .blocks import Cuts, Range, blocks, copies, narrow, ranges_of
from .plan import ConvPlan
from .search import plan_network

__all__ = ["CutPlan"]

KEPT_BLOCKS = 4096
"""What is known about blocks is kept where there are no more than these."""


class _Block(NamedTuple):
    """One block, ready to run.

    Args:
        place: of its result in the whole.
        parts: for each operand what is taken of it: dimensions, each with a start and a length.
        plan: how it is computed.
    """

    place: tuple[slice, ...]
    parts: tuple[tuple[tuple[int, int, int], ...], ...]
    plan: ConvPlan


@dataclass(frozen=True)
class CutPlan:
    """A contraction with patterns, one block after another.

    Args:
        network: the whole contraction.
        dtype: of its tensors.
        device: where it is computed, as text.
        optimize: how blocks are planned.
        cuts: labels, each with the length of its blocks.
        strided: the positions of operands that aren't contiguous.
        into: whether the result is added to a tensor that is given.
        limit: the most bytes for one block.
        flops: multiplications and additions of all blocks.
        peak_bytes: the most that is allocated beside the operands at any time, the result included.
        seconds: predicted time.

    Example:
        >>> from .limits import plan_within
        >>> from ..symbolic.network import network
        >>> from ..symbolic.views import View
        >>> x, p, w = View(0, (8, 64, 32, 32)), IndexPattern(32, 3, padding=1), View(1, (64, 64, 3, 3))
        >>> conv = network(["ncij", "koi", "lpj", "dckl"], "ndop", x, p, p, w)
        >>> plan = plan_within(conv, torch.float32, "cpu", 6 << 20)
        >>> plan.cuts, [(step.operands, step.kind) for step in plan.steps]
        (((0, 4),), [((0, 1, 2, 3), 'conv2d')])
    """

    network: Network
    dtype: torch.dtype
    device: str
    optimize: Any
    cuts: Cuts
    strided: frozenset[int]
    into: bool
    limit: int
    flops: int
    peak_bytes: int
    seconds: float

    @cached_property
    def block(self) -> ConvPlan | None:
        """The plan of the first block that patterns leave anything of; None where there is none."""
        return next((block.plan for block in self._blocks()), None)

    @property
    def steps(self) -> tuple[ConvStep, ...]:
        """The steps of the first block."""
        return self.block.steps if self.block is not None else ()

    @property
    def summed(self) -> bool:
        """Whether results of blocks are added up."""
        return any(label not in self.network.equation.output for label, _ in self.cuts)

    def run(
        self,
        values: Sequence[Tensor | IndexPattern | None],
        like: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Compute it.

        Args:
            values: what :meth:`.Network.bind` gives for the caller's tensors; patterns aren't read.
            like: a tensor of the dtype and on the device of all.
            out: what the result is added to, where the plan is one for that; nothing of it is recorded.
        """
        if like is None:
            like = next(value for value in values if isinstance(value, Tensor))
        dtype = accumulation_dtype(like.dtype) if self.summed else like.dtype
        if out is None and any(isinstance(value, Tensor) and tracked(value) for value in values):
            return self._joined(values, like, dtype, self.cuts, {}).to(like.dtype)
        adds = self.summed or out is not None
        if out is None:
            out = like.new_zeros(self.network.shape, dtype=dtype)
        for block in self._kept if self._few else self._blocks():
            made = _run(block, values, like)
            if adds:
                out[block.place] += made
            else:
                out[block.place] = made
            # Gone before the next one is made.
            del made
        return out.to(like.dtype)

    @cached_property
    def _few(self) -> bool:
        counts = [-(-self.network.sizes[label] // length) for label, length in self.cuts]
        return prod(counts) <= KEPT_BLOCKS

    @cached_property
    def _kept(self) -> tuple[_Block, ...]:
        return tuple(self._blocks())

    def _blocks(self) -> Iterator[_Block]:
        """The blocks whose results aren't zero."""
        for ranges in blocks(self.network, self.cuts):
            block = self._prepared(ranges)
            if block is not None:
                yield block

    def _prepared(self, cut: dict[int, Range]) -> _Block | None:
        """A block ready to run; None where its result is zero."""
        narrowed = narrow(self.network, cut)
        if narrowed is None:
            return None
        part, ranges = narrowed
        taken = copies(self.network, part, ranges, item_bytes(self.dtype), self.strided)
        plan = plan_network(
            part, self.dtype, self.device, optimize=self.optimize, memory_limit=max(self.limit - taken, 0)
        )
        whole = slice(None)
        place = tuple(
            slice(cut[x][0], sum(cut[x])) if x in cut else whole for x in self.network.equation.output
        )
        parts = tuple(
            tuple((d, *ranges[x]) for d, x in enumerate(labels) if x in ranges and operand.shape[d] > 1)
            for labels, operand in zip(self.network.equation.inputs, self.network.operands, strict=True)
        )
        return _Block(place, parts, plan)

    def _joined(
        self, values: Sequence[Any], like: Tensor, dtype: torch.dtype, cuts: Cuts, cut: dict[int, Range]
    ) -> Tensor:
        """All blocks of the labels that are left, without writing in place: for transforms of functions."""
        output = self.network.equation.output
        if not cuts:
            block = self._prepared(cut)
            if block is None:
                return like.new_zeros(
                    [cut[x][1] if x in cut else self.network.sizes[x] for x in output], dtype=dtype
                )
            return _run(block, values, like).to(dtype)
        (label, length), *rest = cuts
        parts = [
            self._joined(values, like, dtype, tuple(rest), {**cut, label: each})
            for each in ranges_of(self.network.sizes[label], length)
        ]
        if label in output:
            return torch.cat(parts, output.index(label))
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def __str__(self) -> str:
        names = ", ".join(f"{label_text((label,))} in blocks of {length}" for label, length in self.cuts)
        lines = [
            f"{self.network}  ({str(self.dtype).removeprefix('torch.')} on {self.device})",
            f"FLOPs {self.flops:.3e}, peak {size_text(self.peak_bytes)}, predicted "
            f"{self.seconds * 1e6:,.1f} us",
            f"{names}; a block:",
        ]
        if self.block is not None:
            lines.append(str(self.block))
        return "\n".join(lines)


def _run(block: _Block, values: Sequence[Any], like: Tensor) -> Tensor:
    """The result of a block."""
    bound = []
    for value, part in zip(values, block.parts, strict=True):
        if isinstance(value, Tensor):
            for dim, start, length in part:
                value = value.narrow(dim, start, length)
            if value.is_conj():
                value = value.resolve_conj()
        bound.append(value)
    return block.plan.run(bound, like)
