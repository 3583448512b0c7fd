"""In which order a contraction with patterns is computed: a plan of steps, each lowered to what is fastest.

Tensors meet in pairs along a tree. A pattern goes along with the first step in which two of its labels are
met by nothing else: there it is part of a convolution, of a sum of windows or of a fold. Against that stands
the contraction of everything at once, by windows. What is predicted to be faster is the plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import prod
from typing import Any

import torch

from ...errors import PlanError
from ..symbolic.composition import composed
from ..symbolic.network import Network
from .meetings import Meetings
from .plan import ConvPlan
from .values import Part, Value, Values

__all__ = ["plan_network"]

EXHAUSTIVE = 5
"""Up to so many tensors every tree is looked at."""

Path = tuple[tuple[int, ...], ...]


def plan_network(
    network: Network,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    *,
    optimize: Any = "auto",
    memory_limit: int | None = None,
) -> ConvPlan:
    """Order a contraction with patterns into steps.

    Args:
        network: what to contract.
        dtype: of its tensors.
        device: where it is computed.
        optimize: ``"auto"`` for the least predicted time, or a path in opt_einsum's convention: positions, in
            a list that shrinks, of all operands, patterns included.
        memory_limit: the most bytes beyond the operands, the result included.

    Returns:
        The plan. It is cached. Where none fits the limit, that which takes the least memory:
        :func:`.limits.plan_within` goes on from there.

    Raises:
        PlanError: a path that doesn't contract all operands, or another name than ``"auto"``.
        OperandError: sizes of the network's operands that disagree.

    Example:
        A kernel of rank 8, given by its factors:

        >>> from ..symbolic.network import network
        >>> from ...pattern import IndexPattern
        >>> from ..symbolic.views import View
        >>> pattern = IndexPattern(32, 3, padding=1)
        >>> factors = [View(i, (size, 8)) for i, size in enumerate((64, 64, 3, 3), 1)]
        >>> inputs = ["ncij", "koi", "lpj", "dr", "cr", "kr", "lr"]
        >>> made = network(inputs, "ndop", View(0, (8, 64, 32, 32)), pattern, pattern, *factors)
        >>> for step in plan_network(made).steps:
        ...     print(step.operands, step.kind)
        (0, 4) GEMM
        (5, 6) einsum
        (7, 1, 2, 8) conv2d of 8 groups
        (9, 3) GEMM
    """
    kind = device.type if isinstance(device, torch.device) else str(device).partition(":")[0]
    frozen = optimize
    if isinstance(optimize, (list, tuple)):
        frozen = tuple(tuple(int(x) for x in pair) for pair in optimize)
    elif optimize != "auto":
        raise PlanError(
            f"optimize={optimize!r}: with index patterns among the operands it is 'auto', or a path over all "
            "operands, patterns included, such as [(0, 1), (0, 1)]"
        )
    return _planned(network, dtype, kind, frozen, memory_limit, torch.get_num_threads())


@lru_cache(maxsize=4096)
def _planned(
    network: Network, dtype: torch.dtype, device: str, optimize: Any, limit: int | None, threads: int
) -> ConvPlan:
    # Where the fastest doesn't fit, each step takes what fits, then what takes the least memory.
    bounds = (None,) if limit is None else (None, limit, 0)
    plans: list[ConvPlan] = []
    for bound in bounds:
        if optimize == "auto":
            longer = composed(network)
            forms = (network,) if longer is None else (network, longer)
            plans += [plan for form in forms for plan in _Search(form, dtype, device, bound).plans()]
        else:
            plans.append(_Search(network, dtype, device, bound).along(optimize))
        fitting = [plan for plan in plans if limit is None or plan.peak_bytes <= limit]
        if fitting:
            return min(fitting, key=lambda plan: plan.seconds)
    return min(plans, key=lambda plan: plan.peak_bytes)


class _Search:
    """The trees of one network."""

    def __init__(self, network: Network, dtype: torch.dtype, device: str, limit: int | None = None) -> None:
        self.network, self.meetings = network, Meetings(network)
        self.values = Values(network, dtype, device, limit)
        self.inputs, self.output = network.equation.inputs, network.equation.output
        self.tensors, self.patterns = self.meetings.tensors, self.meetings.patterns

    def plans(self) -> Iterator[ConvPlan]:
        """The plans to choose from."""
        everything = tuple(range(len(self.network.operands)))
        yield self.values.plan(self.values.made(everything, self.output))
        if len(self.tensors) == 0 or (len(self.tensors) == 1 and len(self.patterns) < 2):
            return
        tree = self.exhaustive() if len(self.tensors) <= EXHAUSTIVE else self.greedy()
        if tree is not None and len(tree.parts) < len(everything):
            yield self.values.plan(tree)

    def along(self, path: Path) -> ConvPlan:
        """The plan of a path over all operands."""
        alive: list[Part] = list(range(len(self.network.operands)))
        for chosen in path:
            if not chosen or not all(0 <= x < len(alive) for x in chosen) or len({*chosen}) < len(chosen):
                raise PlanError(
                    f"the path {list(path)} takes operands {list(chosen)} of {len(alive)} that are left of "
                    f"{self.network.text!r}, patterns included"
                )
            parts = tuple(alive[x] for x in chosen)
            for x in sorted(chosen, reverse=True):
                del alive[x]
            others = {label for part in alive for label in self.values.labels(part)}
            mine = dict.fromkeys(label for part in parts for label in self.values.labels(part))
            kept = tuple(x for x in mine if x in others or x in self.output) if alive else self.output
            alive.append(self.values.made(parts, kept))
        if len(alive) != 1 or isinstance(alive[0], int):
            raise PlanError(
                f"the path {list(path)} leaves {len(alive)} operands of {self.network.text!r}, which has "
                f"{len(self.network.operands)}, patterns included"
            )
        return self.values.plan(alive[0])

    def leaf(self, tensor: int) -> Part:
        """A tensor, with the patterns that only it meets."""
        alone = frozenset((tensor,))
        if len(self.tensors) == 1:
            return self.grown((tensor,), alone, frozenset(), self.meetings.layers(alone, frozenset()))
        layers = self.meetings.layers(alone, frozenset())
        return self.grown((tensor,), alone, frozenset(), layers) if layers else tensor

    def join(self, one: Part, two: Part, first: frozenset[int], second: frozenset[int]) -> Value | None:
        """Two values, with the patterns that go along; None where both sides have taken one."""
        if min(second) < min(first):
            one, two, first, second = two, one, second, first
        taken = self.meetings.absorbed(first) | self.meetings.absorbed(second)
        if self.meetings.absorbed(first) & self.meetings.absorbed(second):
            return None
        layers = self.meetings.layers(first | second, taken)
        together = self.grown((one, two), first | second, taken, [frozenset().union(*layers)])
        if len(layers) < 2:
            return together
        return min(
            together, self.grown((one, two), first | second, taken, layers), key=lambda value: value.seconds
        )

    def grown(
        self,
        values: tuple[Part, ...],
        tensors: frozenset[int],
        taken: frozenset[int],
        layers: list[frozenset[int]],
    ) -> Value:
        """What values come to with patterns, one step for each layer of these."""
        made: Value | None = None
        for layer in layers or [frozenset()]:
            patterns = [p for p in sorted(layer) if p in self.patterns]
            numbers = [p for p in sorted(layer) if p in self.meetings.numbers]
            parts = (values[0], *patterns, *values[1:], *numbers)
            taken |= layer
            made = self.values.made(parts, self.kept(tensors | taken, parts))
            values = (made,)
        assert made is not None
        return made

    def kept(self, inside: frozenset[int], parts: tuple[Part, ...]) -> tuple[int, ...]:
        """The labels of a step's result: those of its largest operand, each in the place of what it was."""
        if len(inside) == len(self.network.operands):
            return self.output
        needed = set(self.output).union(*(labels for p, labels in enumerate(self.inputs) if p not in inside))
        mine = dict.fromkeys(label for part in parts for label in self.values.labels(part) if label in needed)
        values = [part for part in parts if isinstance(part, Value) or part in self.tensors]
        sizes = [prod(self.network.sizes[x] for x in self.values.labels(part)) for part in values]
        largest = self.values.labels(values[max(range(len(values)), key=sizes.__getitem__)])
        becomes = {}
        for part in parts:
            if isinstance(part, int) and part in self.patterns:
                _, outputs, read = self.inputs[part]
                becomes[read], becomes[outputs] = outputs, read
        new = [x for x in mine if x not in largest and x not in becomes.values()]
        order: list[int] = []
        for label in largest:
            if label in mine:
                order.append(label)
            elif becomes.get(label) in mine:
                order.append(becomes[label])
            else:
                # What is summed gives its place to what the other operand has.
                order += new
                new = []
        return tuple(dict.fromkeys((*order, *mine)))

    def exhaustive(self) -> Value | None:
        """The best of all trees."""
        count = len(self.tensors)
        best: dict[int, Part] = {1 << i: self.leaf(p) for i, p in enumerate(self.tensors)}
        names = {
            mask: frozenset(p for i, p in enumerate(self.tensors) if mask >> i & 1)
            for mask in range(1 << count)
        }
        for mask in sorted(range(1, 1 << count), key=lambda mask: mask.bit_count()):
            if mask in best:
                continue
            found: Value | None = None
            part = (mask - 1) & mask
            while part:
                rest = mask ^ part
                if part < rest and part in best and rest in best:
                    spent = _spent(best[part]) + _spent(best[rest])
                    if found is None or spent < found.seconds:
                        made = self.join(best[part], best[rest], names[part], names[rest])
                        if made is not None and (found is None or made.seconds < found.seconds):
                            found = made
                part = (part - 1) & mask
            if found is not None:
                best[mask] = found
        whole = best.get((1 << count) - 1)
        assert not isinstance(whole, int)
        return whole

    def greedy(self) -> Value | None:
        """A good tree: what leaves the least behind for its time meets first."""
        values = [(frozenset((p,)), self.leaf(p)) for p in self.tensors]
        while len(values) > 1:
            found = None
            for i in range(len(values)):
                for j in range(i):
                    (first, one), (second, two) = values[j], values[i]
                    if i > 1 and found is not None and not self.meetings.connected(first, second):
                        continue
                    made = self.join(one, two, first, second)
                    if made is None:
                        continue
                    grown = self.values.bytes(made) - self.values.bytes(one) - self.values.bytes(two)
                    score = made.seconds - _spent(one) - _spent(two) + grown / 5e9
                    if found is None or score < found[0]:
                        found = (score, j, i, made)
            if found is None:
                return None
            _, j, i, made = found
            joined = values[j][0] | values[i][0]
            del values[i], values[j]
            values.append((joined, made))
        whole = values[0][1]
        assert isinstance(whole, Value)
        return whole


def _spent(part: Part) -> float:
    return 0.0 if isinstance(part, int) else part.seconds
