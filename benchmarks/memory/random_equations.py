"""Peaks of random contractions under limits, each in a process of its own.

What is measured is what a call holds beyond its operands: without gradients all up to the result, with
gradients both passes at once, of which only the gradients remain. Each call has run once before, so that
what is loaded or planned once is there.
"""

from __future__ import annotations

import json
import math
import random
import re
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

import einfx

from . import alone
from .equations import case
from .measure import MIB, peak_of

__all__ = ["COUNT", "FRACTIONS", "SLACK_BYTES", "Failure", "Outcome", "run"]

COUNT = 300
FRACTIONS = (1, 2, 4, 8, 16, 30)
"""Limits: the unlimited peak divided by these."""

SLACK_BYTES = 16 * MIB
CASE_SECONDS = 300
SHORT_SECONDS, LONG_SECONDS = 1.0, 5.0
"""Three rounds are timed where one takes less than the first, and one where it takes less than the second."""


class Outcome(NamedTuple):
    """One contraction under one limit.

    Attributes:
        seed: which contraction.
        equation: its text.
        semiring: over which semiring.
        gradients: whether its gradients were computed too.
        fraction: how much smaller the limit was than the unlimited peak, to which gradients are added.
        limit: in bytes.
        returned: the bytes of the result, or of the gradients: no limit can be smaller.
        peak: as measured from outside, in bytes; None where the limit was refused.
        needed: where it was refused, the bytes that the error said would be enough.
        seconds: with the limit.
        unlimited_seconds: without.
        planning_seconds: of the first call, less that of the second.
        error: the largest deviation from the unlimited result, relative to its largest entry.
    """

    seed: int
    equation: str
    semiring: str
    gradients: bool
    fraction: int
    limit: int
    returned: int
    peak: int | None
    needed: int | None
    seconds: float
    unlimited_seconds: float
    planning_seconds: float
    error: float

    @property
    def kept(self) -> bool:
        """Whether the peak stayed within the limit, a twentieth and 16 MiB."""
        return self.peak is None or self.peak <= 1.05 * self.limit + SLACK_BYTES

    @property
    def slower(self) -> float:
        """The time with the limit over that without."""
        return self.seconds / self.unlimited_seconds


class Failure(NamedTuple):
    """A contraction that came to no end.

    Attributes:
        seed: which.
        why: what it ended with.
    """

    seed: int
    why: str


def run(
    count: int = COUNT,
    progress: Callable[[Outcome | Failure], None] | None = None,
    kept: Path | None = None,
) -> list[Outcome | Failure]:
    """Measure contractions, each with its gradients and semiring by turns.

    Args:
        count: how many contractions.
        progress: is told each outcome.
        kept: a file to which outcomes are added as they come; those that it has are not measured again.
    """
    found = _read(kept) if kept is not None and kept.exists() else []
    seen = {outcome.seed for outcome in found}
    for answer in alone.each(f"{__name__}:measured", _but(range(count), seen), CASE_SECONDS):
        news: list[Outcome | Failure] = [Outcome(*row) for row in answer.value or ()]
        if answer.failure:
            news = [Failure(answer.argument, answer.failure)]
        if kept is not None:
            with kept.open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(row) + "\n" for row in news)
        for outcome in news:
            if progress is not None:
                progress(outcome)
        found += news
    return [outcome for outcome in found if outcome.seed < count]


def measured(seed: int) -> list[Outcome]:
    """The outcomes of one contraction, under two limits."""
    chosen = case(seed)
    pick = random.Random(seed)
    semiring, gradients = ("real", "log")[seed % 2], seed % 4 >= 2
    generator = torch.Generator().manual_seed(seed)
    operands = [torch.randn(shape, generator=generator) for shape in chosen.shapes]
    for x in operands:
        x.requires_grad_(gradients)
    unlimited = _work(chosen.equation, operands, semiring, gradients, None)
    expected, seconds = _timed(unlimited)
    returned = sum(x.nbytes for x in expected)
    # Without a limit, gradients come beside what the contraction takes.
    whole = chosen.peak_bytes + gradients * sum(x.nbytes for x in operands)
    limits = {fraction: whole // fraction for fraction in _fractions(pick, whole / returned)}
    calls = {
        fraction: _work(chosen.equation, operands, semiring, gradients, limit)
        for fraction, limit in limits.items()
    }
    found, once = [], seconds
    for fraction, limit in limits.items():
        told = (seed, chosen.equation, semiring, gradients, fraction, limit, returned)
        try:
            result, first = _timed(calls[fraction])
        except einfx.EinfxError as refusal:
            needed = re.search(r"needs (\d+) bytes", str(refusal))
            found.append(Outcome(*told, None, int(needed[1]) if needed else None, 0.0, seconds, 0.0, 0.0))
            del calls[fraction]
            continue
        error = max(_deviation(x, y) for x, y in zip(result, expected, strict=True))
        del result
        start = time.perf_counter()
        peak = peak_of(calls[fraction])
        again = time.perf_counter() - start
        once += again
        found.append(Outcome(*told, peak, None, again, seconds, max(first - again, 0.0), error))
    del expected
    return _timed_again(found, {0: unlimited, **calls}, once)


def _fractions(pick: random.Random, most: float) -> list[int]:
    """Two of them, at random among those that leave room for what is returned, as far as there are two."""
    possible = [fraction for fraction in FRACTIONS if fraction < most]
    chosen = pick.sample(possible, min(2, len(possible)))
    others = [fraction for fraction in FRACTIONS if fraction not in possible]
    return sorted(chosen + others[: 2 - len(chosen)])


def _timed_again(found: list[Outcome], calls: dict[int, Callable[[], Any]], once: float) -> list[Outcome]:
    """The outcomes with times of rounds in which everything ran, where these don't take too long."""
    rounds = 3 if once < SHORT_SECONDS else 1 if once < LONG_SECONDS else 0
    if not rounds:
        return found
    times: dict[int, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(_timed(call)[1])
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    return [
        outcome._replace(seconds=medians.get(outcome.fraction, 0.0), unlimited_seconds=medians[0])
        for outcome in found
    ]


def _work(
    equation: str, operands: list[torch.Tensor], semiring: str, gradients: bool, limit: int | None
) -> Callable[[], tuple[torch.Tensor, ...]]:
    def work() -> tuple[torch.Tensor, ...]:
        result = einfx.einsum(equation, *operands, semiring=semiring, memory_limit=limit)
        if not gradients:
            return (result,)
        total = result.sum()
        # The caller keeps operands and gradients: whatever else is there is held by who computes them.
        del result
        return torch.autograd.grad(total, operands)

    return work


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _deviation(found: torch.Tensor, expected: torch.Tensor) -> float:
    scale = expected.abs().max().clamp(min=1e-30)
    deviation = float(((found - expected).abs().max() / scale).item())
    # The largest of several would pass over a number that is none.
    return math.inf if math.isnan(deviation) else deviation


def _but(seeds: Iterable[int], seen: set[int]) -> list[int]:
    return [seed for seed in seeds if seed not in seen]


def _read(path: Path) -> list[Outcome | Failure]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Failure(*row) if len(row) == 2 else Outcome(*row) for row in rows]
