"""Peaks of memory, each in a process of its own: ``python -m benchmarks.semirings.memory ROW WHO THREADS``.

The call runs once to load what it needs. Then what the allocator keeps is given back to the system, the mark
of the highest memory resident so far is reset, and the call runs again: what the mark shows beyond what was
resident before is the call's peak, its result included. Linux only.
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from pathlib import Path

import torch

from .row import Call

__all__ = ["available", "peak_bytes", "peak_bytes_of"]

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")
SECONDS = 600


def available() -> bool:
    """Whether this system can measure peaks."""
    return RESET.exists()


def peak_bytes(call: Call) -> int:
    """The most memory that is resident during a call, beyond what was resident before.

    Args:
        call: what to measure; it runs twice.
    """
    call()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    RESET.write_text("5", encoding="ascii")
    before = _resident("VmRSS")
    result = call()
    peak = _resident("VmHWM")
    del result
    return peak - before


def _resident(kind: str) -> int:
    for line in STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"{STATUS} has no {kind}")


def peak_bytes_of(row: str, contestant: str, threads: int) -> int | None:
    """The peak of one contestant of a row, in a new process.

    Args:
        row: its name.
        contestant: one that is present.
        threads: number of threads.

    Returns:
        Bytes; None where the process failed, for want of memory as a rule.
    """
    command = [sys.executable, "-m", __name__, row, contestant, str(threads)]
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
    from .rows import ROWS

    name, contestant, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    row = next(row for row in ROWS if row.name == name)
    print(peak_bytes(row.build(row.size).present()[contestant]))


if __name__ == "__main__":
    main()
