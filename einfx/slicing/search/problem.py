"""What is looked for, a schedule within a limit, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from math import prod
from typing import NamedTuple

import torch

from ...machine import item_bytes
from ...options import Options
from ...plans import size_text
from ..running.memory import Demand, Interval, arena, demand
from ..schedules.derivatives import derivative
from ..schedules.loads import HERE, Remote, loaded_options, place
from ..schedules.schedule import Schedule
from ..schedules.tree import ContractionTree, Cut, schedule
from .events import Works
from .hoisting import place_within
from .moves import Loops
from .skeleton import Skeleton

__all__ = ["Problem", "Sizes", "Sliced"]

Sizes = Sequence[int]


class Sliced(NamedTuple):
    """A schedule with what it takes.

    Attributes:
        schedule: the program.
        demand: its bytes and seconds.
        tree: its path.
        cuts: its loops.
        repeated: the values that are computed again in loops that don't change them.
    """

    schedule: Schedule
    demand: Demand
    tree: ContractionTree
    cuts: tuple[Cut, ...]
    repeated: tuple[int, ...] = ()

    def __str__(self) -> str:
        """What it takes, and the program."""
        found = self.demand
        taken = f"peak {size_text(self.bytes)}, predicted {found.seconds * 1e6:,.1f} us"
        return f"FLOPs {found.flops:.3e}, {taken}\n{self.schedule}"

    @property
    def bytes(self) -> int:
        """What running it takes: the arena, what torch allocates for a line, and outputs."""
        found = self.demand
        return _arena_bytes(tuple(found.intervals)) + found.apart_bytes + found.output_bytes


@lru_cache(maxsize=64)
def _arena_bytes(intervals: tuple[Interval, ...]) -> int:
    """The size of the arena, which takes long to tell for programs of thousands of buffers."""
    return arena(intervals).bytes


@dataclass(frozen=True)
class Problem:
    """What is looked for.

    Attributes:
        limit: the most bytes beside the operands, outputs included.
        dtype: of the operands.
        device: where they are.
        options: over which semiring.
        wanted: for each operand whether its gradient is computed; empty for the contraction itself.
        strides: of the operands, in elements; all are contiguous where None.
        moving: for each operand whether it has a part in the direction of a derivative; empty for none.
        remote: what lies elsewhere.
        works: what is known of lines already.
    """

    limit: int
    dtype: torch.dtype
    device: str
    options: Options
    wanted: tuple[bool, ...]
    strides: tuple[tuple[int, ...], ...] | None
    moving: tuple[bool, ...] = ()
    remote: Remote = HERE
    works: Works = field(default_factory=Works)

    def program(
        self, tree: ContractionTree, loops: Loops, marked: bool = False
    ) -> tuple[Schedule, list[Sizes] | None]:
        """What is computed, with everything here, and the strides of its operands."""
        made = schedule(tree, loops.cuts, loops.repeated, marked)
        return derivative(made, self.options, self.wanted, self.moving, self.strides)

    def skeleton(self, tree: ContractionTree, loops: Loops) -> Skeleton:
        """What tells, for these loops, what blocks of any lengths take."""
        made, strides = self.program(tree, loops, marked=True)
        if self.remote:
            made = place(made, self.remote)
        labels = [cut.label for cut in loops.cuts]
        rest = self.dtype, self.device, loaded_options(made, self.options), strides, self.works
        return Skeleton(made, labels, *rest)

    def sliced(self, tree: ContractionTree, loops: Loops) -> Sliced:
        """The schedule with what it takes exactly."""
        made, strides = self.program(tree, loops)
        if self.remote:
            made = place(made, self.remote)
        return Sliced(made, self.measure(strides, made), tree, loops.cuts, loops.repeated)

    def settled(self, found: Sliced) -> Sliced:
        """The same with loads further out, where what is copied is then copied less often."""
        if not self.remote:
            return found
        made, strides = self.program(found.tree, Loops(found.cuts, found.repeated))
        made, taken = place_within(made, self.remote, self.limit, partial(self.measure, strides))
        return found._replace(schedule=made, demand=taken)

    def measure(self, strides: Sequence[Sizes] | None, made: Schedule) -> Demand:
        """What a schedule takes."""
        return demand(made, self.dtype, self.device, self.options, strides)

    def output_bytes(self, tree: ContractionTree) -> int:
        """Of the gradients that are computed, as far as they are here."""
        if any(self.remote.outputs):
            return 0
        inputs = [labels for labels, want in zip(tree.equation.inputs, self.wanted, strict=False) if want]
        return item_bytes(self.dtype) * sum(prod([tree.sizes[x] for x in labels]) for labels in inputs)
