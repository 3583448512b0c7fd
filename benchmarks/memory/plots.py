"""Plots of time against memory and of time over limits, as SVG files beside the results."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .curves import Curve
from .measure import MIB
from .random_equations import FRACTIONS, Failure, Outcome
from .report import overheads

__all__ = ["FOLDER", "plot_curve", "plot_overheads"]

FOLDER = Path(__file__).parents[1] / "plots"

LEAST_BYTES = 4096
"""What is less than a page can't be told from nothing, and has no logarithm."""


def plot_curve(curve: Curve, folder: Path = FOLDER) -> Path | None:
    """Time against measured peak, einfx as a line and its peers as points.

    Returns:
        The file; None where matplotlib isn't installed.
    """
    figure = _figure()
    if figure is None:
        return None
    axes = figure.add_subplot(
        xscale="log", yscale="log", xlabel="peak beyond the operands, MiB", ylabel="time / unlimited time"
    )
    axes.set_title(curve.subject.title)
    ran = [(max(x.peak, LEAST_BYTES) / MIB, x) for x in curve.points if x.peak is not None]
    ours = sorted((peak, *x.slower) for peak, x in ran if x.name == "einfx")
    if ours:
        peaks, medians, lower, upper = (list(column) for column in zip(*ours, strict=True))
        axes.plot(peaks, medians, "o-", markersize=4, label="einfx, smaller and smaller limits")
        axes.fill_between(peaks, lower, upper, alpha=0.2)
    names = sorted({_peer(x.name) for _, x in ran if x.name != "einfx"})
    for name, mark in zip(names, itertools.cycle("sD^v")):
        theirs = sorted((peak, x.slower[0]) for peak, x in ran if _peer(x.name) == name)
        axes.plot(*zip(*theirs, strict=True), mark + "--", markersize=5, linewidth=0.8, label=name)
    return _saved(figure, axes, folder / f"{curve.subject.name}.svg")


def plot_overheads(outcomes: Sequence[Outcome | Failure], folder: Path = FOLDER) -> Path | None:
    """Time over unlimited time against the limit: medians with quartiles.

    Returns:
        The file; None where matplotlib isn't installed.
    """
    figure = _figure()
    if figure is None:
        return None
    axes = figure.add_subplot(
        xscale="log", yscale="log", xlabel="limit / unlimited peak", ylabel="time / unlimited time"
    )
    axes.set_title("Random contractions within limits")
    for gradients, label in ((False, "forward"), (True, "with gradients")):
        columns = []
        for fraction in FRACTIONS:
            chosen = [
                x
                for x in outcomes
                if isinstance(x, Outcome) and x.peak and (x.fraction, x.gradients) == (fraction, gradients)
            ]
            if chosen:
                columns.append((1 / fraction, *overheads(chosen)))
        if columns:
            limits, lower, medians, upper, _ = (list(column) for column in zip(*columns, strict=True))
            axes.plot(limits, medians, "o-", markersize=4, label=f"{label}: median and quartiles")
            axes.fill_between(limits, lower, upper, alpha=0.2)
    axes.axhline(1.0, color="grey", linewidth=0.8)
    return _saved(figure, axes, folder / "overheads.svg")


def _peer(name: str) -> str:
    return name.partition(", sliced")[0]


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    return Figure(figsize=(6.4, 4.0), layout="constrained")


def _saved(figure: Any, axes: Any, path: Path) -> Path:
    """Without a date and with names that are the same in every run; texts stay texts."""
    import matplotlib

    axes.grid(visible=True, which="major", linewidth=0.4)
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "einfx", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None, "Creator": None})
    return path
