"""The section of the results file about semirings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from einfx.kernels import tropical_native

from ..contests import Result, report
from .ceiling import CEILING
from .matrices import REAL

__all__ = ["section"]


def section(results: Sequence[Result]) -> str:
    """The section of the results file."""
    introduction = [
        "Medians of interleaved rounds. A speed is that of einfx as a multiple of the other's, compared",
        "round by round: median, and quartiles in brackets; above 1 einfx is faster. Operands are float32",
        "unless said. Contestants compute the same result, which tests compare with float64; but for limits:",
        "real contractions of the same shape (`torch.mm`, `torch.bmm`, `torch.matmul`, `torch.einsum` over",
        "log), and *add and maximum alone*, the ceiling of a tropical product on this processor: as many",
        "additions and maxima on registers, nothing loaded or stored. Peaks of memory are those of one call,",
        "result included, in a process of its own, on the largest number of threads.",
        "",
        f"Extension: {tropical_native.describe()}.",
    ]
    return report.section(results, introduction, _ceilings)


def _ceilings(results: Sequence[Result]) -> Iterator[str]:
    """What the processor's own ceiling is, as a part of the speed of real products."""
    shares = []
    for result in results:
        if {CEILING, REAL} <= set(result.quick.seconds):
            shares.append(f"{result.quick.ratio(REAL, CEILING).median:.2f} ({result.row.name})")
    if shares:
        yield f"Ceiling of tropical products in multiples of the speed of `{REAL}`: {', '.join(shares)}.\n"
