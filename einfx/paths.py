"""Searching for a contraction path: exhaustive over predicted time where few operands meet, guided elsewhere.

Paths are lists of tuples of value numbers: operands are 0 to n-1, step i gives value n+i.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import opt_einsum
import torch

from . import semiring_cost
from .cost import REDUCED_PRECISION
from .equation import Equation, label_text
from .errors import PlanError
from .layout import Loops
from .machine import Machine, item_bytes, machine_for
from .options import REAL, Options
from .search import Tree, greedy_tree, improve

__all__ = ["find_paths", "paths_from"]

Shapes = Sequence[Sequence[int]]
Path = list[tuple[int, ...]]

_LONG = Loops(64, 64, True)

MAX_ENUMERATED = 4
"""Up to this many operands every path is a candidate."""

MAX_CANDIDATES = 5
"""How many of them are looked at with every copy counted, which the search doesn't see, ..."""

WORTH_A_LOOK = 30e-6
"""... where they take less seconds than this; of slower ones all are."""

MAX_EXHAUSTIVE = 8
"""Up to this many operands the search is exhaustive (dynamic programming over all subsets)."""


def find_paths(
    equation: Equation,
    shapes: Shapes,
    dtype: torch.dtype,
    device: str,
    constants: Sequence[int] = (),
    options: Options = REAL,
) -> list[Path]:
    """The paths worth a closer look, found in the time that a search may take."""
    scalars = [i for i, shape in enumerate(shapes) if len(shape) == 0]
    others = [i for i, shape in enumerate(shapes) if len(shape) > 0]
    network = Network(equation, shapes, others, dtype, device, options)
    if len(others) <= 1:
        paths: list[Path] = [[]]
    elif len(others) <= MAX_ENUMERATED:
        paths = network.every(constants)
    else:
        asked = [_ask(equation, shapes, others, "auto-hq")] if len(others) <= MAX_ASKED else []
        paths = [_pairwise(path, len(others)) for path in asked]
        if len(others) <= MAX_EXHAUSTIVE:
            paths.append(network.optimal(constants))
        else:
            paths.append(network.search(paths))
    return [_with_scalars(equation, shapes, scalars, others, path) for path in paths]


MAX_ASKED = 14
"""Up to this many operands opt_einsum's path, which is then found in milliseconds, is improved too."""

