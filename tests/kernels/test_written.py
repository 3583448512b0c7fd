"""Calls that a lowering emits become a function."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from einfx.kernels.written import Written


def test_calls_are_made_in_the_order_in_which_they_were_emitted() -> None:
    written = Written(2)
    a, b = written.operands
    turned = written.emit(torch.permute, a, (1, 0))
    function = written.function(written.emit(torch.mm, turned, b))
    x, y = torch.randn(3, 2), torch.randn(3, 4)
    torch.testing.assert_close(function(x, y), x.T @ y)


def test_what_no_later_call_takes_is_freed_before_the_next_one() -> None:
    made: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def step(x: Tensor) -> Tensor:
        alive.append(sum(known() is not None for known in made))
        result = x + 1
        made.append(weakref.ref(result))
        return result

    written = Written(1)
    value = written.operands[0]
    for _ in range(5):
        value = written.emit(step, value)
    assert written.function(value)(torch.zeros(3)).tolist() == [5.0] * 3
    assert alive == [0, 1, 1, 1, 1]
