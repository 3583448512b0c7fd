"""What a row gave, and whether its targets are met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..timing import Measurement, Spread
from .row import OURS, AtLeast, Row, Smaller, Target

__all__ = ["Result"]


@dataclass(frozen=True)
class Result:
    """What one row gave on one number of threads.

    Attributes:
        row: the row.
        threads: number of threads.
        quick: times of einfx and of all that aren't slow.
        slow: times of einfx and of those that are; None where there are none.
        absent: contestants that aren't installed.
        peaks: bytes by contestant, None for one that failed; empty where they weren't measured.
        failures: by contestant, what it raised, or that its result isn't einfx's.
    """

    row: Row
    threads: int
    quick: Measurement
    slow: Measurement | None = None
    absent: tuple[str, ...] = ()
    peaks: Mapping[str, int | None] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)

    def others(self) -> list[str]:
        """Everything that einfx was timed beside."""
        timed = [*self.quick.seconds, *(self.slow.seconds if self.slow is not None else ())]
        return [name for name in dict.fromkeys(timed) if name != OURS]

    def time(self, name: str) -> Spread | None:
        """Seconds of one call; None for one that wasn't timed."""
        measurement = self._with(name)
        return None if measurement is None else measurement.time(name)

    def speed_over(self, name: str) -> Spread | None:
        """How many times faster einfx is than another, round by round."""
        measurement = self._with(name)
        if measurement is None or OURS not in measurement.seconds:
            return None
        return measurement.ratio(name, OURS)

    def _with(self, name: str) -> Measurement | None:
        for measurement in (self.quick, self.slow):
            if measurement is not None and name in measurement.seconds:
                return measurement
        return None

    def meets(self, target: Target) -> bool | None:
        """Whether a target is met; None where what it speaks of wasn't measured."""
        if OURS in self.failures:
            return False
        if isinstance(target, AtLeast):
            speed = self.speed_over(target.than)
            return None if speed is None else speed.median >= target.times
        own = self.peaks.get(OURS)
        if own is None:
            return False if OURS in self.peaks else None
        if isinstance(target, Smaller):
            other = self.peaks.get(target.than)
            return None if other is None else own < other
        return own <= target.bytes

    def missed(self) -> Iterator[str]:
        """One line for each target that was missed."""
        where = f"{self.row.name}, {self.threads} threads"
        if OURS in self.failures:
            yield f"{where}: {self.failures[OURS]}"
            return
        for target in self.row.targets:
            if self.meets(target) is not False:
                continue
            if isinstance(target, AtLeast):
                speed = self.speed_over(target.than)
                reached = "no part of" if speed is None else f"{speed.median:.2f} times"
                yield f"{where}: {reached} the speed of {target.than}, target {target.times:.2f}"
            elif isinstance(target, Smaller):
                yield f"{where}: {self._peak(OURS)}, {target.than} has {self._peak(target.than)}"
            else:
                yield f"{where}: {self._peak(OURS)}, target {target.bytes / 2**20:.0f} MiB"

    def _peak(self, name: str) -> str:
        peak = self.peaks.get(name)
        return "no peak, it failed" if peak is None else f"a peak of {peak / 2**20:.1f} MiB"
