"""Prints the results, and writes them to RESULTS.md."""

import datetime
import math
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from .contestants import EAGER, OURS, PEER
from .instantiation import IRREPS, Instantiation
from .overhead import EXTRA_SECONDS, Overhead
from .planning import EXAMPLE, Planning
from .programs import LEAST_OF_BEST, LEAST_OVER_EAGER, LEAST_OVER_PEER, Programs, RowResult
from .timing import Measurement, Spread

__all__ = [
    "RESULTS",
    "instantiation_section",
    "line",
    "machine",
    "overhead_section",
    "planning_section",
    "programs_section",
    "ratio_text",
    "table",
    "threads_text",
    "time_text",
    "write",
    "write_subsections",
]

RESULTS = Path(__file__).parent / "RESULTS.md"

HEADINGS = {
    "programs": "Programs",
    "overhead": "Overhead of a call",
    "pairs": "Pairs",
    "planning": "Planning",
    "networks": "Paths of larger networks",
    "instantiation": "Instantiation of e3nn's tensor products",
    "semirings": "Semirings",
    "convolutions": "Convolutions",
    "memory": "Memory",
}
"""The sections of the results file, in order, by the name that the command line has for them."""

MEASURED = "Measured "
"""How a subsection begins that says when it was measured."""


def machine() -> str:
    """The processor, its cores, and the versions that matter."""
    name = platform.processor() or platform.machine()
    try:
        for entry in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if entry.startswith("model name"):
                name = entry.partition(":")[2].strip()
                break
    except OSError:
        pass
    processor = f"{name}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    return f"{processor}; Python {platform.python_version()}, torch {torch.__version__}"


def write(part: str, section: str, path: Path = RESULTS) -> None:
    """Put a section into the results file, in place of an older one.

    Args:
        part: which section, one of ``HEADINGS``.
        section: its text, without the heading.
        path: the file.
    """
    sections = _read(path)
    sections[HEADINGS[part]] = f"{_when()}\n\n{section.strip()}\n"
    _write(sections, path)


def write_subsections(part: str, text: str, headings: Sequence[str], path: Path = RESULTS) -> None:
    """Put subsections into a section of the results file, in place of older ones, and leave the others.

    Each says by itself when it was measured. What the section says before its first subsection stays as long
    as there is a subsection that doesn't.

    Args:
        part: which section, one of ``HEADINGS``.
        text: the subsections, each with its heading, of the third level.
        headings: of all subsections, in their order.
        path: the file.
    """
    sections = _read(path)
    head, subsections = _subsections(sections.get(HEADINGS[part], ""))
    for heading, body in _subsections(text)[1].items():
        subsections[heading] = f"{MEASURED}{_when()}\n\n{body}"
    order = [*headings, *subsections]
    ordered = sorted(subsections, key=order.index)
    if all(body.startswith(MEASURED) for body in subsections.values()):
        head = ""
    parts = [head, *(f"### {heading}\n\n{subsections[heading]}" for heading in ordered)]
    sections[HEADINGS[part]] = "\n".join(filter(None, parts))
    _write(sections, path)


def _when() -> str:
    today = datetime.datetime.now(tz=datetime.timezone.utc).date()
    return f"{today}, {machine()}; load average of the last minutes {os.getloadavg()[1]:.1f}."


def _read(path: Path) -> dict[str, str]:
    return _parts(path.read_text(encoding="utf-8"), "## ")[1] if path.exists() else {}


def _write(sections: Mapping[str, str], path: Path) -> None:
    text = "# Benchmark results\n\nWritten by `python -m benchmarks --write`.\n"
    for heading in HEADINGS.values():
        if heading in sections:
            text += f"\n## {heading}\n\n{sections[heading]}"
    path.write_text(text, encoding="utf-8")


def _subsections(text: str) -> tuple[str, dict[str, str]]:
    head, subsections = _parts(text, "### ")
    return head.strip() + "\n" if head.strip() else "", subsections


