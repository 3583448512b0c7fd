"""How long e3nn takes to build a tensor product, which optimises its einsums on the way."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from .timing import Spread

__all__ = ["Instantiation", "run"]

FEATURES = "32x0e + 32x0o + 32x1e + 32x1o + 32x2e + 32x2o + 32x3e + 32x3o"
IRREPS = (FEATURES, "0e + 1o + 2e + 3o", FEATURES)
REPEATS = 3

PROGRAM = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
if sys.argv[1] == "einfx":
    import einfx.compat
    einfx.compat.install("opt_einsum_fx")
from e3nn import o3
irreps, repeats = json.loads(sys.argv[2]), int(sys.argv[3])
o3.FullyConnectedTensorProduct("2x0e + 2x1o", "0e + 1o", "2x0e + 2x1o")
times = []
for _ in range(repeats):
    start = time.perf_counter()
    o3.FullyConnectedTensorProduct(*irreps)
    times.append(time.perf_counter() - start)
print(json.dumps(times))
"""


@dataclass(frozen=True)
class Instantiation:
    """Seconds to build one product, or why there are none.

    Attributes:
        optimizer: which library e3nn optimised with.
        seconds: the time; None after a failure.
        failure: the last line of the error.
    """

    optimizer: str
    seconds: Spread | None
    failure: str = ""


def run(
    optimizers: Sequence[str] = ("opt_einsum_fx", "einfx"), repeats: int = REPEATS
) -> list[Instantiation]:
    """Build the product in a fresh process for each optimizer; nothing where e3nn is not installed."""
    if importlib.util.find_spec("e3nn") is None:
        return []
    results = []
    for optimizer in optimizers:
        command = [sys.executable, "-c", PROGRAM, optimizer, json.dumps(IRREPS), str(repeats)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            results.append(Instantiation(optimizer, Spread.of(json.loads(done.stdout.splitlines()[-1]))))
        else:
            results.append(
                Instantiation(optimizer, None, (done.stderr.strip().splitlines() or ["no message"])[-1])
            )
    return results
