"""Outcomes of contractions under limits as text."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from .example import EQUATION, Contender
from .random_equations import FRACTIONS, SLACK_BYTES, Outcome

__all__ = ["example_section", "line", "section"]

MIB = 1 << 20


def line(outcome: Outcome) -> str:
    """One outcome for the terminal."""
    told = f"{outcome.seed:3d} {outcome.semiring}{' gradients' * outcome.gradients} 1/{outcome.fraction}"
    limit = f"limit {outcome.limit / MIB:.1f} MiB"
    if outcome.peak is None:
        return f"{told}: {limit} refused, needs {(outcome.needed or 0) / MIB:.1f} MiB  {outcome.equation}"
    slower = outcome.seconds / outcome.unlimited_seconds
    return (
        f"{told}: {limit}, peak {outcome.peak / MIB:.1f}, {slower:.2f}x the time, planned in "
        f"{outcome.planning_seconds:.2f} s, error {outcome.error:.0e}"
        f"{'' if outcome.kept else '  EXCEEDED'}  {outcome.equation}"
    )


def section(outcomes: Sequence[Outcome]) -> str:
    """The section for the file of results."""
    done = [x for x in outcomes if x.peak is not None]
    kept = [x for x in done if x.kept]
    lines = [
        f"{len({x.seed for x in outcomes})} random contractions of 2 to 12 operands (hyperedges, sums of one "
        "operand, labels shared by operands and output), unlimited peaks of 100 MiB to 2 GiB, real and log, "
        "half of them with gradients, each under two limits. Peaks are measured from outside.",
        "",
        f"- Within the limit, a twentieth and {SLACK_BYTES // MIB} MiB: {len(kept)} of {len(done)}.",
        f"- Refused, the limit being too small: {len(outcomes) - len(done)}.",
        f"- Largest deviation from the unlimited result: {max((x.error for x in done), default=0):.1e}.",
        "",
        "| limit | runs | refused | peak / limit | time / unlimited | the same, 90% | planning, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for gradients in (False, True):
        for fraction in FRACTIONS:
            chosen = [x for x in outcomes if x.fraction == fraction and x.gradients == gradients]
            ran = [x for x in chosen if x.peak is not None]
            if not ran:
                continue
            times = sorted(x.seconds / x.unlimited_seconds for x in ran)
            share = statistics.median((x.peak or 0) / x.limit for x in ran)
            planning = statistics.median(x.planning_seconds for x in ran)
            name = f"1/{fraction}{' with gradients' * gradients}"
            refused, slow = len(chosen) - len(ran), times[int(0.9 * (len(times) - 1))]
            figures = f"{share:.2f} | {statistics.median(times):.2f} | {slow:.2f} | {planning:.2f}"
            lines.append(f"| {name} | {len(ran)} | {refused} | {figures} |")
    over = [x for x in done if not x.kept]
    lines += [""] + [f"- Exceeded: {line(x)}" for x in over]
    return "\n".join(lines).rstrip() + "\n"


def example_section(contenders: Sequence[Contender]) -> str:
    """The part about one large contraction."""
    fastest = contenders[0].seconds
    lines = [
        f"`{EQUATION}` with i = 40, float32, one thread:",
        "",
        "| | peak | time / einfx without a limit |",
        "|---|---:|---:|",
    ]
    for one in contenders:
        lines.append(f"| {one.name} | {one.peak / MIB:.1f} MiB | {one.seconds / fastest:.2f} |")
    return "\n".join(lines) + "\n"
