"""What an optimisation did: pass by pass, contraction by contraction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import fx

from .graph_memory.report import MemoryReport
from .graphs.estimate import LOWERED, Estimate, flops_of
from .graphs.nodes import Contraction, value_of
from .graphs.spellings import read_with_bias
from .rewrite import PassResult

__all__ = ["ContractionRow", "Report", "contraction_rows"]


class ContractionRow(NamedTuple):
    """One contraction of a graph."""

    node: str
    equation: str
    shapes: tuple[tuple[int, ...], ...] | None
    kernel: str
    """The functions that compute it, in order."""
    flops: int | None


@dataclass(frozen=True)
class Report:
    """What :func:`einfx.optimize` did to a model.

    ``str(report)`` is text for a terminal.

    Example:
        >>> import torch, einfx
        >>> optimized = einfx.optimize(
        ...     lambda a, b, c: torch.einsum("ij,jk,kl->il", a, b, c),
        ...     (torch.ones(50, 60), torch.ones(60, 70), torch.ones(70, 5)),
        ... )
        >>> optimized.report.flops_before == optimized.report.flops_after
        True
        >>> [entry["name"] for entry in optimized.report.to_dict()["passes"] if entry["rewrites"]]
        ['normalize-einsums', 'choose-paths', 'lower-kernels']
    """

    name: str
    passes: tuple[PassResult, ...]
    before: Estimate
    after: Estimate
    code_before: str
    code_after: str
    contractions_before: tuple[ContractionRow, ...]
    contractions_after: tuple[ContractionRow, ...]
    unknown: tuple[str, ...] = ()
    memory: MemoryReport | None = None
    """What is known of its memory, where it has a limit."""

    @property
    def flops_before(self) -> int:
        """Additions and multiplications of the original's contractions."""
        return self.before.flops

    @property
    def flops_after(self) -> int:
        """Additions and multiplications of the optimised contractions."""
        return self.after.flops

    @property
    def peak_bytes_before(self) -> int:
        """The most bytes that values of the original hold at one time."""
        return self.before.peak_bytes

    @property
    def peak_bytes_after(self) -> int:
        """The most bytes that values of the optimised program hold at one time."""
        return self.after.peak_bytes

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data that json can write."""
        return {
            "name": self.name,
            "flops_before": self.flops_before,
            "flops_after": self.flops_after,
            "peak_bytes_before": self.peak_bytes_before,
            "peak_bytes_after": self.peak_bytes_after,
            "passes": [
                {
                    "name": result.name,
                    "rewrites": result.rewrites,
                    "seconds": result.seconds,
                    "flops": result.after.flops,
                    "peak_bytes": result.after.peak_bytes,
                    "declined": [entry._asdict() for entry in result.declined],
                }
                for result in self.passes
            ],
            "contractions_before": [row._asdict() for row in self.contractions_before],
            "contractions_after": [row._asdict() for row in self.contractions_after],
            "unknown": list(self.unknown),
            "memory": None if self.memory is None else self.memory.to_dict(),
            "code_before": self.code_before,
            "code_after": self.code_after,
        }

    def to_markdown(self) -> str:
        """The report as Markdown: tables of passes and contractions, then the code before and after."""
        return "\n".join(self._lines(markdown=True))

    def __str__(self) -> str:
        return "\n".join(self._lines(markdown=False))

    def _lines(self, markdown: bool) -> list[str]:
        head, fence = ("## ", "```python") if markdown else ("", "")
        close = "```" if markdown else ""
        lines = [
            f"{'# ' if markdown else ''}einfx: {self.name}",
            "",
            f"FLOPs {_change(self.flops_before, self.flops_after)}",
            f"peak bytes {_change(self.peak_bytes_before, self.peak_bytes_after)}",
            "",
            f"{head}Passes",
            "",
        ]
        rows = [
            (result.name, str(result.rewrites), f"{1e3 * result.seconds:.1f}", f"{result.after.flops:,}")
            for result in self.passes
        ]
        lines += table(("pass", "rewrites", "ms", "FLOPs after"), rows, markdown)
        if self.memory is not None:
            bullet = "- " if markdown else "  "
            lines += ["", f"{head}Memory", "", *(f"{bullet}{line}" for line in self.memory.lines())]
        declined = [(result.name, entry) for result in self.passes for entry in result.declined]
        if declined or self.unknown:
            lines += ["", f"{head}Left as it was", ""]
            bullet = "- " if markdown else "  "
            lines += [f"{bullet}{name}: {entry.node}: {entry.reason}" for name, entry in declined]
            lines += [f"{bullet}shapes: {reason}" for reason in self.unknown]
        for title, contractions in (
            ("Contractions before", self.contractions_before),
            ("Contractions after", self.contractions_after),
        ):
            lines += ["", f"{head}{title}", ""]
            lines += table(
                ("node", "equation", "shapes", "FLOPs", "computed by"),
                [
                    (row.node, row.equation, _shapes(row.shapes), _number(row.flops), row.kernel)
                    for row in contractions
                ],
                markdown,
            )
        for title, code in (("Code before", self.code_before), ("Code after", self.code_after)):
            lines += [
                "",
                f"{head}{title}",
                "",
                *([fence] if fence else []),
                code,
                *([close] if close else []),
            ]
        return lines


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], markdown: bool = False) -> list[str]:
    r"""Rows of text in aligned columns, as Markdown on request.

    Example:
        >>> print("\n".join(table(("step", "FLOPs"), [("ij,jk->ik", "48")])))
        step       FLOPs
        ij,jk->ik  48
    """
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]

    def line(cells: tuple[str, ...]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        return f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip()

    rule = [f"| {' | '.join('-' * width for width in widths)} |"] if markdown else []
    return [line(header), *rule, *(line(row) for row in rows)]


def contraction_rows(graph: fx.Graph) -> tuple[ContractionRow, ...]:
    """Every contraction of a graph, lowered ones included, in the order of computation."""
    rows = []
    lowered: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        whole = node.meta.get(LOWERED)
        if whole is not None:
            lowered.setdefault(whole.key, []).append(node)
    for node in graph.nodes:
        whole = node.meta.get(LOWERED)
        if whole is not None:
            parts = lowered.pop(whole.key, None)
            if parts:
                kernel = ", ".join(_called(part) for part in parts)
                rows.append(ContractionRow(parts[-1].name, whole.equation, whole.shapes, kernel, whole.flops))
            continue
        contraction, _ = read_with_bias(node)
        if contraction is None or len(contraction.operands) == 1:
            continue
        values = [value_of(operand) for operand in contraction.operands]
        known = tuple(value.shape for value in values if value is not None)
        complete = len(known) == len(values)
        flops = flops_of(contraction)
        rows.append(
            ContractionRow(
                node.name,
                str(contraction.equation),
                known if complete else None,
                _called(node) + _over(contraction),
                flops,
            )
        )
    return tuple(rows)


def _over(contraction: Contraction) -> str:
    return "" if contraction.options.is_plain else f" over {contraction.options.semiring.name}"


def _called(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _shapes(shapes: tuple[tuple[int, ...], ...] | None) -> str:
    return "unknown" if shapes is None else " ".join("x".join(map(str, shape)) or "()" for shape in shapes)


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _change(before: int, after: int) -> str:
    ratio = f" ({before / after:.2f}x less)" if before and after and before > after else ""
    return f"{before:,} -> {after:,}{ratio}"
