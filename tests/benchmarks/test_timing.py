"""The harness measures what it says and writes what it measured."""

import time
from functools import partial
from pathlib import Path

import opt_einsum
import pytest

from benchmarks import memory, results
from benchmarks.__main__ import main
from benchmarks.planning import random_network
from benchmarks.timing import Spread, geometric_mean, interleave


def test_interleaving_times_every_call_in_every_round() -> None:
    calls = {"short": lambda: time.sleep(0.001), "long": lambda: time.sleep(0.003)}
    measurement = interleave(calls, budget_seconds=0.0, min_rounds=5)
    assert [len(times) for times in measurement.seconds.values()] == [5, 5]
    assert measurement.ratio("long", "short").median > 1


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


def test_writing_a_subsection_keeps_the_others_in_their_order(tmp_path: Path) -> None:
    path, headings = tmp_path / "RESULTS.md", ("one", "two", "`ij,jk->ik`")
    results.write("memory", "of all\n\n### two\n\nold 2\n\n### `ij,jk->ik`\n\nold 3\n", path)
    results.write("overhead", "another section", path)
    results.write_subsections("memory", "### two\n\nnew 2\n", headings, path)
    text = path.read_text()
    assert "of all" in text
    assert "old 2" not in text
    assert text.index("old 3") > text.index(f"### two\n\n{results.MEASURED}") < text.index("new 2")
    results.write_subsections("memory", "### one\n\nnew 1\n", headings, path)
    text = path.read_text()
    assert [line for line in text.splitlines() if line.startswith("### ")] == [
        "### one",
        "### two",
        "### `ij,jk->ik`",
    ]
    assert text.index("another section") < text.index("## Memory") < text.index("of all")
    results.write_subsections("memory", "### `ij,jk->ik`\n\nnew 3\n", headings, path)
    text = path.read_text()
    assert "of all" not in text, "every subsection says by itself when it was measured"
    assert text.count(results.MEASURED) == 3
    again = path.read_text()
    results.write_subsections("memory", "### one\n\nnew 1\n", headings, path)
    assert path.read_text().count("\n") == again.count("\n")


def test_subsections_are_written_where_there_is_no_section_yet(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    results.write_subsections("memory", "### two\n\nnew\n", ("one", "two"), path)
    assert f"## Memory\n\n### two\n\n{results.MEASURED}" in path.read_text()


def test_rows_of_memory_are_written_one_by_one_and_a_failing_one_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(options: object) -> str:
        raise RuntimeError("killed")

    path = tmp_path / "RESULTS.md"
    parts = {"example": fail, "curves": lambda options: "### Time against memory\n\ncurves\n"}
    monkeypatch.setattr(memory, "PARTS", parts)
    monkeypatch.setattr(results, "write_subsections", partial(results.write_subsections, path=path))
    with pytest.raises(SystemExit, match="failed: example: killed"):
        main(["memory", "--write"])
    assert "curves\n" in path.read_text()
    assert main(["memory", "--rows", "curves"]) == 0
