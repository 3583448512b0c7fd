"""A tensor contracted with itself has the value that torch's einsum gives."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from einfx.conv.windows.second_moment import second_moment, sum_moments
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(
    ("batch", "side", "summed"),
    [(1, 5, 7), (3, 5, 7), (1, 256, 40), (1, 600, 99), (1, 513, 8), (2, 300, 50)],
)
def test_moments_are_summed_over_parts(batch: int, side: int, summed: int, dtype: torch.dtype) -> None:
    parts = [torch.randn(batch, side, n, dtype=dtype) for n in (summed, 1, summed + 3)]
    expected = torch.stack([0.25 * part @ part.mT for part in parts]).sum(0)
    assert close(sum_moments(parts, 0.25), expected)
    assert close(sum_moments([part.mT.contiguous().mT for part in parts]), 4 * expected)


def test_moments_of_parts_are_differentiated() -> None:
    x = torch.randn(1, 4, 6, dtype=torch.float64, requires_grad=True)

    def moments(x: torch.Tensor) -> torch.Tensor:
        return sum_moments(x.split(2, 2), 0.5)

    assert torch.autograd.gradcheck(moments, (x,), check_forward_ad=True, check_batched_grad=True)
    large = torch.randn(1, 300, 50, dtype=torch.float64, requires_grad=True)
    assert close(moments(large), 0.5 * large @ large.mT)


def test_no_part_is_kept_while_the_next_one_is_made() -> None:
    parts = [torch.randn(1, 2, 3) for _ in range(3)]
    alive: list[weakref.ref[torch.Tensor]] = []

    def made() -> Iterator[torch.Tensor]:
        for part in parts:
            assert all(reference() is None for reference in alive)
            copy = part.clone()
            alive.append(weakref.ref(copy))
            yield copy
            del copy

    assert close(sum_moments(made()), torch.stack([part @ part.mT for part in parts]).sum(0), 1e-5)


def test_nothing_summed_is_zero() -> None:
    assert torch.equal(sum_moments([torch.empty(1, 300, 0)], 0.5), torch.zeros(1, 300, 300))
    assert torch.equal(sum_moments([torch.empty(2, 3, 0)], 0.5), torch.zeros(2, 3, 3))


def test_numbers_scale_moments_once() -> None:
    x, number = torch.randn(6, 4, dtype=torch.float64), torch.tensor(-0.5, dtype=torch.float64)
    got = second_moment([x, x, number, number], [[0, 1], [0, 2], [], []], [1, 2], 3.0)
    assert got is not None
    assert close(got, 0.75 * x.T @ x)
    number.requires_grad_()
    scaled = second_moment([x, x, number], [[0, 1], [0, 2], []], [1, 2])
    assert scaled is not None
    (gradient,) = torch.autograd.grad(scaled.sum(), number)
    assert close(gradient, (x.T @ x).sum())
