"""Whatever torch calls a contraction, it is read as the equation that it computes, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx

from einfx.graphs.shapes import propagate
from einfx.graphs.spellings import PRODUCTS, REDUCTIONS, VIEWS, broadcast_product, read
from tests.program import tensor
from tests.rewriting import assert_same

V, W = tensor((3,), seed=1), tensor((4,), seed=2)
M, N = tensor((2, 3), seed=3), tensor((3, 4), seed=4)
S, T = tensor((5, 2, 3), seed=5), tensor((5, 3, 4), seed=6)
Q = tensor((6, 5, 3, 4), seed=7)
Program = Callable[..., torch.Tensor]

TABLE: list[tuple[str, Program, tuple[torch.Tensor, ...]]] = [
    # matrix products
    ("ab,bc->ac", lambda a, b: a @ b, (M, N)),
    ("ab,bc->ac", lambda a, b: torch.matmul(a, b), (M, N)),
    ("ab,bc->ac", lambda a, b: torch.matmul(input=a, other=b), (M, N)),
    ("ab,bc->ac", lambda a, b: a.matmul(b), (M, N)),
    ("ab,bc->ac", lambda a, b: torch.mm(a, mat2=b), (M, N)),
    ("ab,bc->ac", lambda a, b: a.mm(b), (M, N)),
    ("a,a->", lambda a, b: a @ b, (V, V)),
    ("ab,b->a", lambda a, b: a @ b, (M, V)),
    ("a,ab->b", lambda a, b: a @ b, (V, N)),
    ("ab,b->a", lambda a, b: a.mv(b), (M, V)),
    ("ab,b->a", lambda a, b: torch.mv(input=a, vec=b), (M, V)),
    ("a,a->", lambda a, b: a.dot(b), (V, V)),
    ("a,a->", lambda a, b: torch.dot(a, tensor=b), (V, V)),
    ("abc,acd->abd", lambda a, b: torch.bmm(a, b), (S, T)),
    ("abc,acd->abd", lambda a, b: a @ b, (S, T)),
    ("abc,cd->abd", lambda a, b: a @ b, (S, N)),
    ("ab,cbd->cad", lambda a, b: a @ b, (M, T)),
    ("a,bac->bc", lambda a, b: a @ b, (V, T)),
    ("abc,c->ab", lambda a, b: a @ b, (S, V)),
    ("abc,dacf->dabf", lambda a, b: a @ b, (S, Q)),
    # other products
    ("ab,cb->ac", lambda a, b: torch.inner(a, b), (M, N.mT)),
    ("a,b->ab", lambda a, b: torch.outer(a, b), (V, W)),
    ("a,b->ab", lambda a, b: a.outer(vec2=b), (V, W)),
    ("a,b->ab", lambda a, b: torch.ger(a, b), (V, W)),
    ("ab,bc->ac", lambda a, b: torch.tensordot(a, b, 1), (M, N)),
    ("ab,bc->ac", lambda a, b: torch.tensordot(a, b, dims=1), (M, N)),
    ("ab,cd->abcd", lambda a, b: torch.tensordot(a, b, dims=0), (M, N)),
    ("abc,acd->bd", lambda a, b: torch.tensordot(a, b, dims=([0, 2], [0, 1])), (S, T)),
    ("abc,acd->bd", lambda a, b: torch.tensordot(a, b, dims=((-3, -1), (0, 1))), (S, T)),
    ("ab,bc->ac", lambda a, b: torch.tensordot(a, b, ([1], [0])), (M, N)),
    ("ab,cb->ac", lambda a, b: F.linear(a, b), (M, N.mT)),
    ("ab,cb->ac", lambda a, b: F.linear(input=a, weight=b, bias=None), (M, N.mT)),
    ("abc,dc->abd", lambda a, b: F.linear(a, b), (S, N.mT)),
    ("a,ba->b", lambda a, b: F.linear(a, b), (V, N.mT)),
    ("ab,b->a", lambda a, b: F.linear(a, b), (M, V)),
    ("ab,ac,dbc->ad", lambda a, b, c: F.bilinear(a, b, c), (M, M, tensor((4, 3, 3), seed=8))),
    # orders of dimensions
    ("abc->cab", lambda a: a.permute(2, 0, 1), (S,)),
    ("abc->cab", lambda a: a.permute((2, 0, 1)), (S,)),
    ("abc->cab", lambda a: a.permute(-1, 0, -2), (S,)),
    ("abc->cab", lambda a: torch.permute(a, dims=[2, 0, 1]), (S,)),
    ("abc->cba", lambda a: a.transpose(0, -1), (S,)),
    ("abc->cba", lambda a: torch.transpose(a, dim0=0, dim1=2), (S,)),
    ("abc->bac", lambda a: torch.swapaxes(a, 0, 1), (S,)),
    ("abc->bac", lambda a: a.swapdims(1, 0), (S,)),
    ("abc->bca", lambda a: a.movedim(0, -1), (S,)),
    ("abc->cab", lambda a: torch.moveaxis(a, (0, 1), (1, 2)), (S,)),
    ("ab->ba", lambda a: a.t(), (M,)),
    ("ab->ba", lambda a: a.T, (M,)),
    ("ab->ba", lambda a: a.mT, (M,)),
    ("abc->acb", lambda a: a.mT, (S,)),
    # sums
    ("abc->", lambda a: a.sum(), (S,)),
    ("abc->ac", lambda a: a.sum(1), (S,)),
    ("abc->ac", lambda a: a.sum(-2), (S,)),
    ("abc->a", lambda a: a.sum((1, 2)), (S,)),
    ("abc->a", lambda a: torch.sum(a, dim=[1, 2]), (S,)),
    ("abc->bc", lambda a: torch.sum(a, axis=0), (S,)),  # type: ignore[call-overload]
    ("abc->ab", lambda a: torch.sum(input=a, dim=(-1,)), (S,)),
    ("abc->bc", lambda a: a.sum(0, False), (S,)),
    # einsum itself
    ("ab,bc->ac", lambda a, b: torch.einsum("ij,jk", a, b), (M, N)),
    ("abc->ac", lambda a: torch.einsum("...ij->...j", a), (S,)),
]


@pytest.mark.parametrize(("equation", "program", "operands"), TABLE)
def test_a_call_is_read_as_the_equation_that_it_computes(
    equation: str, program: Program, operands: tuple[torch.Tensor, ...]
) -> None:
    last = _last(program, operands)
    contraction = read(last)
    assert contraction is not None
    assert str(contraction.equation.parse(equation)) == str(contraction.equation)
    assert len(contraction.operands) == len(operands)
    assert_same(torch.einsum(equation, *operands), program(*operands))


def test_every_name_that_is_read_stands_in_the_table() -> None:
    used = {getattr(n.target, "__name__", n.target) for _, p, x in TABLE for n in _traced(p, x).graph.nodes}
    assert {*PRODUCTS, *VIEWS, *REDUCTIONS} - used == set()


UNREADABLE: list[tuple[Program, tuple[torch.Tensor, ...]]] = [
    (lambda a: a.sum(0, keepdim=True), (S,)),
    (lambda a: a.sum(0, True), (S,)),
    (lambda a: a.sum(dtype=torch.float32), (S,)),
    (lambda a: a.mean(0), (S,)),
    (lambda a: a.amax(0), (S,)),
    (lambda a: a.reshape(-1), (S,)),
    (lambda a: a.mH, (S,)),
    (lambda a: a.flip(0), (S,)),
    (lambda a, b: torch.matmul(a, b, out=b), (torch.eye(3), torch.eye(3))),
    (lambda a, b: torch.addmm(b, a, b), (torch.eye(3), torch.eye(3))),
    (lambda a, b: F.linear(a, b, a[0, :1]), (M, N.mT)),
    (lambda a, b: F.bilinear(a, a, b, b[:, 0, 0]), (M, tensor((4, 3, 3)))),
    (lambda a, b: torch.add(a, b), (M, M)),
    (lambda a, b: torch.einsum("ij,jk->ik", a, b).exp(), (M, N)),
    (lambda a, b: torch.linalg.solve(a, b), (torch.eye(3), torch.eye(3))),
    (lambda a, b: torch.cross(a, b, dim=-1), (M, M)),
]


@pytest.mark.parametrize(("program", "operands"), UNREADABLE)
def test_what_means_more_than_a_contraction_is_not_read(
    program: Program, operands: tuple[torch.Tensor, ...]
) -> None:
    assert read(_last(program, operands)) is None


def test_a_product_whose_ranks_are_unknown_is_not_read() -> None:
    assert read(list(fx.symbolic_trace(lambda a, b: a @ b).graph.nodes)[2]) is None


def test_a_submodule_named_like_a_product_is_none() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matmul = torch.nn.Identity()

        def forward(self, x: torch.Tensor) -> Any:
            return self.matmul(x)

    assert all(read(node) is None for node in fx.symbolic_trace(Model()).graph.nodes)


def test_an_elementwise_product_broadcasts_its_last_dimensions() -> None:
    last = _last(lambda a, b: a * b, (S, M))
    contraction = broadcast_product(*last.args)
    assert contraction is not None
    assert str(contraction.equation) == "abc,bc->abc"
    assert broadcast_product(last.args[0], 3.0) is None


def _traced(program: Program, operands: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    traced = fx.symbolic_trace(program)
    propagate(traced, operands)
    return traced


def _last(program: Program, operands: tuple[torch.Tensor, ...]) -> fx.Node:
    return list(_traced(program, operands).graph.nodes)[-2]
