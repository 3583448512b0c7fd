"""What is freed while a schedule runs stays within what the schedule may hold.

Buffers lie in one block of memory, which goes back when it is freed. What kernels take meanwhile they free
again, but the C library's allocator keeps it resident, in gaps that what comes next may not fit into. It is
given back where it could add up to more than the schedule was meant to take; as long as there is room it
stays, because taking it anew costs more than most kernels do.
"""

from __future__ import annotations

from ...free_memory import give_back, resident_bytes
from .memory import Demand

__all__ = ["Resident"]

LARGE_BYTES = 4 << 20
"""Schedules that take less are not watched."""

NOTED_BYTES = 256 << 10
"""Lines for which torch allocates less are not looked at."""

SLACK_BYTES = 2 << 20
"""How much more than planned may be resident, beside an eightieth."""

REPEATED_BYTES = 8 << 20
"""How much more may be resident if a line that ran before finds half of its gaps again, beside a 32nd."""

_left = 0
"""What schedules that ran in this process left free but resident, as far as is known."""


class Resident:
    """Watches the memory of a process while a schedule runs in it.

    Args:
        found: what the schedule takes.
        apart: what torch allocates for each of its lines, in the order of the program.
        held: the bytes of the block that its buffers lie in.
        limit: what may be in use at most, outputs included, where that is more than what the schedule takes.

    Attributes:
        exact: whether buffers and outputs have to be resident from the start, since lines are looked at.

    Example:
        >>> watched = Resident(Demand(peak_bytes=8 << 20), {}, 8 << 20)
        >>> watched.exact
        False
        >>> watched.before(3)
        >>> watched.after(3)
        >>> watched.close()
    """

    def __init__(self, found: Demand, apart: dict[int, int], held: int, limit: int = 0) -> None:
        self.apart = {moment: size for moment, size in apart.items() if size >= NOTED_BYTES}
        most = max(found.peak_bytes, limit)
        self.most_free = max(most - held - found.output_bytes, found.apart_bytes) + SLACK_BYTES + most // 80
        self.repeated = REPEATED_BYTES + most // 32
        self.exact = bool(self.apart)
        self.touched = 0
        self.outputs = 0
        self.ran: set[int] = set()
        now = resident_bytes()
        self.known = now is not None
        self.start = (now or 0) - _left
        if self.known:
            self._keep(found.apart_bytes if self.apart else 0)

    def take(self, end: int) -> None:
        """Note that the block of buffers is in use up to some byte."""
        if end > self.touched:
            self.touched = end

    def make(self, size: int) -> None:
        """Note that an output is made, of so many bytes."""
        self.outputs += size

    def before(self, moment: int) -> None:
        """A line is about to run."""
        size = self.apart.get(moment, 0)
        if size:
            # There may be no gap for it. Where it ran before, at least half fits into its own as a rule.
            self._keep(size // 2 - self.repeated if moment in self.ran else size)
            self.ran.add(moment)

    def after(self, moment: int) -> None:
        """A line has run."""
        if moment in self.apart:
            self._keep(0)

    def close(self) -> None:
        """The schedule has run."""
        global _left
        if self.known:
            _left = max(self._free(), 0)

    def _free(self) -> int:
        """What is resident beside the buffers and outputs."""
        return (resident_bytes() or 0) - self.start - self.touched - self.outputs

    def _keep(self, beside: int) -> None:
        """Give back what is free where it would be too much together with so many bytes."""
        if not self.known or self._free() + beside <= self.most_free:
            return
        give_back()
        # What is still there was taken by others meanwhile.
        self.start += max(self._free(), 0)
