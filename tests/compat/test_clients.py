"""e3nn and MACE compute the same numbers on einfx as on opt_einsum_fx, as they are and scripted."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.rewriting import assert_same

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).with_name("client_programs.py")


def run_both_ways(programs: str, folder: Path, *packages: Path) -> None:
    """Run client programs on opt_einsum_fx and on einfx, at once, and compare what they computed."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (*packages, ROOT)))
    # e3nn 0.4.4 loads its constants with pickles that torch.load refuses by default.
    environment["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    environment["OMP_NUM_THREADS"] = "1"
    running = {
        replace: subprocess.Popen(
            [sys.executable, str(PROGRAMS), programs, replace, str(folder / f"{replace}.pt")],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for replace in ("no", "yes")
    }
    for replace, process in running.items():
        _, errors = process.communicate()
        assert process.returncode == 0, f"einfx in place of opt_einsum_fx: {replace}\n{errors}"
    expected = torch.load(folder / "no.pt")
    got = torch.load(folder / "yes.pt")
    assert got.keys() == expected.keys()
    assert len(expected) >= 11
    for name, tensors in expected.items():
        magnitude = max(float(x.abs().max()) for x in tensors)
        for tensor in got[name]:
            assert tensor.dtype == torch.float64
        assert_same(got[name], tensors, magnitude=magnitude)


def needs(*modules: str) -> None:
    """Skip the test where a module of the extra ``test`` isn't installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} isn't installed; it comes with the extra 'test'")


def test_e3nn_computes_the_same(tmp_path: Path) -> None:
    needs("e3nn", "opt_einsum_fx")
    run_both_ways("e3nn", tmp_path)


def test_the_e3nn_that_mace_pins_computes_the_same(mace_with_old_e3nn: Path, tmp_path: Path) -> None:
    needs("opt_einsum_fx", "scipy")
    run_both_ways("e3nn", tmp_path, mace_with_old_e3nn)


def test_mace_computes_the_same_energies_and_forces(mace_with_old_e3nn: Path, tmp_path: Path) -> None:
    needs("opt_einsum_fx", "scipy", "ase", "pandas", "torch_ema", "torchmetrics")
    run_both_ways("mace", tmp_path, mace_with_old_e3nn)
