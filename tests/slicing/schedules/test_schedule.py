"""A schedule is data: it prints as a program, and its text gives it back."""

from __future__ import annotations

import pytest

from einfx.errors import PlanError
from einfx.slicing.schedules.adjoint import adjoint
from einfx.slicing.schedules.schedule import Schedule
from einfx.slicing.schedules.tree import schedule
from tests.slicing.networks import network


@pytest.mark.parametrize("seed", range(0, 60, 4))
def test_the_text_of_a_schedule_gives_it_back(seed: int) -> None:
    _, tree, cuts, operands = network(seed)
    made = schedule(tree, cuts)
    assert Schedule.from_text(made.to_text()) == made
    back = adjoint(made, [True] * len(operands))
    assert Schedule.from_text(back.to_text()) == back


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", '[[], [], 0, [], [["jump", 1]]]'])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="isn't the text of a schedule"):
        Schedule.from_text(text)
