"""The benchmark of semirings times what it says it does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks import semirings
from einfx.kernels.log_sums import log_sums


def test_a_result_is_a_share_of_the_real_product(monkeypatch: pytest.MonkeyPatch) -> None:
    case = semirings.Case("twice", lambda: {"torch": lambda: None, "einfx": lambda: [None, None]})
    monkeypatch.setattr(semirings, "CASES", (case,))
    (result,) = semirings.run([1], budget_seconds=0.0)
    assert result.line().startswith("twice")
    assert result.share().median > 0


@pytest.mark.parametrize(
    ("make", "least", "most"), [(semirings.few_unsafe, 0.005, 0.02), (semirings.all_unsafe, 0.99, 1.0)]
)
def test_operands_are_as_unsafe_as_their_names_say(
    make: Callable[[int], tuple[Tensor, Tensor]], least: float, most: float
) -> None:
    a, b = make(128)
    _, sums = log_sums(a, b, False)
    assert least <= float((sums == 0).float().mean()) <= most


def test_padded_chains_stay_where_they_are_past_their_length() -> None:
    first, _ = semirings.padded_chains(states=3)
    assert torch.equal(first[30], torch.eye(3).sub(1).mul(1e5))
