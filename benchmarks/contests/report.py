"""The results of contests in words: a line for the terminal, a section for the results file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from ..results import ratio_text, table, threads_text, time_text
from .result import Result
from .row import OURS, AtLeast, Smaller, Target, Within

__all__ = ["line", "missed", "section"]

VERDICTS = {True: "met", False: "missed", None: "not measured"}


def line(result: Result) -> str:
    """One result for the terminal."""
    cells = [f"{result.row.name:<32}", f"{result.threads}t", f"{_time(result, OURS):>10}"]
    for who, than in _pairs(result):
        name = than if who == OURS else f"{than} of {who}"
        cells.append(f"x{name} {ratio_text(result.speed_over(than, who))}")
    cells += [f"{name} {_mebibytes(peak)}" for name, peak in result.peaks.items()]
    cells += [f"no {name}" for name in result.absent]
    return "  ".join(cells) + "".join(f"\n    {name}: {why}" for name, why in result.failures.items())


def missed(results: Sequence[Result]) -> list[str]:
    """One line for each target that was missed."""
    return [text for result in results for text in result.missed()]


def section(
    results: Sequence[Result],
    introduction: Iterable[str],
    remarks: Callable[[Sequence[Result]], Iterable[str]] = lambda results: (),
    short: Sequence[str] | None = None,
) -> str:
    """The section of the results file.

    Args:
        results: all of them.
        introduction: lines in front.
        remarks: what to say below the table of one number of threads, given its results.
        short: a line for each target that was missed; those of the rows by default.
    """
    parts = [*introduction, ""]
    for threads in sorted({result.threads for result in results}):
        own = [result for result in results if result.threads == threads]
        header = ["row", OURS, "beside", "its time", "speed", "target", "verdict"]
        parts += [f"### {threads_text(threads)}\n", table(header, _speed_rows(own)), *remarks(own)]
        if any(result.peaks for result in own):
            header = ["row", "who", "peak", "target", "verdict"]
            parts += [
                f"### {threads_text(threads)}, peak memory\n",
                table(header, _peak_rows(own)),
            ]
    short = missed(results) if short is None else short
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


def _pairs(result: Result) -> Iterator[tuple[str, str]]:
    """Who is compared with whom: einfx with all, but for other forms of it that have targets themselves."""
    targets = [target for target in result.row.targets if isinstance(target, AtLeast)]
    forms = dict.fromkeys((target.who, target.than) for target in targets if target.who != OURS)
    shown = {who for who, _ in forms}
    for name in result.others():
        if name not in shown:
            yield OURS, name
    yield from ((who, than) for who, than in forms if result.speed_over(than, who) is not None)


def _speed_rows(results: Sequence[Result]) -> Iterator[list[str]]:
    for result in results:
        first = [result.row.name, _time(result, OURS)]
        for who, than in _pairs(result):
            if who != OURS:
                first = [f"{result.row.name}, {who}", _time(result, who)]
            cells = [than, _time(result, than), ratio_text(result.speed_over(than, who))]
            yield [*first, *cells, *_verdict(result, result.targets_of(who, than))]
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
