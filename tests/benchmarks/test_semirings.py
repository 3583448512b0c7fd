"""The benchmark of semirings times what it says it does: all contestants of a row compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.contests import Result
from benchmarks.contests.row import OURS, AtLeast, Row, Within
from benchmarks.semirings import ROWS, ceiling, operands, section
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


def test_the_section_says_which_part_of_a_real_product_the_ceiling_is() -> None:
    quick = Measurement({OURS: [2.0, 2.0], "torch.mm": [1.0, 1.0], ceiling.CEILING: [1.6, 1.6]})
    row = next(row for row in ROWS if row.name == "max_plus 512")
    text = section([Result(row, 1, quick)])
    assert "multiples of the speed of `torch.mm`: 0.62 (max_plus 512)." in text


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
