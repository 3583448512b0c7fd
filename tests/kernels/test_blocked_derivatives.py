"""Derivatives of contractions in blocks are those of all terms at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
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
from tests.kernels.test_blocked import equations

BLOCKS: list[dict[str, Any]] = [{}, {"block_size": 2}, {"budget_bytes": 200}]


def all_terms(equation: Equation, operands: list[Tensor], name: str) -> Tensor:
    """The products of everything, with the labels of the output first: by indexing, not by views."""
    sizes = equation.sizes([x.shape for x in operands])
    order = (*equation.output, *equation.summed)
    grid = torch.meshgrid(*[torch.arange(sizes[x]) for x in order], indexing="ij") if order else ()
    terms: Any = None
    for labels, operand in zip(equation.inputs, operands, strict=True):
        index = [
            grid[order.index(x)] * (0 if n == 1 else 1) for x, n in zip(labels, operand.shape, strict=True)
        ]
        factor = operand[tuple(index)] if index else operand
        terms = factor if terms is None else (terms * factor if name == "real" else terms + factor)
    assert isinstance(terms, Tensor)
    return terms.reshape([sizes[x] for x in equation.output] + [-1])


def squares(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([x.square().sum() for x in tensors]).sum()


@st.composite
def problems(draw: Any) -> tuple[Equation, list[Tensor], dict[str, Any]]:
    equation = draw(equations())
    size = {x: draw(st.sampled_from([1, 2, 2, 3])) for x in equation.labels}
    operands = []
    for labels in equation.inputs:
        shape = [1 if labels.count(x) == 1 and draw(st.integers(0, 7)) == 0 else size[x] for x in labels]
        operand = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
        if len(shape) > 1 and draw(st.booleans()):
            operand = operand.mT.contiguous().mT
        operands.append(operand.requires_grad_())
    options = {
        "block_size": draw(st.sampled_from([None, 1, 2])),
        "budget_bytes": draw(st.sampled_from([1, 100, 1 << 30])),
    }
    return equation, operands, options


@pytest.mark.parametrize("name", ["real", "log"])
@settings(max_examples=40)
@given(problem=problems())
def test_gradients_of_any_equation_are_those_of_all_terms(
    name: str, problem: tuple[Equation, list[Tensor], dict[str, Any]]
) -> None:
    equation, operands, options = problem
    terms = all_terms(equation, operands, name)
    expected = terms.sum(-1) if name == "real" else terms.logsumexp(-1)
    out = contract(equation, operands, name, **options)
    assert torch.allclose(out, expected)
    weights = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).reshape(out.shape)
    slopes = torch.autograd.grad(out, operands, weights, create_graph=True)
    wanted = torch.autograd.grad(expected, operands, weights, create_graph=True)
    assert all(torch.allclose(x, y) for x, y in zip(slopes, wanted, strict=True))
    if not any(x.requires_grad for x in wanted):
        return
    curves = torch.autograd.grad(squares(slopes), operands, allow_unused=True)
    wanted = torch.autograd.grad(squares(wanted), operands, allow_unused=True)
    for x, y in zip(curves, wanted, strict=True):
        assert torch.allclose(torch.zeros(()) if x is None else x, torch.zeros(()) if y is None else y)


@pytest.mark.parametrize("name", ["max_plus", "min_plus", "max_times", "max_min"])
@settings(max_examples=30)
@given(data=st.data())
def test_the_gradient_goes_to_the_first_of_equal_terms(name: str, data: st.DataObject) -> None:
    equation = data.draw(equations())
    size = {x: data.draw(st.sampled_from([1, 2, 3])) for x in equation.labels}
    operands = []
    for labels in equation.inputs:
        shape = [size[x] for x in labels]
        numbers = data.draw(st.lists(st.integers(1, 3), min_size=math.prod(shape), max_size=math.prod(shape)))
        operands.append(torch.tensor(numbers, dtype=torch.float64).reshape(shape).requires_grad_())
    options: dict[str, Any] = {"block_size": data.draw(st.sampled_from([None, 1, 2]))}
    out = contract(equation, operands, name, **options)
    slopes = torch.autograd.grad(out.sum(), operands)
    wanted = [torch.zeros_like(x) for x in operands]
    for outer in itertools.product(*(range(size[x]) for x in equation.output)):
        best: float | None = None
        at: list[tuple[int, ...]] = []
        for inner in itertools.product(*(range(size[x]) for x in equation.summed)):
            place = dict(zip((*equation.output, *equation.summed), (*outer, *inner), strict=True))
            index = [tuple(place[x] for x in labels) for labels in equation.inputs]
            factors = [x[i].item() for x, i in zip(operands, index, strict=True)]
            term = math.prod(factors) if name == "max_times" else sum(factors)
            term = min(factors) if name == "max_min" else term
            if best is None or (term < best if name == "min_plus" else term > best):
                best, at = term, index
        factors = [x[i].item() for x, i in zip(operands, at, strict=True)]
        for position, index_of in enumerate(at):
            slope = 1.0
            if name == "max_times":
                slope = math.prod(factors[:position] + factors[position + 1 :])
            elif name == "max_min":
                slope = float(position == factors.index(min(factors)))
            wanted[position][index_of] += slope
    assert all(torch.allclose(x, y) for x, y in zip(slopes, wanted, strict=True))


@pytest.mark.parametrize("name", ["real", "log", "max_plus", "max_times", "max_min"])
@pytest.mark.parametrize("options", BLOCKS)
@pytest.mark.parametrize("text", ["ak,bk,ak->ab", "ak,ak,ak->a", "ij->i", "ij->", "iij,jk->ki", "a,b->ba"])
def test_numerical_differences_agree(name: str, options: dict[str, Any], text: str) -> None:
    equation = Equation.parse(text)
    sizes = [2, 3, 4, 2]
    shapes = [[sizes[x] for x in labels] for labels in equation.inputs]
    total = sum(map(math.prod, shapes))
    # Far enough apart that a finite difference changes no choice.
    numbers = (torch.randperm(total).double() + 1).div(7) + torch.rand(total).double() / 90
    operands = [
        x.reshape(shape).requires_grad_()
        for x, shape in zip(numbers.split([math.prod(s) for s in shapes]), shapes, strict=True)
    ]

    def call(*args: Tensor) -> Tensor:
        return contract(equation, args, name, **options)

    assert gradcheck(call, operands, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(call, operands, check_fwd_over_rev=True)


@pytest.mark.parametrize("options", BLOCKS)
def test_complex_gradients_are_conjugated_as_in_torch(options: dict[str, Any]) -> None:
    equation = Equation.parse("ij,jk,j->ik")
    a, c = (torch.randn(*s, dtype=torch.complex128, requires_grad=True) for s in ((2, 3), (3,)))
    b = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    out = contract(equation, (a, b, c), "real", **options)
    expected = torch.einsum("ij,jk,j->ik", a, b.to(a.dtype), c)
    assert torch.allclose(out, expected)
    weights = torch.randn_like(out)
    slopes = torch.autograd.grad(out, (a, b, c), weights)
    wanted = torch.autograd.grad(expected, (a, b, c), weights)
    assert [x.dtype for x in slopes] == [x.dtype for x in wanted]
    assert all(torch.allclose(x, y) for x, y in zip(slopes, wanted, strict=True))
    assert gradgradcheck(lambda *x: contract(equation, x, "real", **options), (a, b, c))


@pytest.mark.parametrize("name", ["real", "log", "max_plus"])
@pytest.mark.parametrize("options", BLOCKS)
def test_transforms_of_torch_func_compose(name: str, options: dict[str, Any]) -> None:
    equation = Equation.parse("ak,bk,ak->ab")
    a, b, c = torch.randn(4, 3, 5).double(), torch.randn(2, 5).double(), torch.randn(3, 4, 5).double()

    def total(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return (contract(equation, (x, y, z), name, **options) ** 2).sum()

    dims = (0, None, 1)
    each = [(a[n], b, c[:, n]) for n in range(4)]
    assert torch.allclose(torch.func.vmap(total, dims)(a, b, c), torch.stack([total(*x) for x in each]))
    for position in range(3):
        slope = torch.func.grad(total, position)
        wanted = [torch.autograd.grad(total(*y), y[position])[0] for y in map(tracking, each)]
        assert torch.allclose(torch.func.vmap(slope, dims)(a, b, c), torch.stack(wanted))
        tangent = torch.func.jvp(lambda y: total(*y), (each[0],), (each[1],))[1]
    slopes = torch.func.grad(total, (0, 1, 2))(*each[0])
    assert torch.allclose(tangent, sum((x * y).sum() for x, y in zip(slopes, each[1], strict=True)))
    forward = torch.func.jacfwd(torch.func.jacrev(total, 1), 1)(*each[0])
    assert torch.allclose(forward, torch.func.jacrev(torch.func.jacrev(total, 1), 1)(*each[0]))
    if name == "max_plus":
        values, places = torch.func.vmap(
            lambda x, y: contract(equation, (x, y, x), name, return_argmax=True, **options), (0, None)
        )(a, b)
        expected = contract(equation, (a[1], b, a[1]), name, return_argmax=True)
        assert torch.equal(values[1], expected[0])
        assert torch.equal(places[1], expected[1])


def tracking(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.clone().requires_grad_() for x in tensors)


def counting() -> Semiring:
    """Sums of exponentials with a base of 2, by laws alone."""
    return Semiring(
        "logarithms_to_base_2",
        lambda x, y: torch.logaddexp2(x, y),
        torch.add,
        zero=-math.inf,
        one=0.0,
    )


@pytest.mark.parametrize("options", BLOCKS)
def test_ones_own_semiring_has_the_derivatives_of_its_laws(options: dict[str, Any]) -> None:
    equation = Equation.parse("ak,kb->ab")
    a, b = tracking((torch.randn(2, 5).double(), torch.randn(5, 3).double()))

    def call(x: Tensor, y: Tensor) -> Tensor:
        return contract(equation, (x, y), counting(), **options)

    def wanted(x: Tensor, y: Tensor) -> Tensor:
        return ((x[:, :, None] + y) * math.log(2)).logsumexp(1) / math.log(2)

    assert torch.allclose(call(a, b), wanted(a, b))
    slopes = torch.autograd.grad(call(a, b).square().sum(), (a, b))
    expected = torch.autograd.grad(wanted(a, b).square().sum(), (a, b))
    assert all(torch.allclose(x, y) for x, y in zip(slopes, expected, strict=True))
    slope = torch.func.grad(lambda x: call(x, b.detach()).square().sum())(a.detach())
    assert torch.allclose(slope, expected[0])
    mapped = torch.func.vmap(call, (0, None))(torch.stack((a, a + 1)).detach(), b.detach())
    assert torch.allclose(mapped, torch.stack((call(a, b), call(a + 1, b))))
    tangent = torch.func.jvp(lambda x: call(x, b.detach()), (a.detach(),), (torch.ones_like(a),))[1]
    assert torch.allclose(tangent, torch.ones_like(tangent))


def test_partial_sums_of_ones_own_semiring_do_not_pile_up() -> None:
    equation = Equation.parse("ak,kb->ab")
    a, b = tracking((torch.randn(64, 256), torch.randn(256, 64)))
    grad = torch.ones(64, 64)

    def call(**options: Any) -> None:
        torch.autograd.grad(contract(equation, (a, b), counting(), **options), (a, b), grad)

    one = 64 * 256 * 4
    assert peak_bytes(lambda: call(block_size=1)) < 10 * one
    assert peak_bytes(call) > 100 * one


def test_linear_operands_are_weights_of_terms() -> None:
    equation = Equation.parse("fbi,fbj,foij->fbo")
    a, b = (torch.randn(2, 3, 4, dtype=torch.float64) * 30 for _ in range(2))
    w = torch.rand(2, 5, 4, 4, dtype=torch.float64)
    w[0, 1, 2] = 0
    operands = tracking((a, b, w))
    logs = tracking((a, b, w.log()))
    for options in BLOCKS:
        out = contract(equation, operands, "log", linear_operands=(2,), **options)
        expected = contract(equation, logs, "log")
        assert torch.allclose(out, expected)
        slopes = torch.autograd.grad(out.sum(), operands)
        wanted = torch.autograd.grad(expected.sum(), logs)
        assert torch.allclose(slopes[0], wanted[0])
        assert torch.allclose((slopes[2] * w), wanted[2])
        terms = a[:, :, None, :, None] + b[:, :, None, None, :] - expected[..., None, None]
        assert torch.allclose(slopes[2], terms.exp().sum(1))
    positive = tracking((a / 30, b / 30, w + 0.1))
    assert gradcheck(
        lambda *x: contract(equation, x, "log", linear_operands=(2,), block_size=2),
        positive,
        check_forward_ad=True,
    )
    assert gradgradcheck(lambda *x: contract(equation, x, "log", linear_operands=(2, 1)), (
        positive[0], positive[1].exp().detach().requires_grad_(), positive[2]
    ))  # fmt: skip


def test_weights_of_zero_meet_terms_of_any_size() -> None:
    x = torch.tensor([0.0, 200.0, -300.0], requires_grad=True)
    w = torch.tensor([1.0, 0.0, 2.0], requires_grad=True)
    v = torch.tensor([3.0, 5.0, 1.0], requires_grad=True)
    out = contract(Equation.parse("i,i,i->"), (x, w, v), "log", linear_operands=(1, 2))
    assert math.isclose(out.item(), math.log(3), rel_tol=1e-6)
    slopes = torch.autograd.grad(out, (x, w, v))
    assert torch.allclose(slopes[0], torch.tensor([1.0, 0.0, 0.0]))
    assert torch.allclose(slopes[1][[0, 2]], torch.tensor([1.0, 0.0]))
    assert torch.allclose(slopes[2], torch.tensor([1 / 3, 0.0, 0.0]))


def test_what_linear_operands_are_for_is_said() -> None:
    equation, x = Equation.parse("i,i->"), torch.ones(2)
    with pytest.raises(UsageError, match="for the log semiring, not for 'max_plus'"):
        contract(equation, (x, x), "max_plus", linear_operands=(1,))
    with pytest.raises(UsageError, match="its operands are 0 to 1"):
        contract(equation, (x, x), "log", linear_operands=(2,))
    with pytest.raises(OperandError, match="operand 1 is linear and has negative elements"):
        contract(equation, (x, -x), "log", linear_operands=(1,))
    with pytest.raises(UsageError, match="a number or 'uniform'"):
        contract(equation, (x, x), "log", grad_of_neg_inf="equal")


@pytest.mark.parametrize("options", BLOCKS)
@pytest.mark.parametrize(
    ("given_", "share"), [(0.0, 0.0), (0.5, 0.5), ("uniform", 1 / 3), (math.nan, math.nan)]
)
def test_the_gradient_of_an_empty_sum_is_what_was_asked_for(
    options: dict[str, Any], given_: float | str, share: float
) -> None:
    x = torch.tensor([[-math.inf] * 3, [0.0, -math.inf, 1.0]], requires_grad=True)
    y = torch.zeros(2, 3, requires_grad=True)
    out = contract(Equation.parse("ak,ak->a"), (x, y), "log", grad_of_neg_inf=given_, **options)
    slopes = torch.autograd.grad(out.sum(), (x, y))
    softmax = torch.softmax(x[1], 0)
    for slope in slopes:
        assert torch.allclose(slope[0], torch.tensor(share), equal_nan=True)
        assert torch.allclose(slope[1], softmax)


@pytest.mark.parametrize("options", BLOCKS)
def test_what_zero_annihilates_has_no_share_in_the_gradient(options: dict[str, Any]) -> None:
    infinity = math.inf
    for name, x, y, slope in (
        ("log", [-infinity, 1.0, infinity], [infinity, 2.0, -infinity], [0.0, 1.0, 0.0]),
        ("max_plus", [-infinity, 1.0, infinity], [infinity, 2.0, -infinity], [0.0, 1.0, 0.0]),
        ("max_min", [-infinity, 1.0, 2.0], [infinity, 1.0, -infinity], [0.0, 1.0, 0.0]),
        ("real", [0.0, 1.0, 3.0], [5.0, 1.0, 1.0], [5.0, 1.0, 1.0]),
    ):
        a, b = torch.tensor(x, requires_grad=True), torch.tensor(y)
        out = contract(Equation.parse("i,i->"), (a, b), get(name).annihilating(), **options)
        assert torch.equal(torch.autograd.grad(out, a)[0], torch.tensor(slope)), name


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e9])
def test_log_sums_are_exact_for_extreme_numbers(scale: float) -> None:
    x, y = torch.randn(40, 300) * scale, torch.randn(300) * scale
    x[0], x[1, 3], x[2, 5], x[3, 7:] = -math.inf, math.inf, math.nan, -math.inf
    out = contract(Equation.parse("ak,k->a"), (x, y), "log", budget_bytes=4000)
    assert torch.allclose(out, torch.logsumexp(x + y, 1), rtol=1e-6, equal_nan=True)
    below = contract(Equation.parse("k->"), (torch.tensor([-2000.0, -math.inf]),), "log", block_size=1)
    assert below == -2000


@pytest.mark.parametrize("name", ["real", "log", "max_plus", "own"])
def test_sums_without_terms_have_no_gradient(name: str) -> None:
    semiring = counting() if name == "own" else get(name)
    a, b = tracking((torch.randn(2, 0), torch.randn(2, 3)))
    out = contract(Equation.parse("ak,ab->ab"), (a, b), semiring)
    assert (out == semiring.zero_of(out.dtype)).all()
    slopes = torch.autograd.grad(out.sum(), (a, b))
    assert slopes[0].shape == (2, 0)
    assert (slopes[1] == 0).all()


def test_expanded_operands_are_not_copied() -> None:
    a = torch.rand(1, requires_grad=True)
    b = torch.rand(1 << 22, requires_grad=True)
    wide = a.expand(1 << 22)
    for name in ("real", "log", "max_plus"):
        spent = peak_bytes(
            lambda name=name: contract(Equation.parse("k,k->"), (wide, b), name)  # type: ignore[misc]
        )
        assert spent < 1 << 23, name


def widest() -> Semiring:
    """The largest of the smallest elements, by laws alone."""
    return Semiring("widest", torch.maximum, torch.minimum, zero=-math.inf, one=math.inf, selective=True)


@pytest.mark.parametrize("name", ["real", "log", "max_plus", "max_times", "max_min", "own", "widest"])
@pytest.mark.parametrize("options", [{}, {"block_size": 2}])
def test_it_compiles_as_one_graph_with_and_without_gradients(name: str, options: dict[str, Any]) -> None:
    equation = Equation.parse("ak,bk,ak->ab")
    semiring = {"own": counting, "widest": widest}.get(name, lambda: get(name))()
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, y: contract(equation, (x, y, x), semiring, **options), backend="aot_eager", fullgraph=True
    )
    a, b = torch.rand(3, 5), torch.rand(2, 5)
    assert torch.allclose(compiled(a, b), contract(equation, (a, b, a), semiring))
    operands = tracking((a, b))
    expected = contract(equation, (operands[0], operands[1], operands[0]), semiring)
    out = compiled(*operands)
    assert torch.allclose(out, expected)
    slopes = torch.autograd.grad(out.sum(), operands)
    wanted = torch.autograd.grad(expected.sum(), operands)
    assert all(torch.allclose(x, y, rtol=1e-4) for x, y in zip(slopes, wanted, strict=True))


def test_compiled_log_sums_take_their_options() -> None:
    equation = Equation.parse("ak,ak->a")
    compiled = torch.compile(
        lambda x, w: contract(
            equation, (x, w), "log", linear_operands=(1,), grad_of_neg_inf=0.0, budget_bytes=1000
        ),
        backend="aot_eager",
        fullgraph=True,
        dynamic=True,
    )
    x, w = tracking((torch.rand(3, 500), torch.rand(3, 500)))
    with torch.no_grad():
        w[0] = 0
    slopes = torch.autograd.grad(compiled(x, w)[1:].sum(), (x, w))
    assert (slopes[0][0] == 0).all()
    assert torch.allclose(slopes[0][1:].sum(1), torch.ones(2))
    assert torch.allclose((slopes[1] * w)[1:], slopes[0][1:])


def test_the_operators_pass_torchs_own_checks() -> None:
    x, y = tracking((torch.rand(2, 3).double(), torch.rand(3).double()))
    # The numbers of labels, how each tensor enters, limits, and corner cases.
    log = "0 1,1,>0>1;+w;None;1000;0;nan;float64"
    torch.library.opcheck(torch.ops.einfx.log_contraction, ([x, y], log))
    sums = "0 1,1,>0>1;+*;None;1000;0;nan;float64"
    torch.library.opcheck(torch.ops.einfx.weighted_sums, ([x, y], sums))
    places = "0 1,1,>0>1;;1000;float64;0;max_plus"
    torch.library.opcheck(torch.ops.einfx.blocked_select, ([x.detach(), y.detach()], places))
