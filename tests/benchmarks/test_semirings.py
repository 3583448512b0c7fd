"""The benchmark of semirings times what it says it does: all contestants of a row compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.semirings import ROWS, Result, ceiling, memory, operands, report, run, running
from benchmarks.semirings.row import OURS, AtLeast, Contest, Row, Smaller, Within
from benchmarks.timing import Measurement
from einfx.kernels import tropical_native


def _tensors(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_all_contestants_of_a_row_compute_what_float64_and_brute_force_do(row: Row) -> None:
    contest = row.build(row.tiny)
    expected = [value.double() for value in _tensors(contest.expected())]
    for name, call in contest.calls.items():
        if call is None:
            continue
        results = _tensors(call())
        assert len(results) == len(expected), name
        for actual, value in zip(results, expected, strict=True):
            assert actual.shape == value.shape, name
            assert torch.allclose(actual.double(), value, row.tolerance, row.tolerance), name


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_limits_run_on_operands_of_the_same_shapes(row: Row) -> None:
    contest = row.build(row.tiny)
    shapes = [value.shape for value in _tensors(contest.expected())]
    for name, call in contest.limits.items():
        if call is not None and name != ceiling.CEILING:
            assert [value.shape for value in _tensors(call())] == shapes[: len(_tensors(call()))], name


def test_the_row_without_the_extension_does_not_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    product = tropical_native.tropical_matmul

    def noticed(*operands: Any, **options: Any) -> Any:
        used.append("extension")
        return product(*operands, **options)

    monkeypatch.setattr(tropical_native, "tropical_matmul", noticed)
    rows = {row.name: row for row in ROWS}
    rows["max_plus 512, no extension"].build(24).present()[OURS]()
    assert not used
    rows["max_plus 512"].build(24).present()[OURS]()
    assert used == ["extension"] * tropical_native.available()


def test_row_names_are_unique() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_targets_and_slow_contestants_are_there(row: Row) -> None:
    contest = row.build(row.tiny)
    names = {*contest.calls, *contest.limits}
    assert OURS in names
    assert {target.than for target in row.targets if not isinstance(target, Within)} <= names
    assert row.untimed <= names
    assert row.memory or all(isinstance(target, AtLeast) for target in row.targets)


def _unsafe(a: Tensor, b: Tensor) -> float:
    """The share of the shifted sums that a single product in float32 loses."""
    a, b = (x if x.dim() == 3 else x[None] for x in (a, b))
    shifted = (a - a.amax(2, True)).exp() @ (b - b.amax(1, True)).exp()
    return float((shifted < 1e-30).float().mean())


@pytest.mark.parametrize(
    ("make", "size", "least", "most"),
    [
        (operands.pair, 128, 0.0, 0.0),
        (operands.few_unsafe, 128, 0.005, 0.02),
        (operands.all_unsafe, 128, 1.0, 1.0),
        (operands.padded_chains, 64, 0.42, 0.46),
        (operands.cky_charts, 64, 0.07, 0.09),
    ],
)
def test_operands_are_as_unsafe_as_their_names_say(
    make: Callable[[int], tuple[Tensor, Tensor]], size: int, least: float, most: float
) -> None:
    assert least <= _unsafe(*make(size)) <= most


def test_entries_that_are_all_unsafe_lie_within_the_range_of_float64() -> None:
    a, b = (x.double() for x in operands.all_unsafe(64))
    shifted = (a - a.amax(1, True)).exp() @ (b - b.amax(0, True)).exp()
    assert shifted.log().min() > -700


def test_padded_chains_stay_where_they_are_past_their_length() -> None:
    first, _ = operands.padded_chains(states=3)
    assert torch.equal(first[30], torch.eye(3).sub(1).mul(1e5))


def _row(
    *targets: AtLeast | Smaller | Within, memory: bool = False, slow: frozenset[str] = frozenset()
) -> Row:
    def build(size: int) -> Contest:
        calls = {OURS: lambda: torch.zeros(size), "peer": lambda: torch.zeros(size), "other peer": None}
        return Contest(calls, lambda: torch.zeros(size), {"limit": lambda: torch.zeros(size)})

    return Row("name", "note", build, 1, 1, targets, slow=slow)


def test_every_contestant_is_timed_and_the_slow_ones_in_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "ROWS", (_row(slow=frozenset({"peer"})),))
    (result,) = run([1], budget_seconds=0.0)
    assert result.others() == ["limit", "peer"]
    assert result.slow is not None
    assert {name: len(times) for name, times in result.slow.seconds.items()} == {OURS: 3, "peer": 3}
    assert result.absent == ("other peer",)
    assert (speed := result.speed_over("peer")) is not None
    assert speed.median > 0


def test_contestants_that_fail_or_disagree_are_named_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(size: int) -> Contest:
        calls = {OURS: lambda: torch.zeros(2), "broken": lambda: 1 / 0, "wrong": lambda: torch.ones(2)}
        return Contest(calls, lambda: torch.zeros(2), {})

    monkeypatch.setattr(running, "ROWS", (Row("name", "note", build, 1, 1),))
    (result,) = run([1], budget_seconds=0.0)
    assert result.others() == []
    assert result.failures == {
        "broken": "ZeroDivisionError: division by zero",
        "wrong": "100.0% of its result isn't what einfx has",
    }
    assert "broken: ZeroDivisionError" in report.line(result)


def test_a_row_that_einfx_fails_misses_all_its_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(size: int) -> Contest:
        return Contest({OURS: lambda: 1 / 0}, lambda: torch.zeros(2), {"limit": lambda: torch.zeros(2)})

    row = Row("name", "note", build, 1, 1, (AtLeast(1, "limit"), Within(1)))
    monkeypatch.setattr(running, "ROWS", (row,))
    (result,) = run([1], budget_seconds=0.0)
    assert list(result.missed()) == ["name, 1 threads: ZeroDivisionError: division by zero"]
    assert "| name | failed | limit |" in report.section([result])
    assert "missed" in report.section([result])


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
    text = report.section([_result(_row(AtLeast(2, "peer")), {OURS: 1 << 20, "peer": None})])
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
    peak = memory.peak_bytes_of("max_plus 1024", "torch.mm", 1)
    assert peak is not None
    assert 4 << 20 <= peak <= 16 << 20
    assert memory.peak_bytes_of("max_plus 1024", "nobody", 1) is None


def test_the_section_says_which_part_of_a_real_product_the_ceiling_is() -> None:
    quick = Measurement({OURS: [2.0, 2.0], "torch.mm": [1.0, 1.0], ceiling.CEILING: [1.6, 1.6]})
    text = report.section([Result(_row(), 1, quick)])
    assert "multiples of the speed of `torch.mm`: 0.62 (name)." in text


def test_the_ceiling_runs_on_all_threads_where_there_is_a_compiler() -> None:
    call = ceiling.additions_and_maxima(1 << 12)
    if call is None:
        pytest.skip("no C compiler for this processor")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert call() == 9.0  # the largest number that a chain begins with; no sum exceeds it
        torch.set_num_threads(2)
        assert call() == [9.0, 9.0]
    finally:
        torch.set_num_threads(before)
