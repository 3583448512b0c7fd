"""What a line of a schedule takes beside buffers, and over what it contracts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...options import Options
from .into import Into

__all__ = ["Work", "line_options"]


class Work(NamedTuple):
    """What a line takes beside buffers.

    Attributes:
        inside: bytes of the arena.
        apart: bytes that torch allocates.
        seconds: predicted time.
        flops: multiplications and additions.
    """

    inside: int = 0
    apart: int = 0
    seconds: float = 0.0
    flops: float = 0.0

    @classmethod
    def of(cls, how: Into) -> Work:
        """What writing a contraction into a buffer takes."""
        flops = how.kernel.cost.flops if how.kernel is not None else 0.0
        inside, apart = (how.workspace_bytes, 0) if how.matrices else (0, how.workspace_bytes)
        return cls(inside, apart, how.seconds, flops)

    def then(self, other: Work) -> Work:
        """One after the other."""
        most = max(self.inside, other.inside), max(self.apart, other.apart)
        return Work(*most, self.seconds + other.seconds, self.flops + other.flops)


def line_options(options: Options, operands: Sequence[int]) -> Options:
    """The options of a line.

    Args:
        options: of the whole contraction, whose ``linear_operands`` are values of the schedule.
        operands: the values that the line contracts.

    Example:
        >>> line_options(Options.read("log", linear_operands=(2,)), (5, 2)).linear_operands
        (1,)
    """
    if not options.linear_operands:
        return options
    return options.linear(*(i for i, value in enumerate(operands) if value in options.linear_operands))
