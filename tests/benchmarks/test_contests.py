"""Contests time every contestant whose result is right, and say which targets are met."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.contests import Result, Row, memory, report, run
from benchmarks.contests.row import OURS, AtLeast, Contest, Smaller, Within
from benchmarks.timing import Measurement


def _row(
    *targets: AtLeast | Smaller | Within, memory: bool = False, slow: frozenset[str] = frozenset()
) -> Row:
    def build(size: int) -> Contest:
        calls = {OURS: lambda: torch.zeros(size), "peer": lambda: torch.zeros(size), "other peer": None}
        return Contest(calls, lambda: torch.zeros(size), {"limit": lambda: torch.zeros(size)})

    return Row("name", "note", build, 1, 1, targets, slow=slow)


def test_every_contestant_is_timed_and_the_slow_ones_in_few_rounds() -> None:
    (result,) = run("", [_row(slow=frozenset({"peer"}))], [1], budget_seconds=0.0)
    assert result.others() == ["limit", "peer"]
    assert result.slow is not None
    assert {name: len(times) for name, times in result.slow.seconds.items()} == {OURS: 3, "peer": 3}
    assert result.absent == ("other peer",)
    assert (speed := result.speed_over("peer")) is not None
    assert speed.median > 0


def test_contestants_that_fail_or_disagree_are_named_and_not_timed() -> None:
    def build(size: int) -> Contest:
        calls = {OURS: lambda: torch.zeros(2), "broken": lambda: 1 / 0, "wrong": lambda: torch.ones(2)}
        return Contest(calls, lambda: torch.zeros(2), {})

    (result,) = run("", [Row("name", "note", build, 1, 1)], [1], budget_seconds=0.0)
    assert result.others() == []
    assert result.failures == {
        "broken": "ZeroDivisionError: division by zero",
        "wrong": "100.0% of its result isn't what einfx has",
    }
    assert "broken: ZeroDivisionError" in report.line(result)


def test_a_row_that_einfx_fails_misses_all_its_targets() -> None:
    def build(size: int) -> Contest:
        return Contest({OURS: lambda: 1 / 0}, lambda: torch.zeros(2), {"limit": lambda: torch.zeros(2)})

    row = Row("name", "note", build, 1, 1, (AtLeast(1, "limit"), Within(1)))
    (result,) = run("", [row], [1], budget_seconds=0.0)
    assert list(result.missed()) == ["name, 1 threads: ZeroDivisionError: division by zero"]
    assert "| name | failed | limit |" in report.section([result], [])
    assert "missed" in report.section([result], [])


def _result(row: Row, peaks: dict[str, int | None] | None = None) -> Result:
    quick = Measurement({OURS: [2.0, 2.0], "peer": [3.0, 3.0], "limit": [1.0, 1.0]})
    return Result(row, 1, quick, absent=("other peer",), peaks=peaks or {})


def test_targets_are_met_missed_or_not_measured() -> None:
    half, twice, unknown = AtLeast(0.5, "limit"), AtLeast(2, "peer"), AtLeast(1, "other peer")
    smaller, within = Smaller("peer"), Within(100)
    result = _result(_row(half, twice, unknown, smaller, within), {OURS: 90, "peer": 80})
    verdicts = [result.meets(target) for target in result.row.targets]
    assert verdicts == [True, False, None, False, True]
    assert [line.partition(": ")[2] for line in result.missed()] == [
        "1.50 times the speed of peer, target 2.00",
        "a peak of 0.0 MiB, peer has a peak of 0.0 MiB",
    ]


def test_einfx_failing_under_a_limit_of_memory_misses_it() -> None:
    result = _result(_row(Within(100), Smaller("peer")), {OURS: None, "peer": 80})
    assert [result.meets(target) for target in result.row.targets] == [False, False]
    assert len(list(result.missed())) == 2
    assert _result(_row(Within(100))).meets(Within(100)) is None


def test_the_section_has_a_line_for_every_contestant_and_lists_what_was_missed() -> None:
    text = report.section([_result(_row(AtLeast(2, "peer")), {OURS: 1 << 20, "peer": None})], [])
    assert "| name | 2000 ms | peer | 3000 ms | 1.50 (1.50-1.50) | 2 | missed |" in text
    assert "|  |  | limit | 1000 ms | 0.50 (0.50-0.50) |  |  |" in text
    assert "| name | einfx | 1.0 MiB |" in text
    assert "|  | peer | failed |" in text
    assert "- name, 1 threads: 1.50 times the speed of peer, target 2.00" in text
    assert "Not there in this run: other peer." in text


@pytest.mark.skipif(not memory.available(), reason="peaks are measured on Linux alone")
def test_the_peak_of_a_call_counts_its_temporaries_and_its_result() -> None:
    numbers = torch.ones(1 << 21)  # 8 MiB

    def call(numbers: Tensor) -> Tensor:
        return (numbers + 1) * (numbers + 2)

    peak = memory.peak_bytes(lambda: call(numbers), lambda: call(numbers[:100]))
    assert 23 << 20 <= peak <= 28 << 20


@pytest.mark.skipif(not memory.available(), reason="peaks are measured on Linux alone")
def test_the_peak_of_a_call_counts_what_it_keeps_for_the_next_one() -> None:
    kept: list[Tensor] = []

    def call() -> Tensor:
        if not kept:
            kept.append(torch.ones(1 << 21))  # 8 MiB
        return torch.ones(1 << 21)

    assert 15 << 20 <= memory.peak_bytes(call, lambda: None) <= 20 << 20


@pytest.mark.skipif(not memory.available(), reason="peaks are measured on Linux alone")
def test_a_peak_is_measured_in_another_process() -> None:
    peak = memory.peak_bytes_of("benchmarks.semirings", "max_plus 1024", "torch.mm", 1)
    assert peak is not None
    assert 4 << 20 <= peak <= 16 << 20
    assert memory.peak_bytes_of("benchmarks.semirings", "max_plus 1024", "nobody", 1) is None


def _forms(*targets: AtLeast, failures: dict[str, str] | None = None) -> Result:
    quick = Measurement({OURS: [2.0, 2.0], "form": [4.0, 4.0], "limit": [1.0, 1.0]})
    return Result(_row(*targets), 1, quick, failures=failures or {})


def test_another_form_of_einfx_has_targets_of_its_own() -> None:
    result = _forms(AtLeast(0.5, "limit"), AtLeast(0.5, "limit", "form"))
    assert [result.meets(target) for target in result.row.targets] == [True, False]
    assert list(result.missed()) == ["name, 1 threads, form: 0.25 times the speed of limit, target 0.50"]
    text = report.section([result], [])
    assert "| name | 2000 ms | limit | 1000 ms | 0.50 (0.50-0.50) | 0.5 | met |" in text
    assert "| name, form | 4000 ms | limit | 1000 ms | 0.25 (0.25-0.25) | 0.5 | missed |" in text
    assert "xlimit of form 0.25" in report.line(result)


def test_a_form_that_fails_misses_its_targets() -> None:
    result = _forms(AtLeast(0.5, "limit"), AtLeast(0.5, "limit", "form"), failures={"form": "why"})
    assert list(result.missed()) == ["name, 1 threads, form: why"]


def test_an_exact_row_holds_einfx_itself_to_what_is_expected() -> None:
    def build(size: int) -> Contest:
        calls = {
            OURS: lambda: torch.ones(2),
            "right": lambda: torch.eye(2)[0],
            "flat": lambda: torch.zeros(1),
        }
        return Contest(calls, lambda: torch.eye(2, dtype=torch.float64)[0], {})

    (result,) = run("", [Row("name", "note", build, 1, 1, exact=True)], [1], budget_seconds=0.0)
    assert result.failures == {
        OURS: "its result isn't that in float64, by 1.0e+00 of its largest entry",
        "flat": "its result isn't that in float64, by inf of its largest entry",
    }
