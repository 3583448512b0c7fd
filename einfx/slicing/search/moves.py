"""Changes to the loops of a contraction that could help where the most memory is in use.

What is too large at some moment gets shorter by a loop over one of its labels around a value that it goes
into: anywhere between the one that it goes into itself and the one where the label is summed, for further up
nothing has it. A loop that is there may get shorter blocks, go further up or further out. A value that is
computed before a loop, being the same in each of its blocks, may be computed inside of it, block by block of
another loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ..schedules.schedule import Adjoint, Contract, Load, Loop, Schedule, Statement
from ..schedules.tree import ContractionTree, Cut
from .events import Held

__all__ = ["Loops", "Move", "moves", "origins"]

_SMALL = 8
"""What takes so many times less than the largest buffer of a moment is left as it is, ..."""

_MOST = 4
"""... and so is what comes after so many larger ones."""


class Loops(NamedTuple):
    """The loops of a contraction.

    Attributes:
        cuts: in the order in which those around one value are nested.
        repeated: the values that are computed again where loops further inside cut them, in ascending order;
            as -1 - value those that always are.
    """

    cuts: tuple[Cut, ...] = ()
    repeated: tuple[int, ...] = ()


class Move(NamedTuple):
    """A change.

    Attributes:
        loops: all of them afterwards.
        cut: which of the cuts is new, or to be refined, with the longest block to try; -1 where only the
            order has changed, or what is computed again.
    """

    loops: Loops
    cut: int


def origins(tree: ContractionTree, schedule: Schedule, moving: Sequence[bool] = ()) -> dict[int, int]:
    """For each value of a schedule, of a tree or of derivatives, the value of the tree that it belongs to.

    Args:
        tree: of the contraction.
        schedule: of the contraction, or of a derivative of it.
        moving: for each operand whether the derivative is one in a direction that it has a part in.

    Example:
        >>> from einfx.equation import Equation
        >>> from einfx.slicing.schedules.adjoint import adjoint
        >>> from einfx.slicing.schedules.tree import schedule
        >>> tree = ContractionTree(Equation.parse("ij,jk,kl->il"), (2, 3, 4, 5), ((0, 1), (2, 3)))
        >>> origins(tree, adjoint(schedule(tree), (True, False, True)))
        {0: 0, 1: 1, 2: 2, 6: 3, 3: 4, 5: 2, 7: 3, 4: 0}
    """
    made_of = {step: value for value, step in tree.children.items()}
    found = {value: value for value in range(tree.count)}
    found.update(enumerate((x for x, change in enumerate(moving) if change), tree.count))

    def walk(statements: Sequence[Statement]) -> None:
        for line in statements:
            if isinstance(line, Loop):
                walk(line.body)
            elif isinstance(line, Load) and line.source in found:
                found[line.target] = found[line.source]
            elif isinstance(line, (Contract, Adjoint)):
                value = made_of.get(tuple([found.get(x, -1) for x in line.operands]))
                if value is None:
                    continue
                if isinstance(line, Contract):
                    found[line.target] = value
                else:
                    found[line.gradient] = value
                    for operand, gradient in zip(line.operands, line.gradients, strict=True):
                        if gradient >= 0:
                            found[gradient] = found[operand]

    walk(schedule.statements)
    return found


def moves(
    tree: ContractionTree, loops: Loops, held: Sequence[Held], origin: Mapping[int, int], line: int
) -> list[Move]:
    """What could make the buffers of a moment smaller.

    Args:
        tree: of the contraction.
        loops: as they are.
        held: what is in use, the largest first.
        origin: the value of the tree to which each value belongs.
        line: the value of the tree that is computed at that moment, or whose gradient is; -1 if there's none.
    """
    found: dict[Move, None] = {}
    large = [x for x in held if x.bytes * _SMALL >= held[0].bytes][:_MOST]
    for buffer in large:
        for cut in buffer.cut:
            if loops.cuts[cut].block > 1:
                found[Move(loops, cut)] = None
        value = origin.get(buffer.value, -1)
        start = line if buffer.value < 0 else tree.parent.get(value, -1)
        if start < 0:
            continue
        for label in buffer.whole:
            for move in _cutting(tree, loops, value, start, label):
                found[move] = None
    return list(found)


def _cutting(tree: ContractionTree, loops: Loops, value: int, start: int, label: int) -> Iterator[Move]:
    """Loops over a label around a value or one of those that it goes into."""
    places = _places(tree, start, label)
    chain = {start, *tree.above(start)}
    inside = [cut for cut in loops.cuts if cut.label == label and cut.value in chain]
    again = tuple(sorted({*loops.repeated, value})) if value >= tree.count else loops.repeated
    if inside:
        # It is computed before that loop begins, since one further out doesn't change it.
        if again != loops.repeated:
            yield Move(loops._replace(repeated=again), -1)
        (cut,) = inside
        others = tuple(x for x in loops.cuts if x != cut)
        yield Move(Loops((cut, *others), loops.repeated), -1)
        return
    around = [cut for cut in loops.cuts if cut.value in chain]
    for place in places:
        # Loops over the label further down go up to this one.
        kept = tuple(
            x for x in loops.cuts if x.label != label or place not in (x.value, *tree.above(x.value))
        )
        new = Cut(place, label, tree.sizes[label])
        yield Move(Loops((new, *kept), loops.repeated), 0)
        if any(x.value == place for x in kept):
            yield Move(Loops((*kept, new), loops.repeated), len(kept))
        if around and again != loops.repeated:
            yield Move(Loops((*kept, new), again), len(kept))


def _places(tree: ContractionTree, start: int, label: int) -> list[int]:
    """Where a loop over a label is worth while, the lowest first; of many some."""
    found, value = [start], start
    while label in tree.labels[value] and value in tree.parent:
        value = tree.parent[value]
        found.append(value)
    if len(found) > 4:
        found = [found[0], found[1], found[len(found) // 2], found[-1]]
    return found
