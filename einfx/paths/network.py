"""The operands of a contraction as bit masks over their labels, and the best trees over them.

Up to eight operands the search is exhaustive: dynamic programming over all subsets, outer products included.
Beyond, trees are annealed for few multiplications and small intermediates, which is fast, and then improved
part by part for predicted time, which is nearer to the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch

from ..costs import semiring_cost
from ..costs.cost import REDUCED_PRECISION
from ..equation import Equation
from ..layout import Loops
from ..machine import Machine, item_bytes, machine_for
from ..options import REAL, Options
from .annealing import Sizes, anneal, rotations_for
from .trees import Tree, greedy_tree, improve

__all__ = ["MAX_ENUMERATED", "WORTH_A_LOOK", "Network"]

Shapes = Sequence[Sequence[int]]
Path = list[tuple[int, ...]]
Cost = Callable[[int, int, int], float]  # of a step, by the labels of its operands and of its result
Choice = Sequence[int] | dict[int, int]  # a tree: for each set of operands the part that is contracted apart

_LONG = Loops(64, 64, True)

MAX_ENUMERATED = 4
"""Up to this many operands every path is a candidate."""

MAX_CANDIDATES = 5
"""How many of them are looked at with every copy counted, which the search doesn't see, ..."""

WORTH_A_LOOK = 30e-6
"""... where they take less seconds than this; of slower ones all are."""

MAX_EXHAUSTIVE = 8
"""Up to this many operands the search is exhaustive (dynamic programming over all subsets)."""

GREEDY_TREES = 4
"""From so many greedy trees annealing starts."""

IMPROVED_SIZE = 6
IMPROVED_ROUNDS = 3
"""How many leaves a part has that is replaced by the fastest tree for them, and how often all are tried."""

WRITTEN = 4.0
"""How many multiplications the writing of an element counts for in the search for a fast path."""

MAX_ARRANGED = 16
"""Up to this many operands planning tries many orders of labels for each path, ..."""

WORTH_IT = 0.9
"""... of more one path may have to do: then that with more multiplications is taken where its predicted time
falls below this part."""

MOST_ELEMENTS = 1 << 200
"""Nobody has tensors larger than this; predictions for them stay within a float."""