GREEDY_TRIALS = 32
IMPROVED_TREES = 4
IMPROVED_SIZE = 6


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
        self._counts: dict[int, int] = {0: 1}
        self._seconds: dict[tuple[int, int, int], float] = {}

    def count(self, mask: int) -> int:
        """Number of elements of a tensor with these labels."""
        known = self._counts.get(mask)
        if known is None:
            low = mask & -mask
            known = self._counts[mask] = self.sizes[low.bit_length() - 1] * self.count(mask ^ low)
        return known

    def pair_seconds(self, left: int, right: int, result: int) -> float:
        """Predicted seconds of contracting tensors with labels ``left`` and ``right`` to ``result``."""
        machine, count, dtype = self.machine, self.count, self.dtype
        seconds = 0.0
        for mask in (left, right):
            if mask & ~(left & right) & ~result:
                seconds += 1.5 * machine.op_seconds + machine.stream(self.item * count(mask))
        left &= right | result
        right &= left | result
        batch, summed = left & right & result, left & right & ~result
        rows, columns = left & ~right, right & ~left
        n_result = count(result)
        if not self.options.is_plain:
            counts = count(batch), count(rows), count(columns), count(summed)
            read = count(left) + count(right)
            return seconds + semiring_cost.pair_seconds(self.options, read, n_result, counts, dtype, machine)
        aligning = machine.view_seconds * bool(rows and columns)
        if not summed:
            read = count(left) + count(right)
            return seconds + aligning + machine.elementwise(read, n_result, _LONG, dtype)
        n_batch, n_rows, n_columns, n_summed = count(batch), count(rows), count(columns), count(summed)
        gemm = machine.gemm(n_batch, n_rows, n_columns, n_summed, dtype)
        if batch:
            gemm += 2 * machine.view_seconds
        if dtype in REDUCED_PRECISION:
            return seconds + gemm
        everything = n_batch * n_rows * n_columns * n_summed
        direct = aligning + machine.multiply_into_blocks(count(left) + count(right), everything, _LONG, dtype)
        direct += machine.reduce(everything, n_result, n_summed if n_columns == 1 else 64, dtype)
        return seconds + min(gemm, direct)

    def optimal(self, constants: Sequence[int] = ()) -> Path:
        """The best path over all trees, outer products included; what is constant costs nothing."""
        best, choice = self._table(constants, math.inf)
        del best
        return self._path(len(choice) - 1, lambda subset: choice[subset])

    def search(self, start: Sequence[Path] = ()) -> Path:
        """A good path for many operands: the given and greedy trees, improved part by part."""
        trees = []
        for path in start:
            trees.append(self._tree([(a, b) for a, b in path]))
        for seed in range(GREEDY_TRIALS):
            noise = 0.15 * (seed % 8)
            trees.append(self._tree(greedy_tree(self.masks, self.output, self.count, noise, seed)))
        trees.sort(key=lambda tree: tree.total)
        for tree in trees[:IMPROVED_TREES]:
            improve(tree, self.solve, IMPROVED_SIZE, rounds=4)
        return [*min(trees, key=lambda tree: tree.total).path()]

    def _tree(self, path: list[tuple[int, int]]) -> Tree:
        return Tree(self.masks, path, self.output, self.seconds)

    def seconds(self, left: int, right: int, result: int) -> float:
        """:meth:`pair_seconds`, remembered."""
        key = (left, right, result)
        known = self._seconds.get(key)
        if known is None:
            known = self._seconds[key] = self.pair_seconds(left, right, result)
        return known

    def solve(self, masks: Sequence[int], output: int) -> tuple[list[tuple[int, int]], list[int], float]:
        """The best path for tensors with these labels: its steps, their labels and their seconds."""
        part = Network.__new__(Network)
        part.__dict__.update(self.__dict__)
        part.masks, part.members, part.output = list(masks), list(range(len(masks))), output
        best, choice = part._table((), math.inf)
        full = len(choice) - 1
        path = [(a, b) for a, b in part._path(full, lambda subset: choice[subset])]
        results = part._results()
        subsets = [1 << i for i in range(len(masks))]
        labels = []
        for a, b in path:
            subsets.append(subsets[a] | subsets[b])
            labels.append(results[subsets[-1]])
        return path, labels, best[full]

    def every(self, constants: Sequence[int] = ()) -> list[Path]:
        """Every path, the fastest first; of paths so fast that planning would take longer only some."""
        full = (1 << len(self.masks)) - 1
        trees: dict[int, list[tuple[float, dict[int, int]]]] = {}
        varying = sum(1 << i for i, x in enumerate(self.members) if x not in constants)
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
        return [self._path(full, tree.__getitem__) for _, tree in kept]

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

    def _table(self, constants: Sequence[int], limit: float) -> tuple[list[float], list[int]]:
        """The least seconds of each subset, and the part that is contracted apart for it."""
        result = self._results()
        best = [limit] * len(result)
        choice = [0] * len(result)
        varying = sum(1 << i for i, x in enumerate(self.members) if x not in constants)
        for subset in range(1, len(result)):
            if subset & (subset - 1) == 0:
                best[subset] = 0.0
            for part in _parts(subset):
                other = subset ^ part
                seconds = best[part] + best[other]
                if seconds + self.machine.op_seconds * bool(subset & varying) >= best[subset]:
                    continue
                if subset & varying:
                    seconds += self.seconds(result[other], result[part], result[subset])
                if seconds < best[subset]:
                    best[subset], choice[subset] = seconds, part
        return best, choice

    def _path(self, full: int, choice: Callable[[int], int]) -> Path:
        path: Path = []

        def build(subset: int) -> int:
            if subset & (subset - 1) == 0:
                return subset.bit_length() - 1
            left, right = build(subset ^ choice(subset)), build(choice(subset))
            path.append((min(left, right), max(left, right)))
            return len(self.members) + len(path) - 1

        build(full)
        return path


def _parts(subset: int) -> Iterator[int]:
    """Every proper part of a set that lacks its first member."""
    rest = subset & (subset - 1)
    part = rest
    while part:
        yield part
        part = (part - 1) & rest


