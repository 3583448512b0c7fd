"""The generic kernel: any equation over any semiring, the same in blocks of every size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from einfx.algebra import Semiring
from einfx.equation import Equation
from einfx.errors import OperandError, UsageError
from einfx.kernels.blocked import contract
from einfx.semiring import get
from tests.kernels.memory import peak_bytes
from tests.test_semiring import NAMES, ORACLES

Draw = Callable[[st.SearchStrategy[Any]], Any]


@st.composite
def equations(draw: Draw) -> Equation:
    labels = st.lists(st.integers(0, 3), max_size=3).map(tuple)
    inputs = draw(st.lists(labels, min_size=1, max_size=3))
    present = sorted({x for part in inputs for x in part})
    output = draw(st.permutations(present))[: draw(st.integers(0, len(present)))]
    return Equation(tuple(inputs), tuple(output))


def by_hand(
    equation: Equation, operands: list[Tensor], name: str, zero: Any
) -> tuple[Tensor, list[list[int]]]:
    """The contraction in plain Python; for a selecting semiring, where the sum changed last."""
    oracle = ORACLES[name]
    sizes = equation.sizes([x.shape for x in operands])
    values, places = [], []
    for outer in itertools.product(*(range(sizes[x]) for x in equation.output)):
        total: Any = None
        place = [0] * len(equation.summed)
        for inner in itertools.product(*(range(sizes[x]) for x in equation.summed)):
            at = {
                **dict(zip(equation.output, outer, strict=True)),
                **dict(zip(equation.summed, inner, strict=True)),
            }
            term: Any = None
            for operand, labels in zip(operands, equation.inputs, strict=True):
                index = tuple(0 if n == 1 else at[x] for x, n in zip(labels, operand.shape, strict=True))
                factor = operand[index].item()
                term = factor if term is None else oracle.multiply(term, factor)
            larger = term if total is None else oracle.add(total, term)
            if larger != total:
                place = list(inner)
            total = larger
        values.append(zero if total is None else total)
        places.append(place)
    shape = [sizes[x] for x in equation.output]
    return torch.tensor(values, dtype=oracle.dtype).reshape(shape), places


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60)
@given(data=st.data())
def test_any_equation_over_any_semiring_in_any_blocks(name: str, data: st.DataObject) -> None:
    equation = data.draw(equations())
    size = {x: data.draw(st.sampled_from([0, 1, 2, 2, 3])) for x in equation.labels}
    operands = []
    for labels in equation.inputs:
        shape = [1 if labels.count(x) == 1 and data.draw(st.integers(0, 7)) == 0 else size[x] for x in labels]
        count = math.prod(shape)
        numbers = data.draw(st.lists(ORACLES[name].numbers, min_size=count, max_size=count))
        operands.append(torch.tensor(numbers, dtype=ORACLES[name].dtype).reshape(shape))
    options: dict[str, Any] = {
        "block_size": data.draw(st.sampled_from([None, 1, 2])),
        "budget_bytes": data.draw(st.sampled_from([1, 100, 1 << 30])),
    }
    semiring = get(name)
    zero = semiring.zero_of(ORACLES[name].dtype)
    expected, places = by_hand(equation, operands, name, zero)
    result = contract(equation, operands, name, **options)
    assert result.dtype == expected.dtype
    assert torch.allclose(result.double(), expected.double(), rtol=1e-12, atol=1e-12)
    sizes = equation.sizes([x.shape for x in operands])
    if semiring.selective and 0 not in (sizes[x] for x in equation.summed):
        value, index = contract(equation, operands, name, return_argmax=True, **options)
        assert torch.equal(value, result)
        assert index.shape == (*result.shape, len(equation.summed))
        assert index.reshape(len(places), len(equation.summed)).tolist() == places


@pytest.mark.parametrize("name", ["real", "log", "max_plus", "max_times"])
@pytest.mark.parametrize("options", [{}, {"block_size": 2}, {"budget_bytes": 200}])
def test_derivatives_are_right_in_blocks_too(name: str, options: dict[str, Any]) -> None:
    equation = Equation.parse("ak,bk,ak->ab")
    operands = [(torch.randperm(n * 5).double().reshape(n, 5) + 1).div(7).requires_grad_() for n in (3, 2, 3)]

    def call(*args: Tensor) -> Tensor:
        return contract(equation, args, name, **options)

    assert gradcheck(call, operands)
    assert gradgradcheck(call, operands)
    x, *rest = [operand.detach() for operand in operands]
    slope = torch.func.grad(lambda z: call(z, *rest).sum())(x)
    assert torch.allclose(slope, torch.autograd.grad(call(*operands).sum(), operands[0])[0])
    mapped = torch.func.vmap(lambda z: call(z, *rest))(torch.stack((x, x.flip(0))))
    assert torch.allclose(mapped[1], call(x.flip(0), *rest))
    tangent = torch.func.jvp(lambda z: call(z, *rest), (x,), (torch.ones_like(x),))[1]
    assert torch.allclose(tangent.sum(), slope.sum())


@pytest.mark.parametrize("name", ["log", "max_plus", "max_times"])
def test_it_compiles_as_one_graph(name: str) -> None:
    equation = Equation.parse("ak,bk,ak->ab")
    a, b = torch.rand(3, 5).requires_grad_(), torch.rand(2, 5)
    compiled = torch.compile(
        lambda x, y: contract(equation, (x, y, x), name, block_size=2), backend="aot_eager", fullgraph=True
    )
    expected = contract(equation, (a, b, a), name)
    assert torch.allclose(compiled(a, b), expected)
    slopes = [torch.autograd.grad(out.sum(), a)[0] for out in (compiled(a, b), expected)]
    assert torch.allclose(slopes[0], slopes[1])


@pytest.mark.parametrize("name", ["real", "log", "max_plus"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("budget", [100_000, 1 << 20])
def test_temporaries_stay_within_the_budget(name: str, dtype: torch.dtype, budget: int) -> None:
    a, b = torch.rand(256, 256).to(dtype), torch.rand(256, 256).to(dtype)
    equation = Equation.parse("ik,kj->ij")
    output = 256 * 256 * dtype.itemsize
    spent = peak_bytes(lambda: contract(equation, (a, b), name, budget_bytes=budget))
    assert output <= spent <= output + budget
    if get(name).selective:
        spent = peak_bytes(lambda: contract(equation, (a, b), name, budget_bytes=budget, return_argmax=True))
        assert spent <= output + 256 * 256 * 8 + budget


@pytest.mark.parametrize("name", ["real", "log", "max_plus"])
def test_the_backward_pass_takes_gradients_and_the_budget(name: str) -> None:
    a, b = torch.rand(256, 256, requires_grad=True), torch.rand(256, 256, requires_grad=True)
    one = 256 * 256 * 4
    equation = Equation.parse("ik,kj->ij")
    out = contract(equation, (a, b), name, budget_bytes=1 << 20)
    grad = torch.rand_like(out)
    spent = peak_bytes(lambda: torch.autograd.grad(out, (a, b), grad))
    # Where elements are gathered, what their gradients are scattered from counts too.
    assert 2 * one <= spent <= (8 if name == "max_plus" else 2) * one + (1 << 20)


def test_ones_own_semiring_is_served() -> None:
    joined = Semiring("gcd_lcm", torch.gcd, torch.lcm, zero=0, one=1, dtypes=("integer",))
    a, b = torch.randint(1, 60, (3, 4)), torch.randint(1, 60, (4, 2))
    expected = [
        [math.gcd(*(math.lcm(int(a[i, k]), int(b[k, j])) for k in range(4))) for j in range(2)]
        for i in range(3)
    ]
    for block_size in (None, 1, 3):
        result = contract(Equation.parse("ik,kj->ij"), (a, b), joined, block_size=block_size)
        assert result.tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_accumulated_in_float32(dtype: torch.dtype) -> None:
    ones = torch.ones(5000, dtype=dtype)
    for block_size in (None, 7):
        total = contract(Equation.parse("k->"), (ones,), "real", block_size=block_size)
        assert total.dtype == dtype
        assert total == torch.tensor(5000.0).to(dtype)


def test_zero_annihilates_where_asked() -> None:
    a, b = torch.tensor([-math.inf, 1.0]), torch.tensor([math.inf, 2.0])
    equation = Equation.parse("k,k->")
    for name in ("log", "max_plus"):
        assert contract(equation, (a, b), name).isnan()
        assert contract(equation, (a, b), get(name).annihilating()) == 3.0


def test_what_does_not_fit_is_refused() -> None:
    a = torch.rand(2, 3)
    with pytest.raises(UsageError, match="at least 1, not 0"):
        contract(Equation.parse("ij->i"), (a,), "real", block_size=0)
    with pytest.raises(UsageError, match="'log' aren't one of their terms"):
        contract(Equation.parse("ij->i"), (a,), "log", return_argmax=True)
    with pytest.raises(OperandError, match="sums no terms"):
        contract(Equation.parse("ij->i"), (a[:, :0],), "max_plus", return_argmax=True)
    with pytest.raises(OperandError, match="takes 1 operand"):
        contract(Equation.parse("ij->i"), (a, a), "real")
    with pytest.raises(OperandError, match="non-negative"):
        contract(Equation.parse("ij->i"), (-a,), "max_times")
