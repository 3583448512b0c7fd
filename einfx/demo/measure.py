"""Times of programs that are compared with one another."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["median_seconds"]

FEWEST_ROUNDS = 5
WARMUP_ROUNDS = 2


def median_seconds(programs: Sequence[Callable[[], Any]], seconds: float) -> list[float]:
    """The median time of each program, called in turn so that a busy machine slows them all alike.

    Args:
        programs: functions without arguments.
        seconds: how long to measure in all; a few rounds are made even if that takes longer.

    Example:
        >>> fast, slow = median_seconds([lambda: None, lambda: time.sleep(0.002)], seconds=0.05)
        >>> fast < slow
        True
    """
    for _ in range(WARMUP_ROUNDS):
        for program in programs:
            program()
    times: list[list[float]] = [[] for _ in programs]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < FEWEST_ROUNDS:
        for program, mine in zip(programs, times, strict=True):
            start = time.perf_counter()
            program()
            mine.append(time.perf_counter() - start)
    return [statistics.median(mine) for mine in times]
