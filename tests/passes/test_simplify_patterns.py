from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx

import einfx
from einfx import IndexPattern
from einfx.graphs.shapes import propagate
from einfx.passes import SimplifyPatterns
from tests.rewriting import assert_same, check_declined, check_rewrite


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_a_kernel_as_large_as_its_stride_is_a_reshape() -> None:
    pattern = IndexPattern(8, 2, stride=2)
    check_rewrite(
        SimplifyPatterns(),
        lambda x, w: einfx.einsum("ni,koi,dk->ndo", x, pattern, w),
        """
        fixed_sizes = einfx_conv_guards_fixed_sizes(x, [1], [8])
        fixed_sizes_1 = einfx_conv_guards_fixed_sizes(w, [1], [2])
        unflatten = fixed_sizes.unflatten(1, [4, 2])
        einsum_1 = torch.functional.einsum('abc,dc->adb', unflatten, fixed_sizes_1)
        return einsum_1
        """,
        (randn(3, 8), randn(4, 2)),
        rewrites=1,
    )


def test_a_kernel_of_one_element_is_a_slice() -> None:
    pattern = IndexPattern(9, 1, stride=4)
    check_rewrite(
        SimplifyPatterns(),
        lambda x, w: einfx.einsum("ai,koi,abk->abo", x, pattern, w),
        """
        fixed_sizes = einfx_conv_guards_fixed_sizes(x, [1], [9])
        fixed_sizes_1 = einfx_conv_guards_fixed_sizes(w, [2], [1])
        getitem = fixed_sizes[(slice(None, None, None), slice(0, 9, 4))]
        select = fixed_sizes_1.select(2, 0)
        einsum_1 = torch.functional.einsum('ab,ac->acb', getitem, select)
        return einsum_1
        """,
        (randn(3, 9), randn(3, 5, 1)),
    )


def test_the_result_is_merged_where_its_input_is_read_once() -> None:
    pattern = IndexPattern(8, 2, stride=2)
    check_rewrite(
        SimplifyPatterns(),
        lambda v, w: einfx.einsum("no,koi,nk->ni", v, pattern, w),
        """
        fixed_sizes = einfx_conv_guards_fixed_sizes(v, [1], [4])
        fixed_sizes_1 = einfx_conv_guards_fixed_sizes(w, [1], [2])
        einsum_1 = torch.functional.einsum('ab,ac->abc', fixed_sizes, fixed_sizes_1)
        flatten = einsum_1.flatten(1, 2)
        return flatten
        """,
        (randn(3, 4), randn(3, 2)),
    )


def test_a_pattern_that_nothing_reads_is_a_number() -> None:
    pattern = IndexPattern(8, 3)
    check_rewrite(
        SimplifyPatterns(),
        lambda x, y: einfx.einsum("n,koi,m->nm", x, pattern, y),
        """
        einsum_1 = torch.functional.einsum('a,b->ab', x, y)
        mul = einsum_1 * 18
        return mul
        """,
        (randn(3), randn(4)),
    )


def test_a_batch_of_one_in_the_example_stays_a_batch() -> None:
    pattern = IndexPattern(8, 2, stride=2)

    def program(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return einfx.einsum("ni,koi,dk->ndo", x, pattern, w)

    traced = fx.symbolic_trace(program)
    propagate(traced, (randn(1, 8), randn(1, 2)))
    assert SimplifyPatterns().apply(traced) == 1
    traced.recompile()
    for batch, channels in ((1, 1), (3, 4), (0, 2)):
        x, w = randn(batch, 8), randn(channels, 2)
        assert_same(traced(x, w), torch.einsum("ni,koi,dk->ndo", x, pattern.tensor(x.dtype), w))


def test_dimensions_of_size_1_that_a_pattern_fixes_stay_in_the_result() -> None:
    pattern = IndexPattern(3, 3)
    check_rewrite(
        SimplifyPatterns(),
        lambda x, w: einfx.einsum("ni,koi,nk->on", x, pattern, w),
        """
        fixed_sizes = einfx_conv_guards_fixed_sizes(x, [1], [3])
        fixed_sizes_1 = einfx_conv_guards_fixed_sizes(w, [1], [3])
        einsum_1 = torch.functional.einsum('ab,ab->a', fixed_sizes, fixed_sizes_1)
        unsqueeze = einsum_1.unsqueeze(0)
        return unsqueeze
        """,
        (randn(4, 3), randn(4, 3)),
    )


def test_windows_that_share_elements_are_left() -> None:
    pattern = IndexPattern(8, 3)
    check_declined(
        SimplifyPatterns(),
        lambda x, w: einfx.einsum("ni,koi,dk->ndo", x, pattern, w),
        (randn(3, 8), randn(4, 3)),
    )


def symbolic(equation: str, *numbers: Any) -> fx.GraphModule:
    graph = fx.Graph()
    x, w = graph.placeholder("x"), graph.placeholder("w")
    pattern = graph.call_function(IndexPattern, (graph.call_method("size", (x, 1)), *numbers))
    graph.output(graph.call_function(einfx.contract.einsum, (equation, x, pattern, w)))
    return fx.GraphModule(torch.nn.Module(), graph)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_slice_is_right_for_every_size_of_the_input(stride: int) -> None:
    module = symbolic("ai,koi,abk->abo", 1, stride, (0, 0), 1)
    propagate(module, (randn(3, 9), randn(3, 5, 1)))
    assert SimplifyPatterns().apply(module) == 1
    module.recompile()
    for size in (1, 5, 8, 9, 10):
        x, w = randn(3, size), randn(3, 5, 1)
        assert_same(module(x, w), torch.einsum("ao,abk->abo", x[:, ::stride], w))


def test_a_reshape_that_fits_the_example_alone_is_declined() -> None:
    module = symbolic("ni,koi,dk->ndo", 2, 2, (0, 0), 1)
    propagate(module, (randn(3, 8), randn(4, 2)))
    assert SimplifyPatterns().apply(module) == 0
    x, w = randn(3, 9), randn(4, 2)
    assert_same(module(x, w), F.conv1d(x[:, None], w[:, None], stride=2))


def test_a_convolution_that_becomes_a_matrix_product_fuses_with_its_neighbour() -> None:
    pattern = IndexPattern(32, 4, stride=4)

    def program(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return einfx.einsum("ndo,de->neo", einfx.einsum("ni,koi,dk->ndo", x, pattern, w), v)

    arguments = randn(64, 32), randn(64, 4), randn(64, 3)
    optimised = einfx.optimize(program, arguments)
    assert "IndexPattern" not in optimised.code
    assert_same(optimised(*arguments), program(*arguments))
    assert_same(optimised(randn(5, 32), *arguments[1:]), program(randn(5, 32), *arguments[1:]))
