"""Runs a saved TorchScript program in a fresh process that has torch and nothing of einfx."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

__all__ = ["run_in_fresh_process"]

# The process must prove that the program needs neither package, so both are made impossible to import.
_PROGRAM = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("einfx", "opt_einsum"):
            raise ModuleNotFoundError(f"{name} is not to be had here", name=name)

sys.meta_path.insert(0, Absent())
import torch

script, inputs, results = sys.argv[1:]
program = torch.jit.load(script)
torch.manual_seed(0)
torch.save(program(*torch.load(inputs, weights_only=False)), results)
assert not {"einfx", "opt_einsum"} & set(sys.modules)
"""


def run_in_fresh_process(script: Path, inputs: tuple[Any, ...]) -> Any:
    """What the TorchScript program in the file ``script`` gives for ``inputs``, without einfx and opt_einsum.

    Raises:
        RuntimeError: the process failed; the message is the last line of what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs_file, results_file = Path(folder, "inputs.pt"), Path(folder, "results.pt")
        torch.save(inputs, inputs_file)
        # -I: neither the current folder nor PYTHONPATH may supply what an installation of torch doesn't.
        command = [sys.executable, "-I", "-W", "ignore", "-c", _PROGRAM]
        files = [str(path) for path in (script, inputs_file, results_file)]
        done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise RuntimeError(f"the reloaded program failed: {lines[-1]}")
        return torch.load(results_file, weights_only=False)
