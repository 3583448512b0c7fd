"""Each pairwise contraction becomes the calls that are fastest for its shapes and right for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import fx

import einfx
from einfx.graphs.estimate import LOWERED
from einfx.graphs.shapes import propagate
from einfx.passes import LowerKernels
from einfx.rewrite import collect_declined
from tests.rewriting import assert_same, check_declined, check_rewrite

E = torch.einsum
Program = Callable[..., torch.Tensor]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Which kernel is fastest depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


TABLE: list[tuple[str, tuple[tuple[int, ...], ...], str]] = [
    # a matrix product is one, whatever the order of its labels
    ("ij,jk->ik", ((20, 30), (30, 40)), "mm = einfx_kernels_helpers_mm(a, b)\nreturn mm"),
    (
        "ij,kj->ki",
        ((20, 30), (40, 30)),
        "permute = torch.permute(a, (1, 0))\nmm = einfx_kernels_helpers_mm(b, permute)\nreturn mm",
    ),
    # a tiny sum is written out
    (
        "nc,nc->n",
        ((2000, 2), (2000, 2)),
        "unrolled_multiply_sum = einfx_kernels_helpers_unrolled_multiply_sum(a, b, -1)\n"
        "return unrolled_multiply_sum",
    ),
]


@pytest.mark.parametrize(("equation", "shapes", "expected"), TABLE)
def test_the_kernel_follows_from_the_shapes(
    equation: str, shapes: tuple[tuple[int, ...], ...], expected: str
) -> None:
    check_rewrite(
        LowerKernels(), _einsum(equation), expected, [torch.rand(shape) for shape in shapes], rewrites=1
    )


def _einsum(equation: str) -> Program:
    if "," not in equation:
        return lambda a: E(equation, a)
    return lambda a, b: E(equation, a, b)


EQUATIONS = """
i,i-> i,j->ij ij,j->i ij,jk->ik ij,jk->ki bij,bjk->bik bij,bjk->ikb ij,ij->ij ij,ij->i ij,ij->j ij,ij->
ijk,jkl->il ijk,lkj->li ii,i->i ii,ij->j ij,kl->jl abc,cbd->da ij-> ij->j ij->ji ii->i ii-> ijj->ji ,ij->ij
""".split()
SIZES = {"a": 4, "b": 3, "c": 5, "d": 2, "i": 4, "j": 3, "k": 5, "l": 2, "n": 6}


def _operands(equation: str, sizes: dict[str, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    parts = equation.split("->")[0].split(",")
    return [torch.rand([sizes[x] for x in part], generator=generator, dtype=torch.float64) for part in parts]


@pytest.mark.parametrize("equation", EQUATIONS)
def test_lowered_code_is_right_for_all_sizes_and_not_for_the_examples_alone(equation: str) -> None:
    program = _einsum(equation)
    traced = fx.symbolic_trace(program)
    propagate(traced, _operands(equation, SIZES))
    LowerKernels().apply(traced)
    traced.recompile()
    for scale in (1, 3):
        operands = _operands(equation, {label: size * scale for label, size in SIZES.items()})
        assert_same(traced(*operands), program(*operands))
    for label in sorted(set(equation) - set("->,")):
        for size in (0, 1, 7):
            operands = _operands(equation, {**SIZES, label: size})
            assert_same(traced(*operands), program(*operands))


@pytest.mark.parametrize("equation", [e for e in EQUATIONS if "," in e])
def test_lowered_code_broadcasts_where_einsum_does(equation: str) -> None:
    program = _einsum(equation)
    traced = fx.symbolic_trace(program)
    propagate(traced, _operands(equation, SIZES))
    LowerKernels().apply(traced)
    traced.recompile()
    for position in range(2):
        operands = _operands(equation, SIZES)
        operands[position] = operands[position][(slice(0, 1),) * operands[position].dim()]
        assert_same(traced(*operands), program(*operands))


@pytest.mark.parametrize("equation", [e for e in EQUATIONS if "," in e])
def test_a_result_that_somebody_sees_keeps_the_strides_of_the_einsum(equation: str) -> None:
    program, operands = _einsum(equation), _operands(equation, SIZES)
    traced = fx.symbolic_trace(program)
    propagate(traced, operands)
    LowerKernels().apply(traced)
    traced.recompile()
    assert traced(*operands).stride() == program(*operands).stride()


def test_what_was_lowered_is_known_for_the_report() -> None:
    traced = fx.symbolic_trace(_einsum("ij,kj->ki"))
    propagate(traced, (torch.rand(20, 30), torch.rand(40, 30)))
    LowerKernels().apply(traced)
    lowered = {node.meta[LOWERED] for node in traced.graph.nodes if LOWERED in node.meta}
    (only,) = lowered
    assert only.equation == "ab,cb->ca"
    assert only.shapes == ((20, 30), (40, 30))
    assert only.flops == 2 * 20 * 30 * 40


def test_integers_are_left_with_the_reason() -> None:
    ones = torch.ones(3, 3, dtype=torch.int64)
    check_declined(LowerKernels(), _einsum("ij,jk->ik"), (ones, ones), "one floating dtype")


def test_contractions_of_three_are_left_with_the_reason() -> None:
    square = torch.rand(3, 3)
    check_declined(
        LowerKernels(), lambda a, b: E("ij,jk,kl->il", a, b, a), (square, square), "no path was chosen"
    )


def test_without_shapes_nothing_is_lowered_and_the_reason_is_said() -> None:
    traced = fx.symbolic_trace(_einsum("ij,jk->ik"))
    with collect_declined() as declined:
        assert LowerKernels().apply(traced) == 0
    assert "aren't all known" in declined[0].reason


@pytest.mark.parametrize(
    "program",
    [
        lambda a: einfx.einsum("ij,jk->ik", a, a, semiring="log"),
        lambda a: einfx.einsum("ij,jk->ik", a, a, semiring="max_plus"),
        lambda a: einfx.einsum("ij,jk->ik", a, a, memory_limit="64MiB"),
    ],
)
def test_einsums_over_other_semirings_and_with_limits_stay_calls_of_einfx(program: Program) -> None:
    check_declined(LowerKernels(), program, (torch.rand(30, 30),))
