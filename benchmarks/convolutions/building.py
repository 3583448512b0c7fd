"""What it takes to build and simplify an expression: the first time for some sizes, and again."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from einfx.conv import expressions

from ..contests.libraries import library
from ..results import table
from ..timing import Measurement, interleave
from .forms import EINCONV
from .layers import Layer

__all__ = ["LIMIT_SECONDS", "Building", "missed", "part", "run"]

LIMIT_SECONDS = 50e-6
AGAIN = "einfx"

_LAYER = Layer("", (16, 24), 32, 3, 2, stride=2, padding=1)
_SIZES = range(33, 40)
"""Sizes that nothing else has, for the first time."""

# By expression: what it takes of an input, a kernel and a vector.
_ARGUMENTS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "convNd_forward": lambda layer, x, weight, v: (x, weight),
    "convNd_input_vjp": lambda layer, x, weight, v: (weight, v, (layer.size,) * 2),
    "convNd_weight_vjp": lambda layer, x, weight, v: (x, v, (layer.kernel,) * 2),
    "convNd_unfold": lambda layer, x, weight, v: (x, (layer.kernel,) * 2),
    "convNd_kfc": lambda layer, x, weight, v: (x, (layer.kernel,) * 2),
    "convNd_kfac_reduce": lambda layer, x, weight, v: (x, (layer.kernel,) * 2),
    "conv_transposeNd_forward": lambda layer, x, weight, v: (v, weight),
}


@dataclass(frozen=True)
class Building:
    """Times of one expression.

    Attributes:
        name: which of ``einfx.conv.expressions``.
        first_seconds: of sizes that are new, the median.
        again: of sizes that were there before, einfx and einconv.
    """

    name: str
    first_seconds: float
    again: Measurement

    def misses_target(self) -> bool:
        """Whether building it again takes too long."""
        return self.again.time(AGAIN).median > LIMIT_SECONDS


def run(budget_seconds: float = 0.5) -> list[Building]:
    """Build two-dimensional expressions of 3x3 convolutions.

    Args:
        budget_seconds: time for each.

    Returns:
        One result for each expression.
    """
    results = []
    for name in _ARGUMENTS:
        first = []
        for size in _SIZES:
            call = _call(getattr(expressions, name), name, size)
            start = time.perf_counter()
            call()
            first.append(time.perf_counter() - start)
        calls = {AGAIN: _call(getattr(expressions, name), name, _LAYER.size)}
        peer = library(f"einconv.expressions.{name}")
        if peer is not None:
            calls[EINCONV] = _call(peer, name, _LAYER.size)
        results.append(Building(name, statistics.median(first), interleave(calls, budget_seconds)))
    return results


def _call(module: Any, name: str, size: int) -> Callable[[], object]:
    layer = Layer("", _LAYER.channels, size, _LAYER.kernel, 1, _LAYER.stride, _LAYER.padding)
    x, weight, v = (torch.ones(shape) for shape in layer.shapes(_LAYER.batch))
    arguments = _ARGUMENTS[name](layer, x, weight, v)
    return lambda: module.einsum_expression(*arguments, stride=layer.stride, padding=layer.padding)


def missed(buildings: Sequence[Building]) -> Iterator[str]:
    """One line for each expression that takes too long."""
    for one in buildings:
        if one.misses_target():
            again = one.again.time(AGAIN).median
            yield f"building {one.name} again: {again * 1e6:.0f} us, target {LIMIT_SECONDS * 1e6:.0f} us"


def part(buildings: Sequence[Building]) -> str:
    """What the section of the results file says about it."""
    rows = []
    for one in buildings:
        peer = f"{one.again.time(EINCONV).median * 1e6:.0f}" if EINCONV in one.again.seconds else ""
        times = [f"{one.first_seconds * 1e6:.0f}", f"{one.again.time(AGAIN).median * 1e6:.1f}", peer]
        rows.append(
            [one.name, *times, f"{LIMIT_SECONDS * 1e6:.0f}", "missed" if one.misses_target() else "met"]
        )
    header = ["expression", "first time", "again", EINCONV, "target", "verdict"]
    return (
        "### Building and simplifying an expression\n\n"
        "Microseconds: of sizes that are new, and again, which is what the target speaks of.\n\n"
        f"{table(header, rows)}"
    )
