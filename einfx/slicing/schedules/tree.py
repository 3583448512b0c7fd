"""A contraction tree with cuts, and the schedule that it comes to.

A cut loops a label around the computation of one value: below the value everything that has the label is
computed block by block; what hasn't is computed once, before the loop. Where that takes too much, a value may
be computed again for every block, in which loops further inside may cut it.

A loop over a single block is a stage: all that a value is made of is computed inside of it. That changes
nothing but what gradients keep, who make again what was made in a stage when they come to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple

from ...equation import Equation
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
        # Of each label how many have it still: values that nothing was made of yet, and the result.
        holders = Counter(x for labels in (*known, self.equation.output) for x in labels)
        for step in self.path:
            joined = [x for value in step for x in known[value]]
            holders.subtract(joined)
            often = Counter(joined)
            kept = [x for x in often if holders[x] > 0]
            # Labels of a batch first: a product of matrices is then written where the result lies.
            kept.sort(key=lambda x: often[x] < len(step))
            holders.update(kept)
            known.append(tuple(kept))
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

    @cached_property
    def masks(self) -> tuple[int, ...]:
        """The labels of every value as bits."""
        return tuple(sum(1 << label for label in labels) for labels in self.labels)

    def above(self, value: int) -> list[int]:
        """The values that a value goes into, one into the other, up to the root."""
        chain = []
        while value in self.parent:
            value = self.parent[value]
            chain.append(value)
        return chain


def schedule(
    tree: ContractionTree, cuts: Iterable[Cut] = (), repeated: Collection[int] = (), marked: bool = False
) -> Schedule:
    """The program of a tree with cuts.

    Args:
        tree: in which pairs operands are contracted.
        cuts: the loops; of those around one value the first is the outermost.
        repeated: the values that are computed again for every block of a loop that doesn't change them, where
            a loop further inside cuts them; as -1 - value those that always are.
        marked: whether loops have in place of the length of a block -1 - the number of the cut; stages keep
            theirs.

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
    builder = _Builder(tree, tuple(cuts), frozenset(repeated), marked)
    root = tree.root
    lines, _ = builder.compute(root, {}, 0, buffered=True)
    statements = (builder.allocation(root), *lines)
    return Schedule(tree.labels, tree.sizes, tree.count, (root,), statements)


