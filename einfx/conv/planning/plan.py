"""A plan of a contraction with patterns: steps, and what they are predicted to cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...machine import item_bytes
from ...pattern import IndexPattern
from ...plans import size_text
from ..steps.step import ConvStep
from ..symbolic.network import Network

__all__ = ["ConvPlan", "costed"]


@dataclass(frozen=True)
class ConvPlan:
    """A contraction with patterns as steps, with what they are predicted to cost.

    Args:
        network: what is planned: that of the caller, or one of the same result with other patterns.
        dtype: of its tensors.
        device: where it is computed, as text.
        steps: what to compute, in this order: operands are numbered 0 to n-1, patterns among them, and step i
            makes value n+i; the last value is the result.
        flops: multiplications and additions of all steps.
        peak_bytes: the most that is allocated beside the operands at any time, the result included.
        seconds: predicted time.

    Example:
        >>> from ..symbolic.network import network
        >>> from .search import plan_network
        >>> from ..symbolic.views import View
        >>> x, p, w = View(0, (8, 64, 32, 32)), IndexPattern(32, 3, padding=1), View(1, (64, 64, 3, 3))
        >>> plan = plan_network(network(["ncij", "koi", "lpj", "dckl"], "ndop", x, p, p, w))
        >>> [(step.operands, step.kind) for step in plan.steps]
        [((0, 1, 2, 3), 'conv2d')]
    """

    network: Network
    dtype: torch.dtype
    device: str
    steps: tuple[ConvStep, ...]
    flops: int
    peak_bytes: int
    seconds: float

    def run(self, values: Sequence[Tensor | IndexPattern | None], like: Tensor | None = None) -> Tensor:
        """Compute it.

        Args:
            values: what :meth:`.Network.bind` gives for the caller's tensors; patterns aren't read.
            like: a tensor of the dtype and on the device of all.
        """
        alive: list[Any] = list(values)
        if like is None:
            like = next(value for value in values if isinstance(value, Tensor))
        last = {number: i for i, step in enumerate(self.steps) for number in step.operands}
        for i, step in enumerate(self.steps):
            alive.append(step.lowering.run([alive[number] for number in step.operands], like))
            for number in step.operands:
                if last[number] == i:
                    alive[number] = None
        result: Tensor = alive[-1]
        return result

    def __str__(self) -> str:
        lines = [
            f"{self.network}  ({str(self.dtype).removeprefix('torch.')} on {self.device})",
            f"FLOPs {self.flops:.3e}, peak {size_text(self.peak_bytes)}, predicted "
            f"{self.seconds * 1e6:,.1f} us",
        ]
        rows = [("value", "operands", "step", "lowered to", "FLOPs", "us")]
        first = len(self.network.operands)
        for i, step in enumerate(self.steps):
            rows.append(
                (
                    str(first + i),
                    ", ".join(map(str, step.operands)),
                    step.network.text,
                    step.kind,
                    f"{step.lowering.cost.flops:.3e}",
                    f"{step.lowering.cost.seconds * 1e6:,.1f}",
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            lines.append(
                "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            )
        return "\n".join(lines)


def costed(network: Network, dtype: torch.dtype, device: str, steps: tuple[ConvStep, ...]) -> ConvPlan:
    """The plan of some steps, with what they cost together.

    Args: as of :class:`ConvPlan`.
    """
    count, item = len(network.operands), item_bytes(dtype)
    last = {number: i for i, step in enumerate(steps) for number in step.operands}
    alive: dict[int, int] = {}
    peak = 0
    for i, step in enumerate(steps):
        cost = step.lowering.cost
        peak = max(peak, sum(alive.values()) + cost.workspace_bytes)
        alive[count + i] = item * prod(step.lowering.shape)
        for number in step.operands:
            if last[number] == i:
                alive.pop(number, None)
    return ConvPlan(
        network,
        dtype,
        device,
        steps,
        sum(step.lowering.cost.flops for step in steps),
        peak,
        sum(step.lowering.cost.seconds for step in steps),
    )
