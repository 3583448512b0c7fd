"""Contraction trees of many operands, made better by simulated annealing.

A tree changes by rotations: where ``x`` is made of ``a`` and ``b`` and then meets ``c``, ``a`` meets ``c``
first and then ``b``. Only the labels of ``x`` change, and they are known from the four around it: a label
of the new ``x`` is kept if ``b`` has it or if the result of all three has it. So a rotation costs a few
operations on bit masks, hyperedges are edges like any other, and a tree of eighty operands is rotated
some hundred thousand times while a greedy search is still repeated.

A rotation is accepted if it costs less, or else with a probability that falls with the factor by which
both steps together cost more: (old / new) ** (1 / temperature), which is Metropolis' rule on the logarithm.
Several walks start hot from different trees; while they cool the worse ones are given up. Random numbers
have fixed seeds, and how long to search is counted in rotations, not in seconds: the same network always
gets the same tree.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from .trees import bits_of
from .walks import BLOCK, Rules, Walked, added, walked

__all__ = ["Sizes", "anneal", "rotations_for"]

Path = list[tuple[int, int]]

WALKS = (8, 4, 2, 2)
"""How many walks there are in each phase; the best ones go on to the next."""

TEMPERATURES = (0.6, 0.3, 0.15, 0.1, 0.05)
"""At which temperatures the phases begin and end."""

MOST_REMEMBERED = 200_000
"""Sizes of so many masks are kept, some tens of megabytes."""

SMOOTHING = 8.0
"""How many multiplications the writing of an element counts for until the last phase.

Trees with small intermediates are the better ones to go on from, even where these cost nothing."""

MANY_ROTATIONS = 640_000
"""What is spent on networks of 80 operands; larger ones get as many, or 1000 an operand.

