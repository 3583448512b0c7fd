"""Peaks of memory, each in a process of its own: ``python -m benchmarks.contests.memory PART ROW WHO 1``.

A tiny call loads what all calls need. Then what the allocator keeps is given back to the system, the mark of
the highest memory resident so far is reset, and the call runs twice: what the mark shows beyond what was
resident before is the call's peak. It includes the result, and workspaces that are kept for the next call.
Linux only.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import subprocess
import sys
from pathlib import Path

import torch

from .row import Call, Row

__all__ = ["RESET", "available", "give_back", "peak_bytes", "peak_bytes_of", "resident"]

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")
SECONDS = 600


def available() -> bool:
    """Whether this system can measure peaks."""
    return RESET.exists()


def peak_bytes(call: Call, tiny: Call) -> int:
    """The most memory that is resident during a call, beyond what was resident before.

    Args:
        call: what to measure; it runs twice.
        tiny: the same on tiny operands.
    """
    tiny()
    give_back()
    RESET.write_text("5", encoding="ascii")
    before = resident("VmRSS")
    for _ in range(2):
        result = call()
        del result
        give_back()
    return resident("VmHWM") - before


def give_back() -> None:
    """What is free inside the allocator, which the next call would take without being noticed."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def resident(kind: str) -> int:
    for line in STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"{STATUS} has no {kind}")


def peak_bytes_of(part: str, row: str, contestant: str, threads: int) -> int | None:
    """The peak of one contestant of a row, in a new process.

    Args:
        part: the module that has the row in ``ROWS``.
        row: its name.
        contestant: one that is present.
        threads: number of threads.

    Returns:
        Bytes; None where the process failed, for want of memory as a rule.
    """
    command = [sys.executable, "-m", __name__, part, row, contestant, str(threads)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        cwd=Path(__file__).parents[2],
    )
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def main() -> None:
    """Print the peak of one contestant."""
    part, name, contestant, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    row: Row = next(row for row in importlib.import_module(part).ROWS if row.name == name)
    size = row.size if row.memory_size is None else row.memory_size
    call, tiny = (row.build(size).present()[contestant] for size in (size, row.tiny))
    print(peak_bytes(call, tiny))


if __name__ == "__main__":
    main()
