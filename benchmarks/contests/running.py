"""Times every row with every contestant, and measures peaks of memory."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..contestants import largest_error
from ..timing import Measurement, interleave
from . import memory
from .result import Result
from .row import OURS, AtLeast, Contest, Row

__all__ = ["run"]

SLOW_ROUNDS = 3
"""Rounds of the contestants that take a second a call."""

FEW = 1e-4
"""Which part of a result may differ by more than is tolerated: of equal terms another may come first."""

AGREEMENT = 1e-3
"""By how much the others may differ, where a row tolerates less of sizes that are tiny."""


def run(
    part: str,
    rows: Sequence[Row],
    threads: Sequence[int] = (1, 2),
    pattern: str = "",
    budget_seconds: float = 2.0,
    progress: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Time the rows whose names match.

    Args:
        part: the module that has these rows as ``ROWS``, where other processes find them.
        rows: the rows.
        threads: numbers of threads to use; peaks of memory are measured with the largest.
        pattern: regular expression searched in the rows' names.
        budget_seconds: time for each row; slow contestants take longer.
        progress: called with every result as it comes.

    Returns:
        All results.
    """
    results = []
    before = torch.get_num_threads()
    try:
        for row in rows:
            if re.search(pattern, row.name) is None:
                continue
            torch.set_num_threads(max(threads))
            contest = row.build(row.size)
            expected = _tensors(contest.expected()) if row.exact else None
            for count in threads:
                torch.set_num_threads(count)
                results.append(_run_row(row, contest, expected, count, budget_seconds))
                if row.memory and count == max(threads) and memory.available():
                    results[-1] = replace(results[-1], peaks=_peaks(part, results[-1]))
                if progress is not None:
                    progress(results[-1])
    finally:
        torch.set_num_threads(before)
    return results


def _run_row(
    row: Row, contest: Contest, expected: list[Tensor] | None, threads: int, budget_seconds: float
) -> Result:
    failures = _failures(row, contest, expected)
    present = {name: call for name, call in contest.present().items() if name not in failures}
    slow = {name: call for name, call in present.items() if name in row.slow}
    quick = {name: call for name, call in present.items() if name not in {*row.slow, *row.untimed}}
    measured = interleave(quick, budget_seconds)
    measured_slow: Measurement | None = None
    if slow and OURS in quick:
        fast = [OURS, *(t.who for t in row.targets if isinstance(t, AtLeast) and t.than in slow)]
        beside = {name: quick[name] for name in fast if name in quick}
        measured_slow = interleave({**beside, **slow}, 0.0, min_rounds=SLOW_ROUNDS)
    return Result(row, threads, measured, measured_slow, tuple(contest.absent()), {}, failures)


def _peaks(part: str, result: Result) -> dict[str, int | None]:
    """The peak of each contestant that has one."""
    row = result.row
    names = [*result.quick.seconds, *result.others(), *row.untimed]
    measured = [name for name in dict.fromkeys(names) if name not in row.unmeasured]
    return {name: memory.peak_bytes_of(part, row.name, name, result.threads) for name in measured}


def _failures(row: Row, contest: Contest, expected: list[Tensor] | None) -> Mapping[str, str]:
    """What contestants raise, and whose results at the size that is timed aren't the right ones.

    Args:
        row: the row.
        contest: what is compared.
        expected: the right ones; None where they are einfx's.
    """
    failures: dict[str, str] = {}
    for name, call in contest.present().items():
        if name in row.untimed:
            continue
        try:
            result = call()
        except Exception as failure:  # whatever a contestant raises is its result
            failures[name] = f"{type(failure).__name__}: {' '.join(str(failure).split())[:160]}"
            continue
        if name in contest.limits:
            continue
        results = _tensors(result)
        if row.exact:
            assert expected is not None
            if not (error := _error(results, expected)) <= row.tolerance:
                failures[name] = f"its result isn't that in float64, by {error:.1e} of its largest entry"
        elif name == OURS:
            expected = results
        elif expected is not None:
            share = _deviating(results, expected, max(row.tolerance, AGREEMENT))
            if share > FEW:
                failures[name] = f"{share:.1%} of its result isn't what einfx has"
    return failures


def _tensors(result: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def _error(results: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest deviation as a part of the largest entry; inf for other shapes."""
    if [result.shape for result in results] != [value.shape for value in expected]:
        return math.inf
    return largest_error(tuple(result.double() for result in results), tuple(expected))


def _deviating(results: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> float:
    """The largest share of a result that deviates."""
    pairs = zip(results, expected, strict=True)
    return max(
        1 - float(torch.isclose(actual.double(), value.double(), tolerance, tolerance, True).double().mean())
        for actual, value in pairs
    )
