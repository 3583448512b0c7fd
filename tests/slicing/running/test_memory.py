"""Arenas: buffers that are there at the same time lie beside one another."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from einfx.slicing.running.memory import Interval, arena


@pytest.mark.parametrize("count", [50, 900, 5000])
def test_buffers_of_an_arena_lie_beside_one_another(count: int) -> None:
    pick = random.Random(count)
    intervals = []
    for value in range(count):
        first = pick.randrange(count)
        intervals.append(Interval(value, first, first + pick.randint(0, 20), pick.randint(1, 4000)))
    found = arena(intervals)
    places = {x.value: range(found.offsets[x.value], found.offsets[x.value] + x.bytes) for x in intervals}
    assert max(place.stop for place in places.values()) <= found.bytes
    assert all(place.start % 64 == 0 for place in places.values())
    most = 0
    for moment in range(0, count + 20, 1 + count // 100):
        there = [places[x.value] for x in intervals if x.first <= moment <= x.last]
        there.sort(key=lambda place: place.start)
        assert all(one.stop <= other.start for one, other in pairwise(there))
        most = max(most, sum(map(len, there)))
    # Gaps take less than what is in use.
    assert found.bytes < 2 * most
