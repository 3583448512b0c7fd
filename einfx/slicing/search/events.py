"""What skeletons are made from, and what they tell."""

from __future__ import annotations

from typing import NamedTuple

from ..running.work import Work
from ..schedules.schedule import Adjoint, Contract

__all__ = ["Buffer", "Event", "Held", "Lengths", "Line", "Taken", "Works"]

Lengths = tuple[int, ...]


class Works:
    """What lines take, remembered from one skeleton to the next.

    Attributes:
        lines: for each kind of line, whatever its labels are called, what it takes by the lengths on which
            it depends.
        places: what a line with these labels takes for operands in these places.
    """

    def __init__(self) -> None:
        self.lines: dict[tuple[object, ...], dict[Lengths, Work]] = {}
        self.places: dict[tuple[object, ...], Work] = {}


class Taken(NamedTuple):
    """What a schedule takes with blocks of some lengths.

    Attributes:
        bytes: the most that is in use at a time, outputs and workspace included; what torch allocates for
            some line is beside everything else.
        seconds: predicted time.
        over: the sum, over the lines that take more than a limit, of the logarithm of how many times more.
        moment: the line that takes the most, or for which torch allocates most, where that is more.
    """

    bytes: int
    seconds: float
    over: float
    moment: int


class Held(NamedTuple):
    """A buffer, or the workspace of a line, at some moment.

    Attributes:
        value: of the schedule; -1 for the workspace.
        bytes: its size.
        whole: the labels that it has in their whole length.
        cut: the numbers of the cuts that make it shorter.
    """

    value: int
    bytes: int
    whole: tuple[int, ...]
    cut: tuple[int, ...]


class Buffer(NamedTuple):
    """Memory of a value.

    Attributes:
        value: whose it is.
        lengths: the index of the length of each dimension.
        strides: of an operand.
        source: where it is loaded from, in what order its dimensions lie; -1 where they lie in their own.
        elsewhere: whether its bytes count nothing, or elsewhere.
    """

    value: int
    lengths: Lengths
    strides: tuple[int, ...] | None = None
    source: int = -1
    elsewhere: bool = False


class Line(NamedTuple):
    """A line that contracts.

    Attributes:
        line: as it stands in the schedule.
        kind: what it has in common with other lines that take the same for the same places.
        values: those that it reads and writes, each with its buffer and the indices of the lengths of its
            dimensions.
        varying: the indices of lengths on which it depends.
        known: what it takes, by these lengths.
    """

    line: Contract | Adjoint
    kind: tuple[object, ...]
    values: tuple[tuple[int, int, Lengths], ...]
    varying: Lengths
    known: dict[Lengths, Work]


class Event(NamedTuple):
    """A step of the program.

    Attributes:
        buffers: how many come (1, 2) or go (-1, -2); 0 where it's a line that contracts or copies.
        buffer: which; -1 for a line that contracts.
        nest: in which loops.
        filled: whether a buffer that comes is filled.
        line: that contracts.
        moved: the indices of lengths of what is copied.
    """

    buffers: int
    buffer: int
    nest: int
    filled: bool = False
    line: Line | None = None
    moved: Lengths = ()
