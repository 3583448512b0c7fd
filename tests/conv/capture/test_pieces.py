"""The nodes that a convolution can be joined with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from einfx.conv.capture.pieces import Piece, pieces_of
from einfx.graphs.shapes import propagate


def read(program: Any) -> tuple[dict[str, Piece], list[str]]:
    traced = fx.symbolic_trace(program)
    propagate(traced, (torch.randn(2, 4, 6, 5),))
    pieces, unread = pieces_of(traced.graph, traced)
    return {node.name: piece for node, piece in pieces.items()}, list(unread.values())


def test_every_kind_of_piece_is_read() -> None:
    linear = nn.Linear(5, 3)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = linear

        def forward(self, x: torch.Tensor) -> Any:
            y = self.linear(-x).permute(0, 2, 3, 1).flatten(1)
            return y.view(y.size(0), -1) @ y.t() + F.avg_pool2d(x, 2).mean()

    pieces, unread = read(Model())
    assert set(pieces) == {"neg", "linear", "permute", "flatten", "view", "t", "matmul", "avg_pool2d"}
    assert unread == []
    assert [name for name, piece in pieces.items() if piece.is_view] == ["permute", "flatten", "view", "t"]
    assert [name for name, piece in pieces.items() if piece.has_windows] == ["avg_pool2d"]
    assert pieces["linear"].bias == "linear.bias"


@pytest.mark.parametrize(
    "program",
    [
        lambda x: x.relu(),
        lambda x: x + 1,
        lambda x: x @ torch.ones(1, 5, 5),  # a matrix that broadcasts
        lambda x: x.reshape(x.size(0) * 4, -1),
        lambda x: F.max_pool2d(x, 2),
        lambda x: x.mean(),
    ],
)
def test_other_operations_are_none(program: Any) -> None:
    pieces, unread = read(program)
    assert pieces == {}
    assert unread == []


def test_windows_that_cannot_be_read_say_why() -> None:
    _, unread = read(lambda x: F.avg_pool2d(x, 2, ceil_mode=True))
    assert ["ceil_mode" in reason for reason in unread] == [True]
