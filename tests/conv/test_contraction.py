"""Contractions with symbolic patterns have the value that they have with the patterns as tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, fx

import einfx
from einfx.conv.expressions import (
    convNd_fold,
    convNd_forward,
    convNd_input_vjp,
    convNd_kfac_reduce,
    convNd_kfc,
    convNd_unfold,
    convNd_weight_vjp,
)
from einfx.conv.symbolic.network import Network
from einfx.conv.windows.sums import sum_along
from einfx.errors import EquationError, OperandError
from einfx.pattern import IndexPattern
from tests.conv.reference import close, conv, draws
from tests.conv.reference import contract as dense
from tests.conv.symbolic.test_simplify import networks, value


@settings(max_examples=400, deadline=None)
@given(networks())
def test_any_contraction_has_the_value_of_its_dense_one(case: tuple[Network, list[Tensor]]) -> None:
    network, tensors = case
    if not tensors:
        return
    got = einfx.einsum(str(network.equation), *network.bind(tensors))
    assert close(got, value(network, tensors), 1e-10)


@pytest.mark.parametrize("simplify", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_expression_of_a_convolution_builds_a_pattern(
    n: int, simplify: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for draw in draws(n, 40, largest=8 if n < 3 else 5, seed=7):
        x, weight = draw.x(), draw.weight()
        v = torch.randn_like(conv(x, weight, draw))
        hyper = {**draw.hyper, "simplify": simplify}
        grouped = {**hyper, "groups": draw.groups}
        patches = torch.randn_like(dense(convNd_unfold.einsum_expression(x, draw.kernel_size, **hyper)))
        expressions = [
            convNd_forward.einsum_expression(x, weight, **grouped),
            convNd_input_vjp.einsum_expression(weight, v, draw.input_size, **grouped),
            convNd_weight_vjp.einsum_expression(x, v, draw.kernel_size, **grouped),
            convNd_unfold.einsum_expression(x, draw.kernel_size, **hyper),
            convNd_fold.einsum_expression(patches, draw.input_size, draw.kernel_size, **hyper),
            convNd_kfc.einsum_expression(x, draw.kernel_size, **grouped),
            convNd_kfac_reduce.einsum_expression(x, draw.kernel_size, **grouped),
        ]
        expected = [dense(expression) for expression in expressions]
        with monkeypatch.context() as context:
            context.setattr(IndexPattern, "tensor", _refuse)
            for (equation, operands, shape), wanted in zip(expressions, expected, strict=True):
                assert close(einfx.einsum(equation, *operands).reshape(shape), wanted, 1e-11), (
                    draw,
                    equation,
                )


def _refuse(*_: object) -> Tensor:
    raise AssertionError("a pattern is built as a tensor")


def test_contractions_differentiate() -> None:
    x = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    pattern = IndexPattern(7, 3, 2, 1)

    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return einfx.einsum("nci,koi,dck->ndo", x, pattern, weight)

    def averaged(x: Tensor) -> Tensor:
        return einfx.einsum("nci,koi->nck", x, pattern)

    def folded(x: Tensor) -> Tensor:
        return einfx.einsum("nck,koi->nci", x, pattern)

    assert torch.autograd.gradcheck(forward, (x, weight))
    assert torch.autograd.gradgradcheck(forward, (x, weight))
    assert torch.autograd.gradcheck(averaged, x)
    assert torch.autograd.gradgradcheck(averaged, x)
    assert torch.autograd.gradcheck(folded, weight)


def test_windows_of_a_tensor_that_is_given_twice_are_summed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    summed = []

    def counted(x: Tensor, dim: int, pattern: IndexPattern) -> Tensor:
        summed.append(pattern)
        return sum_along(x, dim, pattern)

    monkeypatch.setattr("einfx.conv.steps.operations.sum_along", counted)
    x = torch.randn(4, 3, 8, dtype=torch.float64)
    equation, operands, shape = convNd_kfac_reduce.einsum_expression(x, 3, simplify=False)
    got = einfx.einsum(equation, *operands).reshape(shape)
    assert len(summed) == 1
    assert close(got, dense((equation, operands, shape)))


def test_integers_contract_without_a_native_convolution() -> None:
    x, weight = torch.arange(8), torch.tensor([1, 10, 100])
    got = einfx.einsum("i,koi,k->o", x, IndexPattern(8, 3), weight)
    assert got.tolist() == [i + 10 * (i + 1) + 100 * (i + 2) for i in range(6)]


def test_factorised_kernels_and_patterns_in_a_row_are_contracted() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    u, a, b = (torch.randn(3, size, dtype=torch.float64) for size in (3, 3, 3))
    pattern = IndexPattern(9, 3, padding=1)
    got = einfx.einsum("ncxy,kox,lpy,rc,rk,rl->nop", x, pattern, pattern, u, a, b)
    weight = torch.einsum("rc,rk,rl->ckl", u, a, b)[None]
    assert close(got, torch.nn.functional.conv2d(x, weight, padding=1)[:, 0], 1e-11)
    row = torch.randn(9, dtype=torch.float64)
    got = einfx.einsum("i,koi,lpo,k,l->p", row, IndexPattern(9, 3), IndexPattern(7, 2, 2), a[0], u[0, :2])
    once = torch.nn.functional.conv1d(row[None, None], a[0][None, None])
    twice = torch.nn.functional.conv1d(once, u[0, :2][None, None], stride=2)
    assert close(got, twice[0, 0], 1e-11)


def test_operands_that_make_no_sense_are_refused() -> None:
    with pytest.raises(OperandError, match="index patterns alone"):
        einfx.einsum("koi->ko", IndexPattern(8, 3))
    with pytest.raises(OperandError, match="label 'a' has size"):
        einfx.einsum("i,koi->ko", torch.ones(7), IndexPattern(8, 3))
    with pytest.raises(EquationError):
        einfx.einsum("i?,koi->ko", torch.ones(8), IndexPattern(8, 3))
    with pytest.raises(OperandError, match="float32 on cpu and torch"):
        einfx.einsum("i,koi,k->o", torch.ones(8), IndexPattern(8, 3), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("function", [einfx.einsum, torch.einsum])
def test_einsum_takes_patterns_as_they_are(function: Callable[..., Tensor]) -> None:
    x, weight = torch.randn(2, 3, 8), torch.randn(4, 3, 3)
    pattern = IndexPattern(8, 3, stride=2, padding=1)
    expected = torch.nn.functional.conv1d(x, weight, stride=2, padding=1)
    assert torch.equal(function("nci,koi,dck->ndo", x, pattern, weight), expected)
    assert torch.equal(function("nci,koi,dck->ndo", [x, pattern, weight]), expected)
    sublists = function(x, [0, 1, 2], pattern, [3, 4, 2], weight, [5, 1, 3], [0, 5, 4])
    assert torch.equal(sublists, expected)
    ellipsis = function("...ci,koi,dck", x, pattern, weight)
    assert torch.equal(ellipsis, expected)


def test_a_traced_einsum_has_patterns_as_calls_that_build_them() -> None:
    x, weight = torch.randn(2, 3, 8), torch.randn(4, 3, 3)
    pattern = IndexPattern(8, 3, stride=2, padding=1)

    def forward(x: Tensor, weight: Tensor) -> Tensor:
        convolved: Tensor = einfx.einsum("nci,koi,dck->ndo", x, pattern, weight)
        return convolved

    traced = fx.symbolic_trace(forward)
    assert [node.target for node in traced.graph.nodes if node.op == "call_function"] == [
        IndexPattern,
        einfx.einsum,
    ]
    assert torch.equal(traced(x, weight), forward(x, weight))


def test_other_functions_of_tensors_refuse_patterns() -> None:
    with pytest.raises(TypeError, match="IndexPattern"):
        torch.add(torch.ones(3), IndexPattern(8, 3))  # type: ignore[call-overload]


HALF = IndexPattern(7, 3, 2, 1)
EXPRESSIONS: list[tuple[str, tuple[tuple[int, ...] | IndexPattern, ...]]] = [
    ("nci,koi,dck->ndo", ((2, 3, 7), HALF, (4, 3, 3))),  # a convolution
    ("ndo,koi,dck->nci", ((2, 4, 4), HALF, (4, 3, 3))),  # its gradient by the input
    ("nci,koi,ndo->dck", ((2, 3, 7), HALF, (2, 4, 4))),  # its gradient by the kernel
    ("nci,koi->nck", ((2, 3, 7), HALF)),  # averaged patches
    ("nci,koi->nco", ((2, 3, 7), HALF)),  # pooling
    ("nci,koi->ncko", ((2, 3, 7), HALF)),  # patches
    ("ncko,koi->nci", ((2, 3, 3, 4), HALF)),  # patches added up
    ("ni,koi,dk,od->no", ((2, 7), HALF, (4, 3), (4, 4))),  # a label that three operands have
    ("nci,koi,dr,cr,kr->ndo", ((2, 3, 7), HALF, (4, 2), (3, 2), (3, 2))),  # a kernel by its factors
    ("i,kki->k", ((7,), IndexPattern(7, 3, 1, 0))),  # a diagonal
]


def random_operands(
    shapes: tuple[tuple[int, ...] | IndexPattern, ...], dtype: torch.dtype = torch.float64
) -> list[Tensor | IndexPattern]:
    """Random tensors for shapes."""
    torch.manual_seed(0)
    return [x if isinstance(x, IndexPattern) else torch.randn(x, dtype=dtype) for x in shapes]


def built(operands: list[Tensor | IndexPattern]) -> list[Tensor]:
    """The operands with patterns as tensors of the others' dtype."""
    like = next(x for x in operands if isinstance(x, Tensor))
    return [x if isinstance(x, Tensor) else x.tensor(like.dtype) for x in operands]


