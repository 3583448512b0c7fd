"""A contraction tree with cuts, and the schedule that it comes to.

A cut loops a label around the computation of one value: below the value everything that has the label is
computed block by block; what hasn't is computed once, before the loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple

from ..equation import Equation
from .schedule import Allocate, Contract, Free, Loop, Schedule, Statement

__all__ = ["ContractionTree", "Cut", "schedule"]

Labels = tuple[int, ...]


class Cut(NamedTuple):
    """A loop over blocks of a label around the computation of a value."""

    value: int
    label: int
    block: int


@dataclass(frozen=True)
class ContractionTree:
    """In which pairs operands are contracted.

    Args:
        equation: what is contracted; no label twice in an operand.
        sizes: the size of every label.
        path: for each step the values it joins: operands are 0 to n-1, step i gives value n+i.

    Example:
        >>> tree = ContractionTree(Equation.parse("ij,jk,kl->il"), (2, 3, 4, 5), ((1, 2), (0, 3)))
        >>> tree.labels[3], tree.parent[3], tree.below[4]
        ((1, 3), 4, frozenset({0, 1, 2, 3}))
    """

    equation: Equation
    sizes: tuple[int, ...]
    path: tuple[tuple[int, ...], ...]

    @cached_property
    def count(self) -> int:
        """The number of operands."""
        return len(self.equation.inputs)

    @cached_property
    def root(self) -> int:
        """The value that is the result."""
        return self.count + len(self.path) - 1

    @cached_property
    def labels(self) -> tuple[Labels, ...]:
        """The labels of every value: those that what comes later, or the result, needs."""
        known = [*self.equation.inputs]
        for number, step in enumerate(self.path):
            joined = {x for value in step for x in known[value]}
            later = set(self.equation.output)
            taken = {value for earlier in self.path[: number + 1] for value in earlier}
            later.update(x for value in range(len(known)) if value not in taken for x in known[value])
            ordered = dict.fromkeys(x for value in step for x in known[value])
            known.append(tuple(x for x in ordered if x in joined & later))
        known[-1] = self.equation.output
        return tuple(known)

    @cached_property
    def children(self) -> Mapping[int, tuple[int, ...]]:
        """What each value is made of."""
        return {self.count + number: step for number, step in enumerate(self.path)}

    @cached_property
    def parent(self) -> Mapping[int, int]:
        """What each value but the root goes into."""
        return {child: value for value, step in self.children.items() for child in step}

    @cached_property
    def below(self) -> tuple[frozenset[int], ...]:
        """The labels of all operands that each value is made of."""
        known = [frozenset(labels) for labels in self.equation.inputs]
        for step in self.path:
            known.append(frozenset().union(*(known[value] for value in step)))
        return tuple(known)

    def above(self, value: int) -> list[int]:
        """The values that a value goes into, one into the other, up to the root."""
        chain = []
        while value in self.parent:
            value = self.parent[value]
            chain.append(value)
        return chain


def schedule(tree: ContractionTree, cuts: Iterable[Cut] = ()) -> Schedule:
    """The program of a tree with cuts.

    Args:
        tree: in which pairs operands are contracted.
        cuts: the loops; those around one value are nested in the order of their labels' sizes, a long
            one outside.

    Example:
        >>> tree = ContractionTree(Equation.parse("ij,jk,kl->il"), (9, 9, 9, 9), ((0, 1), (3, 2)))
        >>> print(schedule(tree, [Cut(4, 2, 3)]))
        0 [ab], 1 [bc], 2 [cd] -> 4 [ad]; a 9, b 9, c 9, d 9
        allocate 4 [ad] of zeros
        for c in blocks of 3:
            allocate 3 [ac]
            3 = 0 * 1
            4 += 3 * 2
            free 3
    """
    around: dict[int, list[Cut]] = {}
    for cut in cuts:
        around.setdefault(cut.value, []).append(cut)
    builder = _Builder(tree, around)
    root = tree.root
    statements = [builder.allocation(root), *builder.compute(root, {}, frozenset())]
    return Schedule(tree.labels, tree.sizes, tree.count, (root,), tuple(statements))


class _Builder:
    def __init__(self, tree: ContractionTree, around: Mapping[int, Sequence[Cut]]) -> None:
        self.tree = tree
        self.around = {
            value: sorted(cuts, key=lambda cut: -tree.sizes[cut.label] // cut.block)
            for value, cuts in around.items()
        }

    def allocation(self, value: int) -> Allocate:
        return Allocate(value, self.accumulates(value))

    def accumulates(self, value: int) -> bool:
        """Whether a value is summed from blocks."""
        own = self.tree.labels[value]
        return any(cut.label not in own for cut in self.around.get(value, ()))

    def compute(self, value: int, active: Mapping[int, int], made: frozenset[int]) -> list[Statement]:
        """Lines that compute a value into its buffer, which is there already.

        Args:
            value: which.
            active: the lengths of blocks of labels that are looped already.
            made: values that are computed already.
        """
        return self._looped(value, self.around.get(value, ()), dict(active), made)

    def _looped(
        self, value: int, cuts: Sequence[Cut], active: dict[int, int], made: frozenset[int]
    ) -> list[Statement]:
        if not cuts:
            return self._joined(value, active, made)
        first, *rest = cuts
        if first.label not in self._visible(value, made):
            # All of it is summed in what is computed already.
            return self._looped(value, rest, active, made)
        before = self._independent(value, first.label, made)
        lines: list[Statement] = []
        for child in before:
            lines += [self.allocation(child), *self.compute(child, active, made)]
        inside = self._looped(value, rest, {**active, first.label: first.block}, made.union(before))
        lines.append(Loop(first.label, first.block, tuple(inside)))
        return [*lines, *(Free(child) for child in before)]

    def _independent(self, value: int, label: int, made: frozenset[int]) -> list[int]:
        """The largest intermediates below a value that a loop over a label doesn't change."""
        found, waiting = [], list(self.tree.children[value])
        while waiting:
            child = waiting.pop()
            if child < self.tree.count or child in made:
                continue
            if label in self._visible(child, made):
                waiting += self.tree.children[child]
            else:
                found.append(child)
        return sorted(found)

    def _visible(self, value: int, made: frozenset[int]) -> set[int]:
        """The labels of what a value is computed from: operands, and values that are there already."""
        found: set[int] = set()
        for child in self.tree.children[value]:
            if child < self.tree.count or child in made:
                found.update(self.tree.labels[child])
            else:
                found |= self._visible(child, made)
        return found

    def _joined(self, value: int, active: dict[int, int], made: frozenset[int]) -> list[Statement]:
        children = self.tree.children[value]
        inner = [child for child in children if child >= self.tree.count and child not in made]
        # The one whose own computation takes more goes first, while the other isn't there yet.
        inner.sort(key=lambda child: self._size(child, active) - self._peak(child, active, made))
        lines: list[Statement] = []
        for child in inner:
            lines += [self.allocation(child), *self.compute(child, active, made)]
        lines.append(Contract(value, children, self.accumulates(value)))
        return [*lines, *(Free(child) for child in inner)]

    def _size(self, value: int, active: Mapping[int, int]) -> int:
        return prod(active.get(label, self.tree.sizes[label]) for label in self.tree.labels[value])

    def _peak(self, value: int, active: Mapping[int, int], made: frozenset[int]) -> int:
        """The most elements that computing a value takes at a time, itself included, loops left out."""
        active = {**active, **{cut.label: cut.block for cut in self.around.get(value, ())}}
        inner = [x for x in self.tree.children[value] if x >= self.tree.count and x not in made]
        sizes = [self._size(child, active) for child in inner]
        peaks = [self._peak(child, active, made) for child in inner]
        held, most = 0, sum(sizes)
        for size, peak in sorted(zip(sizes, peaks, strict=True), key=lambda pair: pair[0] - pair[1]):
            most = max(most, held + peak)
            held += size
        return most + self._size(value, active)
