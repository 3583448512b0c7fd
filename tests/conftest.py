"""Settings and fixtures that all tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

IN_CI = os.environ.get("CI", "") not in ("", "0", "false")
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))
MACE_WITH_OLD_E3NN = ("e3nn==0.4.4", "mace-torch==0.3.16")

# Side by side, workers share the cores; what they start as processes shares them too.
if WORKERS:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // WORKERS))
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))

# A first call plans and compiles, so single examples differ widely in time and a deadline means nothing.
settings.register_profile(
    "einfx", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("einfx-ci", parent=settings.get_profile("einfx"), derandomize=True)
settings.load_profile("einfx-ci" if IN_CI else "einfx")


@pytest.fixture(autouse=True)
def _same_start_for_every_test() -> Iterator[None]:
    """Seeds torch before each test and undoes changes to its defaults after it."""
    dtype = torch.get_default_dtype()
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def mace_with_old_e3nn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with MACE and the e3nn that it pins, to be put on PYTHONPATH of a subprocess.

    e3nn 0.4.4 can't be in the environment beside 0.6.0. Both come without their dependencies, which the
    extra ``test`` installs. Without a package index to reach, the test is skipped, except in CI.
    """
    folder = tmp_path_factory.mktemp("mace_with_old_e3nn")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    done = subprocess.run([*command, *MACE_WITH_OLD_E3NN], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = f"can't install {' '.join(MACE_WITH_OLD_E3NN)}: {done.stderr.strip()[-500:]}"
        pytest.fail(reason) if IN_CI else pytest.skip(reason)
    return folder
