"""The fastest plan of a contraction with patterns that stays within a memory limit.

Where no plan of the whole fits, labels are cut into blocks, one after another. Cut is what saves most memory
for the time that it costs: that is a batch, as a rule, then positions, whose blocks read some inputs twice,
and channels, whose blocks each read all of the data, last. Blocks of labels that are summed are added up.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import torch

from ...errors import MemoryLimitError
from ...machine import accumulation_dtype, item_bytes, machine_for
from ...paths.choices import hashable
from ...pattern import IndexPattern
from ...plans import size_text
from ..symbolic.network import Network
from .blocks import Cuts, Range, copies, narrow, ranges_of, sliding
from .cut_plan import CutPlan
from .plan import ConvPlan
from .search import plan_network

__all__ = ["bytes_of", "plan_within", "within"]

SURE = 14
"""How many sixteenths of the memory for a block its plan may take."""

BLOCK_SECONDS = 60e-6
"""What a block costs beside its plan: parts are taken, kernels are called on little, the result is put in."""


def plan_within(
    network: Network,
    dtype: torch.dtype,
    device: torch.device | str,
    limit: int,
    optimize: Any = "auto",
    strided: frozenset[int] = frozenset(),
) -> ConvPlan | CutPlan:
    """The fastest plan that fits a memory limit.

    Args:
        network: what to contract.
        dtype: of its tensors.
        device: where it is computed.
        limit: the most bytes beyond the operands, the result included.
        optimize: as in :func:`.search.plan_network`.
        strided: the positions of operands that aren't contiguous, so that kernels copy them.

    Raises:
        MemoryLimitError: no plan fits, however small its blocks; it says how much would be enough.

    Example:
        >>> from ..symbolic.network import network
        >>> from ..symbolic.views import View
        >>> x, pattern = View(0, (64, 3, 32)), IndexPattern(32, 5)
        >>> product = network(["nci", "koi", "mcj", "loj"], "nmo", x, pattern, View(1, (64, 3, 32)), pattern)
        >>> plan_within(product, torch.float32, "cpu", 500_000).peak_bytes <= 500_000
        True
    """
    found = within(network, dtype, device, limit, optimize, strided)
    if isinstance(found, int):
        raise MemoryLimitError(
            f"einsum {network.text!r} with index patterns doesn't fit memory_limit={size_text(limit)}: the "
            f"smallest limit that is enough is {found} bytes ({size_text(found)}), of which the result takes "
            f"{item_bytes(dtype) * prod(network.shape)}"
        )
    return found


def within(
    network: Network,
    dtype: torch.dtype,
    device: torch.device | str,
    limit: int,
    optimize: Any = "auto",
    strided: frozenset[int] = frozenset(),
    into: bool = False,
) -> ConvPlan | CutPlan | int:
    """The same, but the smallest limit that is enough where this one isn't.

    Args: as of :func:`plan_within`, and ``into``, whether blocks are added to a tensor that is given.
    """
    kind = device.type if isinstance(device, torch.device) else str(device).partition(":")[0]
    frozen = hashable(optimize)
    return _within(_Problem(network, dtype, kind, frozen, strided, into, limit), torch.get_num_threads())


def bytes_of(network: Network, positions: frozenset[int], dtype: torch.dtype) -> int:
    """The bytes of some operands."""
    return item_bytes(dtype) * sum(prod(network.operands[p].shape) for p in positions)


KINDS = 2
"""So many kinds of blocks of a label are looked at."""


class _Problem(NamedTuple):
    """What is planned, as in :func:`plan_within`."""

    network: Network
    dtype: torch.dtype
    device: str
    optimize: Any
    strided: frozenset[int]
    into: bool
    limit: int


@lru_cache(maxsize=1024)
def _within(problem: _Problem, threads: int) -> ConvPlan | CutPlan | int:
    network, limit = problem.network, problem.limit
    copied = bytes_of(network, problem.strided, problem.dtype)
    whole = plan_network(
        network,
        problem.dtype,
        problem.device,
        optimize=problem.optimize,
        memory_limit=max(limit - copied, 0),
    )
    if whole.peak_bytes + copied <= limit:
        return whole
    needed = whole.peak_bytes + copied
    cuts: Cuts = ()
    left = _labels(network)
    found: list[CutPlan] = []
    while left:
        single = {label: _cut(problem, (*cuts, (label, 1))) for label in left}
        fitting = [label for label, made in single.items() if made.peak_bytes <= limit]
        before = len(found)
        found += [_longest(problem, cuts, label) for label in fitting]
        if before:
            # One more label than needed has been looked at.
            break
        needed = min(needed, *(made.peak_bytes for made in single.values()))
        label = min(left, key=lambda label: single[label].peak_bytes * single[label].seconds)
        cuts = (*cuts, (label, 1))
        left = [x for x in left if x != label and x not in _told_by(network, label)]
    return min(found, key=lambda made: made.seconds) if found else needed


def _longest(problem: _Problem, cuts: Cuts, label: int) -> CutPlan:
    """The cut with the longest blocks of a label that fit, blocks of one element at the least."""
    length = problem.network.sizes[label]
    while True:
        length = -(-length // 2)
        made = _cut(problem, (*cuts, (label, length)))
        if made.peak_bytes <= problem.limit or length == 1:
            return made


def _labels(network: Network) -> list[int]:
    """The labels that can be cut."""
    inputs = {
        labels[2]
        for labels, operand in zip(network.equation.inputs, network.operands, strict=True)
        if isinstance(operand, IndexPattern)
    }
    summed = [x for x in network.equation.summed if x not in inputs]
    return [x for x in (*network.equation.output, *summed) if network.sizes[x] > 1]


def _told_by(network: Network, label: int) -> set[int]:
    """What is cut along with a label: outputs read some inputs only, and inputs are read by some outputs."""
    told: set[int] = set()
    for labels, operand in zip(network.equation.inputs, network.operands, strict=True):
        if isinstance(operand, IndexPattern) and label in labels[1:]:
            told |= {*labels[1:]}
    return told


def _cut(problem: _Problem, cuts: Cuts) -> CutPlan:
    """What blocks of these lengths cost."""
    network, dtype, device, optimize, strided, into, limit = problem
    summed = any(label not in network.equation.output for label, _ in cuts)
    held = item_bytes(accumulation_dtype(dtype) if summed else dtype) * prod(network.shape)
    if summed and accumulation_dtype(dtype) != dtype:
        held += item_bytes(dtype) * prod(network.shape)
    if into:
        held = 0
    # What kernels allocate for themselves isn't known to the byte.
    left = max(limit - held, 0) * SURE // 16
    machine = machine_for(device)
    peak, seconds, flops = 0, machine.stream(held), 0
    for block, count in _samples(network, cuts):
        narrowed = narrow(network, block)
        if narrowed is None:
            seconds += count * BLOCK_SECONDS
            continue
        taken = copies(network, *narrowed, item_bytes(dtype), strided)
        plan = plan_network(narrowed[0], dtype, device, optimize=optimize, memory_limit=max(left - taken, 0))
        peak = max(peak, plan.peak_bytes + taken)
        written = (3 if summed or into else 2) * item_bytes(dtype) * prod(narrowed[0].shape)
        seconds += count * (plan.seconds + BLOCK_SECONDS + machine.stream(2 * taken + written))
        flops += count * plan.flops
    needed = held + -(-peak * 16 // SURE)
    return CutPlan(network, dtype, device, optimize, cuts, strided, into, left, flops, needed, seconds)


def _samples(network: Network, cuts: Cuts) -> Iterator[tuple[dict[int, Range], int]]:
    """Blocks that stand for all, with their numbers."""
    each = [
        _kinds(network, label, length, place)
        if label in sliding(network)
        # All are alike but for the last, which isn't larger.
        else ((_one_of(ranges_of(network.sizes[label], length), place), -(-network.sizes[label] // length)),)
        for place, (label, length) in enumerate(cuts)
    ]
    for combination in itertools.product(*each):
        block = {label: one for (label, _), (one, _) in zip(cuts, combination, strict=True)}
        yield block, prod(count for _, count in combination)


@lru_cache(maxsize=4096)
def _kinds(network: Network, label: int, length: int, place: int) -> tuple[tuple[Range, int], ...]:
    """For each kind of block of a pattern's label one of them, with their number.

    At the ends windows reach over what is there, and where there is a stride every few positions are alike.
    """
    kinds: dict[Network | None, list[Range]] = {}
    for one in ranges_of(network.sizes[label], length):
        narrowed = narrow(network, {label: one})
        kinds.setdefault(narrowed and narrowed[0], []).append(one)

    def size(part: Network | None) -> int:
        return sum(prod(operand.shape) for operand in part.operands) if part is not None else 0

    # What takes the most memory, and what there is the most of, for the rest too.
    ordered = sorted(kinds, key=lambda part: (size(part), len(kinds[part])), reverse=True)
    kept, rest = ordered[:KINDS], ordered[KINDS:]
    counts = {part: len(kinds[part]) for part in kept}
    counts[max(kept, key=lambda part: counts[part])] += sum(len(kinds[part]) for part in rest)
    return tuple((_one_of(kinds[part], place), counts[part]) for part in kept)


def _one_of(ranges: list[Range], place: int) -> Range:
    """One of many, not at the same place for all labels: a tensor given twice is rarely cut alike."""
    return ranges[max(min(len(ranges) // 2 + place, len(ranges) - 2), 0)]
