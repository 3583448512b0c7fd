"""One large contraction with and without a limit.

It is the example of opt-einsum-torch, which contracts it on a GPU that it doesn't fit; with fewer ``i``, so
that its operands fit any machine.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import opt_einsum
import torch
from torch import Tensor

import einfx

from ..contests.memory import RESET, give_back, resident

__all__ = ["Contender", "run"]

EQUATION = "jrl,ijr,ijrk,ijrl,ikmn->imn"
ROUNDS = 7


class Contender(NamedTuple):
    """One way to contract it.

    Attributes:
        name: which.
        peak: bytes beyond what was resident before, the result included.
        seconds: median of rounds in which every contender ran.
    """

    name: str
    peak: int
    seconds: float


def run() -> list[Contender]:
    """Measure the contenders, in a process of their own."""
    command = [sys.executable, "-c", f"from {__name__} import main; main()"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return [Contender(*row) for row in json.loads(done.stdout.splitlines()[-1])]


def contenders(operands: list[Tensor]) -> dict[str, Callable[[], Tensor]]:
    """What is compared."""
    peak = einfx.contract_path(EQUATION, *operands).peak_bytes
    found: dict[str, Callable[[], Tensor]] = {
        "einfx": lambda: einfx.einsum(EQUATION, *operands),
        "opt_einsum (auto)": lambda: opt_einsum.contract(EQUATION, *operands),
    }
    for fraction in (2, 4, 10):
        limit = peak // fraction
        name = f"einfx within 1/{fraction}: {limit} bytes"
        found[name] = lambda limit=limit: einfx.einsum(EQUATION, *operands, memory_limit=limit)  # type: ignore[misc]
    return found


def main() -> None:
    """Print what was measured."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    shapes = [(1000, 3, 1024), (40, 1000, 3), (40, 1000, 3, 1024), (40, 1000, 3, 1024), (40, 1024, 9, 9)]
    operands = [torch.randn(shape, generator=generator) for shape in shapes]
    calls = contenders(operands)
    expected = calls["einfx"]()
    peaks: dict[str, int] = {}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        torch.testing.assert_close(call(), expected, rtol=1e-3, atol=1e-1)
        give_back()
        RESET.write_text("5", encoding="ascii")
        before = resident("VmRSS")
        call()
        peaks[name] = resident("VmHWM") - before
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    print(json.dumps([(name, peaks[name], statistics.median(times[name])) for name in calls]))
