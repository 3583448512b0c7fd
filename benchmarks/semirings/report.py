"""The results of semirings in words: a line for the terminal, a section for the results file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from einfx.kernels import tropical_native

from ..results import ratio_text, table, threads_text, time_text
from .ceiling import CEILING
from .result import Result
from .row import OURS, REAL, AtLeast, Smaller, Target, Within

__all__ = ["line", "missed", "section"]

VERDICTS = {True: "met", False: "missed", None: "not measured"}


def line(result: Result) -> str:
    """One result for the terminal."""
    cells = [f"{result.row.name:<32}", f"{result.threads}t", f"{_time(result, OURS):>10}"]
    for name in result.others():
        cells.append(f"x{name} {ratio_text(result.speed_over(name))}")
    cells += [f"{name} {_mebibytes(peak)}" for name, peak in result.peaks.items()]
    cells += [f"no {name}" for name in result.absent]
    return "  ".join(cells) + "".join(f"\n    {name}: {why}" for name, why in result.failures.items())


def missed(results: Sequence[Result]) -> list[str]:
    """One line for each target that was missed."""
    return [text for result in results for text in result.missed()]


def section(results: Sequence[Result]) -> str:
    """The section of the results file."""
    parts = [
        "Medians of interleaved rounds. A speed is that of einfx as a multiple of the other's, compared",
        "round by round: median, and quartiles in brackets; above 1 einfx is faster. Operands are float32",
        "unless said. Contestants compute the same result, which tests compare with float64; but for limits:",
        "real contractions of the same shape (`torch.mm`, `torch.bmm`, `torch.matmul`, `torch.einsum` over",
        "log), and *add and maximum alone*, the ceiling of a tropical product on this processor: as many",
        "additions and maxima on registers, nothing loaded or stored. Peaks of memory are those of one call,",
        "result included, in a process of its own, on the largest number of threads.",
        "",
        f"Extension: {tropical_native.describe()}.",
        "",
    ]
    for threads in sorted({result.threads for result in results}):
        own = [result for result in results if result.threads == threads]
        header = ["row", OURS, "beside", "its time", "speed", "target", "verdict"]
        parts += [f"### {threads_text(threads)}\n", table(header, _speed_rows(own)), *_ceilings(own)]
        if any(result.peaks for result in own):
            header = ["row", "who", "peak", "target", "verdict"]
            parts += [
                f"### {threads_text(threads)}, peak memory\n",
                table(header, _peak_rows(own)),
            ]
    short = missed(results)
    parts.append("### Targets\n")
    parts.append("Missed:\n\n" + "".join(f"- {text}\n" for text in short) if short else "All met.\n")
    notes = dict.fromkeys(f"- {result.row.name}: {result.row.note}\n" for result in results)
    parts.append("### Rows\n\n" + "".join(notes))
    gone = sorted({name for result in results for name in result.absent})
    if gone:
        parts.append("Not there in this run: " + ", ".join(gone) + ".\n")
    failures = [
        f"- {r.row.name}, {r.threads} threads, {who}: {why}\n"
        for r in results
        for who, why in r.failures.items()
    ]
    if failures:
        parts.append("### What contestants could not do\n\n" + "".join(failures))
    return "\n".join(parts) + "\n"


def _ceilings(results: Sequence[Result]) -> Iterator[str]:
    """What the processor's own ceiling is, as a part of the speed of real products."""
    shares = []
    for result in results:
        if {CEILING, REAL} <= set(result.quick.seconds):
            shares.append(f"{result.quick.ratio(REAL, CEILING).median:.2f} ({result.row.name})")
    if shares:
        yield f"Ceiling of tropical products in multiples of the speed of `{REAL}`: {', '.join(shares)}.\n"


def _speed_rows(results: Sequence[Result]) -> Iterator[list[str]]:
    for result in results:
        first = [result.row.name, _time(result, OURS)]
        for name in result.others():
            targets = [t for t in result.row.targets if isinstance(t, AtLeast) and t.than == name]
            cells = [name, _time(result, name), ratio_text(result.speed_over(name))]
            yield [*first, *cells, *_verdict(result, targets)]
            first = ["", ""]


def _peak_rows(results: Sequence[Result]) -> Iterator[list[str]]:
    for result in results:
        first = [result.row.name]
        for name, peak in result.peaks.items():
            targets = [t for t in result.row.targets if name == OURS and isinstance(t, (Smaller, Within))]
            yield [*first, name, _mebibytes(peak), *_verdict(result, targets)]
            first = [""]


def _verdict(result: Result, targets: Sequence[Target]) -> list[str]:
    """What the targets ask, and whether all are met."""
    words = []
    for target in targets:
        if isinstance(target, AtLeast):
            words.append(f"{target.times:.3g}")
        elif isinstance(target, Within):
            words.append(f"at most {_mebibytes(target.bytes)}")
        else:
            words.append(f"below {target.than}")
    verdicts = [result.meets(target) for target in targets]
    if not verdicts:
        return ["", ""]
    worst = False if False in verdicts else None if None in verdicts else True
    return [" and ".join(words), VERDICTS[worst]]


def _time(result: Result, name: str) -> str:
    time = result.time(name)
    return "failed" if time is None else time_text(time.median)


def _mebibytes(peak: int | None) -> str:
    return "failed" if peak is None else f"{peak / 2**20:.1f} MiB"
