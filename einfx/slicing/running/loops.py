"""Walking the loops of a schedule, each of whose bodies is prepared once for every length of its block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from ...progress import Progress
from ..schedules.schedule import Loop, Schedule, Statement
from .moving import Moving
from .parts import Part, Rounds, Step, Views

__all__ = ["Looping", "line_count"]


class Body(Protocol):
    """What runs the lines of a schedule.

    Attributes:
        schedule: the program.
        views: what its lines read and write.
        progress: who is told of every block.
        moment: the number of the next line that is prepared.
        moving: what loads and stores, if anything does.
    """

    schedule: Schedule
    views: Views
    progress: Progress
    moment: int
    moving: Moving | None

    def steps(self, line: Statement, scope: dict[int, Part], rounds: Rounds | None) -> Iterable[Step]:
        """What a line does in every round."""


class Looping:
    """A loop, as what is done in every round of those around it.

    What it does in a round of its own is prepared when it first gets there: a loop may have blocks of two
    lengths, and so may those around it.

    Args:
        running: what runs its lines.
        line: the loop.
        scope: the values that are there when it begins, or their current blocks.
        outer: the rounds of the loop around.
        moment: the number of its first line.
    """

    def __init__(
        self, running: Body, line: Loop, scope: Mapping[int, Part], outer: Rounds | None, moment: int
    ) -> None:
        self.running, self.line, self.moment = running, line, moment
        self.scope = dict(scope)
        size = running.schedule.sizes[line.label]
        whole = size // line.block
        lengths = (
            Rounds(line.label, range(0, whole * line.block, line.block), line.block, outer),
            Rounds(line.label, range(whole * line.block, size, line.block), size % line.block, outer),
        )
        self.rounds = [rounds for rounds in lengths if rounds.starts]
        self.bodies: list[list[Step]] = []
        self.leaf = not any(isinstance(inner, Loop) for inner in line.body)

    def __call__(self) -> None:
        """Go through all rounds."""
        running = self.running
        progress, now, moving = running.progress, running.views.now, running.moving
        if moving is not None:
            moving.enter(self.line)
        for number, rounds in enumerate(self.rounds):
            rounds.enter()
            if number == len(self.bodies):
                self.bodies.append(self._prepared(rounds))
            steps = self.bodies[number]
            for start in rounds.starts:
                rounds.go(start, now)
                for step in steps:
                    step()
                if self.leaf:
                    progress.computed()
        if moving is not None:
            moving.leave(self.line)

    def _prepared(self, rounds: Rounds) -> list[Step]:
        running, label = self.running, self.line.label
        labels, scope = running.schedule.labels, self.scope
        inside = {
            value: part.block(labels[value].index(label), rounds) if label in labels[value] else part
            for value, part in scope.items()
        }
        before, running.moment = running.moment, self.moment
        steps = [step for line in self.line.body for step in running.steps(line, inside, rounds)]
        running.moment = before
        if len(self.bodies) + 1 == len(self.rounds):
            self.scope = {}
        return steps


def line_count(statements: Sequence[Statement]) -> int:
    """How many lines there are, loops not counted."""
    return sum([line_count(line.body) if isinstance(line, Loop) else 1 for line in statements])
