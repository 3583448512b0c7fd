"""The harness measures what it says and writes what it measured."""

import time
from pathlib import Path

import opt_einsum
import pytest

from benchmarks import results
from benchmarks.planning import random_network
from benchmarks.timing import Spread, geometric_mean, interleave


def test_interleaving_times_every_call_in_every_round() -> None:
    calls = {"short": lambda: time.sleep(0.001), "long": lambda: time.sleep(0.003)}
    measurement = interleave(calls, budget_seconds=0.0, min_rounds=5)
    assert [len(times) for times in measurement.seconds.values()] == [5, 5]
    assert measurement.ratio("long", "short").median == pytest.approx(3, rel=0.5)


def test_short_calls_are_repeated_within_a_sample() -> None:
    calls = []
    interleave({"short": lambda: calls.append(1)}, budget_seconds=0.0, min_rounds=2)
    assert len(calls) > 1000


def test_the_geometric_mean_of_reciprocals_is_one() -> None:
    assert geometric_mean([4.0, 0.25]) == pytest.approx(1.0)


def test_a_spread_is_the_median_with_its_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 2.0, 4.0)


@pytest.mark.parametrize("operands", [4, 10, 40])
def test_random_networks_are_connected_and_repeatable(operands: int) -> None:
    equation, shapes = random_network(operands, seed=1)
    assert (equation, shapes) == random_network(operands, seed=1)
    assert equation.count(",") == operands - 1
    opt_einsum.contract_path(equation, *shapes, shapes=True, optimize="greedy")


def test_writing_a_section_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    results.write("overhead", "first", path)
    results.write("programs", "second\n\n### detail\n", path)
    results.write("overhead", "third", path)
    text = path.read_text()
    assert text.index("## Programs") < text.index("### detail") < text.index("## Overhead of a call")
    assert "first" not in text
    assert "third" in text
