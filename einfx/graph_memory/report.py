"""What a program takes within its limit, where most is in use, and what was done for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import fx

from ..errors import MemoryLimitError
from ..plans import size_text
from .bounds import contractions_of
from .contraction_bytes import Bounded
from .liveness import Liveness, Moment
from .overwriting import Overwriting

__all__ = ["CutRow", "MemoryReport", "PartRow", "cut_rows"]


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


class PartRow(NamedTuple):
    """Nodes that are computed together, block by block of rows.

    Attributes:
        nodes: their names in the optimised graph.
        blocks: how many blocks there are.
        bytes: what they take, the result included.
    """

    nodes: tuple[str, ...]
    blocks: int
    bytes: int


@dataclass(frozen=True)
class MemoryReport:
    """What a program takes beside its inputs and its state, without gradients.

    Attributes:
        limit: the most that it may take, in bytes.
        before: where the original takes most; None where it takes nothing.
        after: where the optimised program does.
        cuts: the contractions that have a limit of their own; not those of ``parts``.
        reordered: whether nodes were put into another order.
        uncovered: nodes of which it isn't known what they take, each with the reason: what is said here, and
            the limit, leave that out.
        written_over: nodes whose result takes the place of an operand, each with that operand.
        parts: the nodes that are computed together, block by block of rows.
    """

    limit: int
    before: Moment | None
    after: Moment | None
    cuts: tuple[CutRow, ...]
    reordered: bool
    uncovered: tuple[tuple[str, str], ...]
    written_over: tuple[tuple[str, str], ...] = ()
    parts: tuple[PartRow, ...] = ()

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
            "parts": [{**row._asdict(), "nodes": list(row.nodes)} for row in self.parts],
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
        for part in self.parts:
            taken = f"taking {size_text(part.bytes)} with the result"
            lines.append(f"{', '.join(part.nodes)}: together in {part.blocks} blocks, {taken}")
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


def cut_rows(graph: fx.Graph, limit: int, parts: Sequence[PartRow] = ()) -> tuple[CutRow, ...]:
    """The contractions of a graph that have a limit.

    Args:
        graph: the graph.
        limit: of the whole graph.
        parts: what is computed together in blocks. A contraction in there has a limit for calls in which it
            is computed by itself; the part says what it takes, unless the program gave it a smaller one.
    """
    rows = []
    together = {name for part in parts for name in part.nodes}
    for name, found in contractions_of(graph).items():
        own = found.contraction.options.memory_limit
        if own is None or (name in together and own >= limit):
            continue
        try:
            how = found.within(own)
        except MemoryLimitError:
            how = Bounded(0, 0.0, ())
        rows.append(CutRow(name, str(found.contraction.equation), own, how.bytes, how.loops))
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
    inside = {moment.node: moment.bytes - moment.bytes_before for moment in after.moments}
    parts = tuple(
        PartRow(names, blocks, inside.get(f"{names[-1]}_blocks", 0)) for names, blocks in over.parts
    )
    cuts = cut_rows(graph, limit, parts)
    rest = after.uncovered, over.written, parts
    return MemoryReport(limit, before.peak, after.peak, cuts, reordered, *rest)
