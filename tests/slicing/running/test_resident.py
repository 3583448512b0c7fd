"""What is freed while a schedule runs never adds up to more than the schedule may hold."""

from __future__ import annotations

import sys

import pytest
import torch

import einfx
from einfx.free_memory import give_back, resident_bytes
from einfx.slicing.running import resident
from einfx.slicing.running.memory import Demand
from einfx.slicing.running.resident import REPEATED_BYTES, SLACK_BYTES, Resident

MIB = 1 << 20


class System:
    """A process whose allocator keeps everything that is freed until it is asked to give it back."""

    def __init__(self) -> None:
        self.used = 500 * MIB
        self.kept = 0
        self.asked = 0

    def resident(self) -> int:
        return self.used + self.kept

    def give_back(self) -> None:
        self.asked += 1
        self.kept = 0


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    made = System()
    monkeypatch.setattr(resident, "resident_bytes", made.resident)
    monkeypatch.setattr(resident, "give_back", made.give_back)
    monkeypatch.setattr(resident, "_left", 0)
    return made


def _demand(arena: int, outputs: int, apart: int) -> Demand:
    return Demand(peak_bytes=arena + outputs + apart, output_bytes=outputs, apart_bytes=apart)


def _line(watched: Resident, system: System, moment: int, size: int, reused: int = 0) -> int:
    """Run a line that takes memory of its own; returns the most that is resident meanwhile."""
    watched.before(moment)
    system.kept -= min(reused, system.kept)
    system.used += size
    most = system.resident()
    system.used -= size
    system.kept += size
    watched.after(moment)
    return most


@pytest.mark.parametrize("size", [1, 3, 12, 30])
def test_what_lines_free_is_given_back_before_it_is_too_much(system: System, size: int) -> None:
    arena, outputs, apart = 60 * MIB, 0, 30 * MIB
    watched = Resident(_demand(arena, outputs, apart), {0: size * MIB}, arena)
    watched.take(arena)
    system.used += arena
    limit = arena + apart
    for _ in range(50):
        # Nothing that was freed is ever used again.
        most = _line(watched, system, 0, size * MIB) - 500 * MIB
        assert most <= 1.05 * limit + 16 * MIB + size * MIB
        assert system.resident() - 500 * MIB <= 1.025 * limit + SLACK_BYTES


def test_what_is_used_again_stays(system: System) -> None:
    arena, apart = 60 * MIB, 24 * MIB
    watched = Resident(_demand(arena, 0, apart), {0: apart, 1: 8 * MIB}, arena)
    watched.take(arena)
    system.used += arena
    for _ in range(50):
        _line(watched, system, 0, apart, reused=apart)
        _line(watched, system, 1, 8 * MIB, reused=8 * MIB)
    assert system.asked <= 1


def test_what_a_limit_has_room_for_stays(system: System) -> None:
    arena, apart = 60 * MIB, 30 * MIB
    watched = Resident(_demand(arena, 0, apart), {0: apart, 1: 20 * MIB}, arena, 150 * MIB)
    watched.take(arena)
    system.used += arena
    for _ in range(50):
        assert _line(watched, system, 0, apart, reused=apart) <= 650 * MIB
        assert _line(watched, system, 1, 20 * MIB, reused=20 * MIB) <= 650 * MIB
    assert system.asked == 0


def test_a_line_that_ran_before_exceeds_a_little_at_most(system: System) -> None:
    arena, apart = 60 * MIB, 30 * MIB
    watched = Resident(_demand(arena, 0, apart), {0: apart}, arena)
    watched.take(arena)
    system.used += arena
    for _ in range(50):
        # It never finds its own gaps again.
        most = _line(watched, system, 0, apart) - 500 * MIB
        assert most <= (1 + 1 / 80 + 1 / 32) * (arena + apart) + SLACK_BYTES + REPEATED_BYTES + apart // 2


def test_a_line_that_takes_more_than_those_before_finds_room(system: System) -> None:
    arena, apart = 60 * MIB, 30 * MIB
    watched = Resident(_demand(arena, 0, apart), {0: 20 * MIB, 1: apart}, arena)
    watched.take(arena)
    system.used += arena
    _line(watched, system, 0, 20 * MIB)
    # Its block doesn't fit into the gaps that the other left.
    most = _line(watched, system, 1, apart)
    assert most - 500 * MIB <= 1.025 * (arena + apart) + SLACK_BYTES


def test_what_an_earlier_schedule_left_counts_for_the_next(system: System) -> None:
    first = Resident(_demand(0, 0, 80 * MIB), {0: 80 * MIB}, 0)
    _line(first, system, 0, 80 * MIB)
    first.close()
    assert system.kept == 80 * MIB
    # Gradients that take nearly the limit, after a forward pass of many temporaries.
    Resident(_demand(MIB, 330 * MIB, 0), {}, MIB)
    assert system.kept == 0


def test_buffers_and_outputs_are_no_reason_to_give_anything_back(system: System) -> None:
    arena, outputs = 200 * MIB, 100 * MIB
    watched = Resident(_demand(arena, outputs, MIB), {0: MIB}, arena)
    for part in range(10):
        watched.take(arena * (part + 1) // 10)
        watched.make(outputs // 10)
        system.used += (arena + outputs) // 10
        _line(watched, system, 0, MIB, reused=MIB)
    assert system.asked == 0


def test_what_others_take_meanwhile_is_asked_for_once(system: System) -> None:
    watched = Resident(_demand(0, 0, 10 * MIB), {0: 10 * MIB}, 0)
    system.used += 300 * MIB
    for _ in range(20):
        _line(watched, system, 0, 10 * MIB, reused=10 * MIB)
    assert system.asked <= 2


def test_a_system_that_tells_nothing_is_left_alone(monkeypatch: pytest.MonkeyPatch, system: System) -> None:
    monkeypatch.setattr(resident, "resident_bytes", lambda: None)
    watched = Resident(_demand(0, 0, MIB), {0: 90 * MIB}, 0)
    _line(watched, system, 0, 90 * MIB)
    watched.close()
    assert system.asked == 0


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is resident")
def test_what_blocks_of_a_contraction_lie_in_is_gone_when_it_is_done() -> None:
    x = torch.randn(1200, 1200)
    limit = 30 * MIB
    plan = einfx.contract_path("ij,jk,kl->il", x, x, x, memory_limit=limit)
    assert plan.peak_bytes - x.nbytes > 4 * MIB
    result = einfx.einsum("ij,jk,kl->il", x, x, x, memory_limit=limit)
    # Freed blocks of less than 32 MiB stay in the heap from now on.
    del result
    spare = torch.ones(31 << 18)
    del spare
    give_back()
    before = resident_bytes()
    result = einfx.einsum("ij,jk,kl->il", x, x, x, memory_limit=limit)
    after = resident_bytes()
    assert before is not None
    assert after is not None
    assert after - before <= result.nbytes + 3 * MIB