A lattice of 12 times 40 tensors is planned in the time of repeated greedy searches then, for a fifteenth of
their multiplications."""


class Sizes(dict[int, float]):
    """The number of elements of a tensor by the mask of its labels, as a multiple of a unit.

    The unit keeps products of large sizes within a float.

    Args:
        sizes: of each label.
        unit: the logarithm to base 2 of the unit.

    Example:
        >>> sizes = Sizes([2, 8])
        >>> sizes[0b11], sizes[0b10]
        (16.0, 8.0)
    """

    def __init__(self, sizes: Sequence[int], unit: float = 0.0) -> None:
        super().__init__()
        logarithms = [math.log2(size) if size else 0.0 for size in sizes]
        self.unit = unit
        # For each eight labels the logarithms of the products of any of their sizes.
        self.sums: list[list[float]] = []
        for start in range(0, len(logarithms), 8):
            sums = [0.0]
            for logarithm in logarithms[start : start + 8]:
                sums += [x + logarithm for x in sums]
            self.sums.append(sums)

    def __missing__(self, mask: int) -> float:
        if len(self) > MOST_REMEMBERED:
            self.clear()
        size: float = 2.0 ** min(self.logarithm(mask) - self.unit, 900.0)
        self[mask] = size
        return size

    def logarithm(self, mask: int) -> float:
        """To base 2, of the number of elements."""
        return added(map(list.__getitem__, self.sums, mask.to_bytes(len(self.sums), "little")))


def rotations_for(masks: Sequence[int]) -> int:
    """How many rotations to try on a network.

    Repeated greedy searches (opt_einsum's ``auto-hq``) take some 2.4 to 7 ms for each pair of neighbours
    from 20 operands on; this many rotations take less.

    Args:
        masks: the labels of each tensor.
    """
    count = len(masks)
    pairs = sum(bool(a & b) for i, a in enumerate(masks) for b in masks[:i])
    return max(1000 * count, min(pairs * min(26 * count, 2100), 8000 * count, MANY_ROTATIONS))


def anneal(
    masks: Sequence[int],
    output: int,
    paths: Sequence[Path],
    sizes: Sequence[int],
    rotations: int,
    written: Sequence[float] = (0.0,),
) -> list[Path]:
    """The best paths that walks from the given ones come by.

    Args:
        masks: the labels of each tensor, one bit each.
        output: the labels of the result.
        paths: from where the walks start, by single-assignment numbers.
        sizes: of each label.
        rotations: how many to try, in all walks together.
        written: how many multiplications the writing of one element counts for; several such weights.

    Returns:
        For each weight the path with the fewest multiplications and elements written.

    Example:
        A chain of matrices ``ij,jk,kl`` whose last one is narrow is contracted from there:

        >>> anneal([0b0011, 0b0110, 0b1100], 0b1001, [[(0, 1), (2, 3)]], [8, 8, 8, 2], 100)
        [[(1, 2), (0, 3)]]
    """
    if len(masks) < 3:
        return [paths[0] for _ in written]
    walks = [_Walk(masks, output, paths[i % len(paths)]) for i in range(WALKS[0])]
    exact = Sizes(sizes)
    size = Sizes(sizes, unit=max(map(exact.logarithm, walks[0].masks)))
    # Copies: a walk changes what it starts from.
    best = {weight: min(walks, key=lambda walk: walk.cost(size, weight)).copy() for weight in written}
    each = rotations // (sum(WALKS) + WALKS[-1] * (len(written) - 1))
    generator = random.Random(0)

    def cooled(walks: Sequence[_Walk], phase: int, weight: float) -> list[_Walk]:
        cooling = TEMPERATURES[phase : phase + 2]
        walks = [walk.anneal(size, weight, each, cooling, generator) for walk in walks[: WALKS[phase]]]
        return sorted(walks, key=lambda walk: walk.cost(size, weight))

    for phase in range(len(WALKS) - 1):
        walks = cooled(walks, phase, SMOOTHING)
    for weight in written:
        found = cooled([walk.copy() for walk in walks], len(WALKS) - 1, weight)[0]
        best[weight] = min(best[weight], found, key=lambda walk: walk.cost(size, weight))
    return [best[weight].path() for weight in written]


class _Walk:
    """A tree that changes: nodes 0 to n-1 are tensors, the last is the result.

    ``children`` holds the sum of the numbers of both children, from which either gives the other.
    """

    def __init__(self, masks: Sequence[int], output: int, path: Path) -> None:
        count = len(masks)
        self.masks = list(masks)
        self.parents = [2 * count - 2] * (2 * count - 1)
        self.children = [0] * (2 * count - 1)
        holders: dict[int, int] = {}
        for mask in masks:
            for label in bits_of(mask):
                holders[label] = holders.get(label, 0) + 1
        for number, (a, b) in enumerate(path, count):
            left, right = self.masks[a], self.masks[b]
            kept = left | right
            for label in bits_of(left & right):
                holders[label] -= 1
            for label in bits_of(kept & ~output):
                if holders[label] == 1:
                    kept ^= label
            self.masks.append(kept)
            self.parents[a] = self.parents[b] = number
            self.children[number] = a + b

    @classmethod
    def of(cls, tree: Walked) -> _Walk:
        """A tree that was found."""
        made = cls.__new__(cls)
        made.masks, made.parents, made.children = tree
        return made

    def copy(self) -> _Walk:
        """The tree as it is now."""
        return _Walk.of(Walked([*self.masks], [*self.parents], [*self.children]))

    def costs(self, size: Sizes, written: float) -> list[float]:
        """Of each node: the multiplications that make it, and what writing it counts for."""
        count = (len(self.masks) + 1) // 2
        unions = [0] * len(self.masks)
        for mask, parent in zip(self.masks[:-1], self.parents[:-1], strict=True):
            unions[parent] |= mask
        made = range(count, len(self.masks))
        return [0.0] * count + [size[unions[x]] + written * size[self.masks[x]] for x in made]

    def cost(self, size: Sizes, written: float) -> float:
        """Of the whole tree."""
        return added(self.costs(size, written))

    def anneal(
        self,
        size: Sizes,
        written: float,
        rotations: int,
        cooling: Sequence[float],
        generator: random.Random,
    ) -> _Walk:
        """Walk on while it cools from one temperature to another; the best tree met."""
        hot, cold = cooling
        blocks = max(1, rotations // BLOCK)
        exponents = [-hot * (cold / hot) ** (block / blocks) for block in range(blocks)]
        rules = Rules(size.sums, size.unit, written, exponents)
        tree = Walked(self.masks, self.parents, self.children)
        return _Walk.of(walked(tree, self.costs(size, written), rules, size, generator))

    def path(self) -> Path:
        """The tree as steps, every operand before its use."""
        count = (len(self.masks) + 1) // 2
        below: list[list[int]] = [[] for _ in self.masks]
        for node, parent in enumerate(self.parents[:-1]):
            below[parent].append(node)
        order: list[int] = []
        stack = [len(self.masks) - 1]
        while stack:
            node = stack.pop()
            if node >= count:
                order.append(node)
                stack += below[node]
        number = {i: i for i in range(count)}
        path: Path = []
        for node in reversed(order):
            left, right = sorted(number[x] for x in below[node])
            path.append((left, right))
            number[node] = count + len(path) - 1
        return path
