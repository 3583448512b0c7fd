"""How far out the loads of a schedule go: where they take little memory, or where blocks are copied once."""

from __future__ import annotations

from collections.abc import Callable

from ..running.memory import Demand, arena
from ..schedules.loads import Remote, depths, place
from ..schedules.schedule import Schedule

__all__ = ["place_within"]


def place_within(
    schedule: Schedule, remote: Remote, limit: int, measure: Callable[[Schedule], Demand]
) -> tuple[Schedule, Demand]:
    """Put loads and stores into a schedule, so that it stays within a limit and copies little.

    Args:
        schedule: without loads.
        remote: what lies elsewhere.
        limit: the most bytes; where nothing stays within it, loads are as far in as they go.
        measure: what a schedule takes.

    Example:
        >>> import torch
        >>> from einfx.slicing.running.memory import demand
        >>> from einfx.slicing.schedules.schedule import Allocate, Contract, Loop
        >>> body = (Loop(1, 5, (Contract(2, (0, 1), True),)),)
        >>> labels = (0, 1), (1, 2), (0, 2)
        >>> made = Schedule(labels, (40, 50, 60), 2, (2,), (Allocate(2, True), Loop(0, 4, body)))
        >>> def measure(schedule):
        ...     return demand(schedule, torch.float32, "cpu")
        >>> for limit in (16_000, 32_000):  # the second operand in blocks ten times over, or at once
        ...     print(place_within(made, Remote((False, True)), limit, measure)[0])
        0 [ab], 1 [bc] -> 2 [ac]; a 40, b 50, c 60
        allocate 2 [ac] of zeros
        for a in blocks of 4:
            for b in blocks of 5:
                allocate 3 [bc]
                load 3 from 1
                2 += 0 * 3
                free 3
        0 [ab], 1 [bc] -> 2 [ac]; a 40, b 50, c 60
        allocate 2 [ac] of zeros
        allocate 3 [bc]
        load 3 from 1
        for a in blocks of 4:
            for b in blocks of 5:
                2 += 0 * 3
        free 3
    """
    chosen: dict[int, int] = {}
    possible = depths(schedule, remote)
    best = place(schedule, remote)
    found = measure(best)
    for value, others in possible.items():
        for depth in others[1:]:
            made = place(schedule, remote, {**chosen, value: depth})
            taken = measure(made)
            if _bytes(taken) <= limit and taken.seconds < found.seconds:
                chosen[value] = depth
                best, found = made, taken
    return best, found


def _bytes(found: Demand) -> int:
    return arena(found.intervals).bytes + found.apart_bytes + found.output_bytes