def square(equation: str) -> bool:
    """Whether the pattern of an equation has as many kernel positions as outputs."""
    return "kki" in equation


@pytest.mark.parametrize(("equation", "shapes"), EXPRESSIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128, torch.int64])
def test_every_dtype_gives_the_dense_result(
    equation: str, shapes: tuple[tuple[int, ...] | IndexPattern, ...], dtype: torch.dtype
) -> None:
    if square(equation):
        shapes = ((5,), IndexPattern(5, 3, 1, 0))
    operands = random_operands(shapes, torch.float64)
    operands = [x if isinstance(x, IndexPattern) else (3 * x).to(dtype) for x in operands]
    if dtype.is_complex:
        operands = [x if isinstance(x, IndexPattern) else x * (1 + 2j) for x in operands]
    got = einfx.einsum(equation, *operands)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    expected = torch.einsum(equation, *[x.to(wide) for x in built(operands)])
    assert got.dtype == dtype
    assert close(got.to(wide), expected, 1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize(("equation", "shapes"), EXPRESSIONS[:-1])
def test_second_derivatives_are_those_of_the_dense_contraction(
    equation: str, shapes: tuple[tuple[int, ...] | IndexPattern, ...]
) -> None:
    operands = random_operands(shapes)
    places = [i for i, x in enumerate(operands) if isinstance(x, Tensor)]

    def function(*tensors: Tensor) -> Tensor:
        every = list(operands)
        for place, tensor in zip(places, tensors, strict=True):
            every[place] = tensor
        result: Tensor = einfx.einsum(equation, *every)
        return result

    tensors = [operands[i].requires_grad_() for i in places]  # type: ignore[union-attr]
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


@pytest.mark.parametrize(("equation", "shapes"), EXPRESSIONS[:-1])
def test_functions_are_mapped_and_differentiated_forwards(
    equation: str, shapes: tuple[tuple[int, ...] | IndexPattern, ...]
) -> None:
    operands = random_operands(shapes)
    x, rest = operands[0], operands[1:]
    assert isinstance(x, Tensor)

    def function(x: Tensor) -> Tensor:
        result: Tensor = einfx.einsum(equation, x, *rest)
        return result

    many = torch.stack([x, 2 * x, -x])
    mapped = torch.func.vmap(function)(many)
    assert close(mapped, torch.stack([function(x), 2 * function(x), -function(x)]), 1e-12)
    made = torch.func.jvp(function, (x,), (x,))
    assert close(made[1], made[0], 1e-12)
    gradient = torch.func.grad(lambda x: function(x).pow(2).sum())(x)
    (expected,) = torch.autograd.grad(
        torch.einsum(equation, x.requires_grad_(), *built(operands)[1:]).pow(2).sum(), x
    )
    assert close(gradient, expected, 1e-12)
    mapped = torch.func.vmap(torch.func.grad(lambda x: function(x).pow(2).sum()))(many.detach())
    assert close(mapped[0], expected, 1e-12)


@pytest.mark.parametrize(("equation", "shapes"), EXPRESSIONS[:-1])
def test_an_empty_batch_gives_an_empty_or_zero_result(
    equation: str, shapes: tuple[tuple[int, ...] | IndexPattern, ...]
) -> None:
    batch = [
        x
        if isinstance(x, IndexPattern)
        else tuple(0 if c == "n" else n for c, n in zip(labels, x, strict=True))
        for labels, x in zip(equation.split("->")[0].split(","), shapes, strict=True)
    ]
    operands = random_operands(tuple(batch))
    expected = torch.einsum(equation, *built(operands))
    got = einfx.einsum(equation, *operands)
    assert got.shape == expected.shape
    assert torch.equal(got, expected)


@pytest.mark.parametrize("equation", ["ni,koi,dk->ndo", "ni,koi,nk->ndo", "ni,koi,nd->ndk", "ni,koi->nko"])
@pytest.mark.parametrize("pattern", [IndexPattern(8, 2, 2), IndexPattern(8, 8), IndexPattern(8, 3, 2, 1)])
def test_an_empty_batch_that_patterns_split_stays_in_the_result(equation: str, pattern: IndexPattern) -> None:
    sizes = {"n": 0, "i": 8, "d": 2, "k": pattern.kernel_size, "o": pattern.output_size}
    inputs, output = equation.split("->")
    inputs, output = (inputs + ",d", output) if "d" in output and "d" not in inputs else (inputs, output)
    operands = [
        pattern if labels == "koi" else torch.ones([sizes[x] for x in labels]) for labels in inputs.split(",")
    ]
    got = einfx.einsum(f"{inputs}->{output}", *operands)
    assert got.shape == tuple(sizes[x] for x in output)


def test_a_dimension_of_size_one_broadcasts_against_a_pattern() -> None:
    row, weight = torch.randn(2, 3, 1, dtype=torch.float64), torch.randn(4, 1, 3, dtype=torch.float64)
    got = einfx.einsum("nci,koi,dck->ndo", row, HALF, weight)
    expected = torch.einsum(
        "nci,koi,dck->ndo", row.expand(2, 3, 7), HALF.tensor(torch.float64), weight.expand(4, 3, 3)
    )
    assert close(got, expected, 1e-12)


def test_calls_are_remembered_for_which_operands_are_the_same() -> None:
    x, y = torch.randn(2, 3, 7, dtype=torch.float64), torch.randn(2, 3, 7, dtype=torch.float64)
    equation = "nci,koi,ndj,loj->ckdl"
    for first, second in ((x, x), (x, y), (x, x), (y, x)):
        operands: list[Tensor | IndexPattern] = [first, HALF, second, HALF]
        assert close(einfx.einsum(equation, *operands), torch.einsum(equation, *built(operands)), 1e-12)


def test_an_explicit_path_is_followed() -> None:
    operands = random_operands(EXPRESSIONS[0][1])
    expected = torch.einsum(EXPRESSIONS[0][0], *built(operands))
    for path in ([(0, 1), (0, 1)], [(1, 2), (0, 1)], [(0, 1, 2)]):
        assert close(einfx.einsum(EXPRESSIONS[0][0], *operands, optimize=path), expected, 1e-12)
    with pytest.raises(OperandError, match="operand 2 is a list"):
        einfx.einsum("nci,koi,dck->ndo", operands[0], operands[1], [1.0])
