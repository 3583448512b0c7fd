"""The comparison of a model with its optimised form."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from einfx.demo.reload import run_in_fresh_process
from einfx.demo.run import ModelError, compare, describe


class Counting(nn.Module):
    """A model with state that a call changes."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.calls.add_(1)
        x.mul_(2)
        return torch.einsum("ij,jk->ik", x, y) + self.calls


def test_comparing_changes_neither_the_model_nor_its_inputs() -> None:
    model, inputs = Counting(), (torch.ones(2, 3), torch.ones(3, 4))
    comparison = compare(model, inputs, seconds=0.0)
    assert comparison.equal, describe(comparison)
    assert model.calls == 0
    assert torch.equal(inputs[0], torch.ones(2, 3))


def test_a_model_that_fails_by_itself_is_told_apart() -> None:
    with pytest.raises(ModelError, match="fails on its example inputs: _LinAlgError"):
        compare(lambda x: torch.linalg.cholesky(x), (-torch.eye(3),), seconds=0.0)


def test_a_wrong_result_is_called_different() -> None:
    comparison = compare(lambda x: torch.einsum("ij->i", x), (torch.ones(2, 3),), seconds=0.0)
    assert comparison.equal
    wrong = type(comparison)(**{**vars(comparison), "float64_difference": math.inf})
    assert not wrong.equal
    assert "DIFFERS" in describe(wrong)


def test_the_fresh_process_has_no_einfx(tmp_path: Path) -> None:
    file = tmp_path / "program.pt"
    torch.jit.save(torch.jit.trace(lambda x: x + 1, torch.ones(2)), str(file))
    assert torch.equal(run_in_fresh_process(file, (torch.ones(3),)), torch.full((3,), 2.0))
    with pytest.raises(RuntimeError, match="reloaded program failed"):
        run_in_fresh_process(tmp_path / "absent.pt", ())


def test_a_model_within_a_limit_is_compared_within_one() -> None:
    def triangles(a: Tensor) -> Tensor:
        return torch.einsum("ij,jk,ki->", a, a, a)

    found = compare(triangles, (torch.randn(60, 60),), memory_limit="8 KiB", seconds=0.01)
    assert found.numbers_equal
    assert found.report.memory is not None
    assert found.report.memory.bytes_after <= 8192
    assert found.report.memory.cuts
