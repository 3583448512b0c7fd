"""Interleaved timing: all contestants in every round, so that a slow spell of the machine meets them all."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Measurement", "Spread", "geometric_mean", "interleave"]

SAMPLE_SECONDS = 1e-3
"""A sample repeats its call until it lasts about this long, so that the clock and the loop do not count."""

LONG_SECONDS = 0.1
"""A call that lasts longer than this while warming up is a sample, with no need to try it once more."""


@dataclass(frozen=True)
class Spread:
    """A median with its lower and upper quartile."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise at least two values."""
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)


@dataclass(frozen=True)
class Measurement:
    """Times of several contestants, measured in the same rounds.

    Attributes:
        seconds: for each contestant, the time of one call in each round.
    """

    seconds: Mapping[str, Sequence[float]]

    def time(self, name: str) -> Spread:
        """Seconds of one call."""
        return Spread.of(self.seconds[name])

    def ratio(self, slower: str, faster: str) -> Spread:
        """How many times faster one contestant is than another, compared round by round."""
        pairs = zip(self.seconds[slower], self.seconds[faster], strict=True)
        return Spread.of([a / b for a, b in pairs])


def interleave(
    calls: Mapping[str, Callable[[], object]],
    budget_seconds: float = 2.0,
    min_rounds: int = 7,
    max_rounds: int = 301,
) -> Measurement:
    """Time every call once per round, in an order that rotates, until the budget is spent.

    Args:
        calls: what to time, by name.
        budget_seconds: time after which no new round begins.
        min_rounds: rounds to make even past the budget.
        max_rounds: rounds to stop at.

    Returns:
        The times of all rounds.
    """
    names = list(calls)
    repeats = {name: _calibrate(calls[name]) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with _garbage_collection_paused():
        end = time.perf_counter() + budget_seconds
        for round_number in range(max_rounds):
            if round_number >= min_rounds and time.perf_counter() >= end:
                break
            shift = round_number % len(names)
            for name in names[shift:] + names[:shift]:
                seconds[name].append(_sample(calls[name], repeats[name]))
    return Measurement(seconds)


def geometric_mean(values: Sequence[float]) -> float:
    """Geometric mean of positive values; nan for none."""
    return math.exp(statistics.fmean(map(math.log, values))) if values else math.nan


def _calibrate(call: Callable[[], object]) -> int:
    """How many calls make up one sample, after warming up."""
    if _sample(call, 1) > LONG_SECONDS:
        return 1
    repeats = 1
    while (elapsed := _sample(call, repeats) * repeats) < SAMPLE_SECONDS:
        growth = SAMPLE_SECONDS / max(elapsed, 1e-7)
        repeats = max(repeats + 1, math.ceil(repeats * min(growth, 10.0)))
    return repeats


def _sample(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(repeats):
        call()
    return (time.perf_counter_ns() - start) / repeats / 1e9


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
