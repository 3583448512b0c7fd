"""What a program takes within its limit, where most is in use, and what was done for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import fx

from ..errors import MemoryLimitError
from ..plans import size_text
from .bounds import contractions_of
from .contraction_bytes import Bounded
from .liveness import Liveness, Moment
from .overwriting import Overwriting

__all__ = ["CutRow", "MemoryReport", "cut_rows"]


class CutRow(NamedTuple):
    """A contraction that has a limit of its own.

    Attributes:
        node: its name in the optimised graph.
        equation: what it computes.
        limit: its limit, in bytes.
        bytes: what it takes.
        loops: the labels that are cut, with the number of blocks of each, outer ones first.
    """

    node: str
    equation: str
    limit: int
    bytes: int
    loops: tuple[tuple[str, int], ...]

    @property
    def blocks(self) -> int:
        """Into how many blocks it is cut, where every loop runs inside the one before."""
        count = 1
        for _, blocks in self.loops:
            count *= blocks
        return count


@dataclass(frozen=True)
class MemoryReport:
    """What a program takes beside its inputs and its state, without gradients.

    Attributes:
        limit: the most that it may take, in bytes.
        before: where the original takes most; None where it takes nothing.
        after: where the optimised program does.
        cuts: the contractions that have a limit of their own.
        reordered: whether nodes were put into another order.
        uncovered: nodes of which it isn't known what they take, each with the reason: what is said here, and
            the limit, leave that out.
        written_over: nodes whose result takes the place of an operand, each with that operand.
        parts: the names of nodes that are computed together, block by block of rows, with the number of
            blocks.
    """

    limit: int
    before: Moment | None
    after: Moment | None
    cuts: tuple[CutRow, ...]
    reordered: bool
    uncovered: tuple[tuple[str, str], ...]
    written_over: tuple[tuple[str, str], ...] = ()
    parts: tuple[tuple[tuple[str, ...], int], ...] = ()

    @property
    def bytes_before(self) -> int:
        """The most that the original takes."""
        return 0 if self.before is None else self.before.bytes

    @property
    def bytes_after(self) -> int:
        """The most that the optimised program takes."""
        return 0 if self.after is None else self.after.bytes

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "limit": self.limit,
            "before": _moment_as_data(self.before),
            "after": _moment_as_data(self.after),
            "cuts": [{**row._asdict(), "blocks": row.blocks} for row in self.cuts],
            "reordered": self.reordered,
            "written_over": [list(entry) for entry in self.written_over],
            "parts": [{"nodes": list(names), "blocks": blocks} for names, blocks in self.parts],
            "uncovered": [list(entry) for entry in self.uncovered],
        }

    def lines(self) -> list[str]:
        """The same as text."""
        lines = [
            f"limit {size_text(self.limit)}; predicted peak {size_text(self.bytes_before)} -> "
            f"{size_text(self.bytes_after)}"
        ]
        for name, moment in (("before", self.before), ("after", self.after)):
            if moment is not None:
                lines.append(f"peak {name}: {moment_text(moment)}")
        if self.reordered:
            lines.append("nodes are in another order than in the program")
        for row in self.cuts:
            cut = ", ".join(f"{label} in {count} blocks" for label, count in row.loops) or "in one piece"
            taken = f"within {size_text(row.limit)}, taking {size_text(row.bytes)}"
            lines.append(f"{row.node}: {row.equation} {taken}: {cut}")
        if self.written_over:
            pairs = ", ".join(f"{node} over {operand}" for node, operand in self.written_over)
            lines.append(f"written in place: {pairs}")
        lines += [f"{', '.join(names)}: together in {blocks} blocks" for names, blocks in self.parts]
        lines.append(
            "where gradients are recorded, contractions and their gradients stay within the limit each by "
            "itself; what autograd saves between operations isn't bounded"
        )
        lines += [f"not covered by the limit: {node}: {reason}" for node, reason in self.uncovered]
        return lines


def moment_text(moment: Moment, most: int = 6) -> str:
    """Where a node stands, what it takes, and what is alive beside it, the largest first."""
    inside = moment.bytes - moment.bytes_before
    held = sorted(moment.before, key=lambda entry: -entry.bytes)
    names = [f"{entry.node} {size_text(entry.bytes)}" for entry in held[:most]]
    if len(held) > most:
        names.append(f"{len(held) - most} more")
    beside = f", beside {', '.join(names)}" if names else ""
    return f"{moment.node} at {moment.line}: {size_text(moment.bytes)}, its own {size_text(inside)}{beside}"


def cut_rows(graph: fx.Graph) -> tuple[CutRow, ...]:
    """The contractions of a graph that have a limit."""
    rows = []
    for name, found in contractions_of(graph).items():
        limit = found.contraction.options.memory_limit
        if limit is None:
            continue
        try:
            how = found.within(limit)
        except MemoryLimitError:
            how = Bounded(0, 0.0, ())
        rows.append(CutRow(name, str(found.contraction.equation), limit, how.bytes, how.loops))
    return tuple(rows)


def _moment_as_data(moment: Moment | None) -> dict[str, Any] | None:
    if moment is None:
        return None
    return {
        "node": moment.node,
        "line": moment.line,
        "bytes": moment.bytes,
        "alive": [held._asdict() for held in moment.before],
    }


def memory_report(
    limit: int,
    before: Liveness,
    after: Liveness,
    graph: fx.Graph,
    reordered: bool,
    over: Overwriting,
) -> MemoryReport:
    """What a graph takes, from what is alive in it and in the original."""
    cuts = cut_rows(graph)
    rest = after.uncovered, over.written, over.parts
    return MemoryReport(limit, before.peak, after.peak, cuts, reordered, *rest)
