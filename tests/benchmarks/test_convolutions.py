"""The benchmark of convolutions times what it says it does: all contestants of a row compute the same."""

from __future__ import annotations

import pytest
import torch

from benchmarks.contestants import largest_error
from benchmarks.contests import Result, Row, memory
from benchmarks.contests.row import OURS, AtLeast, Within
from benchmarks.convolutions import ROWS, building, missed, section
from benchmarks.convolutions.forms import EINCONV, EXPRESSION
from benchmarks.convolutions.layers import FOUR_DIMENSIONS, LAYERS, TRANSPOSED, WINDOWS, Layer
from benchmarks.convolutions.models import CAPTURED
from benchmarks.convolutions.rows import TYPICAL
from benchmarks.convolutions.typical import Typical
from benchmarks.timing import Measurement
from einfx import passes


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_all_contestants_of_a_row_compute_what_float64_does(row: Row) -> None:
    contest = row.build(row.tiny)
    expected = contest.expected()
    for name, call in contest.calls.items():
        if call is not None:
            assert largest_error(_double(call()), expected) <= row.tolerance, name


def _double(result: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor | tuple[torch.Tensor, ...]:
    return result.double() if isinstance(result, torch.Tensor) else tuple(x.double() for x in result)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_targets_and_slow_contestants_are_there(row: Row) -> None:
    contest = row.build(row.tiny)
    names = {*contest.calls, *contest.limits}
    targets = [target for target in row.targets if isinstance(target, AtLeast)]
    assert OURS in names
    assert {target.than for target in targets} <= names
    assert {target.who for target in targets} <= names
    assert row.exact


def test_row_names_are_unique() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("layer", [*LAYERS, *TRANSPOSED, *FOUR_DIMENSIONS], ids=lambda layer: layer.name)
def test_layers_have_the_shapes_they_say(layer: Layer) -> None:
    x, weight, v = layer.operands(1)
    forward = next(row for row in ROWS if row.name == f"{layer.name}, forward")
    assert forward.build(1).expected().shape == v.shape
    assert x.numel() * 4 == layer.input_bytes
    assert "x".join(map(str, weight.shape)) in str(layer)


@pytest.mark.parametrize("layer", WINDOWS, ids=lambda layer: layer.name)
def test_patches_and_factors_have_the_shapes_they_say(layer: Layer) -> None:
    rows = {row.name: row for row in ROWS}
    assert rows[f"{layer.name}, unfold"].build(1).expected().shape == layer.patches(1)
    factor = rows[f"{layer.name}, KFC"].build(1).expected()
    assert factor.shape == (layer.groups, layer.side, layer.side)


def test_the_limit_of_memory_is_the_result_and_a_quarter_of_the_input() -> None:
    row = next(row for row in ROWS if row.name == "resnet18 3x3, 64, KFAC-reduce")
    assert row.memory_size is not None
    result, given = 4 * 576 * 576, 4 * row.memory_size * 64 * 56 * 56
    assert given >= 64 << 20
    assert Within(result + given // 4) in row.targets


@pytest.mark.skipif(not memory.available(), reason="peaks are measured on Linux alone")
def test_peaks_are_measured_with_inputs_of_their_own_size() -> None:
    name = "all-cnn 3x3, KFAC-reduce"
    peak = memory.peak_bytes_of("benchmarks.convolutions", name, "F.unfold, mean, product", 1)
    assert peak is not None
    assert peak > 9 * 64 << 20  # all patches of 64 MiB of input


def test_captured_models_are_there_as_soon_as_the_pass_is() -> None:
    rows = [row for row in ROWS if CAPTURED in row.build(row.tiny).calls]
    assert len(rows) == 6
    for row in rows:
        there = row.build(row.tiny).calls[CAPTURED] is not None
        assert there == hasattr(passes, "CaptureConvolutions")


def _results(speeds: list[float], threads: int = 1) -> list[Result]:
    return [
        Result(
            Row(f"row {number}", "note", lambda size: None, 1, 1),  # type: ignore[arg-type, return-value]
            threads,
            Measurement({OURS: [1.0, 1.0], "peer": [speed, speed]}),
        )
        for number, speed in enumerate(speeds)
    ]


def test_a_typical_target_is_for_the_median_of_its_rows() -> None:
    names = frozenset({"row 0", "row 1", "row 2"})
    typical = Typical("things", names, 4.0, "peer")
    assert typical.reached(_results([1.0, 5.0, 9.0, 0.0])) == 5.0
    assert typical.reached([]) is None
    assert list(typical.missed(_results([1.0, 5.0, 9.0]))) == []
    slow = [*_results([9.0, 9.0, 9.0]), *_results([1.0, 2.0, 9.0], threads=2)]
    assert list(typical.missed(slow)) == [
        "2 threads: median of things: 2.00 times the speed of peer, target 4.00"
    ]
    assert list(Typical("things", names, 4.0, "absent").line(slow)) == []


def test_typical_targets_speak_of_rows_and_contestants_that_are_there() -> None:
    rows = {row.name: row for row in ROWS}
    for typical in TYPICAL:
        calls = [rows[name].build(1).calls for name in sorted(typical.rows)[:3]]
        assert all(typical.who in names for names in calls)
        assert any(typical.than in names for names in calls)


def test_building_an_expression_again_takes_less_than_the_first_time() -> None:
    results = building.run(budget_seconds=0.0)
    assert len(results) == 7
    assert all(one.again.time(OURS).median < one.first_seconds for one in results)


def test_the_section_says_what_was_missed() -> None:
    row = next(row for row in ROWS if row.name == "resnet18 3x3, 64, forward")
    quick = Measurement({OURS: [1.0, 1.0], EXPRESSION: [2.0, 2.0], "F.conv2d": [1.0, 1.0]})
    slow = Measurement({OURS: [1.0, 1.0], EINCONV: [3.0, 3.0]})
    built = building.Building("convNd_forward", 1e-3, Measurement({OURS: [6e-5, 6e-5]}))
    results = [Result(row, 1, quick, slow)]
    short = [
        "resnet18 3x3, 64, forward, 1 threads, expression: 0.50 times the speed of F.conv2d, target 0.95",
        "building convNd_forward again: 60 us, target 50 us",
    ]
    assert missed(results, [built]) == short
    text = section(results, [built])
    assert all(f"- {line}\n" in text for line in short)
    assert (
        "| resnet18 3x3, 64, forward | 1000 ms | F.conv2d | 1000 ms | 1.00 (1.00-1.00) | 0.952 | met |"
        in text
    )
    assert "| resnet18 3x3, 64, forward, expression | 2000 ms | F.conv2d |" in text
    assert "| convNd_forward | 1000 | 60.0 |  | 50 | missed |" in text
