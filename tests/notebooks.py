"""Runs notebooks in a fresh kernel of the running interpreter; as a module, refreshes the checked-in outputs.

python -m tests.notebooks
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECONDS = 300


def execute(path: Path) -> Any:
    """The notebook with the outputs that it gives here and now.

    The kernel is this interpreter, whatever kernels are installed, and starts in the root of the checkout.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    manager = AsyncKernelManager(kernel_name="python3")
    manager._kernel_spec = KernelSpec(
        argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        display_name="Python 3",
        language="python",
    )
    resources = {"metadata": {"path": str(ROOT)}}
    client = NotebookClient(notebook, km=manager, timeout=SECONDS, resources=resources, coalesce_streams=True)
    client.execute()
    return notebook


def text_outputs(notebook: Any) -> list[tuple[str, str]]:
    """The source of each code cell with the text that it prints or shows, as far as that never varies."""
    outputs = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shown = [
                output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs
            ]
            outputs.append((cell.source, normalised("".join(shown))))
    return outputs


def normalised(text: str) -> str:
    """Text without what differs from run to run: addresses, milliseconds of a report, and column widths."""
    text = re.sub(r"0x[0-9a-f]+", "0x...", text)
    lines = [re.sub(r"\s+", " ", line).strip() for line in text.splitlines()]
    return "\n".join(re.sub(r"^([a-z-]+ \d+) \d+\.\d ", r"\1 # ", line) for line in lines).strip()


def refresh(path: Path) -> None:
    """Write a notebook with its outputs, and without what would differ from machine to machine."""
    notebook = execute(path)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata.pop("execution", None)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for each in NOTEBOOKS:
        refresh(each)