class _Builder:
    """Sets of values and of labels are bits of numbers."""

    def __init__(
        self, tree: ContractionTree, cuts: Sequence[Cut], repeated: Collection[int], marked: bool
    ) -> None:
        self.tree, self.repeated, self.marked = tree, repeated, marked
        self.children, self.count = tree.children, tree.count
        self.around: dict[int, list[tuple[int, Cut]]] = {}
        for number, cut in enumerate(cuts):
            self.around.setdefault(cut.value, []).append((number, cut))
        self._seen: dict[tuple[int, int], int] = {}

    def allocation(self, value: int) -> Allocate:
        own = self.tree.masks[value]
        cuts = [cut for _, cut in self.around.get(value, ()) if not self._is_stage(cut)]
        return Allocate(value, any(not own >> cut.label & 1 for cut in cuts))

    def _is_stage(self, cut: Cut) -> bool:
        return cut.block >= self.tree.sizes[cut.label]

    def compute(
        self, value: int, active: Mapping[int, int], made: int, buffered: bool = False
    ) -> tuple[list[Statement], int]:
        """Lines that allocate and compute a value, and the most elements they take, roughly.

        Args:
            value: which.
            active: the lengths of blocks of labels that are looped already.
            made: values that are computed already.
            buffered: whether it has a buffer already, which then isn't counted.
        """
        return self._looped(value, self.around.get(value, ()), active, made, buffered)

    def _looped(
        self,
        value: int,
        cuts: Sequence[tuple[int, Cut]],
        active: Mapping[int, int],
        made: int,
        buffered: bool,
    ) -> tuple[list[Statement], int]:
        if not cuts:
            return self._joined(value, active, made, buffered)
        (number, first), *rest = cuts
        if not self._visible(value, made) >> first.label & 1:
            # All of it is summed in what is computed already.
            return self._looped(value, rest, active, made, buffered)
        before = [] if self._is_stage(first) else self._independent(value, first.label, made, rest)
        lines: list[Statement] = []
        held = most = 0
        for child in before:
            inside, peak = self.compute(child, active, made)
            lines += inside
            made |= 1 << child
            most = max(most, held + peak)
            held += self._size(child, active)
        if not buffered:
            # Only now: what is computed before the loop may take the same memory.
            lines.append(self.allocation(value))
            held += self._size(value, active)
        inside, peak = self._looped(value, rest, {**active, first.label: first.block}, made, True)
        block = -1 - number if self.marked and not self._is_stage(first) else first.block
        lines.append(Loop(first.label, block, tuple(inside)))
        return [*lines, *(Free(child) for child in before)], max(most, held + peak)

    def _independent(self, value: int, label: int, made: int, rest: Sequence[tuple[int, Cut]]) -> list[int]:
        """The largest intermediates below a value that are computed before a loop over a label."""
        found = []
        inner = sum(1 << cut.label for _, cut in rest)
        waiting = [(child, inner) for child in self.children[value]]
        while waiting:
            child, inner = waiting.pop()
            if child < self.count or made >> child & 1:
                continue
            visible = self._visible(child, made)
            stays = -1 - child in self.repeated or (child in self.repeated and visible & inner)
            if not visible >> label & 1 and not stays:
                found.append(child)
                continue
            for _, cut in self.around.get(child, ()):
                inner |= 1 << cut.label
            waiting += [(x, inner) for x in self.children[child]]
        return sorted(found)

    def _visible(self, value: int, made: int) -> int:
        """The labels of what a value is computed from: operands, and values that are there already."""
        known = self._seen.get((value, made))
        if known is not None:
            return known
        # Not by recursion: a path may be as deep as it is long.
        unknown, waiting = [], [value]
        while waiting:
            above = waiting.pop()
            unknown.append(above)
            inner = [x for x in self.children[above] if x >= self.count and not made >> x & 1]
            waiting += [x for x in inner if (x, made) not in self._seen]
        found = 0
        for above in sorted(unknown):
            found = 0
            for child in self.children[above]:
                there = child < self.count or made >> child & 1
                found |= self.tree.masks[child] if there else self._seen[child, made]
            self._seen[above, made] = found
        return found

    def _joined(
        self, value: int, active: Mapping[int, int], made: int, buffered: bool
    ) -> tuple[list[Statement], int]:
        # What is computed without a loop around it, each after what it is made of.
        values, waiting = [], [value]
        known: dict[int, tuple[list[Statement], int]] = {}
        while waiting:
            above = waiting.pop()
            values.append(above)
            for child in self.children[above]:
                if child < self.count or made >> child & 1:
                    continue
                if child in self.around:
                    known[child] = self.compute(child, active, made)
                else:
                    waiting.append(child)
        for above in sorted(values):
            known[above] = self._step(above, active, known, buffered and above == value)
        return known[value]

    def _step(
        self,
        value: int,
        active: Mapping[int, int],
        known: dict[int, tuple[list[Statement], int]],
        buffered: bool,
    ) -> tuple[list[Statement], int]:
        """The same as :meth:`compute` for lines that compute operands, which are taken from what is known."""
        children = self.children[value]
        inner = []
        for child in children:
            if child in known:
                lines, peak = known.pop(child)
                inner.append((peak - self._size(child, active), child, peak, lines))
        # The one that takes more than is left of it goes first, while the other isn't there yet.
        inner.sort(key=lambda x: (-x[0], x[1]))
        statements: list[Statement] = []
        held = most = 0
        for less, _, peak, lines in inner:
            # A long list of lines is gone on with.
            statements = statements + lines if statements else lines
            most = max(most, held + peak)
            held += peak - less
        allocation = self.allocation(value)
        if not buffered:
            statements.append(allocation)
            held += self._size(value, active)
        statements.append(Contract(value, children, allocation.filled))
        statements += [Free(child) for _, child, _, _ in inner]
        return statements, max(most, held)

    def _size(self, value: int, active: Mapping[int, int]) -> int:
        return prod([active.get(label, self.tree.sizes[label]) for label in self.tree.labels[value]])
