"""Contractions with patterns within a memory limit: the fastest plan that fits, else one block after another.

Where no plan of the whole fits, labels are cut into blocks: first those of the output that no pattern has,
such as a batch; then those of the output that patterns have, such as positions; last those that are summed,
whose blocks are added up. A block of a pattern's label is a smaller pattern, and the inputs that it doesn't
read are left out: a block is a contraction with patterns, as the whole is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..equation import label_text
from ..errors import MemoryLimitError
from ..kernels.batching import tracked
from ..machine import accumulation_dtype, item_bytes
from ..pattern import Axis, IndexPattern
from ..plans import size_text
from .network import Network, Operand
from .planning import ConvPlan, plan_network
from .views import View

__all__ = ["CutPlan", "plan_within"]

SURE = 14
"""How many sixteenths of the memory for a block its plan may take."""

AXES: tuple[Axis, ...] = ("kernel", "output", "input")

Range = tuple[int, int]
"""Where a block starts, and its length."""


@dataclass(frozen=True)
class CutPlan:
    """A contraction with patterns, one block after another.

    Args:
        network: the whole contraction.
        dtype: of its tensors.
        device: where it is computed, as text.
        optimize: how blocks are planned.
        cuts: labels, each with the length of its blocks.
        limit: the most bytes for one block.
        flops: multiplications and additions of all blocks.
        peak_bytes: the most that is allocated beside the operands at any time, the result included.
        seconds: predicted time.
    """

    network: Network
    dtype: torch.dtype
    device: str
    optimize: Any
    cuts: tuple[tuple[int, int], ...]
    limit: int
    flops: int
    peak_bytes: int
    seconds: float

    def run(self, values: Sequence[Tensor | IndexPattern | None], like: Tensor | None = None) -> Tensor:
        """Compute it.

        Args:
            values: what :meth:`.network.Network.bind` gives for the caller's tensors; patterns aren't read.
            like: a tensor of the dtype and on the device of all.
        """
        if like is None:
            like = next(value for value in values if isinstance(value, Tensor))
        summed = any(label not in self.network.equation.output for label, _ in self.cuts)
        dtype = accumulation_dtype(like.dtype) if summed else like.dtype
        if any(isinstance(value, Tensor) and tracked(value) for value in values):
            return self._gathered(values, like, dtype, self.cuts, {}).to(like.dtype)
        out = like.new_zeros(self.network.shape, dtype=dtype)
        for block in _blocks(self.network, self.cuts):
            made = self._block(values, like, block)
            if made is not None:
                place = tuple(
                    slice(block[x][0], sum(block[x])) if x in block else slice(None)
                    for x in self.network.equation.output
                )
                out[place] += made
            # Gone before the next one is made.
            del made
        return out.to(like.dtype)

    def _block(self, values: Sequence[Any], like: Tensor, block: dict[int, Range]) -> Tensor | None:
        """One block of the result; None where it is zero."""
        narrowed = narrow(self.network, block)
        if narrowed is None:
            return None
        network, ranges = narrowed
        bound = [
            value if not isinstance(value, Tensor) else _narrowed(value, labels, ranges)
            for value, labels in zip(values, self.network.equation.inputs, strict=True)
        ]
        left = max(self.limit - _copies(self.network, network, ranges, item_bytes(self.dtype)), 0)
        return _fitting(network, self.dtype, self.device, self.optimize, left).run(bound, like)

    def _gathered(
        self,
        values: Sequence[Any],
        like: Tensor,
        dtype: torch.dtype,
        cuts: tuple[tuple[int, int], ...],
        block: dict[int, Range],
    ) -> Tensor:
        """All blocks of the labels that are left, without writing in place: for derivatives and for vmap."""
        output = self.network.equation.output
        if not cuts:
            made = self._block(values, like, block)
            if made is None:
                made = like.new_zeros([block[x][1] if x in block else self.network.sizes[x] for x in output])
            return made.to(dtype)
        (label, length), *rest = cuts
        parts = [
            self._gathered(values, like, dtype, tuple(rest), {**block, label: each})
            for each in _ranges(self.network.sizes[label], length)
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
            f"{names}; peak {size_text(self.peak_bytes)}, predicted {self.seconds * 1e6:,.1f} us; a block:",
        ]
        for block in _blocks(self.network, self.cuts):
            narrowed = narrow(self.network, block)
            if narrowed is not None:
                left = max(self.limit - _copies(self.network, *narrowed, item_bytes(self.dtype)), 0)
                lines.append(str(_fitting(narrowed[0], self.dtype, self.device, self.optimize, left)))
                break
        return "\n".join(lines)


def plan_within(
    network: Network, dtype: torch.dtype, device: torch.device | str, limit: int, optimize: Any = "auto"
) -> ConvPlan | CutPlan:
    """The fastest plan that fits a memory limit.

    Args:
        network: what to contract.
        dtype: of its tensors.
        device: where it is computed.
        limit: the most bytes beyond the operands, the result included.
        optimize: as in :func:`.planning.plan_network`.

    Raises:
        MemoryLimitError: no plan fits, however small its blocks.

    Example:
        >>> from .network import network
        >>> x, pattern = View(0, (64, 3, 32)), IndexPattern(32, 5)
        >>> unfold = network(["nci", "koi"], "nck", x, pattern)
        >>> product = network(["nci", "koi", "mcj", "loj"], "nmo", x, pattern, View(1, (64, 3, 32)), pattern)
        >>> plan_within(product, torch.float32, "cpu", 500_000).peak_bytes <= 500_000
        True
    """
    kind = device.type if isinstance(device, torch.device) else str(device).partition(":")[0]
    frozen = tuple(map(tuple, optimize)) if isinstance(optimize, (list, tuple)) else optimize
    return _within(network, dtype, kind, limit, frozen, torch.get_num_threads())


@lru_cache(maxsize=1024)
def _within(
    network: Network, dtype: torch.dtype, device: str, limit: int, optimize: Any, threads: int
) -> ConvPlan | CutPlan:
    whole = _fitting(network, dtype, device, optimize, limit)
    if whole.peak_bytes <= limit:
        return whole
    cuts: tuple[tuple[int, int], ...] = ()
    least: CutPlan | ConvPlan = whole
    for labels in _classes(network):
        found: CutPlan | None = None
        for label in labels:
            made = _largest(network, dtype, device, limit, optimize, cuts, label)
            if made.peak_bytes <= limit and (found is None or made.seconds < found.seconds):
                found = made
        if found is not None:
            return found
        # Not one of them is enough: all of them, element by element, and a label of the next kind.
        for label in labels:
            cuts = (*cuts, (label, 1))
            made = _cut(network, dtype, device, limit, optimize, cuts)
            if made.peak_bytes < least.peak_bytes:
                least = made
            if made.peak_bytes <= limit:
                return _largest(network, dtype, device, limit, optimize, cuts[:-1], label)
    needed, taken = least.peak_bytes, item_bytes(dtype) * prod(network.shape)
    raise MemoryLimitError(
        f"einsum {network.text!r} with index patterns doesn't fit memory_limit={size_text(limit)}: the "
        f"smallest limit that is enough is {needed} bytes ({size_text(needed)}), of which the result takes "
        f"{taken}"
    )


def _largest(
    network: Network,
    dtype: torch.dtype,
    device: str,
    limit: int,
    optimize: Any,
    cuts: tuple[tuple[int, int], ...],
    label: int,
) -> CutPlan:
    """The cut with the longest blocks of a label that fit, or with blocks of one element where none do."""
    length = network.sizes[label]
    while True:
        length = -(-length // 2)
        made = _cut(network, dtype, device, limit, optimize, (*cuts, (label, length)))
        if made.peak_bytes <= limit or length == 1:
            return made


def _classes(network: Network) -> Iterator[list[int]]:
    """The labels that can be cut, the best first, the largest of a kind first."""
    output = network.equation.output
    sliding = _sliding(network)
    inputs = {
        labels[2]
        for labels, operand in zip(network.equation.inputs, network.operands, strict=True)
        if isinstance(operand, IndexPattern)
    }
    kinds = (
        [x for x in output if x not in sliding],
        [x for x in output if x in sliding],
        [x for x in network.equation.summed if x not in sliding],
        [x for x in network.equation.summed if x in sliding and x not in inputs],
    )
    for kind in kinds:
        yield sorted((x for x in kind if network.sizes[x] > 1), key=lambda x: -network.sizes[x])


def _cut(
    network: Network,
    dtype: torch.dtype,
    device: str,
    limit: int,
    optimize: Any,
    cuts: tuple[tuple[int, int], ...],
) -> CutPlan:
    """What blocks of these lengths cost."""
    summed = any(label not in network.equation.output for label, _ in cuts)
    held = item_bytes(accumulation_dtype(dtype) if summed else dtype) * prod(network.shape)
    if summed and accumulation_dtype(dtype) != dtype:
        held += item_bytes(dtype) * prod(network.shape)
    # What kernels allocate for themselves isn't known to the byte.
    left = max(limit - held, 0) * SURE // 16
    peak, seconds, flops = 0, 0.0, 0
    for block, count in _samples(network, cuts):
        narrowed = narrow(network, block)
        if narrowed is None:
            continue
        copies = _copies(network, *narrowed, item_bytes(dtype))
        plan = _fitting(narrowed[0], dtype, device, optimize, max(left - copies, 0))
        peak = max(peak, plan.peak_bytes + copies)
        seconds += count * (plan.seconds + 10e-6)
        flops += count * plan.flops
    return CutPlan(network, dtype, device, optimize, cuts, left, flops, held + -(-peak * 16 // SURE), seconds)


def _copies(network: Network, part: Network, ranges: dict[int, Range], item: int) -> int:
    """Bytes of the tensors of a block that aren't contiguous any more, which kernels copy."""
    copied = 0
    for labels, before, after in zip(network.equation.inputs, network.operands, part.operands, strict=True):
        if isinstance(before, View):
            cut = [d for d, x in enumerate(labels) if x in ranges and before.shape[d] != after.shape[d]]
            if any(prod(before.shape[:d]) > 1 for d in cut):
                copied += item * prod(after.shape)
    return copied


