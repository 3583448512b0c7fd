"""Costs: what a step costs decides about its kernel, and so must rank kernels as clocks do."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch

from einfx.costs.candidates import MAX_UNROLLED
from einfx.costs.cost import Kernel, choose_kernel, step_cost
from einfx.equation import Equation
from einfx.kernels.real import emit_kernel, lower
from einfx.layout import Layout, Loops, contiguous_strides, iteration_order
from einfx.machine import machine_for
from einfx.program import call

BIG = 256


def kernel(text: str, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Kernel:
    return choose_kernel(Equation.parse(text), shapes, dtype)


class TestChoice:
    @pytest.mark.parametrize(
        ("text", "shapes", "name"),
        [
            ("ij->ji", [(BIG, BIG)], "view"),
            ("ii->i", [(BIG, BIG)], "view"),
            ("ij->i", [(BIG, BIG)], "sum"),
            ("ij,ij->ij", [(BIG, BIG)] * 2, "multiply"),
            ("i,j->ij", [(BIG,)] * 2, "multiply"),
            ("ij,jk->ik", [(BIG, BIG)] * 2, "mm"),
            ("ij,j->i", [(BIG, BIG), (BIG,)], "mv"),
            ("ij,ij->", [(BIG, BIG)] * 2, "dot"),
            ("bij,bjk->bik", [(32, 64, 64)] * 2, "bmm"),
            ("nc,nc->n", [(100_000, 2)] * 2, "unrolled"),
            ("nk,nk->n", [(1000, 1000)] * 2, "multiply_sum"),
            ("ac,abc->cb", [(128, 64), (128, 128, 64)], "multiply_sum"),
        ],
    )
    def test_the_known_shapes_get_their_known_kernels(
        self, text: str, shapes: list[tuple[int, ...]], name: str
    ) -> None:
        assert kernel(text, *shapes).name == name

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("text", ["nc,nc->n", "ac,abc->cb", "ab,ab->"])
    def test_half_precision_never_rounds_products_before_the_sum(self, text: str, dtype: torch.dtype) -> None:
        equation = Equation.parse(text)
        shapes = [[8] * len(labels) for labels in equation.inputs]
        assert choose_kernel(equation, shapes, dtype).name in ("mm", "bmm")

    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
    def test_integers_and_booleans_are_left_to_torch(self, dtype: torch.dtype) -> None:
        assert kernel("ij,jk->ik", (4, 4), (4, 4), dtype=dtype).name == "einsum"

    def test_only_few_products_are_unrolled(self) -> None:
        assert kernel("cn,cn->n", (MAX_UNROLLED, 100_000), (MAX_UNROLLED, 100_000)).name == "unrolled"
        assert kernel("cn,cn->n", (100, 100_000), (100, 100_000)).name != "unrolled"

    def test_operands_that_a_gemm_reads_transposed_are_not_copied(self) -> None:
        for text in ("ij,jk->ik", "ji,jk->ik", "ij,kj->ik", "ji,kj->ik", "ji,kj->ki"):
            assert kernel(text, (BIG, BIG), (BIG, BIG)).cost.workspace_bytes == 0

    def test_an_order_that_needs_a_copy_costs_it(self) -> None:
        free = kernel("abij,cdij->abcd", (16,) * 4, (16,) * 4).cost
        copied = kernel("aibj,cdij->abcd", (16,) * 4, (16,) * 4).cost
        assert free.workspace_bytes == 0
        assert copied.workspace_bytes > 0
        assert copied.seconds > free.seconds

    def test_a_contiguous_result_swaps_operands_rather_than_copy(self) -> None:
        chosen = choose_kernel(Equation.parse("ij,jk->ki"), [(BIG, BIG)] * 2, torch.float32, contiguous=True)
        assert chosen.swapped
        assert chosen.strides == (BIG, 1)
        assert chosen.cost.workspace_bytes == 0


class TestCost:
    def test_flops_of_a_product_of_matrices_are_two_for_each_multiplication(self) -> None:
        cost = step_cost(Equation.parse("ij,jk->ik"), {0: 10, 1: 20, 2: 30}, torch.float32)
        assert cost.flops == 2 * 10 * 20 * 30
        assert cost.bytes == 4 * (10 * 20 + 20 * 30 + 10 * 30)

    @pytest.mark.parametrize("text", ["ij,jk->ik", "bij,bjk->bik", "ij,ij->i", "ij,kl->ijkl", "ijk->i"])
    def test_more_work_never_takes_less_time(self, text: str) -> None:
        equation = Equation.parse(text)
        times = [
            step_cost(equation, dict.fromkeys(equation.labels, n), torch.float32).seconds
            for n in (8, 16, 32, 64, 96)
        ]
        assert times == sorted(times)
        assert all(math.isfinite(t) and t > 0 for t in times)

    def test_empty_operands_cost_only_the_call(self) -> None:
        cost = step_cost(Equation.parse("ij,jk->ik"), {0: 0, 1: 20, 2: 30}, torch.float32)
        assert cost.flops == 0
        assert cost.seconds < 1e-4

    def test_double_precision_takes_longer_than_single(self) -> None:
        sizes = {0: 512, 1: 512, 2: 512}
        equation = Equation.parse("ij,jk->ik")
        single, double = (step_cost(equation, sizes, d).seconds for d in (torch.float32, torch.float64))
        assert double > 1.5 * single

    def test_a_gpu_is_predicted_too(self) -> None:
        cost = step_cost(Equation.parse("ij,jk->ik"), {0: 4096, 1: 4096, 2: 4096}, torch.float32, "cuda")
        assert 1e-4 < cost.seconds < 1e-1

    def test_threads_count(self) -> None:
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            one = machine_for("cpu").gemm(1, 1024, 1024, 1024, torch.float32)
            torch.set_num_threads(2)
            two = machine_for("cpu").gemm(1, 1024, 1024, 1024, torch.float32)
        finally:
            torch.set_num_threads(before)
        assert two < 0.7 * one


class TestLayout:
    def test_neighbours_in_memory_merge_and_others_do_not(self) -> None:
        layout = Layout.of((0, 1, 2), (2, 3, 4), None, False)
        assert layout.merged((0, 1, 2)) == (24, 1)
        assert layout.merged((0, 1)) == (6, 4)
        assert layout.merged((0, 2)) is None
        assert layout.merged((1, 0)) is None

    def test_an_expanded_dimension_does_not_merge(self) -> None:
        assert Layout.of((0, 1), (5, 4), (0, 1), False).merged((0, 1)) is None

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
    def test_the_iteration_order_is_the_one_in_which_torch_lays_out_a_product(
        self, order: tuple[int, ...]
    ) -> None:
        sizes = {0: 2, 1: 3, 2: 5}
        a = torch.rand(2, 3, 5).permute(order)
        b = torch.rand(5, 3, 2).permute(2, 1, 0).permute(order)
        b[:] = 1
        layouts = [Layout.of(order, x.shape, x.stride(), False) for x in (a, b)]
        walked = iteration_order(layouts, order, sizes)
        expected = dict(zip(walked, contiguous_strides([sizes[x] for x in walked]), strict=True))
        assert (a * b).stride() == tuple(expected[x] for x in order)

    def test_loops_merge_only_where_all_operands_let_them(self) -> None:
        dense = Layout.of((0, 1), (4, 3), None, False)
        row = Layout.of((1,), (3,), None, False)
        sizes = {0: 4, 1: 3}
        assert Loops.over([dense, dense], (0, 1), sizes) == Loops(12, 1, True)
        assert Loops.over([dense, row], (0, 1), sizes) == Loops(3, 4, True)
        assert not Loops.over([dense], (1, 0), sizes).unit_stride


def test_operands_are_copied_in_long_rows() -> None:
    # Windows of 2x2 in front of a product over all positions: with columns last, torch would copy in pairs.
    equation = Equation.parse("abcdef,agce->gbdf")
    shapes = [(8, 96, 28, 2, 28, 2), (8, 192, 28, 28)]
    kernel = choose_kernel(equation, shapes, torch.float32)
    # Both as (own, summed), in the order in which they are copied.
    assert kernel.name == "mm"
    assert kernel.turned[0] == kernel.swapped
    assert kernel.turned[1] != kernel.swapped
    x, v = (torch.randn(shape) for shape in shapes)
    expected = torch.einsum("abcdef,agce->gbdf", x.double(), v.double())
    got = torch.einsum("abcdef,agce->gbdf", x, v)
    for guarded in (False, True):
        made = lower(_call, equation, (x, v), shapes, x.dtype, "cpu", guarded=guarded)
        assert (made - expected).abs().max() <= 2 * (got - expected).abs().max()


def test_matrices_over_sizes_to_come_are_not_turned() -> None:
    equation = Equation.parse("abcdef,agce->gbdf")
    shapes = [(8, 96, 28, 2, 28, 2), (8, 192, 28, 28)]
    assert not any(choose_kernel(equation, shapes, torch.float32, guarded=True).turned)


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


@pytest.mark.parametrize(
    ("equation", "shapes", "swapped"),
    [
        ("abc,ac->ab", ((8, 300, 100), (8, 100)), True),
        ("abc,ab->ac", ((8, 300, 100), (8, 300)), True),
        ("ac,abc->ab", ((8, 100), (8, 300, 100)), False),
        ("ab,abc->ac", ((8, 300), (8, 300, 100)), False),
    ],
)
def test_vectors_of_a_batch_stand_to_the_left_of_the_matrices(
    equation: str, shapes: tuple[tuple[int, ...], ...], swapped: bool
) -> None:
    kernel = choose_kernel(Equation.parse(equation), shapes, torch.float32, "cpu")
    assert (kernel.name, kernel.swapped) == ("bmm", swapped)


@pytest.mark.parametrize(
    ("equation", "shapes", "swapped"),
    [
        ("nk,nj->kj", ((100000, 256), (100000, 8)), True),
        ("nj,nk->jk", ((100000, 8), (100000, 256)), False),
        ("ij,jk->ik", ((100000, 8), (8, 4)), False),
    ],
)
def test_few_columns_come_where_the_library_is_fast(
    equation: str, shapes: tuple[tuple[int, ...], ...], swapped: bool
) -> None:
    kernel = choose_kernel(Equation.parse(equation), shapes, torch.float32, "cpu")
    assert (kernel.name, kernel.swapped) == ("mm", swapped)


def test_complex_matrices_and_vectors_are_multiplied_as_matrices() -> None:
    shapes = (400, 300), (300,)
    assert choose_kernel(Equation.parse("ij,j->i"), shapes, torch.complex64, "cpu").name == "mm"
    assert choose_kernel(Equation.parse("ij,j->i"), shapes, torch.float32, "cpu").name == "mv"


def test_operands_whose_elements_lie_apart_are_copied_before_a_product() -> None:
    shapes, strides = ((3000, 40), (3000, 30)), ((160, 2), (120, 2))
    kernel = choose_kernel(Equation.parse("nk,nj->kj"), shapes, torch.float32, "cpu", strides=strides)
    assert kernel.loose == (True, True)


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_sums_lie_in_memory_as_their_operand_does(order: tuple[int, ...]) -> None:
    operand = torch.rand(2, 3, 4, 5, dtype=torch.float64).permute(order)
    equation, shapes, strides = Equation.parse("abcd->dac"), [operand.shape], [operand.stride()]
    kernel = choose_kernel(equation, shapes, torch.float64, "cpu", strides=strides)
    result = emit_kernel(call, kernel, equation, [operand], shapes, guarded=False)
    torch.testing.assert_close(result, operand.sum(1).permute(2, 0, 1))
    assert result.stride() == kernel.strides
    places = [x for dim, x in enumerate(order) if dim != 1]  # of the labels a, c, d in memory
    steps = result.permute(1, 2, 0).stride()
    assert sorted(places) == [x for _, x in sorted(zip(steps, places, strict=True), reverse=True)]
