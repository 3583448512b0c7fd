"""Every notebook runs, and prints what it was checked in with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from tests.notebooks import NOTEBOOKS, execute, normalised, text_outputs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_what_was_checked_in(path: Path) -> None:
    expected = text_outputs(nbformat.read(path, as_version=4))
    got = text_outputs(execute(path))
    assert len(expected) > 1
    for (source, before), (_, now) in zip(expected, got, strict=True):
        assert now == before, (
            f"the output of this cell changed; python -m tests.notebooks refreshes it:\n{source}"
        )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_checked_in_as_it_was_executed(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text


def _notebook(tmp_path: Path, source: str, text: str) -> Path:
    output = nbformat.v4.new_output("stream", name="stdout", text=text)
    cell = nbformat.v4.new_code_cell(source, outputs=[output], execution_count=1)
    notebook: Any = nbformat.v4.new_notebook(cells=[cell])
    path = tmp_path / "notebook.ipynb"
    nbformat.write(notebook, path)
    return path


def test_a_cell_that_fails_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(_notebook(tmp_path, "1 / 0", ""))


def test_an_output_that_changed_is_noticed(tmp_path: Path) -> None:
    path = _notebook(tmp_path, "import sys\nprint(1 + 1, sys.executable != '')", "3 True\n")
    assert text_outputs(execute(path)) != text_outputs(nbformat.read(path, as_version=4))


def test_only_times_addresses_and_widths_are_left_out_of_the_comparison() -> None:
    assert normalised("fuse-einsums   3   0.7   1,234") == normalised("fuse-einsums  3  12.3  1,234")
    assert normalised("<function f at 0x7f00>") == normalised("<function f at 0x7fff>")
    assert normalised("fuse-einsums 3 0.7 1,234") != normalised("fuse-einsums 4 0.7 1,234")
    assert normalised("fuse-einsums 3 0.7 1,234") != normalised("fuse-einsums 3 0.7 1,235")
    assert normalised("1e-12 0.5") != normalised("1e-12 0.6")
