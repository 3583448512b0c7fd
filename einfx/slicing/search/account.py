"""What a path takes with some of its labels in blocks, told from the tree alone.

It is an estimate: every loop goes around everything that has its label, what is in one is computed again
for each of its blocks, and copies for products of matrices are those of operands whose labels lie mixed. A
network of hundreds of operands is gone through in a millisecond, where a program of loops takes a hundred
times that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import log
from typing import NamedTuple

import torch

from ...costs import semiring_cost
from ...machine import item_bytes, machine_for
from ...options import Options
from ..running.into import is_real
from ..running.memory import LINE_SECONDS
from ..schedules.tree import ContractionTree

__all__ = ["Account", "Estimate", "Rates"]

_EDGE = 128
"""Rates are those of a product of square matrices of so many rows."""


Known = dict[tuple[object, ...], dict[tuple[int, int], tuple[tuple[int, ...], bool]]]
"""For steps by the labels of operands and results, and which are operands of the whole: what is copied."""


class Rates(NamedTuple):
    """Seconds of a step: in any case, for a multiplication, and for an element that is written."""

    step: float
    term: float
    element: float

    @classmethod
    def of(cls, dtype: torch.dtype, device: str, options: Options) -> Rates:
        """Those of a machine, for a dtype over a semiring."""
        machine = machine_for(device)
        if is_real(options, dtype):
            seconds = machine.gemm(1, _EDGE, _EDGE, _EDGE, dtype)
        else:
            counts = 1, _EDGE, _EDGE, _EDGE
            seconds = semiring_cost.pair_seconds(options, 2 * _EDGE**2, _EDGE**2, counts, dtype, machine)
        # A line each to make its memory, to compute, and to free.
        step = 3 * LINE_SECONDS + machine.op_seconds
        return cls(step, max(seconds - machine.op_seconds, 0.0) / _EDGE**3, machine.stream(item_bytes(dtype)))


class Estimate(NamedTuple):
    """What a path takes.

    Attributes:
        elements: the most that are in use at a time.
        seconds: predicted time.
        over: the sum, over the steps that take more than a limit, of the logarithm of how many times more.
        step: the value during whose computation the most is in use.
    """

    elements: float
    seconds: float
    over: float
    step: int


class Account:
    """A path, and what it takes with blocks of any lengths.

    Args:
        tree: the path; every step joins two values.
        rates: what its steps take.
        known: of other paths with the same operands; more becomes known.

    Example:
        >>> from einfx.equation import Equation
        >>> tree = ContractionTree(Equation.parse("ij,jk,kl->il"), (80, 8, 80, 8), ((0, 1), (2, 3)))
        >>> account = Account(tree, Rates(1e-5, 1e-10, 1e-9))
        >>> [account.take(blocks, 1000).elements for blocks in [(80, 8, 80, 8), (10, 8, 80, 8)]]
        [7040.0, 880.0]
    """

    def __init__(self, tree: ContractionTree, rates: Rates, known: Known | None = None) -> None:
        self.tree, self.rates = tree, rates
        self.known: Known = {} if known is None else known
        count, labels = tree.count, tree.labels
        self.unions: list[tuple[int, ...]] = []
        self.last: dict[int, int] = {}
        # Of each step the labels as bits, and what it is known to take beside operands and result.
        self._steps: list[tuple[int, dict[tuple[int, int], tuple[tuple[int, ...], bool]]]] = []
        for place, (first, second) in enumerate(tree.path):
            one, other, value = labels[first], labels[second], count + place
            union = tuple({*one, *other})
            self.unions.append(union)
            self.last.update(dict.fromkeys(one, value))
            self.last.update(dict.fromkeys(other, value))
            key = one, other, labels[value], first < count, second < count
            self._steps.append((tree.masks[first] | tree.masks[second], self.known.setdefault(key, {})))
        self.sizes: list[float] = []
        self._order: list[tuple[int, int]] = []

    def _copies(self, place: int, unit: int, part: int) -> tuple[tuple[int, ...], bool]:
        """What a step takes beside its operands and its result.

        Args:
            place: of the step in the path.
            unit: its labels in blocks of one element, as bits.
            part: its labels in longer blocks.

        Returns:
            Which of its operands are copied to be matrices; and whether the result is made apart and then
            copied, as no product of matrices can write it where it lies.
        """
        tree = self.tree
        step, result = tree.path[place], tree.labels[tree.count + place]
        own = [[x for x in tree.labels[value] if not unit >> x & 1] for value in step]
        kept, both = {*result}, {*own[0]} & {*own[1]}
        batch = both & kept
        if any(x not in kept and x not in both for labels in own for x in labels):
            # Something is summed within an operand.
            return (), True
        if not {x for labels in own for x in labels} - kept:
            # Elements are multiplied where they lie.
            return (), False
        groups = [0 if x in batch else 1 + (x in own[0]) for x in result if not unit >> x & 1]
        if _runs(groups) > len({*groups}) or (0 in groups and groups[0] != 0):
            return (), True
        copies, orders = [], []
        for which, (value, labels) in enumerate(zip(step, own, strict=True)):
            orders.append([x for x in labels if x in both and x not in kept])
            groups = [0 if x in batch else 1 + (x in kept) for x in labels]
            copied = _runs(groups) > len({*groups}) or (
                0 in groups and groups[-1] == 0 and len({*groups}) > 1
            )
            if not copied and value < tree.count:
                copied = self._parted(value, labels, groups, unit, part)
            if copied:
                copies.append(which)
        if not copies and orders[0] != orders[1]:
            copies.append(0 if step[0] >= tree.count else 1)
        return tuple(copies), False

    def _parted(self, value: int, labels: Sequence[int], groups: Sequence[int], unit: int, part: int) -> bool:
        """Whether a block of an operand doesn't lie as a matrix, where all of it would."""
        whole = self.tree.labels[value]
        if not labels:
            return False
        where = [whole.index(x) for x in labels]
        for (first, left), (second, right) in pairwise(zip(where, groups, strict=True)):
            if left == right and (second - first > 1 or part >> whole[second] & 1):
                return True
        # Between the last dimension that isn't of one element and the next one there is a gap.
        return where[-1] < len(whole) - 1 and len({*groups}) > 1

    def take(
        self, blocks: Sequence[int], limit: float, places: Mapping[int, int] | None = None, free: bool = False
    ) -> Estimate:
        """What it takes.

        Args:
            blocks: for each label the length of its blocks, or its size.
            limit: in elements.
            places: for each label around which value its loop goes; around as little as can be where None.
            free: whether loops may still go further out, so that nothing is added up over blocks meanwhile:
                then elements are those with every loop around everything, and seconds those with every loop
                around as little as can be, neither of which can be had together always.
        """
        tree, (base, term, element) = self.tree, self.rates
        count, labels, root = tree.count, tree.labels, tree.root
        times: dict[int, float] = {}
        unit = part = 0
        for label, value in (places or self.last).items():
            block, size = blocks[label], tree.sizes[label]
            if block < size:
                times[value] = times.get(value, 1.0) * (size / block)
                part |= (block > 1) << label
            unit |= (block == 1) << label
        # The result is there from the beginning, what is added up over blocks from the first one on.
        added = {root} if free else {root, *times}
        # Up the tree: which of two values is computed first, and the most that is in use for it.
        most = [0.0] * count
        self.sizes = sizes = []
        for own_labels in labels:
            own = 1.0
            for label in own_labels:
                own *= blocks[label]
            sizes.append(own)
        order = []
        for value, (first, second) in enumerate(tree.path, count):
            one, other = sizes[first] if first >= count else 0.0, sizes[second] if second >= count else 0.0
            if most[first] - one < most[second] - other:
                first, second, one, other = second, first, other, one
            own = sizes[value]
            inside, beside = max(most[first], one + most[second]), one + other
            held = max(inside, beside) + own if value in added else max(inside, beside + own)
            order.append((first, second))
            most.append(held)
        # Down the tree: what is in use meanwhile, and how often everything is computed.
        held_then, often = [0.0] * (root + 1), [1.0] * (root + 1)
        often[root] = times.get(root, 1.0)
        seconds = highest = apart = 0.0
        moment = separate = root
        totals = []
        for value in range(root, count - 1, -1):
            place = value - count
            first, second = order[place]
            one, other = sizes[first] if first >= count else 0.0, sizes[second] if second >= count else 0.0
            total = held_then[value] + sizes[value] + one + other
            every, known = self._steps[place]
            key = unit & every, part & every
            copies = known.get(key)
            if copies is None:
                copies = known[key] = self._copies(place, *key)
            copied, made_apart = copies
            for x in copied:
                total += sizes[tree.path[place][x]]
            if made_apart and sizes[value] > apart:
                apart, separate = sizes[value], value
            before = held_then[value] + (sizes[value] if value in added else 0.0)
            held_then[first], held_then[second] = before, before + one
            terms = 1.0
            for label in self.unions[place]:
                terms *= blocks[label]
            seconds += often[value] * (base + term * terms + element * sizes[value])
            often[first] = often[value] * times.get(first, 1.0)
            often[second] = often[value] * times.get(second, 1.0)
            if total > highest:
                highest, moment = total, value
            totals.append(total)
        highest += apart
        over = 0.0
        if highest > limit:
            over = sum([log((total + apart) / limit) for total in totals if total + apart > limit])
        if 2 * apart > highest:
            moment = separate
        self._order = order
        return Estimate(highest, seconds, over, moment)

    def alive(self, value: int) -> list[int]:
        """The intermediates in use while a value is computed, with the blocks that were asked for last."""
        tree = self.tree
        found = [value, *self._order[value - tree.count]]
        while value != tree.root:
            above = tree.parent[value]
            first, second = self._order[above - tree.count]
            if value == second:
                found.append(first)
            value = above
        return [x for x in found if x >= tree.count]


def _runs(groups: Sequence[int]) -> int:
    """How many stretches of the same number there are."""
    return len(groups) and 1 + sum(a != b for a, b in pairwise(groups))
