"""How far results are apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from einfx.demo.equality import difference, own_copies, tolerance

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (torch.ones(2), torch.ones(3)),
        (torch.ones(2), torch.ones(2, dtype=torch.float64)),
        (torch.tensor([1]), torch.tensor([2])),
        (torch.tensor([1.0, NAN]), torch.tensor([1.0, 2.0])),
        (torch.tensor([1.0, INF]), torch.tensor([1.0, -INF])),
        (torch.tensor([1.0, INF]), torch.tensor([1.0, NAN])),
        ((torch.ones(2),), (torch.ones(2), torch.ones(2))),
        (1.0, torch.ones(())),
    ],
)
def test_what_is_not_comparable_is_infinitely_far(result: Any, expected: Any) -> None:
    assert difference(result, expected) == INF


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(2),
        torch.tensor([INF, -INF, NAN, 1.0]),
        torch.ones(0),
        torch.tensor([True]),
        {"a": (1, None)},
    ],
)
def test_every_result_is_at_no_distance_from_itself(value: Any) -> None:
    assert difference(value, value) == 0.0


def test_the_difference_is_relative_to_the_largest_entry() -> None:
    assert difference(torch.tensor([4.0, 1.0]), torch.tensor([4.0, 2.0])) == 0.25


def test_rounding_explains_more_in_a_coarser_dtype() -> None:
    assert tolerance(torch.ones(1, dtype=torch.float64)) == 1e-12
    assert tolerance((torch.ones(1), torch.ones(1, dtype=torch.float64))) > 1e-6
    assert tolerance(torch.ones(1, dtype=torch.int64)) == 1e-12


def test_own_copies_share_no_memory_and_keep_integers() -> None:
    inputs = (torch.ones(2), {"k": torch.ones(2, dtype=torch.int64)}, 3)
    copies = own_copies(inputs, double=True)
    assert copies[0].dtype is torch.float64
    assert copies[1]["k"].dtype is torch.int64
    assert own_copies(inputs)[0].data_ptr() != inputs[0].data_ptr()
    assert copies[2] == 3
