"""What is passed on term by term, or by products of matrices, is what autograd finds in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from einfx.equation import Equation
from einfx.kernels import log_shares
from einfx.kernels.log_passing import Matrices, add_products
from einfx.kernels.log_shares import add_shares

EQUATIONS = ("ij,jk->ik", "zij,zjk->zik", "ij,ij->i", "abcd,cb->abd", "i,j->ij", "ab,ab->", "abc,cbd->bad")
MATRICES = {
    "ij,jk->ik": ((), (0,), (2,), (1,)),
    "zij,zjk->zik": ((0,), (1,), (3,), (2,)),
    "abc,cbd->bad": ((1,), (0,), (3,), (2,)),
}


def _sums(text: str, operands: Sequence[Tensor]) -> Tensor:
    inputs, output = text.split("->")
    order = output + "".join(sorted({*inputs} - {*output, ","}))
    terms = torch.zeros((), dtype=operands[0].dtype)
    for part, operand in zip(inputs.split(","), operands, strict=True):
        present = [x for x in order if x in part]
        shape = [operand.shape[part.index(x)] if x in part else 1 for x in order]
        terms = terms + operand.permute([part.index(x) for x in present]).reshape(shape)
    summed = tuple(range(len(output), len(order)))
    return terms.logsumexp(summed) if summed else terms


def _numbers(text: str, seed: int, size: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = {x: size + ord(x) % 3 for x in text}
    return [
        3 * torch.randn([sizes[x] for x in part], dtype=torch.float64, generator=generator)
        for part in text.partition("->")[0].split(",")
    ]


def _strided(x: Tensor) -> Tensor:
    """The same numbers as every other one of a larger, transposed tensor."""
    larger = torch.zeros([2 * n for n in reversed(x.shape)], dtype=x.dtype)
    part = larger.permute(tuple(reversed(range(x.dim()))))[(slice(None, None, 2),) * x.dim()]
    return part.copy_(x)


@pytest.mark.parametrize("more", [0.0, 2.0])
@pytest.mark.parametrize("block", [7, 1 << 16])
@pytest.mark.parametrize("text", EQUATIONS)
def test_shares_are_those_that_autograd_finds(
    text: str, block: int, more: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_shares, "BLOCK_TERMS", block)
    log_shares.shares_of.cache_clear()
    equation, operands = Equation.parse(text), [x.requires_grad_() for x in _numbers(text, 1)]
    # More terms, which the sums have beside those of these operands.
    total = torch.logaddexp(_sums(text, operands), torch.tensor(more or -math.inf, dtype=torch.float64))
    gradient = torch.randn_like(total)
    expected = torch.autograd.grad(total, operands, gradient)
    given = [_strided(x.detach()) for x in (*operands, total, gradient)]
    targets = [_strided(torch.ones_like(x)) for x in operands]
    *own, whole, incoming = given
    add_shares(
        equation.inputs, equation.output, own, whole, incoming, [None, *targets[1:]], _memory, math.nan
    )
    assert bool((targets[0] == 1).all())
    add_shares(equation.inputs, equation.output, own, whole, incoming, [targets[0], None], _memory, math.nan)
    for target, wanted in zip(targets, expected, strict=True):
        torch.testing.assert_close(target, 1 + wanted, rtol=1e-9, atol=1e-9)
    log_shares.shares_of.cache_clear()


def _memory(shape: Sequence[int]) -> Tensor:
    return torch.empty(tuple(shape), dtype=torch.float64)


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("text", MATRICES)
def test_products_pass_on_the_same(text: str, dtype: torch.dtype, strided: bool) -> None:
    equation, operands = Equation.parse(text), [x.requires_grad_() for x in _numbers(text, 2, 17)]
    total = torch.logaddexp(_sums(text, operands), torch.tensor(1.0, dtype=torch.float64))
    gradient = torch.randn_like(total)
    expected = torch.autograd.grad(total, operands, gradient)
    made = [x.detach().to(dtype) for x in (*operands, total, gradient)]
    targets: list[Tensor | None] = [torch.ones_like(x, dtype=dtype) for x in operands]
    if strided:
        made, targets = [_strided(x) for x in made], [None if x is None else _strided(x) for x in targets]
    first, second, whole, incoming = made
    matrices = Matrices((equation.inputs[0], equation.inputs[1]), equation.output, *MATRICES[text])
    assert add_products(matrices, (first, second), whole, incoming, targets, math.nan)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    for target, wanted in zip(targets, expected, strict=True):
        assert target is not None
        torch.testing.assert_close(target.double(), 1 + wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("empty", [math.nan, 0.0, 0.25])
@pytest.mark.parametrize("way", ["shares", "products"])
def test_terms_of_empty_sums_have_the_share_that_is_asked_for(way: str, empty: float) -> None:
    a = torch.tensor([[-math.inf, -math.inf, -math.inf], [0.0, 1.0, -math.inf]])
    b = torch.zeros(3, 2)
    total = _sums("ij,jk->ik", (a, b))
    gradient = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    targets: list[Tensor | None] = [torch.zeros(2, 3), torch.zeros(3, 2)]
    if way == "shares":
        add_shares([(0, 1), (1, 2)], (0, 2), [a, b], total, gradient, targets, torch.empty, empty)
    else:
        matrices = Matrices(((0, 1), (1, 2)), (0, 2), (), (0,), (2,), (1,))
        assert add_products(matrices, (a, b), total, gradient, targets, empty)
    share = torch.softmax(a[1], 0)
    of_a = torch.stack([torch.full((3,), 2 * empty), 4 * share])
    of_b = torch.stack([share + 2 * empty, 3 * share], 1)
    torch.testing.assert_close(targets, [of_a, of_b], equal_nan=True)


def test_products_are_declined_where_terms_are_infinite_or_sums_far_below_the_maxima() -> None:
    matrices = Matrices(((0, 1), (1, 2)), (0, 2), (), (0,), (2,), (1,))
    for a, b in (([[0.0, -200.0]], [[-200.0], [0.0]]), ([[math.inf, 0.0]], [[0.0], [0.0]])):
        operands = torch.tensor(a), torch.tensor(b)
        total, target = _sums("ij,jk->ik", operands), torch.zeros(1, 2)
        assert not add_products(matrices, operands, total, torch.ones(1, 1), [target, None], math.nan)
        assert bool((target == 0).all())


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.floats(-100, 100), st.floats(0.1, 60))
def test_both_ways_agree_wherever_products_are_possible(seed: int, level: float, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (spread * torch.randn(7, 7, generator=generator) + level for _ in range(2))
    total, gradient = _sums("ij,jk->ik", (a, b)), torch.randn(7, 7, generator=generator)
    products: list[Tensor | None] = [torch.zeros(7, 7), torch.zeros(7, 7)]
    terms: list[Tensor | None] = [torch.zeros(7, 7), torch.zeros(7, 7)]
    add_shares([(0, 1), (1, 2)], (0, 2), [a, b], total, gradient, terms, torch.empty, math.nan)
    matrices = Matrices(((0, 1), (1, 2)), (0, 2), (), (0,), (2,), (1,))
    if add_products(matrices, (a, b), total, gradient, products, math.nan):
        torch.testing.assert_close(products, terms, rtol=1e-3, atol=1e-3)
