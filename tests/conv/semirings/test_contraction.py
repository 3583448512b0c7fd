"""Contractions with index patterns over every semiring, against brute force."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

import einfx
from einfx.conv.semirings.contraction import contract_semiring
from einfx.errors import MemoryLimitError, OperandError, UsageError
from einfx.options import Options
from einfx.pattern import IndexPattern

from ...kernels.memory import peak_bytes
from .oracle import ZEROS, by_brute_force

P = IndexPattern
ONE_DIMENSION = [
    P(6, 3),
    P(6, 3, padding=1),
    P(7, 3, stride=2, padding=1),
    P(7, 2, dilation=3, padding=(3, 1)),
    P(8, 3, stride=2, dilation=3, padding=2),
    P(8, 4, stride=4, dilation=2, padding=3),
    P(6, 2, stride=2),
    P(6, 3, stride=3, padding=(-1, 2)),
    P(2, 3, stride=3, padding=7, dilation=2),
    P(5, 1),
    P(3, 5, padding=4),
]
EQUATIONS = [
    "nci,koi,dck->ndo",
    "ndo,koi,dck->nci",
    "nci,koi,ndo->dck",
    "nci,koi->nco",
    "nci,koi->nck",
    "nci,koi->nkoc",
    "nci,koi->nc",
    "k,koi->oi",
    "k,koi->i",
    "n,koi->n",
    "n,koi->nki",
    "o,i,koi->k",
    "i,koi,k->oi",
    "o,koi->oki",
    "nco,koi->nci",
]
SEMIRINGS = list(ZEROS)


def draw(semiring: str, *shape: int) -> Tensor:
    """Numbers of a semiring, its zero and equal ones among them."""
    if semiring == "boolean":
        return torch.rand(shape) < 0.4
    x = torch.randint(-4, 5, shape).double()
    if semiring == "max_times":
        return x.abs()
    if semiring == "real":
        return x
    return torch.where(torch.rand(shape) < 0.1, torch.tensor(ZEROS[semiring]).double(), x / 2)


def operands_of(equation: str, semiring: str, sizes: dict[str, Any]) -> list[Any]:
    """Tensors for an equation, and the patterns that ``sizes`` has for the labels of some operands."""
    lengths = {"n": 2, "c": 2, "d": 3, "i": 4}
    for labels, pattern in sizes.items():
        lengths |= dict(zip(labels, pattern.shape, strict=True))
    return [
        sizes[labels] if labels in sizes else draw(semiring, *[lengths[x] for x in labels])
        for labels in equation.split("->")[0].split(",")
    ]


def check(equation: str, operands: list[Any], semiring: str, **options: Any) -> Tensor:
    """The result, once it is what brute force says."""
    got: Tensor = contract_semiring(equation, operands, Options.read(semiring, **options))
    expected = by_brute_force(
        equation, *operands, semiring=semiring, linear=options.get("linear_operands", ())
    )
    assert got.shape == expected.shape
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=1e-12, atol=1e-12)
    return got


@pytest.mark.parametrize("semiring", SEMIRINGS)
@pytest.mark.parametrize("equation", EQUATIONS)
def test_any_use_of_one_pattern_is_what_brute_force_says(equation: str, semiring: str) -> None:
    torch.manual_seed(0)
    for pattern in ONE_DIMENSION:
        check(equation, operands_of(equation, semiring, {"koi": pattern}), semiring)


@pytest.mark.parametrize("semiring", SEMIRINGS)
@pytest.mark.parametrize(
    "equation",
    [
        "nciq,koi,lpq,dckl->ndop",
        "ndop,koi,lpq,dckl->nciq",
        "nciq,koi,lpq,ndop->dckl",
        "nciq,koi,lpq->nop",
        "nciq,koi,lpq->nckl",
    ],
)
def test_two_dimensions_are_what_brute_force_says(equation: str, semiring: str) -> None:
    torch.manual_seed(0)
    for i in range(0, 10, 3):
        first, second = ONE_DIMENSION[i], ONE_DIMENSION[(i + 2) % 10]
        check(equation, operands_of(equation, semiring, {"koi": first, "lpq": second}), semiring)


@pytest.mark.parametrize("semiring", SEMIRINGS)
@pytest.mark.parametrize(
    "equation",
    [
        "ni,koi,lpo,k,l->np",  # patterns in a row
        "ni,koi,lpi->nkolp",  # patterns of one input
        "nio,koi,kpo->np",
        "koi,koi,n->ni",
        "ni,koo->no",
        "nk,kkk->n",
        "ni,koi,no->noi",
        "nii,koi->nko",
    ],
)
def test_patterns_that_meet_are_what_brute_force_says(equation: str, semiring: str) -> None:
    torch.manual_seed(0)
    patterns = {
        "koi": P(6, 3, padding=1),
        "lpo": P(6, 2, 2),
        "lpi": P(6, 2, 2, padding=2),
        "kpo": P(6, 3, padding=2, dilation=2),
        "koo": P(6, 3, padding=1),
        "kkk": P(3, 3, padding=1),
    }
    met = {labels: patterns[labels] for labels in equation.split("->")[0].split(",") if labels in patterns}
    check(equation, operands_of(equation, semiring, met), semiring)


@pytest.mark.parametrize("semiring", ["real", "log", "max_plus", "min_plus", "max_times", "max_min"])
def test_what_meets_a_zero_of_a_pattern_is_left_out_even_where_it_is_not_finite(semiring: str) -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    for bad in (math.inf, math.nan) if semiring in ("real", "max_times") else (math.inf, -math.inf, math.nan):
        weight = torch.tensor([bad, 1.0, 2.0], dtype=torch.float64)
        got = check("i,koi,k->o", [x, P(4, 3, padding=1), weight], semiring)
        # The first output never meets the number that isn't finite.
        assert torch.isfinite(got[0])
        check("o,koi,k->i", [x, P(4, 3, padding=1), weight], semiring)


def test_a_dilation_is_that_of_scipy() -> None:
    torch.manual_seed(0)
    image, element = torch.randn(9, 11, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    operands = [image, P(9, 3, padding=1), P(11, 5, padding=2), element]
    got = check("ij,koi,lpj,kl->op", operands, "max_plus")
    expected = ndimage.grey_dilation(
        image.numpy(), structure=element.flip(0, 1).numpy(), mode="constant", cval=-np.inf
    )
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-12)


def test_max_pooling_is_that_of_torch() -> None:
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    for stride, padding, dilation in ((1, 1, 1), (2, 1, 1), (3, 0, 1), (1, 1, 2)):
        patterns = [P(size, 3, stride, padding, dilation) for size in (9, 8)]
        got = contract_semiring("ncij,koi,lpj->ncop", [x, *patterns], Options.read("max_plus"))
        assert torch.equal(got, torch.nn.functional.max_pool2d(x, 3, stride, padding, dilation))


def test_linear_operands_stay_linear() -> None:
    torch.manual_seed(0)
    weight = torch.rand(4, 3, 3, dtype=torch.float64)
    x = draw("log", 2, 3, 7)
    for pattern in (P(7, 3, padding=1), P(7, 3, 2, 2)):
        for equation, operands, linear in (
            ("nci,koi,dck->ndo", [x, pattern, weight], (2,)),
            ("dck,koi,nci->ndo", [weight, pattern, x], (0,)),
            ("nci,koi,dck->ndo", [x.exp(), pattern, weight], (0, 1, 2)),
        ):
            check(equation, operands, "log", linear_operands=linear)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.float32, torch.bfloat16])
def test_other_dtypes_have_zeros_too(dtype: torch.dtype) -> None:
    x = torch.tensor([3, -5, 2, -7]).to(dtype)
    weight = torch.tensor([-1, 0, 2]).to(dtype)
    for semiring in ("max_plus", "min_plus", "max_min"):
        got = contract_semiring("i,koi,k->o", [x, P(4, 3, padding=1), weight], Options.read(semiring))
        assert got.dtype == dtype
        expected = (
            by_brute_force("i,koi,k->o", x, P(4, 3, padding=1), weight, semiring=semiring)
            if (dtype == torch.int64)
            else contract_semiring(
                "i,koi,k->o", [x.long(), P(4, 3, padding=1), weight.long()], Options.read(semiring)
            ).numpy()
        )
        assert got.tolist() == expected.tolist()


@pytest.mark.parametrize("semiring", ["log", "max_plus", "min_plus", "max_times", "max_min"])
@pytest.mark.parametrize("equation", EQUATIONS)
def test_gradients_are_those_of_the_dense_contraction(equation: str, semiring: str) -> None:
    torch.manual_seed(0)
    for pattern in ONE_DIMENSION[1:6]:
        # Different numbers: nothing is selected out of equal ones.
        operands = [
            x if isinstance(x, IndexPattern) else torch.rand(x.shape, dtype=torch.float64).requires_grad_()
            for x in operands_of(equation, semiring, {"koi": pattern})
        ]
        tensors = [x for x in operands if isinstance(x, Tensor)]
        got = check(equation, operands, semiring)
        cotangent = torch.rand_like(got)
        # A sum without terms has no gradient, of which torch makes nan.
        kept = got.isfinite()
        gradients = torch.autograd.grad(got[kept], tensors, cotangent[kept])
        dense = [x if isinstance(x, Tensor) else _dense(x, semiring) for x in operands]
        expected = contract_dense(equation, dense, semiring, kept)
        for one, other in zip(
            gradients, torch.autograd.grad(expected, tensors, cotangent[kept]), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def _dense(pattern: IndexPattern, semiring: str) -> Tensor:
    one = {"log": 0.0, "max_plus": 0.0, "min_plus": 0.0, "max_times": 1.0, "max_min": math.inf}[semiring]
    return torch.where(pattern.tensor(), one, ZEROS[semiring]).double()


def contract_dense(equation: str, operands: list[Tensor], semiring: str, kept: Tensor) -> Tensor:
    """The terms of all labels at once, for the outputs to keep, differentiated by torch."""
    inputs, output = equation.split("->")
    letters = sorted(set(inputs) - {","})
    order = [*output, *(letter for letter in letters if letter not in output)]
    total: Tensor | None = None
    for labels, operand in zip(inputs.split(","), operands, strict=True):
        moved = operand.permute([labels.index(x) for x in order if x in labels])
        sizes = iter(moved.shape)
        moved = moved.reshape([next(sizes) if x in labels else 1 for x in order])
        if total is None:
            total = moved
        elif semiring == "max_min":
            total = torch.minimum(total, moved)
        else:
            total = total * moved if semiring == "max_times" else total + moved
    assert total is not None
    flat = total.flatten(len(output)) if total.ndim > len(output) else total[..., None]
    flat = flat.broadcast_to((*kept.shape, flat.shape[-1]))[kept]
    if semiring == "log":
        return flat.logsumexp(-1)
    return flat.min(-1).values if semiring == "min_plus" else flat.max(-1).values


@pytest.mark.parametrize("semiring", ["max_plus", "min_plus", "max_times", "max_min", "boolean"])
@pytest.mark.parametrize("equation", [*EQUATIONS, "ni,koi,lpo,k,l->np", "ni,koi,lpi->np", "ni,koo->n"])
def test_an_argmax_is_where_the_selected_term_is(equation: str, semiring: str) -> None:
    torch.manual_seed(0)
    letters = equation.split("->")[0]
    for pattern in ONE_DIMENSION:
        patterns = {"koi": pattern}
        if "koo" in letters:
            patterns = {"koo": P(6, 3, padding=1)}
        if "lpo" in letters:
            patterns["lpo"] = P(pattern.output_size, 1, 2)
        if "lpi" in letters:
            patterns["lpi"] = P(pattern.input_size, 2, padding=1)
        operands = operands_of(equation, semiring, patterns)
        value, places = contract_semiring(equation, operands, Options.read(semiring), return_argmax=True)
        expected = by_brute_force(equation, *operands, semiring=semiring)
        np.testing.assert_array_equal(value.numpy(), expected)
        assert_selected(equation, operands, semiring, value, places)


def assert_selected(equation: str, operands: list[Any], semiring: str, value: Tensor, places: Tensor) -> None:
    """Assert that places name terms, of the values that were returned, all of whose patterns are one."""
    inputs, output = equation.split("->")
    summed = [x for x in dict.fromkeys(inputs.replace(",", "")) if x not in output]
    assert places.shape == (*value.shape, len(summed))
    multiply = {"max_times": torch.mul, "max_min": torch.minimum, "boolean": torch.logical_and}
    for index in np.ndindex(*value.shape):
        at = dict(zip(output, index, strict=True)) | dict(zip(summed, places[index].tolist(), strict=True))
        if -1 in at.values():
            assert value[index] == ZEROS[semiring]
            continue
        if not summed and value[index] == ZEROS[semiring]:
            continue
        term = None
        for labels, operand in zip(inputs.split(","), operands, strict=True):
            where = tuple(at[x] for x in labels)
            if isinstance(operand, IndexPattern):
                assert operand.tensor()[where]
            else:
                element = operand[where]
                term = element if term is None else multiply.get(semiring, torch.add)(term, element)
        assert term == value[index]


@pytest.mark.parametrize("semiring", ["log", "max_plus", "max_times"])
def test_functional_transforms_go_through(semiring: str) -> None:
    torch.manual_seed(0)
    pattern = P(6, 3, padding=1)
    x, weight = torch.rand(4, 2, 6, dtype=torch.float64), torch.rand(3, 2, 3, dtype=torch.float64)

    def forward(x: Tensor, weight: Tensor) -> Tensor:
        result: Tensor = contract_semiring("ci,koi,dck->do", [x, pattern, weight], Options.read(semiring))
        return result

    batched = torch.func.vmap(forward, (0, None))(x, weight)
    expected = torch.stack([forward(one, weight) for one in x])
    torch.testing.assert_close(batched, expected, rtol=1e-12, atol=1e-12)
    tangent = torch.rand_like(x[0])
    pushed = torch.func.jvp(lambda x: forward(x, weight), (x[0],), (tangent,))[1]
    jacobian = torch.func.jacrev(forward)(x[0], weight)
    torch.testing.assert_close(pushed, torch.einsum("doci,ci->do", jacobian, tangent), rtol=1e-10, atol=1e-10)
    if semiring == "log":
        assert torch.autograd.gradcheck(forward, (x[0].requires_grad_(), weight.requires_grad_()))
        assert torch.autograd.gradgradcheck(forward, (x[0], weight))


def test_equal_shares_of_sums_that_are_zero_count_no_padding() -> None:
    x = torch.full((3,), -math.inf, dtype=torch.float64, requires_grad=True)
    weight = torch.zeros(3, dtype=torch.float64)
    options = Options.read("log", grad_of_neg_inf="uniform")
    contract_semiring("i,koi,k->o", [x, P(3, 3, padding=1), weight], options)[0].backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.5, 0.5, 0.0]


def test_blocks_and_limits_are_kept_to() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 8, 2048, dtype=torch.float64), torch.randn(8, 8, 5, dtype=torch.float64)
    operands: list[Any] = [x, P(2048, 5, padding=2), weight]
    for semiring in ("log", "max_plus"):
        expected = contract_semiring("nci,koi,dck->ndo", operands, Options.read(semiring))
        blocked = contract_semiring("nci,koi,dck->ndo", operands, Options.read(semiring, block_size=3))
        torch.testing.assert_close(blocked, expected, rtol=1e-12, atol=1e-12)
        limited = contract_semiring(
            "nci,koi,dck->ndo", operands, Options.read(semiring, memory_limit="1536KiB")
        )
        torch.testing.assert_close(limited, expected, rtol=1e-12, atol=1e-12)
        with pytest.raises(MemoryLimitError, match="parts of the result"):
            contract_semiring("nci,koi,dck->ndo", operands, Options.read(semiring, memory_limit="300KiB"))


def test_a_limit_bounds_what_is_allocated_margins_included() -> None:
    x, weight = torch.randn(4, 16, 56, 56), torch.randn(16, 16, 3, 3)
    operands: list[Any] = [x, P(56, 3, padding=1), P(56, 3, padding=1), weight]
    # Windows as a copy alone would be 7 MiB.
    options = Options.read("log", memory_limit="3MiB")
    peak = peak_bytes(lambda: contract_semiring("ncij,koi,lpj,dckl->ndop", operands, options))
    assert peak <= 3 << 20


def test_einsum_takes_patterns_over_semirings() -> None:
    x, weight = draw("max_plus", 2, 3, 8), draw("max_plus", 4, 3, 3)
    pattern = P(8, 3, stride=2, padding=1)
    expected = by_brute_force("nci,koi,dck->ndo", x, pattern, weight, semiring="max_plus")
    equations: list[tuple[Any, ...]] = [
        ("nci,koi,dck->ndo", x, pattern, weight),
        ("...ci,koi,dck->...do", [x, pattern, weight]),
        (x, [0, 1, 2], pattern, [3, 4, 2], weight, [5, 1, 3], [0, 5, 4]),
    ]
    for arguments in equations:
        np.testing.assert_array_equal(einfx.einsum(*arguments, semiring="viterbi").numpy(), expected)
    value, places = einfx.einsum(*equations[0], semiring="max_plus", return_argmax=True)
    np.testing.assert_array_equal(value.numpy(), expected)
    assert_selected("nci,koi,dck->ndo", [x, pattern, weight], "max_plus", value, places)


def test_what_makes_no_sense_is_refused() -> None:
    x, pattern, options = torch.ones(8), P(8, 3), Options.read("max_plus")
    with pytest.raises(OperandError, match="index patterns alone"):
        contract_semiring("koi->o", [pattern], options)
    with pytest.raises(OperandError, match=r"'i,koi->o'.*label"):
        contract_semiring("i,koi->o", [x[1:], pattern], options)
    with pytest.raises(UsageError, match="a path has no place"):
        contract_semiring("i,koi->o", [x, pattern], options, optimize=[(0, 1)])
    with pytest.raises(OperandError, match="linear_operands names operand 5"):
        contract_semiring("i,koi->o", [x, pattern], Options.read("log", linear_operands=(5,)))
    with pytest.raises(UsageError, match="no argmax"):
        contract_semiring("i,koi->o", [x, pattern], Options.read("log"), return_argmax=True)
