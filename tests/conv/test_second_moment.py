"""A tensor contracted with itself has the value that torch's einsum gives."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from einfx.conv.second_moment import second_moment
from tests.conv.reference import close


@given(st.lists(st.sampled_from(["batch", "summed", "own", "dropped"]), min_size=1, max_size=5), st.randoms())
def test_second_moments_are_einsums(roles: list[str], random: object) -> None:
    x = torch.randn([2 + i % 3 for i in range(len(roles))], dtype=torch.float64)
    first = list(range(len(roles)))
    second = [label if roles[label] in ("batch", "summed") else 10 + label for label in first]
    output = [label for label in first if roles[label] in ("batch", "own")]
    output += [10 + label for label in first if roles[label] == "own"]
    random.shuffle(output)  # type: ignore[attr-defined]
    got = second_moment([x, torch.tensor(0.5), x], [first, [], second], output)
    assert (got is None) == ("summed" not in roles)
    if got is not None:
        assert close(got, 0.5 * torch.einsum(x, first, x, second, output))


def test_other_contractions_are_left_alone() -> None:
    x = torch.ones(3, 3)
    assert second_moment([x, x], [[0, 1], [1, 2]], [0, 2]) is None
    assert second_moment([x, x], [[0, 1], [1, 0]], []) is None
    assert second_moment([x, x], [[0, 0], [1, 0]], [1]) is None
    assert second_moment([x, x, x], [[0, 1], [2, 1], [2, 3]], [0, 3]) is None
    assert second_moment([x], [[0, 1]], [0]) is None
