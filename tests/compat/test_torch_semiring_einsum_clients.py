"""Programs of torch_semiring_einsum's users, fggs among them, compute the same numbers on einfx as on it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).with_name("torch_semiring_einsum_programs.py")
REPLACED = {"no": "torch_semiring_einsum", "yes": "einfx"}


def run(programs: str, folder: Path, *ways: str) -> dict[str, dict[str, list[Tensor]]]:
    """What client programs compute, on torch_semiring_einsum ("no") and on einfx ("yes"), run at once."""
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    running = {
        way: subprocess.Popen(
            [sys.executable, str(PROGRAMS), programs, way, str(folder / f"{way}.pt")],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for way in ways
    }
    for way, process in running.items():
        _, errors = process.communicate()
        assert process.returncode == 0, f"on {REPLACED[way]}:\n{errors}"
    return {way: torch.load(folder / f"{way}.pt") for way in ways}


@pytest.mark.parametrize("programs", ["fggs", "others"])
def test_programs_compute_the_same(programs: str, tmp_path: Path) -> None:
    for module in ("torch_semiring_einsum", *(["fggs"] if programs == "fggs" else [])):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} isn't installed; it comes with the extra 'test'")
    results = run(programs, tmp_path, "no", "yes")
    assert results["yes"].keys() == results["no"].keys()
    assert len(results["no"]) >= 15
    for name, expected in results["no"].items():
        for got, wanted in zip(results["yes"][name], expected, strict=True):
            assert not got.isnan().any(), name
            assert got.dtype == wanted.dtype, name
            assert torch.allclose(got.double(), wanted.double(), rtol=1e-9, atol=1e-9), name


def test_sums_over_all_derivations_of_a_chain_are_those_of_linear_algebra(tmp_path: Path) -> None:
    pytest.importorskip("fggs", reason="fggs comes with the extra 'test'")
    results = run("fggs", tmp_path, "yes")["yes"]
    begin, go, say, stop = results["chain, weights"]
    closed = begin @ torch.linalg.solve(torch.eye(4).double() - go * say.sum(1), stop)
    for method in ("fixed-point", "newton"):
        torch.testing.assert_close(results[f"chain, {method}, RealSemiring"][0], closed)
        torch.testing.assert_close(results[f"chain, {method}, LogSemiring"][0], closed.log())


def test_a_process_without_the_package_runs_on_einfx(tmp_path: Path) -> None:
    """Even where torch_semiring_einsum can't be imported at all."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch_semiring_einsum', 'pynvml'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )
    program = (
        "import einfx.compat\n"
        "einfx.compat.install('torch_semiring_einsum')\n"
        "import importlib.metadata, torch, torch_semiring_einsum as tse\n"
        "import torch_semiring_einsum.utils, torch_semiring_einsum.log_forward\n"
        "from torch_semiring_einsum.log_forward import resize_max_values\n"
        "x = torch.eye(2)\n"
        "print(tse.einsum(tse.compile_equation('ij,jk->ik'), x, x, block_size=1).sum().item())\n"
        "print(importlib.metadata.version('torch_semiring_einsum') >= '1.2')\n"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join((str(tmp_path), str(ROOT))))
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2.0", "True"]


def test_every_name_of_the_package_is_there() -> None:
    peer = pytest.importorskip("torch_semiring_einsum")
    from einfx.compat import torch_semiring_einsum as ours

    assert set(peer.__all__) <= set(ours.__all__)
    for name in ours.__all__:
        assert hasattr(ours, name)
    for module in ("utils", "equation", "extend", "function", "log_forward", "log_backward", "real_backward"):
        assert hasattr(peer, module)
        assert hasattr(ours, module)
    public = {
        name
        for name, value in vars(peer.utils).items()
        if getattr(value, "__module__", "") == peer.utils.__name__
    }
    assert public <= set(ours.utils.__all__)