def _samples(network: Network, cuts: tuple[tuple[int, int], ...]) -> Iterator[tuple[dict[int, Range], int]]:
    """Blocks that stand for all, with their numbers: of a label of patterns one at the end and one within."""
    sliding = _sliding(network)
    each: list[list[tuple[Range, int]]] = []
    for place, (label, length) in enumerate(cuts):
        ranges = _ranges(network.sizes[label], length)
        # Not the same place for all labels: a tensor that is given twice is rarely cut the same way.
        within = ranges[max(min(len(ranges) // 2 + place, len(ranges) - 2), 0)]
        if label in sliding and len(ranges) > 2:
            each.append([(ranges[0], 1), (within, len(ranges) - 1)])
        else:
            each.append([(within, len(ranges))])
    for combination in itertools.product(*each):
        block = {label: one for (label, _), (one, _) in zip(cuts, combination, strict=True)}
        yield block, prod(count for _, count in combination)


def _sliding(network: Network) -> set[int]:
    """The labels of patterns."""
    return {
        x
        for labels, operand in zip(network.equation.inputs, network.operands, strict=True)
        if isinstance(operand, IndexPattern)
        for x in labels
    }


def _fitting(network: Network, dtype: torch.dtype, device: str, optimize: Any, limit: int) -> ConvPlan:
    """The fastest plan that fits, or the one that takes the least memory."""
    return plan_network(network, dtype, device, optimize=optimize, memory_limit=limit)


def _ranges(size: int, length: int) -> list[Range]:
    return [(start, min(length, size - start)) for start in range(0, size, length)]


def _blocks(network: Network, cuts: tuple[tuple[int, int], ...]) -> Iterator[dict[int, Range]]:
    """Every block: the range of each label that is cut."""
    labels = [label for label, _ in cuts]
    each = [_ranges(network.sizes[label], length) for label, length in cuts]
    for ranges in itertools.product(*each):
        yield dict(zip(labels, ranges, strict=True))


def narrow(network: Network, block: dict[int, Range]) -> tuple[Network, dict[int, Range]] | None:
    """The contraction of one block.

    Args:
        network: the whole contraction.
        block: the range of each label that is cut.

    Returns:
        The contraction, and the range of every label that it leaves something out of; None where its patterns
        hold no one, so that its result is zero.
    """
    inputs, output = network.equation.inputs, network.equation.output
    operands: list[Operand] = list(network.operands)
    ranges = dict(block)
    for p, labels in enumerate(inputs):
        operand = operands[p]
        if isinstance(operand, IndexPattern):
            for axis, label in zip(AXES, labels, strict=True):
                if label in block and operand.shape[AXES.index(axis)] > 1:
                    operand = operand.narrow(axis, *block[label])
            if not operand.ones:
                return None
            operands[p] = operand
    # What a smaller pattern doesn't read any more, nothing else has to have.
    for p, labels in enumerate(inputs):
        operand = operands[p]
        if not isinstance(operand, IndexPattern) or len(set(labels)) < 3 or not set(block) & set(labels):
            continue
        for axis, label in zip(AXES, labels, strict=True):
            others = [q for q, there in enumerate(inputs) if label in there and q != p]
            if (
                label in output
                or label in ranges
                or any(isinstance(operands[q], IndexPattern) for q in others)
            ):
                continue
            start, length = operand.live(axis)
            if 0 < length < network.sizes[label]:
                operand = operand.narrow(axis, start, length)
                ranges[label] = (start, length)
        operands[p] = operand
    # A tensor that is given twice, and cut in different places, is two tensors.
    names: dict[Any, int] = {}
    for p, labels in enumerate(inputs):
        operand = operands[p]
        if isinstance(operand, View):
            cuts = tuple(
                ranges.get(label) if size > 1 else None
                for label, size in zip(labels, operand.shape, strict=True)
            )
            shape = tuple(
                size if cut is None else cut[1] for cut, size in zip(cuts, operand.shape, strict=True)
            )
            operands[p] = View(names.setdefault((operand, cuts), p), shape)
    return Network(network.equation, tuple(operands)), ranges


def _narrowed(tensor: Tensor, labels: tuple[int, ...], ranges: dict[int, Range]) -> Tensor:
    """A tensor's part of a block."""
    for dim, label in enumerate(labels):
        if label in ranges and tensor.shape[dim] > 1:
            tensor = tensor.narrow(dim, *ranges[label])
    return tensor