def _parts(text: str, mark: str) -> tuple[str, dict[str, str]]:
    """What comes before the first heading, and what comes under each."""
    head, *parts = f"\n{text}".split(f"\n{mark}")
    under = (part.partition("\n") for part in parts)
    return head, {heading: body.strip() + "\n" for heading, _, body in under}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def line(result: RowResult) -> str:
    """One result for the terminal."""
    cells = [f"{result.row.name:<28}", f"{result.threads}t"]
    cells += [f"{name} {_time(result, name, result.forward):>9}" for name in result.contestants]
    cells += [f"x{other} {ratio_text(result.speed_over(other)):>20}" for other in (EAGER, PEER)]
    if result.backward is not None:
        cells += [f"backward x{ratio_text(result.speed_over(EAGER, result.backward))}"]
    if result.direct is not None:
        cells += [f"direct x{ratio_text(result.direct.ratio(EAGER, OURS))}"]
    errors = [f"{name}: {one.failure}" for name, one in result.contestants.items() if one.failure]
    errors += [f"{name}: WRONG by {result.contestants[name].error:.1e}" for name in result.wrong()]
    return "  ".join(cells) + "".join(f"\n    {error}" for error in errors)


def programs_section(programs: Programs) -> str:
    """The section of the results file about programs."""
    parts = [
        "Medians of interleaved rounds. Speeds are ratios within a round: median, and quartiles in brackets;",
        "above 1 einfx is faster. Results were first compared with eager in float64.\n",
    ]
    for threads in programs.threads():
        counted = programs.counted(threads)
        parts.append(f"### {threads_text(threads)}, forward\n")
        parts.append(_forward_table(counted))
        means = ", ".join(
            f"{programs.mean_over(other, threads):.2f} times {other}" for other in (EAGER, PEER)
        )
        trimmed = [f"{programs.mean_over(other, threads, True):.2f}" for other in (EAGER, PEER)]
        parts.append(f"Geometric means: {means}; without the largest of each {' and '.join(trimmed)}.\n")
        parts.append(f"### {threads_text(threads)}, forward and backward\n")
        parts.append(_backward_table(counted))
        single = [result for result in programs.results if result.threads == threads and result.row.equation]
        pathological = [r for r in programs.results if r.threads == threads and r.row.target is not None]
        if pathological:
            parts.append(f"### {threads_text(threads)}, known slow pairs\n")
            parts.append(_forward_table(pathological))
        if single:
            parts.append(f"### {threads_text(threads)}, direct calls of `einfx.einsum`\n")
            parts.append(_direct_table(single))
    parts.append("### Targets\n")
    parts.append(
        f"At least {LEAST_OF_BEST} of the best of the others on every row; geometric means at least\n"
        f"{LEAST_OVER_EAGER} times eager and {LEAST_OVER_PEER} times opt_einsum_fx; slow pairs as listed.\n"
    )
    missed = list(programs.missed())
    parts.append("Missed:\n\n" + "".join(f"- {text}\n" for text in missed) if missed else "All met.\n")
    notes = sorted({f"- {result.row.name}: {result.row.note}\n" for result in programs.results})
    failures = sorted(set(_failures(programs.results)))
    parts.append("### Rows\n\n" + "".join(notes))
    if failures:
        parts.append("### What contestants could not do\n\n" + "".join(failures))
    return "\n".join(parts) + "\n"


def overhead_section(overheads: Sequence[Overhead]) -> str:
    """The section of the results file about the cost of a call."""
    names = list(overheads[0].measurement.seconds)
    rows = []
    for one in overheads:
        times = [f"{one.measurement.time(name).median * 1e6:.1f}" for name in names]
        rows.append([str(one.operands), *times, f"{one.extra_seconds() * 1e6:+.1f}"])
    verdict = "missed" if any(one.misses_target() for one in overheads) else "met"
    return (
        "Chains of 4x4 matrices, microseconds per call, one thread; the last column is what `einfx.einsum`\n"
        f"takes beyond `torch.mm` by hand.\n\n{table(['operands', *names, 'beyond by hand'], rows)}\n"
        f"Target: three operands at most {EXTRA_SECONDS * 1e6:.0f} us beyond by hand: {verdict}.\n"
    )


