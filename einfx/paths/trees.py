"""Contraction trees of many operands: greedy ones, made better by solving small parts of them exactly.

A greedy tree contracts, again and again, the pair whose result is the smallest beside what it replaces;
noise on that choice gives different trees (Gray & Kourtis, Hyper-optimized tensor network contraction,
section 3). Annealing starts from them (:mod:`.annealing`). In the tree that it finds every part of few leaves
is replaced by the fastest one for these leaves (subtree reconfiguration, ibid.), the costliest parts first.
Random numbers have fixed seeds.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from itertools import combinations

__all__ = ["Tree", "bits_of", "greedy_tree", "improve"]

Path = list[tuple[int, int]]


class Tree:
    """A contraction tree over tensors whose labels are bits of a mask.

    Args:
        masks: the labels of each leaf.
        path: which two values each step contracts; leaves are 0 to n-1, step i gives n+i.
        output: the labels of the result.
        seconds: predicts the time of a step from the labels of its operands and of its result.
    """

    def __init__(
        self, masks: Sequence[int], path: Path, output: int, seconds: Callable[[int, int, int], float]
    ) -> None:
        self.leaves = len(masks)
        self.seconds = seconds
        self.output = output
        self.children: dict[int, tuple[int, int]] = {}
        self.masks = dict(enumerate(masks))
        counts: dict[int, int] = {}
        for mask in masks:
            for label in bits_of(mask):
                counts[label] = counts.get(label, 0) + 1
        number = self.leaves
        for left, right in path:
            both = self.masks[left] & self.masks[right]
            union = self.masks[left] | self.masks[right]
            kept = union
            for label in bits_of(both):
                counts[label] -= 1
            for label in bits_of(union & ~output):
                if counts[label] == 1:
                    kept ^= label
                    counts[label] = 0
            self.children[number] = (left, right)
            self.masks[number] = kept
            number += 1
        self.root = number - 1
        self.next = number

    def cost(self, node: int) -> float:
        """Predicted seconds of the step that makes ``node``."""
        left, right = self.children[node]
        return self.seconds(self.masks[left], self.masks[right], self.masks[node])

    @property
    def total(self) -> float:
        """Predicted seconds of all steps."""
        return sum(map(self.cost, self.children))

    def path(self) -> Path:
        """The tree as steps, every operand before its use."""
        result: Path = []
        number: dict[int, int] = {i: i for i in range(self.leaves)}
        stack = [self.root]
        while stack:
            node = stack[-1]
            if node in number:
                stack.pop()
                continue
            waiting = [x for x in self.children[node] if x not in number]
            if waiting:
                stack.extend(reversed(waiting))
                continue
            left, right = sorted(number[x] for x in self.children[node])
            result.append((left, right))
            number[node] = self.leaves + len(result) - 1
            stack.pop()
        return result

    def part(self, node: int, size: int) -> tuple[list[int], list[int]]:
        """Up to ``size`` nodes below ``node`` that make it, and the inner nodes between, ``node`` first.

        The node that costs most is opened first.
        """
        inner = [node]
        leaves: list[int] = list(self.children[node])
        while len(leaves) < size:
            inside = [x for x in leaves if x in self.children]
            if not inside:
                break
            opened = max(inside, key=self.cost)
            leaves.remove(opened)
            inner.append(opened)
            leaves.extend(self.children[opened])
        return leaves, inner

    def replace(self, inner: list[int], leaves: list[int], path: Path, results: list[int]) -> None:
        """Make ``inner[0]`` from ``leaves`` by another path, whose steps have the labels ``results``."""
        for node in inner:
            del self.children[node]
            if node != inner[0]:
                del self.masks[node]
        number = list(leaves)
        for i, (left, right) in enumerate(path):
            node = inner[0] if i == len(path) - 1 else self.next
            self.next += node == self.next
            self.children[node] = (number[left], number[right])
            self.masks[node] = results[i]
            number.append(node)


def greedy_tree(
    masks: Sequence[int], output: int, count: Callable[[int], float], noise: float, seed: int
) -> Path:
    """A path that always contracts the pair whose result is small beside its operands.

    Args:
        masks: the labels of each tensor.
        output: the labels of the result.
        count: the number of elements of a tensor with these labels.
        noise: how far choices stray, as a factor on sizes; 0 always takes the smallest.
        seed: of the random numbers.
    """
    generator = random.Random(seed)
    weight = 1.0 if noise == 0 else generator.uniform(0.5, 1.5)
    alive = dict(enumerate(masks))
    holders: dict[int, set[int]] = {}
    for i, mask in alive.items():
        for label in bits_of(mask):
            holders.setdefault(label, set()).add(i)
    shared = sum(label for label, holding in holders.items() if len(holding) > 1)
    kept = output | sum(label for label, holding in holders.items() if len(holding) > 2)

    def result_of(i: int, j: int) -> int:
        one, other = alive[i], alive[j]
        return (one | other) & kept | (one ^ other) & shared

    def score(i: int, j: int) -> float:
        value = count(result_of(i, j)) - weight * (count(alive[i]) + count(alive[j]))
        if noise == 0:
            return value
        spread = math.copysign(math.log1p(abs(value)), value)
        return spread - noise * math.log(-math.log(generator.random() or 1e-12))

    heap: list[tuple[float, int, int]] = []
    known: set[tuple[int, int]] = set()

    def offer(i: int, j: int) -> None:
        pair = (min(i, j), max(i, j))
        if pair not in known:
            known.add(pair)
            heapq.heappush(heap, (score(*pair), *pair))

    for holding in list(holders.values()):
        for i, j in combinations(sorted(holding), 2):
            offer(i, j)
    path: Path = []
    number = len(masks)
    while len(alive) > 1:
        i = j = -1
        while heap:
            _, i, j = heapq.heappop(heap)
            if i in alive and j in alive:
                break
        else:
            i, j = sorted(sorted(alive, key=lambda x: (count(alive[x]), x))[:2])
        result = result_of(i, j)
        for label in bits_of(alive[i] | alive[j]):
            holders[label] -= {i, j}
        del alive[i], alive[j]
        path.append((i, j))
        alive[number] = result
        neighbours: set[int] = set()
        for label in bits_of(result):
            holding = holders[label]
            neighbours |= holding
            holding.add(number)
            if len(holding) == 2:
                kept &= ~label | output
            elif len(holding) == 1:
                shared &= ~label
        for other in sorted(neighbours):
            offer(number, other)
        number += 1
    return path


def improve(
    tree: Tree,
    solve: Callable[[Sequence[int], int], tuple[Path, list[int], float]],
    size: int,
    rounds: int,
) -> None:
    """Replace parts of a tree by optimal ones until none gets better.

    Args:
        tree: changed in place.
        solve: the best path for a few tensors and a result, the labels after each step, the seconds.
        size: how many leaves a part has.
        rounds: how often to go over the whole tree.
    """
    tried: set[tuple[int, ...]] = set()
    for _ in range(rounds):
        changed = False
        for node in sorted(tree.children, key=lambda x: (-tree.cost(x), x)):
            if node not in tree.children:
                continue
            leaves, inner = tree.part(node, size)
            key = tuple(sorted(tree.masks[x] for x in leaves))
            if len(leaves) < 3 or key in tried:
                continue
            tried.add(key)
            before = sum(map(tree.cost, inner))
            path, results, seconds = solve([tree.masks[x] for x in leaves], tree.masks[node])
            if seconds < before * (1 - 1e-9):
                tree.replace(inner, leaves, path, results)
                changed = True
        if not changed:
            break


def bits_of(mask: int) -> list[int]:
    """The labels of a mask, each as a mask of its own, the lowest first.

    Example:
        >>> bits_of(0b1010)
        [2, 8]
    """
    bits = []
    while mask:
        low = mask & -mask
        bits.append(low)
        mask ^= low
    return bits
