"""Targets for the median of many rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..contests import Result
from ..contests.row import OURS

__all__ = ["Typical"]


@dataclass(frozen=True)
class Typical:
    """A target: on the median row, this many times the speed of another.

    Attributes:
        name: what the rows compute.
        rows: their names.
        times: the speed.
        than: the other.
        who: einfx, or a form of it.
    """

    name: str
    rows: frozenset[str]
    times: float
    than: str
    who: str = OURS

    def reached(self, results: Sequence[Result]) -> float | None:
        """The median of the speeds of results on one number of threads; None where there are none."""
        speeds = [
            result.speed_over(self.than, self.who) for result in results if result.row.name in self.rows
        ]
        there = [speed.median for speed in speeds if speed is not None]
        return statistics.median(there) if there else None

    def line(self, results: Sequence[Result]) -> Iterator[str]:
        """What was reached, of what; nothing where nothing was measured."""
        median = self.reached(results)
        if median is not None:
            who = "" if self.who == OURS else f", {self.who}"
            reached = f"{median:.2f} times the speed of {self.than}, target {self.times:.2f}"
            yield f"median of {self.name}{who}: {reached}"

    def missed(self, results: Sequence[Result]) -> Iterator[str]:
        """A line for each number of threads with which the target was missed."""
        for threads in sorted({result.threads for result in results}):
            own = [result for result in results if result.threads == threads]
            median = self.reached(own)
            if median is not None and median < self.times:
                yield from (f"{threads} threads: {text}" for text in self.line(own))
