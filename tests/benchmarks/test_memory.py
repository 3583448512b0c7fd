"""The benchmark of contractions under limits: its cases, its measuring, its tables and plots."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import random
import signal
import subprocess
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import einfx
from benchmarks.contests.memory import available
from benchmarks.memory import (
    alone,
    curve_peers,
    curves,
    disk,
    equations,
    example,
    measure,
    models,
    plots,
    random_equations,
    report,
    slicing_quality,
)
from benchmarks.memory.curves import CurvePoint
from benchmarks.memory.measure import MIB, Point
from benchmarks.memory.random_equations import Failure, Outcome
from einfx.slicing.schedules.schedule import Allocate, Contract, Free, Loop, Schedule

needs_proc = pytest.mark.skipif(not available(), reason="peaks are measured on Linux only")


def outcome(**changes: object) -> Outcome:
    whole = Outcome(0, "ij,jk->ik", "real", False, 4, 100 * MIB, 50, 90 * MIB, None, 3.0, 2.0, 0.1, 1e-7)
    return whole._replace(**changes)  # type: ignore[arg-type]


def doubled(number: int) -> list[int]:
    if number == 2:
        raise ValueError("two")
    if number == 3:
        os.abort()
    if number == 4:
        time.sleep(30)
    if number == 7:
        # It outlives the call, and holds what the call has open.
        subprocess.Popen(["sleep", "50"], close_fds=False)
    if number == 6:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(1)
    return [number, 2 * number]


def increased(number: int) -> int:
    return 10 if number == 1 else number + 10


@needs_proc
def test_calls_in_processes_of_their_own_are_answered_whatever_they_end_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        alone, "_environment", lambda: {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    )
    start = time.perf_counter()
    answers = list(alone.each(f"{Path(__file__).stem}:doubled", [1, 7, 2, 3, 4, 6, 5], seconds=2))
    assert [answer.value for answer in answers] == [[1, 2], [7, 14], None, None, None, None, [5, 10]]
    assert time.perf_counter() - start < 40, "nothing waits for what a call leaves behind"
    assert answers[2].failure == "ValueError: two"
    assert answers[3].failure == "ended by SIGABRT"
    assert answers[4].failure == "took more than 2 s"
    assert answers[5].failure == "the process that calls it ended with -9"


@needs_proc
def test_a_peak_is_what_a_call_takes_at_once() -> None:
    def call() -> None:
        for _ in range(3):
            torch.ones(8 * MIB)

    call()
    assert measure.peak_of(call) == pytest.approx(32 * MIB, rel=0.1)


@needs_proc
def test_what_fails_for_want_of_memory_is_told_beside_what_runs() -> None:
    def refused() -> torch.Tensor:
        raise RuntimeError("can't allocate memory: you tried to allocate 629145600000 bytes.")

    points = measure.measured({("ones", None): lambda: torch.ones(3), ("large", 8): refused}, 0.01)
    assert points[0].peak is not None
    assert len(points[0].seconds) == 3
    assert points[1] == Point("large", 8, None, (), "out of memory: asks for 585.9 GiB at once")


@needs_proc
def test_what_takes_too_long_is_told_beside_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless() -> torch.Tensor:
        while True:
            pass

    monkeypatch.setattr(measure, "MOST_SECONDS", 0.1)
    points = measure.measured({("ones", None): lambda: torch.ones(3), ("endless", None): endless}, 0.01)
    assert [point.failure for point in points] == ["", "takes more than 0 s"]


@needs_proc
def test_results_that_differ_are_no_contest() -> None:
    with pytest.raises(AssertionError, match="not close"):
        measure.measured(
            {("ones", None): lambda: torch.ones(3), ("twos", None): lambda: 2 * torch.ones(3)}, 0.01
        )


@pytest.mark.parametrize("seed", range(4))
def test_random_contractions_are_the_same_each_time_and_large(seed: int) -> None:
    found = equations.case(seed)
    assert found == equations.case(seed)
    plan = einfx.contract_path(found.equation, *found.shapes)
    assert equations.LEAST_BYTES <= plan.peak_bytes == found.peak_bytes <= equations.MOST_BYTES


def test_limits_leave_room_for_what_is_returned_where_two_do() -> None:
    pick = random.Random(0)
    assert all(max(random_equations._fractions(pick, 9.0)) <= 8 for _ in range(20))
    assert random_equations._fractions(pick, 1.5) == [1, 2]
    assert random_equations._fractions(pick, 0.5) == [1, 2]


def test_outcomes_that_were_kept_are_not_measured_again(tmp_path: Path) -> None:
    kept, failed = outcome(), Failure(1, "took too long")
    path = tmp_path / "outcomes.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in (kept, failed)))
    assert random_equations.run(2, kept=path) == [kept, failed]
    assert random_equations.run(1, kept=path) == [kept]


def test_gradients_are_measured_while_nobody_else_holds_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    einsum, grad = einfx.einsum, torch.autograd.grad
    results: list[weakref.ref[torch.Tensor]] = []

    def watched(*arguments: Any, **words: Any) -> torch.Tensor:
        result = einsum(*arguments, **words)
        results.append(weakref.ref(result))
        return result

    def asked(*arguments: Any) -> Any:
        assert results
        assert results[0]() is None
        return grad(*arguments)

    monkeypatch.setattr(einfx, "einsum", watched)
    monkeypatch.setattr(torch.autograd, "grad", asked)
    x = torch.ones(2, 3, requires_grad=True)
    (made,) = random_equations._work("ij->i", [x], "real", True, 1 << 20)()
    assert bool((made == 1).all())


def test_what_is_no_number_deviates_infinitely() -> None:
    assert random_equations._deviation(torch.tensor([1.0, math.nan]), torch.ones(2)) == math.inf
    assert random_equations._deviation(torch.tensor([1.0, 0.5]), torch.ones(2)) == 0.5


def test_a_peak_may_exceed_its_limit_by_a_twentieth_and_sixteen_mebibytes() -> None:
    assert outcome(peak=121 * MIB).kept
    assert not outcome(peak=122 * MIB).kept
    assert outcome(peak=None).kept


def test_the_report_counts_what_was_kept_exceeded_refused_and_failed() -> None:
    rows: list[Outcome | Failure] = [
        outcome(),
        outcome(seed=1, peak=200 * MIB, seconds=4.0),
        outcome(seed=2, peak=None, needed=101 * MIB),
        outcome(seed=3, peak=None, needed=101 * MIB, returned=100 * MIB),
        Failure(4, "took more than 300 s"),
    ]
    text = report.section(rows)
    assert "Within the limit, a twentieth and 16 MiB: 1 of 2" in text
    assert "too small: 2, of which for 1 what is returned" in text
    assert "drawn among those that leave room for what is returned" in text
    assert "Failed: 1" in text
    assert "| 1/4 | 2 | 2 | " in text
    assert "- Exceeded:   1 real 1/4: limit 100.0 MiB, peak 200.0, 2.00x the time" in text
    assert "-   4 FAILED: took more than 300 s" in text


def test_the_example_is_refused_from_left_to_right_and_agrees_with_numpy() -> None:
    operands = [
        torch.rand(shape) for shape in [(5, 3, 6), (2, 5, 3), (2, 5, 3, 6), (2, 5, 3, 6), (2, 6, 2, 2)]
    ]
    expected = torch.from_numpy(np.einsum(example.EQUATION, *(x.numpy() for x in operands), optimize=True))
    for (name, limit), call in example.forward(operands).items():
        if limit is None or limit > 400:
            torch.testing.assert_close(call(), expected, msg=name)
    assert torch.backends.opt_einsum.enabled
    naive = example.shapes(example.FULL)
    assert 4 * naive[2][0] * 100 * 3 * 1024 * 1024 / (1 << 30) == pytest.approx(585.94, abs=0.01)


@needs_proc
def test_contractions_of_a_file_agree_with_numpy_and_are_told_beside_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "ROUNDS", 1)
    path = tmp_path / "matrix.npy"
    disk._write(path, 5 << 20)
    matrix, row = np.load(path), torch.rand(disk.COLUMNS)
    call = disk._contraction(einfx.einsum, "nk,k->n", path, [None, row], memory_limit=2 * MIB)
    torch.testing.assert_close(call(), torch.from_numpy(matrix) @ row)
    readings = disk.readings(path, 2 * MIB)
    lines = report.disk_section(readings, 2 * MIB).splitlines()
    peers = 2 + (importlib.util.find_spec("opt_einsum") is not None)
    assert len(lines) - 6 == len(readings) == 2 * (1 + peers * len(disk.EQUATIONS))
    assert not any(reading.failure for reading in readings)
    assert lines[6].startswith("| reading it |  | no | ")
    assert all(reading.peak <= 3 * MIB for reading in readings if reading.name == "einfx")


def test_a_contender_that_fails_with_a_file_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "ROUNDS", 1)
    monkeypatch.setattr(disk, "EQUATIONS", {"nk,k->n": "a product"})
    path = tmp_path / "matrix.npy"
    disk._write(path, 1 << 20)

    def fail(*operands: object) -> None:
        raise RuntimeError("out of memory\nas told")

    monkeypatch.setattr(torch, "einsum", fail)
    readings = disk.readings(path, 2 * MIB)
    told = [x.failure for x in readings if x.name.startswith("torch")]
    assert told == ["out of memory"] * 2
    assert "| out of memory | | |" in report.disk_section(readings, 2 * MIB)


@needs_proc
def test_what_is_asked_next_may_depend_on_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        alone, "_environment", lambda: {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    )
    answers: list[int] = []

    def asked() -> Iterator[int]:
        yield 1
        while answers[-1] < 50:
            yield answers[-1]

    for answer in alone.each(f"{Path(__file__).stem}:increased", asked(), seconds=20):
        answers.append(answer.value)
    assert answers == [10, 20, 30, 40, 50]


def test_a_lattice_has_a_label_for_each_bond() -> None:
    equation, shapes = curves.lattice(2, 3, 5)
    parts = equation.removesuffix("->").split(",")
    assert [len(part) for part in parts] == [2, 3, 2, 2, 3, 2]
    assert shapes[1] == (5, 5, 5)
    assert all("".join(parts).count(label) == 2 for label in "".join(parts))


def curve() -> curves.Curve:
    subject = curves.Subject("rows", "Rows", "ak,ak,ak->a", ((8, 8),) * 3)
    points = [
        CurvePoint("einfx", None, 64 * MIB, (1.0, 0.95, 1.05), 0.25, None, ""),
        CurvePoint("einfx", 8 * MIB, 7 * MIB, (1.5, 1.45, 1.55), 0.5, None, ""),
        CurvePoint("einfx", MIB, None, (), 0.0, 2 * MIB, "refused"),
        CurvePoint("einfx", 2 * MIB, None, (), 0.0, None, "took more than 60 s"),
        CurvePoint("opt_einsum", None, 70 * MIB, (2.0, 1.9, 2.1), 0.0, None, ""),
        CurvePoint("torch.einsum", None, None, (), 0.0, None, "out of memory"),
    ]
    return curves.Curve(subject, points)


def test_a_curve_is_a_table_of_multiples_of_the_unlimited_time() -> None:
    text = report.curves_section([curve()])
    assert "![Rows](plots/rows.svg)" in text
    assert "| einfx | 8 MiB | 7 MiB | 1.50 | 1.45-1.55 | 0.50 |" in text
    assert "| einfx | 1 MiB | refused, needs 2 MiB |  |  |  |" in text
    assert "| einfx | 2 MiB | took more than 60 s |  |  |  |" in text
    assert "| torch.einsum |  | out of memory |  |  |  |" in text


def asked(answers: list[CurvePoint]) -> list[tuple[str, int | None]]:
    """What is measured, where answers come one after the other and the last one again and again."""
    points: list[CurvePoint] = []
    found = []
    left = iter(answers)
    for _, name, limit in curves._asked(curve().subject, points):
        found.append((name, limit))
        points.append(next(left, answers[-1])._replace(limit=limit))
    return found


def test_limits_are_halved_until_one_is_refused_and_then_the_one_that_the_error_names_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(curves, "LEAST_LIMIT", 1)
    ran, refused, late = curve().points[1], curve().points[2]._replace(needed=100), curve().points[3]
    whole = einfx.contract_path("ak,ak,ak->a", *[(8, 8)] * 3).peak_bytes
    peers = [("torch.einsum", None), ("opt_einsum", None)]
    limits = [("einfx", None), ("einfx", whole), ("einfx", whole // 2)]
    assert asked([ran, ran, refused, late]) == [*limits, ("einfx", 100), *peers]
    assert asked([ran, ran, late]) == [*limits, *peers]
    assert asked([late]) == [("einfx", None), *peers]
    assert asked([ran, ran, refused._replace(needed=whole), late]) == [*limits, *peers]


@needs_proc
@pytest.mark.parametrize(
    ("equation", "shapes"),
    [curves.lattice(2, 3, 4), ("ak,ak,ak->a", ((64, 64),) * 3)],
    ids=["lattice", "rows"],
)
def test_every_point_of_a_curve_is_measured_and_agrees_with_the_others(
    equation: str, shapes: tuple[tuple[int, ...], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "stay_within", lambda size: None)
    monkeypatch.setattr(curves, "POINT_SECONDS", 0.01)
    monkeypatch.setattr(curve_peers, "REPEATS", 2)
    subject = curves.Subject("small", "Small", equation, shapes)
    names = ["einfx", *(name for name, peer in curve_peers.PEERS.items() if peer.suits(equation))]
    for name in names:
        point = curves.contest([subject, name, 4096 if name == "einfx" else None])
        assert point.failure == ""
        assert point.peak is not None
        assert 0 < point.slower[1] <= point.slower[0] <= point.slower[2]
    refused = curves.contest([subject, "einfx", 64])
    assert refused.failure == "refused"
    assert refused.needed is not None
    assert refused.needed > 64


def test_a_schedule_multiplies_once_for_each_term_and_block_that_it_is_computed_again_for() -> None:
    labels, sizes = ((0, 1), (1,), (1, 2), (0, 1), (0, 2)), (4, 600, 5)
    scaled, product = Contract(3, (0, 1)), Contract(4, (3, 2), True)
    once = Loop(1, 256, (Allocate(3), scaled, product, Free(3)))
    again = Loop(2, 2, (Allocate(3), scaled, product, Free(3)))
    for loop, expected in ((once, 4 * 600 + 4 * 600 * 5), (again, 3 * 4 * 600 + 4 * 600 * 5)):
        program = Schedule(labels, sizes, 3, (4,), (Allocate(4, True), loop))
        assert slicing_quality.multiplications(program) == expected


@needs_proc
@pytest.mark.skipif(importlib.util.find_spec("cotengra") is None, reason="cotengra makes the slices")
def test_slices_are_told_beside_those_of_cotengra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slicing_quality, "REPEATS", 2)
    monkeypatch.setitem(slicing_quality.NETWORKS, "small", curves.lattice(3, 3, 3))
    outcome = slicing_quality.contest(["small", 3])
    assert outcome.slices > 1
    assert outcome.theirs >= outcome.whole
    assert outcome.theirs_time is not None
    assert slicing_quality.row(outcome).startswith(f"| small | 3 | {outcome.limit:,} | {outcome.slices} | ")
    failed = outcome._replace(failure="took more than 90 s")
    assert slicing_quality.row(failed) == "| small | 3 | took more than 90 s | | | | | | | |"
    refused = outcome._replace(ours=None, ours_time=None, needed=2048)
    assert "| refused, needs 2 KiB |  | " in slicing_quality.row(refused)


def test_a_network_that_takes_too_long_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless() -> torch.Tensor:
        while True:
            pass

    monkeypatch.setattr(slicing_quality, "CALL_SECONDS", 0.1)
    times = slicing_quality._times({"cotengra": endless, "einfx": lambda: torch.ones(())})
    assert list(times) == ["einfx"]


@needs_proc
@pytest.mark.parametrize("name", ["transformer block", "linear chain over logarithms"])
def test_a_model_is_measured_without_a_limit_and_within_parts_of_what_it_takes(name: str) -> None:
    runs = models.contest([name, 0.02, 0.01])
    assert [run.fraction for run in runs] == [0, *models.FRACTIONS]
    assert all(run.error < 1e-4 for run in runs)
    assert any(run.peak is not None and run.slower > 0 for run in runs)


def test_models_are_a_table_of_peaks_times_and_refusals() -> None:
    rows = [
        models.ModelRun("a block", 0, 8 * MIB, 8 * MIB, 1.5, None, 0.25, 1e-7),
        models.ModelRun("a block", 2, 4 * MIB, 3 * MIB, 1.25, None, 0.5, 2e-7),
        models.ModelRun("a block", 4, 2 * MIB, None, 0.0, 3 * MIB, 0.0, 0.0),
    ]
    text = report.models_section(rows)
    assert "| a block | none; eager 8 MiB | 8 MiB | 1.00 | 1.50 | 0.25 |" in text
    assert "| a block | 1/2: 4 MiB | 3 MiB | 0.75 | 1.25 | 0.50 |" in text
    assert "| a block | 1/4: 2 MiB | refused, needs 3 MiB |  |  |  |" in text
    assert "Largest deviation: 2.0e-07." in text
    assert "The models: a block for 8 texts" in text
    assert "; MACE's symmetric contraction" in text


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib draws the plots")
def test_plots_are_the_same_each_time(tmp_path: Path) -> None:
    for plot in (
        lambda folder: plots.plot_curve(curve(), folder),
        lambda folder: plots.plot_overheads([outcome(), outcome(fraction=8), Failure(4, "")], folder),
    ):
        first, second = plot(tmp_path / "first"), plot(tmp_path / "second")
        assert first is not None
        assert second is not None
        assert first.read_bytes() == second.read_bytes()
        assert first.stat().st_size < 60_000
