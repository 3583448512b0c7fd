"""Margins are torch's padding, wherever torch has it."""

from __future__ import annotations

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from einfx.conv.windows.margins import with_margins

SIDE = st.integers(-5, 5)


@given(st.tuples(SIDE, SIDE), st.tuples(SIDE, SIDE))
def test_margins_are_what_indices_say(first: tuple[int, int], second: tuple[int, int]) -> None:
    x = torch.arange(1.0, 13.0).reshape(1, 3, 4)
    sizes = (3 + sum(first), 4 + sum(second))
    assume(min(sizes) >= 0)
    expected = torch.zeros(1, *sizes)
    for i in range(sizes[0]):
        for j in range(sizes[1]):
            row, column = i - first[0], j - second[0]
            if 0 <= row < 3 and 0 <= column < 4:
                expected[0, i, j] = x[0, row, column]
    assert torch.equal(with_margins(x, 1, [first, second]), expected)


def test_margins_of_a_dimension_in_front_leave_the_others_alone() -> None:
    x = torch.ones(2, 3)
    assert with_margins(x, 0, [(1, 0)]).tolist() == [[0, 0, 0], [1, 1, 1], [1, 1, 1]]
    assert with_margins(x, 0, [(0, 0)]) is x
