"""Peaks of memory, from outside, and times of calls of which some may fail."""

from __future__ import annotations

import resource as limits
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

import einfx

from ..contests.memory import RESET, give_back, resident
from ..timing import interleave

__all__ = [
    "MIB",
    "Point",
    "anonymous_bytes",
    "at_most",
    "available_bytes",
    "measured",
    "peak_of",
    "reason",
    "stay_within",
]

MIB = 1 << 20

MOST_SECONDS = 30.0
"""A call that takes longer, planning included, is told as that."""


class Point(NamedTuple):
    """One way to compute something.

    Attributes:
        name: which.
        limit: the bytes that it was given; None without a limit.
        peak: bytes beyond what was there before, the result included; None where it failed.
        seconds: the median, then both quartiles; empty where it failed.
        failure: why it did.
    """

    name: str
    limit: int | None
    peak: int | None
    seconds: tuple[float, ...]
    failure: str


def measured(
    calls: Mapping[tuple[str, int | None], Callable[[], Any]],
    budget_seconds: float,
    rounds: int = 3,
    device: str = "cpu",
) -> list[Point]:
    """Peak and time of every call, times in the same rounds.

    Args:
        calls: by name and limit. All must return the same, or fail.
        budget_seconds: for the times of all together.
        rounds: at least so many are made.
        device: whose memory is meant.

    Raises:
        AssertionError: two results differ.
    """
    peaks: dict[tuple[str, int | None], int] = {}
    failures: dict[tuple[str, int | None], str] = {}
    expected: Any = None
    for key, call in calls.items():
        try:
            with at_most(MOST_SECONDS):
                result = call()
            expected = result if expected is None else expected
            torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4 * _scale(expected))
            del result
            peaks[key] = peak_of(call, device)
        except (einfx.EinfxError, RuntimeError, MemoryError, TimeoutError) as error:
            failures[key] = reason(error)
    kept = {str(key): call for key, call in calls.items() if key in peaks}
    times = interleave(kept, budget_seconds, min_rounds=rounds)
    found = []
    for key in calls:
        if key in failures:
            found.append(Point(*key, None, (), failures[key]))
            continue
        spread = times.time(str(key))
        found.append(Point(*key, peaks[key], (spread.median, spread.lower, spread.upper), ""))
    return found


def peak_of(call: Callable[[], Any], device: str = "cpu") -> int:
    """The most bytes that a call takes on a device beyond those taken before, its result included.

    It should have run before, so that what is loaded once is there.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    give_back()
    RESET.write_text("5", encoding="ascii")
    before = resident("VmRSS")
    result = call()
    peak = resident("VmHWM") - before
    del result
    return peak


def anonymous_bytes() -> int:
    """What this process holds at the moment, without pages of files."""
    return resident("RssAnon")


def available_bytes() -> int:
    """What the machine could still give."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) << 10
    raise RuntimeError("/proc/meminfo says nothing of MemAvailable")


def stay_within(size: int) -> None:
    """Let this process have so many more bytes, so that what asks for more is refused at once."""
    total = resident("VmSize") + size
    limits.setrlimit(limits.RLIMIT_AS, (total, total))


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End what takes longer, in seconds of the processor, with an error once it comes back to Python."""

    def end(*_: object) -> None:
        raise TimeoutError(f"takes more than {seconds:.0f} s")

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _scale(expected: Any) -> float:
    tensors = expected if isinstance(expected, tuple) else (expected,)
    return max(float(x.abs().max()) for x in tensors)


def reason(error: Exception) -> str:
    text = str(error)
    if "you tried to allocate " in text:
        asked = int(text.partition("you tried to allocate ")[2].split()[0])
        return f"out of memory: asks for {asked / (1 << 30):.1f} GiB at once"
    if "Tried to allocate " in text:
        return (
            f"out of memory: asks for {' '.join(text.partition('Tried to allocate ')[2].split()[:2])} at once"
        )
    if isinstance(error, MemoryError) or "out of memory" in text:
        return f"out of memory: {text.splitlines()[0]}" if text else "out of memory"
    return text.splitlines()[0]
