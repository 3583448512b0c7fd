"""Command line of the benchmarks."""

import argparse
import re
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path

from . import (
    contests,
    convolutions,
    instantiation,
    memory,
    networks,
    overhead,
    pairs,
    planning,
    programs,
    results,
    semirings,
)
from .contests import report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen benchmarks, print them, and write them down on request."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="?", default="all", choices=["all", *PARTS])
    parser.add_argument("--threads", default="1,2", type=_numbers, help="numbers of threads, such as 1,2")
    parser.add_argument("--rows", default="", metavar="REGEX", help="only rows whose names match")
    parser.add_argument("--seconds", default=2.0, type=float, help="time for each measurement of a row")
    parser.add_argument("--count", default=memory.random_equations.COUNT, type=int, help=COUNT_HELP)
    parser.add_argument("--kept", type=Path, metavar="FILE", help=KEPT_HELP)
    parser.add_argument("--write", action="store_true", help=f"write {results.RESULTS.name}")
    options = parser.parse_args(arguments)

    print(results.machine())
    for part in PARTS if options.what == "all" else (options.what,):
        section = PARTS[part](options)
        if part not in ("programs", "semirings", "convolutions", "memory"):
            print(section)
        if options.write and part != "memory":
            results.write(part, section)
    return 0


def _programs(options: argparse.Namespace) -> str:
    measured = programs.run(options.threads, options.rows, options.seconds, progress=_print_row)
    print("\n".join(["", "missed:", *measured.missed()]))
    return results.programs_section(measured)


def _semirings(options: argparse.Namespace) -> str:
    measured = _contests(semirings, options)
    print("\n".join(["", "missed:", *report.missed(measured)]))
    return semirings.section(measured)


def _convolutions(options: argparse.Namespace) -> str:
    measured = _contests(convolutions, options, convolutions.SHARE)
    buildings = convolutions.building.run() if re.search(options.rows, "building") else []
    if buildings:
        print(f"\n{convolutions.building.part(buildings)}")
    print("\n".join(["", "missed:", *convolutions.missed(measured, buildings)]))
    return convolutions.section(measured, buildings)


def _memory(options: argparse.Namespace) -> str:
    """Subsections are printed and written as they come: a part that fails takes no other with it."""
    failures = []
    for name, part in memory.PARTS.items():
        if not re.search(options.rows, name):
            continue
        start = time.perf_counter()
        try:
            text = part(options)
        except RuntimeError as error:
            failures.append(f"{name}: {error}")
            continue
        print(f"{text}\n{name} took {time.perf_counter() - start:.0f} s", flush=True)
        if options.write:
            results.write_subsections("memory", text, memory.HEADINGS)
    if failures:
        raise SystemExit("failed: " + "; ".join(failures))
    return ""


def _contests(
    part: types.ModuleType, options: argparse.Namespace, share: float = 1.0
) -> list[contests.Result]:
    seconds = share * options.seconds
    return contests.run(part.__name__, part.ROWS, options.threads, options.rows, seconds, _print_contest)


COUNT_HELP = "of memory: how many random contractions"
KEPT_HELP = (
    "of memory: add the outcomes of random contractions to a file, and don't measure again what it has"
)

PARTS: dict[str, Callable[[argparse.Namespace], str]] = {
    "programs": _programs,
    "overhead": lambda options: results.overhead_section(overhead.run()),
    "pairs": lambda options: pairs.section(pairs.run(pairs.pairs(options.rows), options.seconds / 10)),
    "planning": lambda options: results.planning_section(planning.run(), planning.time_example()),
    "networks": lambda options: networks.section(networks.run()),
    "instantiation": lambda options: results.instantiation_section(instantiation.run()),
    "semirings": _semirings,
    "convolutions": _convolutions,
    "memory": _memory,
}


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _print_row(result: programs.RowResult) -> None:
    print(results.line(result), flush=True)


def _print_contest(result: contests.Result) -> None:
    print(report.line(result), flush=True)


if __name__ == "__main__":
    sys.exit(main())
