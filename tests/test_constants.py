"""Constants that the caller names are folded, and folded again when they change; nothing else ever is."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import torch
from torch import nn

import einfx
from tests.equivalence import check_optimised
from tests.measuring import multiplications
from tests.program import tensor
from tests.rewriting import assert_same

E = torch.einsum
N = 32
X = tensor((N, N), seed=1)


class Rotation(nn.Module):
    """A product of two buffers and a frozen parameter, before the input and a parameter that trains."""

    p: torch.Tensor
    q: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("p", tensor((N, N), seed=2) / N)
        self.register_buffer("q", tensor((N, N), seed=3) / N, persistent=False)
        self.r = nn.Parameter(tensor((N, N), seed=4) / N, requires_grad=False)
        self.w = nn.Parameter(tensor((N,), seed=5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return E("bi,ij,jk,kl->bl", x, 2 * self.p, self.q, self.r / 3) * self.w


NAMES = ("p", "q", "r")


def folded(model: nn.Module | None = None) -> einfx.OptimizedModule:
    return einfx.optimize(model or Rotation(), (X,), constants=NAMES)


def test_named_constants_are_contracted_ahead_of_the_call() -> None:
    check_optimised(Rotation(), X, gradients=True, constants=NAMES)
    optimised = folded()
    optimised(X)
    assert multiplications(optimised, X) <= N**3 + N**2
    assert multiplications(Rotation(), X) >= 3 * N**3


def test_folded_constants_are_in_no_state_dict() -> None:
    assert list(folded().state_dict()) == list(Rotation().state_dict())
    names = {name for name, _ in folded().named_parameters()}
    assert names == {name for name, _ in Rotation().named_parameters()}


def test_constants_that_are_loaded_are_folded_again() -> None:
    optimised, other = folded(), Rotation()
    optimised(X)
    with torch.no_grad():
        other.p.mul_(3)
        other.r.add_(1)
    optimised.load_state_dict(other.state_dict())
    assert_same(optimised(X), other(X))
    optimised.load_state_dict(Rotation().state_dict(), assign=True)
    assert_same(optimised(X), Rotation()(X))


def test_constants_that_are_written_in_place_are_folded_again() -> None:
    model = Rotation()
    optimised: Any = folded(model)
    optimised(X)
    with torch.no_grad():
        model.q[0].zero_()
        model.r.mul_(2)
    assert_same(optimised(X), model(X))
    model.p.data = model.p.data * 2
    assert_same(optimised(X), model(X))


def test_constants_that_are_replaced_are_folded_again() -> None:
    optimised: Any = folded()
    optimised(X)
    other = Rotation()
    replacement = tensor((N, N), seed=9)
    optimised.p, other.p = replacement, replacement
    assert_same(optimised(X), other(X))


def test_constants_that_are_converted_are_folded_again() -> None:
    optimised = folded()
    optimised(X)
    single = optimised.float()
    assert single(X.float()).dtype is torch.float32
    assert_same(single(X.float()), Rotation().float()(X.float()))
    assert_same(single.double()(X), Rotation().float().double()(X))


def test_copies_fold_their_own_constants() -> None:
    optimised = folded()
    copies: list[Any] = [copy.deepcopy(optimised), pickle.loads(pickle.dumps(optimised))]
    for duplicate in copies:
        other = Rotation()
        with torch.no_grad():
            duplicate.p.mul_(5)
            other.p.mul_(5)
        assert_same(duplicate(X), other(X))
        assert_same(optimised(X), Rotation()(X))


def test_state_that_is_not_named_is_never_frozen() -> None:
    model = Rotation()
    for names in ((), ("p",), ("q", "r")):
        optimised = einfx.optimize(model, (X,), constants=names)
        optimised(X)
        with torch.no_grad():
            for value in (model.p, model.q, model.r, model.w):
                value.mul_(1.25)
        assert_same(optimised(X), model(X))


def test_tensors_of_a_closure_and_tensors_made_by_the_program_are_constants() -> None:
    constant = tensor((N, N), seed=6)

    def program(x: torch.Tensor) -> torch.Tensor:
        return E("bi,ij,jk->bk", x, constant, torch.eye(N, dtype=torch.float64)) * torch.tensor(2.0)

    check_optimised(program, X, gradients=True)
