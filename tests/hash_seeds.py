"""Running a script under several hash seeds, on which the order of sets depends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["printed_under_hash_seeds"]


def printed_under_hash_seeds(script: str) -> set[str]:
    """What a script prints, each text once; it runs in the root of the project, once for each seed."""
    return {
        subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, '.')\n{script}"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "42")
    }