class Network:
    """The operands of a contraction as bit masks over labels, with the predicted time of every pair."""

    def __init__(
        self,
        equation: Equation,
        shapes: Shapes,
        members: Sequence[int],
        dtype: torch.dtype,
        device: str,
        options: Options = REAL,
    ) -> None:
        self.options = options
        self.sizes = equation.sizes(shapes)
        self.dtype = dtype
        self.item = item_bytes(dtype)
        self.machine: Machine = machine_for(device)
        self.members = list(members)
        self.masks = []
        for i in members:
            mask = 0
            for label, size in zip(equation.inputs[i], shapes[i], strict=True):
                if size != 1 or self.sizes[label] == 1:
                    mask |= (1 << label) * (self.sizes[label] != 1)
            self.masks.append(mask)
        self.output = sum(1 << x for x in equation.output if self.sizes[x] != 1)
        self._counts = _Counts(self.sizes)
        self._seconds: dict[tuple[int, int, int], float] = {}

    def count(self, mask: int) -> int:
        """Number of elements of a tensor with these labels."""
        return self._counts[mask]

    def pair_seconds(self, left: int, right: int, result: int) -> float:
        """Predicted seconds of contracting tensors with labels ``left`` and ``right`` to ``result``."""
        machine, count, dtype, item = self.machine, self._counts, self.dtype, self.item
        seconds = 0.0
        both = left & right
        for mask in (left, right):
            if mask & ~both & ~result:
                seconds += 1.5 * machine.op_seconds + machine.stream(item * count[mask])
        left &= right | result
        right &= left | result
        batch, summed = both & result, both & ~result
        rows, columns = left & ~right, right & ~left
        n_result, read = count[result], count[left] + count[right]
        if not self.options.is_plain:
            counts = count[batch], count[rows], count[columns], count[summed]
            return seconds + semiring_cost.pair_seconds(self.options, read, n_result, counts, dtype, machine)
        aligning = machine.view_seconds if rows and columns else 0.0
        if not summed:
            return seconds + aligning + machine.elementwise(read, n_result, _LONG, dtype)
        n_batch, n_rows, n_columns, n_summed = count[batch], count[rows], count[columns], count[summed]
        gemm = machine.gemm(n_batch, n_rows, n_columns, n_summed, dtype)
        if batch:
            gemm += 2 * machine.view_seconds
        if gemm <= 4 * machine.op_seconds or dtype in REDUCED_PRECISION:
            return seconds + gemm
        everything = n_batch * n_rows * n_columns * n_summed
        direct = aligning + machine.multiply_into_blocks(read, everything, _LONG, dtype)
        if direct >= gemm:
            return seconds + gemm
        direct += machine.reduce(everything, n_result, n_summed if n_columns == 1 else 64, dtype)
        return seconds + min(gemm, direct)

    def _weighted(self, written: float) -> Cost:
        """Counts multiplications; what one operand alone has was summed before."""
        count = self._counts

        def multiplications(left: int, right: int, result: int) -> float:
            return count[(left | right) & (result | (left & right))]

        def cost(left: int, right: int, result: int) -> float:
            return count[(left | right) & (result | (left & right))] + written * count[result]

        return cost if written else multiplications

    def seconds(self, left: int, right: int, result: int) -> float:
        """:meth:`pair_seconds`, remembered."""
        key = (left, right, result)
        known = self._seconds.get(key)
        if known is None:
            known = self._seconds[key] = self.pair_seconds(left, right, result)
        return known

    def promising(self, constants: Sequence[int] = (), several: bool = True) -> list[Path]:
        """Paths of few multiplications, of few elements written and of little predicted time.

        Args:
            constants: operands that never change, whose steps cost nothing; heeded where few operands meet.
            several: whether several paths of many operands are wanted, or one, as every path takes long to
                look at.
        """
        if len(self.masks) <= MAX_EXHAUSTIVE:
            costs = (self._weighted(0.0), self._weighted(WRITTEN), self.seconds)
            return _distinct([self._path(self._table(constants, cost)[1]) for cost in costs])
        if len(self.masks) <= MAX_ARRANGED:
            paths = self._annealed((0.0, WRITTEN))
            return _distinct([[*path] for path in (*paths, self._improved(paths[-1]).path())])
        if several:
            paths = self._annealed((0.0, WRITTEN))
            improved = [self._improved(path).path() for path in paths]
            return _distinct([[*path] for path in (paths[0], *improved)])
        (path,) = self._annealed((WRITTEN,))
        before = Tree(self.masks, path, self.output, self.seconds).total
        tree = self._improved(path)
        return [[*tree.path()] if tree.total < WORTH_IT * before else [*path]]

    def _improved(self, path: list[tuple[int, int]]) -> Tree:
        """A path's tree, its parts in the order of the least predicted time."""
        tree = Tree(self.masks, path, self.output, self.seconds)
        improve(tree, self.solve, IMPROVED_SIZE, IMPROVED_ROUNDS)
        return tree

    def fewest_multiplications(self) -> Path:
        """A path of few multiplications, the fewest where few operands meet."""
        if len(self.masks) <= MAX_EXHAUSTIVE:
            return self._path(self._table((), self._weighted(0.0))[1])
        return [*self._annealed((0.0,))[0]]

    def _annealed(self, written: Sequence[float]) -> list[list[tuple[int, int]]]:
        """A path for each number of multiplications that the writing of an element may count for."""
        sizes = [self.sizes.get(label, 1) for label in range(max(self.sizes) + 1)]
        count = Sizes(sizes)
        masks = self._needed()
        starts = []
        for seed in range(GREEDY_TREES):
            noise = 0.3 * (seed > 0)
            starts.append(greedy_tree(masks, self.output, count.__getitem__, noise, seed))
        return anneal(masks, self.output, starts, sizes, rotations_for(masks), written)

    def _needed(self) -> list[int]:
        """The labels of each operand without those that nobody else has, which are summed first."""
        once = several = 0
        for mask in self.masks:
            several |= once & mask
            once |= mask
        return [mask & (several | self.output) for mask in self.masks]

    def solve(self, masks: Sequence[int], output: int) -> tuple[list[tuple[int, int]], list[int], float]:
        """The fastest path for tensors with these labels: its steps, their labels and their seconds."""
        part = Network.__new__(Network)
        part.__dict__.update(self.__dict__)
        part.masks, part.members, part.output = list(masks), list(range(len(masks))), output
        least, choice = part._table((), part.seconds)
        path = [(a, b) for a, b in part._path(choice)]
        results = part._results()
        subsets = [1 << i for i in range(len(masks))]
        labels = []
        for a, b in path:
            subsets.append(subsets[a] | subsets[b])
            labels.append(results[subsets[-1]])
        return path, labels, least

    def every(self, constants: Sequence[int] = ()) -> list[Path]:
        """Every path, the fastest first; of paths so fast that planning would take longer only some."""
        full = (1 << len(self.masks)) - 1
        trees: dict[int, list[tuple[float, dict[int, int]]]] = {}
        varying = self._varying(constants)
        result = self._results()
        for subset in range(1, full + 1):
            if subset & (subset - 1) == 0:
                trees[subset] = [(0.0, {})]
                continue
            trees[subset] = []
            for part in _parts(subset):
                other = subset ^ part
                seconds = 0.0
                if subset & varying:
                    seconds = self.pair_seconds(result[other], result[part], result[subset])
                for first, one in trees[other]:
                    for second, two in trees[part]:
                        trees[subset].append((first + second + seconds, {**one, **two, subset: part}))
        kept = sorted(trees[full], key=lambda x: x[0])
        if kept[0][0] < WORTH_A_LOOK:
            kept = kept[:MAX_CANDIDATES]
        return [self._path(tree) for _, tree in kept]

    def _results(self) -> list[int]:
        """For each subset of the operands the labels of its contraction."""
        full = (1 << len(self.masks)) - 1
        union = [0] * (full + 1)
        for subset in range(1, full + 1):
            low = subset & -subset
            union[subset] = union[subset ^ low] | self.masks[low.bit_length() - 1]
        result = [union[s] & (self.output | union[full ^ s]) for s in range(full + 1)]
        for i, mask in enumerate(self.masks):
            result[1 << i] = mask
        return result

    def _table(self, constants: Sequence[int], cost: Cost) -> tuple[float, list[int]]:
        """The least cost of contracting all, and for each subset the part that is contracted apart."""
        result = self._results()
        best = [math.inf] * len(result)
        choice = [0] * len(result)
        varying = self._varying(constants)
        for subset in range(1, len(result)):
            if subset & (subset - 1) == 0:
                best[subset] = 0.0
            for part in _parts(subset):
                other = subset ^ part
                total = best[part] + best[other]
                if total + self.machine.op_seconds * bool(subset & varying) >= best[subset]:
                    continue
                if subset & varying:
                    total += cost(result[other], result[part], result[subset])
                if total < best[subset]:
                    best[subset], choice[subset] = total, part
        return best[-1], choice

    def _varying(self, constants: Sequence[int]) -> int:
        """The set of operands that aren't constant."""
        return sum(1 << i for i, x in enumerate(self.members) if x not in constants)

    def _path(self, choice: Choice) -> Path:
        path: Path = []

        def build(subset: int) -> int:
            if subset & (subset - 1) == 0:
                return subset.bit_length() - 1
            part = choice[subset]
            left, right = build(subset ^ part), build(part)
            path.append((left, right) if left < right else (right, left))
            return len(self.members) + len(path) - 1

        build((1 << len(self.members)) - 1)
        return path


class _Counts(dict[int, int]):
    """The number of elements of a tensor by the mask of its labels."""

    def __init__(self, sizes: dict[int, int]) -> None:
        super().__init__({0: 1})
        self.sizes = sizes

    def __missing__(self, mask: int) -> int:
        low = mask & -mask
        product = self.sizes[low.bit_length() - 1] * self[mask ^ low]
        self[mask] = product = min(product, MOST_ELEMENTS)
        return product


def _distinct(paths: Sequence[Path]) -> list[Path]:
    return [path for i, path in enumerate(paths) if path not in paths[:i]]


def _parts(subset: int) -> Iterator[int]:
    """Every proper part of a set that lacks its first member."""
    rest = subset & (subset - 1)
    part = rest
    while part:
        yield part
        part = (part - 1) & rest
