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
        failures: by contestant, what it raised, or that its result is another.
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
        for measurement in self._measurements():
            if name in measurement.seconds:
                return measurement.time(name)
        return None

    def speed_over(self, name: str, who: str = OURS) -> Spread | None:
        """How many times faster einfx is than another, round by round; or who else is."""
        for measurement in self._measurements():
            if {name, who} <= set(measurement.seconds):
                return measurement.ratio(name, who)
        return None

    def _measurements(self) -> Iterator[Measurement]:
        yield self.quick
        if self.slow is not None:
            yield self.slow

    def targets_of(self, who: str, than: str) -> list[AtLeast]:
        """What one contestant has to reach beside another."""
        own = [target for target in self.row.targets if isinstance(target, AtLeast)]
        return [target for target in own if (target.who, target.than) == (who, than)]

    def meets(self, target: Target) -> bool | None:
        """Whether a target is met; None where what it speaks of wasn't measured."""
        if self._failed(target) is not None:
            return False
        if isinstance(target, AtLeast):
            speed = self.speed_over(target.than, target.who)
            return None if speed is None else speed.median >= target.times
        own = self.peaks.get(OURS)
        if own is None:
            return False if OURS in self.peaks else None
        if isinstance(target, Smaller):
            other = self.peaks.get(target.than)
            return None if other is None else own < other
        return own <= target.bytes

    def _failed(self, target: Target) -> str | None:
        """Why the one who has to meet a target has no result."""
        return self.failures.get(target.who if isinstance(target, AtLeast) else OURS)

    def missed(self) -> Iterator[str]:
        """One line for each target that was missed."""
        where = f"{self.row.name}, {self.threads} threads"
        if OURS in self.failures:
            yield f"{where}: {self.failures[OURS]}"
            return
        for target in self.row.targets:
            if self.meets(target) is not False:
                continue
            if (failure := self._failed(target)) is not None and isinstance(target, AtLeast):
                yield f"{where}, {target.who}: {failure}"
            elif isinstance(target, AtLeast):
                speed = self.speed_over(target.than, target.who)
                reached = "no part of" if speed is None else f"{speed.median:.2f} times"
                who = "" if target.who == OURS else f", {target.who}"
                yield f"{where}{who}: {reached} the speed of {target.than}, target {target.times:.2f}"
            elif isinstance(target, Smaller):
                yield f"{where}: {self._peak(OURS)}, {target.than} has {self._peak(target.than)}"
            else:
                yield f"{where}: {self._peak(OURS)}, target {target.bytes / 2**20:.0f} MiB"

    def _peak(self, name: str) -> str:
        peak = self.peaks.get(name)
        return "no peak, it failed" if peak is None else f"a peak of {peak / 2**20:.1f} MiB"