def _ask(equation: Equation, shapes: Shapes, members: Sequence[int], strategy: Any) -> Path:
    """opt_einsum's path for some of the operands, by single-assignment numbers of these."""
    sizes = equation.sizes(shapes)
    inputs = [frozenset(equation.inputs[i]) for i in members]
    names = {x: label_text((x,)) for x in sizes}
    sets = [frozenset(names[x] for x in part) for part in inputs]
    output = frozenset(names[x] for x in equation.output)
    try:
        finder = opt_einsum.paths.get_path_fn(strategy) if isinstance(strategy, str) else strategy
    except KeyError as error:
        raise PlanError(
            f"optimize={strategy!r} isn't a strategy; choose 'auto', 'greedy', 'optimal', 'dp' or 'auto-hq', "
            "or give a path"
        ) from error
    state = random.getstate()  # opt_einsum's random strategies seed the global generator
    try:
        linear = finder(list(sets), output, {names[x]: n for x, n in sizes.items()})
    finally:
        random.setstate(state)
    return linear_to_ssa(linear, len(members))


def linear_to_ssa(path: Sequence[Sequence[int]], count: int) -> Path:
    """From positions in a list that shrinks to numbers of values."""
    alive = list(range(count))
    result: Path = []
    for i, step in enumerate(path):
        positions = sorted(set(step))
        if not positions or len(positions) != len(step) or positions[-1] >= len(alive) or positions[0] < 0:
            raise PlanError(f"step {i} of path {list(path)} takes operand(s) {tuple(step)} of {len(alive)}")
        result.append(tuple(alive[p] for p in positions))
        for position in reversed(positions):
            del alive[position]
        alive.append(count + i)
    if len(alive) != 1:
        raise PlanError(f"the path {list(path)} leaves {len(alive)} of {count} operands uncontracted")
    return result


def paths_from(equation: Equation, shapes: Shapes, optimize: Any, widest: int = 2) -> list[Path]:
    """The paths which a caller's choice stands for, in steps of at most ``widest`` operands."""
    count = len(shapes)
    everyone = range(count)
    if hasattr(optimize, "get_path"):
        path = linear_to_ssa(optimize.get_path(), count)
    elif isinstance(optimize, (tuple, list)):
        path = linear_to_ssa(optimize, count)
    elif isinstance(optimize, str) or callable(optimize):
        path = _ask(equation, shapes, everyone, optimize)
    else:
        raise PlanError(
            f"optimize={optimize!r} is no strategy's name, path, opt_einsum optimizer or cotengra tree"
        )
    return [_pairwise(path, count, widest)]


def _pairwise(path: Path, count: int, widest: int = 2) -> Path:
    """The same path with steps of at most two operands; those of up to ``widest`` stay."""
    result: Path = []
    number = dict(zip(range(count), range(count), strict=True))
    for i, step in enumerate(path):
        chosen = [number[x] for x in step]
        while len(chosen) > widest:
            result.append((chosen[0], chosen[1]))
            chosen = [count + len(result) - 1, *chosen[2:]]
        if len(chosen) == 1 and count > 1:
            number[count + i] = chosen[0]
            continue
        result.append(tuple(chosen))
        number[count + i] = count + len(result) - 1
    return result


def _with_scalars(
    equation: Equation, shapes: Shapes, scalars: Sequence[int], others: Sequence[int], path: Path
) -> Path:
    """The path with the 0-dimensional operands multiplied onto the smallest tensor that it makes or reads."""
    if not others:
        return _pairwise([tuple(range(len(scalars)))], len(scalars))
    count = len(shapes)
    sizes = equation.sizes(shapes)
    result: Path = []
    factor = None
    for x in scalars:
        if factor is None:
            factor = x
        else:
            result.append((factor, x))
            factor = count + len(result) - 1
    if factor is None:
        return path
    labels = {i: equation.inputs[x] for i, x in enumerate(others)}
    elements = {i: math.prod(shapes[x]) for i, x in enumerate(others)}
    for i, step in enumerate(path):
        parts = [labels.pop(x) for x in step]
        needed = set(equation.output).union(*labels.values())
        kept = tuple(x for x in dict.fromkeys(x for part in parts for x in part) if x in needed)
        labels[len(others) + i] = kept
        elements[len(others) + i] = math.prod(sizes[x] for x in kept)
    smallest = min(elements, key=lambda x: (elements[x], x))
    number = dict(enumerate(others))

    def scale(x: int) -> None:
        if x == smallest:
            result.append((factor, number[x]))
            number[x] = count + len(result) - 1

    for x in range(len(others)):
        scale(x)
    for i, step in enumerate(path):
        result.append(tuple(number[x] for x in step))
        number[len(others) + i] = count + len(result) - 1
        scale(len(others) + i)
    return result