def planning_section(plannings: Sequence[Planning], example: Measurement) -> str:
    """The section of the results file about planning."""
    rows = []
    for one in plannings:
        times = [f"{seconds * 1e3:.1f} ms" for seconds in (one.peer_seconds, one.seconds)]
        execution = "" if math.isnan(one.execution) else f"{one.execution:.2f}"
        verdict = "missed" if one.misses_target() else "met"
        rows.append(
            [
                str(one.operands),
                *times,
                f"{one.over_limit:.2f}",
                f"{one.multiplications:.2f}",
                execution,
                verdict,
            ]
        )
    header = [
        "operands",
        "auto-hq plans",
        "einfx plans",
        "of the limit",
        "multiplications",
        "execution",
        "target",
    ]
    names = list(example.seconds)
    return (
        "Random networks with hyperedges, medians; multiplications and execution are multiples of those of\n"
        "opt_einsum's auto-hq, below 1 einfx is better. Target: plans in the larger of 50 ms and auto-hq's\n"
        f"time, and runs no slower.\n\n{table(header, rows)}\n`{EXAMPLE}` with i = 20, j = 100: "
        + ", ".join(f"{name} {time_text(example.time(name).median)}" for name in names)
        + ".\n"
    )


def instantiation_section(instantiations: Sequence[Instantiation]) -> str:
    """The section of the results file about building e3nn's modules."""
    if not instantiations:
        return "e3nn is not installed.\n"
    rows = []
    for one in instantiations:
        rows.append([one.optimizer, one.failure if one.seconds is None else f"{one.seconds.median:.2f} s"])
    times = {one.optimizer: one.seconds.median for one in instantiations if one.seconds is not None}
    verdict = "met" if times.get(OURS, math.inf) <= times.get(PEER, math.inf) else "missed"
    return (
        f"`FullyConnectedTensorProduct` of `{IRREPS[0]}` with `{IRREPS[1]}`.\n\n"
        f"{table(['optimised by', 'time'], rows)}\nTarget: no longer than with opt_einsum_fx: {verdict}.\n"
    )


def _forward_table(results: Sequence[RowResult]) -> str:
    rows = []
    for result in results:
        cells = [result.row.name, *(_time(result, name, result.forward) for name in (EAGER, PEER, OURS))]
        cells += [ratio_text(result.speed_over(EAGER)), ratio_text(result.speed_over(PEER))]
        cells += ["" if result.row.target is None else f"{result.row.target}"]
        rows.append(cells)
    return table(["row", EAGER, PEER, OURS, f"over {EAGER}", f"over {PEER}", "target"], rows)


def _backward_table(results: Sequence[RowResult]) -> str:
    rows = []
    for result in results:
        if result.backward is not None:
            cells = [result.row.name, *(_time(result, name, result.backward) for name in (EAGER, PEER, OURS))]
            cells += [ratio_text(result.speed_over(other, result.backward)) for other in (EAGER, PEER)]
            rows.append(cells)
    return table(["row", EAGER, PEER, OURS, f"over {EAGER}", f"over {PEER}"], rows)


def _direct_table(results: Sequence[RowResult]) -> str:
    rows = []
    for result in results:
        if result.direct is not None:
            times = [time_text(result.direct.time(name).median) for name in (EAGER, OURS)]
            rows.append([result.row.name, *times, ratio_text(result.direct.ratio(EAGER, OURS))])
    return table(["row", "torch.einsum", "einfx.einsum", "speed"], rows)


def _failures(results: Iterable[RowResult]) -> Iterator[str]:
    for result in results:
        for name, contestant in result.contestants.items():
            if contestant.failure:
                yield f"- {name}, {result.row.name}: {contestant.failure}\n"
        for name in result.wrong():
            error = result.contestants[name].error
            yield f"- {name}, {result.row.name}: its result is wrong by {error:.1e} in float64\n"


def _time(result: RowResult, name: str, measurement: Measurement) -> str:
    if name not in result.contestants:
        return "absent"
    return time_text(measurement.time(name).median) if name in measurement.seconds else "error"


def time_text(seconds: float) -> str:
    """A time in milliseconds."""
    return f"{seconds * 1e3:.3f} ms" if seconds < 0.1 else f"{seconds * 1e3:.0f} ms"


def ratio_text(ratio: Spread | None) -> str:
    """A median with its quartiles; nothing for nothing."""
    return "" if ratio is None else f"{ratio.median:.2f} ({ratio.lower:.2f}-{ratio.upper:.2f})"


def threads_text(count: int) -> str:
    """How many threads, to begin a heading."""
    return "One thread" if count == 1 else f"{count} threads"
