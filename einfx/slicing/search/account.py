"""What a path takes with some of its labels in blocks, told from the tree alone.

It is an estimate: every loop goes around everything that has its label, what is in one is computed again
for each of its blocks, and copies for products of matrices are those of operands whose labels lie mixed. A
network of hundreds of operands is gone through in a millisecond, where a program of loops takes a hundred
times that.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from math import log
from typing import NamedTuple

import torch

from ... import semiring_cost
from ...machine import item_bytes, machine_for
from ...options import Options
from ..running.into import is_real
from ..running.memory import LINE_SECONDS
from ..schedules.tree import ContractionTree

__all__ = ["Account", "Estimate", "Rates"]

_EDGE = 128
"""Rates are those of a product of square matrices of so many rows."""


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

    Example:
        >>> from einfx.equation import Equation
        >>> tree = ContractionTree(Equation.parse("ij,jk,kl->il"), (80, 8, 80, 8), ((0, 1), (2, 3)))
        >>> account = Account(tree, Rates(1e-5, 1e-10, 1e-9))
        >>> [account.take(blocks, 1000).elements for blocks in [(80, 8, 80, 8), (10, 8, 80, 8)]]
        [7040.0, 880.0]
    """

    def __init__(self, tree: ContractionTree, rates: Rates) -> None:
        self.tree, self.rates = tree, rates
        self.unions = [tuple({x for child in step for x in tree.labels[child]}) for step in tree.path]
        self.last = {
            label: value
            for value, step in tree.children.items()
            for child in step
            for label in tree.labels[child]
        }
        self.sizes: list[float] = []
        self._order: list[tuple[int, int]] = []

    @cached_property
    def copied(self) -> list[tuple[int, ...]]:
        """For each step those of its operands that are copied to be matrices."""
        labels = self.tree.labels
        found = []
        for (first, second), result in zip(self.tree.path, labels[self.tree.count :], strict=True):
            own, other, kept = labels[first], labels[second], {*result}
            both = {*own} & {*other}
            copies = []
            for value, mine in ((first, own), (second, other)):
                groups = [(x in both, x in kept) for x in mine]
                runs = 1 + sum(a != b for a, b in pairwise(groups))
                if runs > len({*groups}):
                    copies.append(value)
            if not copies:
                summed = [[x for x in mine if x in both and x not in kept] for mine in (own, other)]
                if summed[0] != summed[1]:
                    copies.append(first if first >= self.tree.count else second)
            found.append(tuple(copies))
        return found

    def take(self, blocks: Sequence[int], limit: float) -> Estimate:
        """What it takes.

        Args:
            blocks: for each label the length of its blocks, or its size.
            limit: in elements.
        """
        tree, (base, term, element) = self.tree, self.rates
        count, labels, root = tree.count, tree.labels, tree.root
        times: dict[int, float] = {}
        for label, value in self.last.items():
            if blocks[label] < tree.sizes[label]:
                times[value] = times.get(value, 1.0) * (tree.sizes[label] / blocks[label])
        # Up the tree: which of two values is computed first, and the most that is in use for it.
        sizes, most = [0.0] * count, [0.0] * count
        order = []
        for value, (first, second) in enumerate(tree.path, count):
            if most[first] - sizes[first] < most[second] - sizes[second]:
                first, second = second, first
            own = 1.0
            for label in labels[value]:
                own *= blocks[label]
            inside, beside = max(most[first], sizes[first] + most[second]), sizes[first] + sizes[second]
            # What is added up over blocks is there from the first one on.
            held = max(inside, beside) + own if value in times else max(inside, beside + own)
            order.append((first, second))
            sizes.append(own)
            most.append(held)
        # Down the tree: what is in use meanwhile, and how often everything is computed.
        held_then, often = [0.0] * (root + 1), [1.0] * (root + 1)
        often[root] = times.get(root, 1.0)
        over = seconds = highest = 0.0
        moment = root
        copied = self.copied
        for value in range(root, count - 1, -1):
            place = value - count
            first, second = order[place]
            total = held_then[value] + sizes[value] + sizes[first] + sizes[second]
            for x in copied[place]:
                total += sizes[x]
            before = held_then[value] + (sizes[value] if value in times else 0.0)
            held_then[first], held_then[second] = before, before + sizes[first]
            terms = 1.0
            for label in self.unions[place]:
                terms *= blocks[label]
            seconds += often[value] * (base + term * terms + element * sizes[value])
            often[first] = often[value] * times.get(first, 1.0)
            often[second] = often[value] * times.get(second, 1.0)
            if total > highest:
                highest, moment = total, value
            if total > limit:
                over += log(total / limit)
        self.sizes, self._order = sizes, order
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
