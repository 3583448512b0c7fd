"""Outcomes of contractions under limits as text."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from einfx.plans import size_text

from .curves import CALL_SECONDS, Curve, CurvePoint
from .disk import COLUMNS, EQUATIONS, Reading
from .example import EQUATION, Run
from .measure import MIB, Point
from .models import MODELS, ModelRun
from .random_equations import FRACTIONS, SLACK_BYTES, Failure, Outcome

__all__ = [
    "curve_row",
    "curves_section",
    "disk_section",
    "example_section",
    "line",
    "models_section",
    "overheads",
    "points_table",
    "section",
]


def line(outcome: Outcome | Failure) -> str:
    """One outcome for the terminal."""
    if isinstance(outcome, Failure):
        return f"{outcome.seed:3d} FAILED: {outcome.why}"
    told = f"{outcome.seed:3d} {outcome.semiring}{' gradients' * outcome.gradients} 1/{outcome.fraction}"
    limit = f"limit {outcome.limit / MIB:.1f} MiB"
    if outcome.peak is None:
        return f"{told}: {limit} refused, needs {(outcome.needed or 0) / MIB:.1f} MiB  {outcome.equation}"
    return (
        f"{told}: {limit}, peak {outcome.peak / MIB:.1f}, {outcome.slower:.2f}x the time, planned in "
        f"{outcome.planning_seconds:.2f} s, error {outcome.error:.0e}"
        f"{'' if outcome.kept else '  EXCEEDED'}  {outcome.equation}"
    )


def section(all_outcomes: Sequence[Outcome | Failure]) -> str:
    """The part about random contractions."""
    outcomes = [x for x in all_outcomes if isinstance(x, Outcome)]
    failures = [x for x in all_outcomes if isinstance(x, Failure)]
    done = [x for x in outcomes if x.peak is not None]
    kept = [x for x in done if x.kept]
    lines = [
        "### Random contractions",
        "",
        f"{len({x.seed for x in all_outcomes})} random contractions of 2 to 12 operands (hyperedges, sums of "
        "one operand, labels shared by operands and output), unlimited peaks of 100 MiB to 2 GiB, real "
        "and log, half of them with gradients, each under two limits, drawn among those that leave room for "
        "what is returned (the result, or the gradients of all operands) as far as there are two. Peaks are "
        "measured from outside; a limit that einfx refuses, since it found no way or only very slow ones to "
        "keep it, is counted and is no run.",
        "",
        f"- Within the limit, a twentieth and {SLACK_BYTES // MIB} MiB: {len(kept)} of {len(done)}.",
        f"- Refused, the limit being too small: {len(outcomes) - len(done)}, of which for "
        f"{sum(x.peak is None and x.limit <= x.returned for x in outcomes)} what is returned takes more.",
        f"- Failed: {len(failures)}.",
        f"- Largest deviation from the unlimited result: {max((x.error for x in done), default=0):.1e}.",
        "",
        "| limit | runs | refused | peak / limit | time / unlimited | quartiles | 90% | planning, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for gradients in (False, True):
        for fraction in FRACTIONS:
            chosen = [x for x in outcomes if x.fraction == fraction and x.gradients == gradients]
            ran = [x for x in chosen if x.peak is not None]
            if not ran:
                continue
            share = statistics.median((x.peak or 0) / x.limit for x in ran)
            planning = statistics.median(x.planning_seconds for x in ran)
            lower, median, upper, slow = overheads(ran)
            name = f"1/{fraction}{' with gradients' * gradients}"
            figures = f"{share:.2f} | {median:.2f} | {lower:.2f}-{upper:.2f} | {slow:.2f} | {planning:.2f}"
            lines.append(f"| {name} | {len(ran)} | {len(chosen) - len(ran)} | {figures} |")
    lines += ["", "![Time over unlimited time, against the limit](plots/overheads.svg)"]
    lines += ["", *(f"- Exceeded: {line(x)}" for x in done if not x.kept)]
    lines += [f"- {line(x)}" for x in failures]
    return "\n".join(lines).rstrip() + "\n"


def overheads(outcomes: Sequence[Outcome]) -> tuple[float, float, float, float]:
    """Time over unlimited time: the quartiles, the median between them, and the ninetieth percentile."""
    times = sorted(x.slower for x in outcomes)
    lower, median, upper = (times[round(share * (len(times) - 1))] for share in (0.25, 0.5, 0.75))
    return lower, median, upper, times[round(0.9 * (len(times) - 1))]


def example_section(runs: Sequence[Run]) -> str:
    """The part about one large contraction."""
    lines = [f"### `{EQUATION}`", "", "float32, one thread; peaks are beyond the operands, results included."]
    for run in runs:
        lines += ["", f"{run.title}:", "", points_table(run.points)]
    return "\n".join(lines).rstrip() + "\n"


def curves_section(curves: Sequence[Curve]) -> str:
    """The part about time against memory, with a plot of each curve."""
    lines = [
        "### Time against memory",
        "",
        "float32, one thread, each point in a process of its own. Peaks are measured from outside, beyond "
        "the operands, results included. Times are multiples of that of einfx without a limit in the same "
        "rounds; planning isn't counted (but torch.einsum's, which plans in every call). A limit is refused "
        "where einfx found no plan, or none that comes to an end in sensible time; the limit that the error "
        f"names is tried then. What takes more than {CALL_SECONDS} s is ended.",
    ]
    for curve in curves:
        equation = curve.subject.equation
        lines += ["", f"{curve.subject.title}{f' (`{equation}`)' * (len(equation) < 40)}:", ""]
        lines += [f"![{curve.subject.title}](plots/{curve.subject.name}.svg)", ""]
        lines += ["| | limit | peak | time / unlimited | quartiles | planning, s |"]
        lines += ["|---|---:|---:|---:|---:|---:|", *map(curve_row, curve.points)]
    return "\n".join(lines) + "\n"


def curve_row(point: CurvePoint) -> str:
    """One point, as a row of the table."""
    cells = [point.name, "" if point.limit is None else size_text(point.limit)]
    if point.peak is None:
        least = "" if point.needed is None else f", needs {size_text(point.needed)}"
        cells += [f"{point.failure}{least}", "", "", ""]
    else:
        median, lower, upper = point.slower
        cells += [size_text(max(point.peak, 0)), f"{median:.2f}", f"{lower:.2f}-{upper:.2f}"]
        cells += [f"{point.planning_seconds:.2f}"]
    return f"| {' | '.join(cells)} |"


def disk_section(readings: Sequence[Reading], limit: int) -> str:
    """The part about operands in files."""
    size = readings[0].size
    lines = [
        "### Operands in a file",
        "",
        f"A float32 matrix of {size_text(size)} with {COLUMNS} columns, in a file that the system has in "
        f"memory (cached) or not; einfx under a limit of {size_text(limit)}, one thread. Peaks are of "
        "anonymous memory, the result included.",
        "",
        "| | by | cached | GiB/s | time / reading | peak |",
        "|---|---|---|---:|---:|---:|",
    ]
    for x in readings:
        what = f"`{x.equation}`, {EQUATIONS[x.equation]}" if x.equation else "reading it"
        speed = x.size / x.seconds / (1 << 30)
        name = x.name if x.equation else ""
        figures = f"{speed:.2f} | {x.ratio:.2f} | {size_text(max(x.peak, 0))}"
        if x.failure:
            figures = f"{x.failure} | |"
        lines.append(f"| {what} | {name} | {'yes' if x.cached else 'no'} | {figures} |")
    return "\n".join(lines) + "\n"


def models_section(runs: Sequence[ModelRun]) -> str:
    """The part about whole models."""
    lines = [
        "### Whole models",
        "",
        "`einfx.optimize(model, inputs, memory_limit=...)` beside the model as it is in PyTorch, without "
        "gradients, float32, one thread. Limits are parts of the peak of the model as it is; peaks are "
        "measured from outside, results included. Where a limit is refused, the error names one that is "
        "enough.",
        "",
        "| model | limit | peak | peak / limit | time / eager | planning, s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for x in runs:
        limit = f"1/{x.fraction}: {size_text(x.limit)}" if x.fraction else f"none; eager {size_text(x.limit)}"
        if x.peak is None:
            least = "" if x.needed is None else f", needs {size_text(x.needed)}"
            cells = [f"refused{least}", "", "", ""]
        else:
            share = f"{x.peak / x.limit:.2f}"
            cells = [size_text(max(x.peak, 0)), share, f"{x.slower:.2f}", f"{x.planning_seconds:.2f}"]
        lines.append(f"| {x.model} | {limit} | {' | '.join(cells)} |")
    described = [(build.__doc__ or "").strip().rstrip(".") for build in MODELS.values()]
    lines += ["", f"The models: {'; '.join(map(_uncapitalized, described))}."]
    ran = [x for x in runs if x.peak is not None]
    lines += [f"Largest deviation: {max((x.error for x in ran), default=0):.1e}."]
    return "\n".join(lines) + "\n"


def _uncapitalized(text: str) -> str:
    """With a small first letter, but where the first word is an abbreviation."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def points_table(points: Sequence[Point]) -> str:
    """Contenders with their peaks, and their times as multiples of the first one's that ran."""
    first = next((point.seconds[0] for point in points if point.seconds), math.nan)
    lines = ["| | limit | peak | time | quartiles |", "|---|---:|---:|---:|---:|"]
    for point in points:
        cells = [point.name, "" if point.limit is None else size_text(point.limit)]
        if point.peak is None:
            cells += [point.failure, "", ""]
        else:
            median, lower, upper = [seconds / first for seconds in point.seconds]
            cells += [size_text(point.peak), f"{median:.2f}", f"{lower:.2f}-{upper:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
