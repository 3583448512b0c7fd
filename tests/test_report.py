"""The report says what was done, what wasn't and why, as text, as Markdown and as data."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from torch import nn

import einfx
from einfx.passes import DEFAULT
from einfx.report import table

E = torch.einsum
SHAPES = (50, 60), (60, 70), (70, 5)


class Chain(nn.Module):
    """A chain in which the pass that folds scalars declines something."""

    def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return E("ij,jk->ik", a @ b, c) / (2 * c[0])


@pytest.fixture(scope="module")
def report() -> einfx.Report:
    """Of a chain of which one end is thin."""
    optimized = einfx.optimize(Chain(), tuple(torch.rand(shape) for shape in SHAPES))
    return optimized.report


def test_flops_are_those_of_the_contractions(report: einfx.Report) -> None:
    assert report.flops_before == 2 * 50 * 60 * 70 + 2 * 50 * 70 * 5
    assert report.flops_after == 2 * 60 * 70 * 5 + 2 * 50 * 60 * 5


def test_peak_bytes_are_those_of_the_values_that_live_together(report: einfx.Report) -> None:
    assert report.peak_bytes_before == 4 * (50 * 70 + 50 * 5)
    assert report.peak_bytes_after < report.peak_bytes_before


def test_every_pass_is_there_in_order(report: einfx.Report) -> None:
    assert [result.name for result in report.passes] == [step.name for step in DEFAULT]
    assert [result.name for result in report.passes if result.name == "fuse-einsums" and result.rewrites]


def test_what_was_declined_is_there_with_its_reason(report: einfx.Report) -> None:
    reasons = [entry.reason for result in report.passes for entry in result.declined]
    assert any("denominator" in reason for reason in reasons)
    assert "Left as it was" in str(report)
    assert "denominator" in str(report)


def test_contractions_have_their_shapes_flops_and_kernels(report: einfx.Report) -> None:
    before, after = report.contractions_before, report.contractions_after
    assert [(row.equation, row.shapes, row.flops) for row in before] == [
        ("ab,bc->ac", SHAPES[:2], 2 * 50 * 60 * 70),
        ("ab,bc->ac", ((50, 70), SHAPES[2]), 2 * 50 * 70 * 5),
    ]
    assert sorted(row.flops or 0 for row in after) == [2 * 50 * 60 * 5, 2 * 60 * 70 * 5]
    assert all("mm" in row.kernel for row in after)


def test_the_text_holds_the_figures_and_the_code(report: einfx.Report) -> None:
    text = str(report)
    assert text.startswith("einfx: Chain\n")
    assert "FLOPs 455,000 -> 72,000 (6.32x less)" in text
    assert report.code_before in text
    assert report.code_after in text
    assert "ab,bc->ac  50x60 60x70" in text


def test_the_data_can_be_written_as_json(report: einfx.Report) -> None:
    data = json.loads(json.dumps(report.to_dict()))
    assert data["name"] == "Chain"
    assert data["flops_before"] == report.flops_before
    assert data["passes"][0]["name"] == DEFAULT[0].name
    assert data["contractions_after"][0]["equation"] == "ab,bc->ac"
    assert any(entry["declined"] for entry in data["passes"])


def test_markdown_has_tables_and_fenced_code(report: einfx.Report) -> None:
    lines = report.to_markdown().splitlines()
    assert lines[0] == "# einfx: Chain"
    assert lines.count("```python") == lines.count("```") == 2
    headers = [line for line in lines if line.startswith("| ")]
    widths = {line.count("|") for line in headers}
    assert widths == {5, 6}


def test_a_report_survives_copies(report: einfx.Report) -> None:
    assert copy.deepcopy(report).to_dict() == report.to_dict()
    assert pickle.loads(pickle.dumps(report)).to_dict() == report.to_dict()


def test_shapes_that_depend_on_data_are_said() -> None:
    optimized = einfx.optimize(lambda a: E("ij,jk->ik", a, a[a.sum(1) > 0]), (torch.rand(3, 3),))
    assert optimized.report.unknown
    assert "depends on data" in str(optimized.report)


def test_without_examples_contractions_have_unknown_shapes() -> None:
    optimized = einfx.optimize(lambda a, b: E("ij,jk->ik", a, b))
    (row,) = optimized.report.contractions_before
    assert (row.shapes, row.flops) == (None, None)
    assert "unknown" in str(optimized.report)
    assert "?" in str(optimized.report)


def test_tables_align_their_columns() -> None:
    rows = [("a", "1"), ("long", "22")]
    assert table(("x", "number"), rows) == ["x     number", "a     1", "long  22"]
    assert table(("x", "number"), rows, markdown=True) == [
        "| x    | number |",
        "| ---- | ------ |",
        "| a    | 1      |",
        "| long | 22     |",
    ]


def test_contractions_over_semirings_are_rows_that_name_the_semiring() -> None:
    def program(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = einfx.einsum("ij,jk,kl->il", a, b, c, semiring="max_plus")
        return result

    report = einfx.optimize(program, tuple(torch.rand(shape) for shape in SHAPES)).report
    assert [row.kernel for row in report.contractions_before] == ["einsum over max_plus"]
    assert [row.kernel for row in report.contractions_after] == ["einsum over max_plus"] * 2
    assert [row.equation for row in report.contractions_after] == ["ab,bc->ac"] * 2
    assert report.flops_after == 2 * (60 * 70 * 5 + 50 * 60 * 5)
