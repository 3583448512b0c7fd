"""Peaks of random contractions under limits, each in a process of its own."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

import einfx

from ..contests.memory import RESET, give_back, resident
from .equations import case

__all__ = ["COUNT", "FRACTIONS", "Outcome", "run"]

COUNT = 300
FRACTIONS = (1, 2, 4, 8, 16, 30)
"""Limits: the unlimited peak divided by these."""

SLACK_BYTES = 16 << 20


class Outcome(NamedTuple):
    """One contraction under one limit.

    Attributes:
        seed: which contraction.
        equation: its text.
        semiring: over which semiring.
        gradients: whether its gradients were computed too.
        fraction: how much smaller the limit was than the unlimited peak.
        limit: in bytes.
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


def run(count: int = COUNT, progress: Callable[[Outcome], None] | None = None) -> list[Outcome]:
    """Measure contractions, each with its gradients and semiring by turns.

    Args:
        count: how many contractions.
        progress: is told each outcome.
    """
    found = []
    for seed in range(count):
        command = [sys.executable, "-c", f"from {__name__} import main; main({seed})"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=900, cwd=Path(__file__).parents[2]
        )
        if done.returncode:
            raise RuntimeError(f"contraction {seed} failed: {done.stderr[-2000:]}")
        for row in done.stdout.splitlines():
            outcome = Outcome(*json.loads(row))
            found.append(outcome)
            if progress is not None:
                progress(outcome)
    return found


def measured(seed: int) -> Iterator[Outcome]:
    """The outcomes of one contraction, under two limits."""
    chosen = case(seed)
    pick = random.Random(seed)
    semiring, gradients = ("real", "log")[seed % 2], seed % 4 >= 2
    generator = torch.Generator().manual_seed(seed)
    operands = [torch.randn(shape, generator=generator) for shape in chosen.shapes]
    for x in operands:
        x.requires_grad_(gradients)
    expected, unlimited = _timed(_work(chosen.equation, operands, semiring, gradients, None))
    whole = chosen.peak_bytes
    if gradients:
        whole += 4 * sum(x.numel() for x in operands)
    for fraction in sorted(pick.sample(FRACTIONS, 2)):
        limit = whole // fraction
        work = _work(chosen.equation, operands, semiring, gradients, limit)
        told = (seed, chosen.equation, semiring, gradients, fraction, limit)
        try:
            _, first = _timed(work)
        except einfx.EinfxError as refusal:
            needed = int(str(refusal).split("it needs ")[1].split()[0])
            yield Outcome(*told, None, needed, 0.0, unlimited, 0.0, 0.0)
            continue
        give_back()
        RESET.write_text("5", encoding="ascii")
        before = resident("VmRSS")
        result, seconds = _timed(work)
        peak = resident("VmHWM") - before
        error = max(_deviation(x, y) for x, y in zip(result, expected, strict=True))
        yield Outcome(*told, peak, None, seconds, unlimited, max(first - seconds, 0.0), error)
        del result


def _work(
    equation: str, operands: list[torch.Tensor], semiring: str, gradients: bool, limit: int | None
) -> Callable[[], tuple[torch.Tensor, ...]]:
    def work() -> tuple[torch.Tensor, ...]:
        result = einfx.einsum(equation, *operands, semiring=semiring, memory_limit=limit)
        if not gradients:
            return (result,)
        return torch.autograd.grad(result.sum(), operands)

    return work


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _deviation(found: torch.Tensor, expected: torch.Tensor) -> float:
    scale = expected.abs().max().clamp(min=1e-30)
    return float(((found - expected).abs().max() / scale).item())


def main(seed: int) -> None:
    """Print the outcomes of one contraction as JSON."""
    torch.set_num_threads(1)
    for outcome in measured(seed):
        print(json.dumps(outcome), flush=True)
