"""The parts of the benchmark of memory: each measures, tells on the way, and returns its text."""

from __future__ import annotations

import importlib.util
from argparse import Namespace
from collections.abc import Callable, Mapping

from . import curves, disk, example, models, plots, random_equations, report, slicing_quality

__all__ = ["HEADINGS", "PARTS"]

HEADINGS = (
    f"`{example.EQUATION}`",
    "Time against memory",
    "Slices of networks",
    "Whole models",
    "Operands in a file",
    "Random contractions",
)
"""Of what the parts return, in the same order."""


def _example(options: Namespace) -> str:
    return report.example_section(example.run())


def _curves(options: Namespace) -> str:
    found = curves.run(progress=lambda subject, x: print(subject.name, report.curve_row(x), flush=True))
    if options.write:
        for curve in found:
            plots.plot_curve(curve)
    return report.curves_section(found)


def _slicing(options: Namespace) -> str:
    if importlib.util.find_spec("cotengra") is None:
        return "### Slices of networks\n\ncotengra is not installed.\n"
    outcomes = slicing_quality.run(lambda outcome: print(slicing_quality.row(outcome), flush=True))
    return slicing_quality.section(outcomes)


def _models(options: Namespace) -> str:
    return report.models_section(models.run())


def _disk(options: Namespace) -> str:
    return report.disk_section(disk.run(), disk.LIMIT)


def _random_equations(options: Namespace) -> str:
    outcomes = random_equations.run(
        options.count, lambda outcome: print(report.line(outcome), flush=True), options.kept
    )
    if options.write:
        plots.plot_overheads(outcomes)
    return report.section(outcomes)


PARTS: Mapping[str, Callable[[Namespace], str]] = {
    "example": _example,
    "curves": _curves,
    "slicing": _slicing,
    "models": _models,
    "disk": _disk,
    "random": _random_equations,
}
"""By the name that the command line has for them; the options are those of the command line."""
