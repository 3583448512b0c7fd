"""The section of the results file about convolutions."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence

from ..contests import Result, report
from . import building
from .building import Building
from .rows import TYPICAL

__all__ = ["missed", "section"]


def missed(results: Sequence[Result], buildings: Sequence[Building]) -> list[str]:
    """One line for each target that was missed."""
    medians = [text for typical in TYPICAL for text in typical.missed(results)]
    return [*report.missed(results), *medians, *building.missed(buildings)]


def section(results: Sequence[Result], buildings: Sequence[Building]) -> str:
    """The section of the results file."""
    introduction = [
        "Medians of interleaved rounds. A speed is that of einfx as a multiple of the other's, compared",
        "round by round: median, and quartiles in brackets; above 1 einfx is faster. Operands are float32.",
        "Before it was timed, each result was compared with torch's own in float64 (in four dimensions with",
        "sums over windows). *einfx* are functionals as users call them; their VJPs go through autograd, of",
        "which the backward pass is timed, and are held to torch's own through autograd. *expression*",
        "builds, simplifies and contracts an expression in every call, as einconv does, and is held to what",
        "autograd calls. *output written* fills a new tensor of the output's shape with a number; *window",
        "copy, product* copies a view of windows once and multiplies it by itself. In models *einfx* is",
        "`einfx.conv.convert`, *captured* an optimisation with `CaptureConvolutions`. Peaks of memory are",
        "those of one call, result included, in a process of its own, on the largest number of threads;",
        "what is allowed is the result and a quarter of the input.",
        "",
        f"Peers: {', '.join(_peers())}.",
    ]
    short = missed(results, buildings)
    text = report.section(results, introduction, _medians, short)
    return f"{text}\n{building.part(buildings)}" if buildings else text


def _peers() -> Iterator[str]:
    for name in ("einconv", "singd"):
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"no {name}"


def _medians(results: Sequence[Result]) -> Iterator[str]:
    """What was reached on the median of some rows."""
    for typical in TYPICAL:
        for text in typical.line(results):
            yield f"{text[0].upper()}{text[1:]}.\n"
