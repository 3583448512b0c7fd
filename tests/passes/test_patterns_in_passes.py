"""What passes that know nothing of convolutions do with index patterns beside tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx, nn

import einfx
from einfx import IndexPattern
from einfx.capture import capture
from einfx.graphs.shapes import propagate
from einfx.passes import (
    ChoosePaths,
    FoldConstants,
    FoldScalars,
    FuseEinsums,
    NormalizeEinsums,
    PlaceScalars,
    RemoveUnused,
    ShareContractions,
)
from tests.rewriting import assert_same, check_declined, check_rewrite


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


PATTERN = IndexPattern(8, 3, padding=1)
X, W = randn(2, 5, 8), randn(4, 5, 3)


def convolved(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return einfx.einsum("nci,koi,dck->ndo", x, PATTERN, w)


def test_patterns_are_normalised_to_einsums_of_einfx() -> None:
    check_rewrite(
        NormalizeEinsums(),
        lambda x, w: torch.einsum("nci, koi, dck", x, PATTERN, w),
        """
        index_pattern = einfx_pattern_IndexPattern(8, 3, 1, (1, 1), 1)
        einsum = einfx_contract_einsum('abc,dec,fbd->fae', x, index_pattern, w)
        return einsum
        """,
        (X, W),
    )


def test_a_factor_moves_behind_a_convolution_and_to_its_kernel() -> None:
    check_rewrite(
        FoldScalars(),
        lambda x, w: convolved(3 * x, w) / 2,
        """
        index_pattern = einfx_pattern_IndexPattern(8, 3, 1, (1, 1), 1)
        einsum = einfx_contract_einsum('nci,koi,dck->ndo', x, index_pattern, w)
        mul_2 = einsum * 1.5
        return mul_2
        """,
        (X, W),
    )
    check_rewrite(
        PlaceScalars(),
        lambda x, w: convolved(x, w) * 2,
        """
        index_pattern = einfx_pattern_IndexPattern(8, 3, 1, (1, 1), 1)
        mul_1 = w * 2
        einsum = einfx_contract_einsum('nci,koi,dck->ndo', x, index_pattern, mul_1)
        return einsum
        """,
        (X, W),
    )


def test_equal_convolutions_with_equal_patterns_are_computed_once() -> None:
    check_rewrite(
        ShareContractions(),
        lambda x, w: convolved(x, w).exp() + einfx.einsum("dck,koi,nci->ndo", w, PATTERN, x).sin(),
        """
        index_pattern = einfx_pattern_IndexPattern(8, 3, 1, (1, 1), 1)
        einsum = einfx_contract_einsum('nci,koi,dck->ndo', x, index_pattern, w)
        exp = einsum.exp()
        sin = einsum.sin()
        add = exp + sin
        return add
        """,
        (X, W),
    )


def test_convolutions_with_other_patterns_stay_apart() -> None:
    other = IndexPattern(8, 3, padding=(2, 0))
    check_declined(
        ShareContractions(),
        lambda x, w: convolved(x, w).exp() + einfx.einsum("nci,koi,dck->ndo", x, other, w).sin(),
        (X, W),
    )


def test_constants_of_a_convolution_are_contracted_and_patterns_stay_symbolic() -> None:
    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("a", randn(4, 2))
            self.register_buffer("b", randn(2, 5, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return convolved(x, torch.einsum("dr,rck->dck", self.a, self.b))

    traced = capture(Factors())
    propagate(traced, (X,))
    assert FoldConstants(constants=("a", "b")).apply(traced) == 1
    traced.recompile()
    assert "IndexPattern(8" in traced.code
    assert_same(traced(X), Factors()(X))


def test_an_unused_pattern_goes() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.call_function(IndexPattern, (8, 3))
    graph.output(x)
    assert RemoveUnused().apply(fx.GraphModule(nn.Module(), graph)) == 1


def test_a_convolution_is_fused_with_a_sum_over_its_outputs() -> None:
    x, w = randn(8, 32, 28, 28), randn(32, 32, 3, 3)
    across = IndexPattern(28, 3, padding=1)

    def program(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        y = einfx.einsum("ncij,koi,lpj,dckl->ndop", x, across, across, w)
        return torch.einsum("ndop->nd", y)

    traced = fx.symbolic_trace(program)
    propagate(traced, (x, w))
    assert FuseEinsums().apply(traced) == 1
    traced.recompile()
    assert_same(traced(x, w), program(x, w), tolerance=1e-4)


def test_convolutions_in_a_row_stay_apart_where_together_they_arent_faster() -> None:
    x, w = randn(4, 16, 32), randn(16, 16, 3)
    pattern = IndexPattern(32, 3, padding=1)

    def program(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        y = einfx.einsum("nci,koi,dck->ndo", x, pattern, w)
        return einfx.einsum("ndi,koi,edk->neo", y, pattern, v)

    check_declined(FuseEinsums(), program, (x, w, w), "fused with a convolution it is predicted to take")


def test_a_permutation_goes_into_a_convolution() -> None:
    check_rewrite(
        FuseEinsums(),
        lambda x, w: convolved(x.transpose(1, 2), w),
        """
        index_pattern = einfx_pattern_IndexPattern(8, 3, 1, (1, 1), 1)
        einsum_1 = einfx_contract_einsum('abc,deb,fcd->afe', x, index_pattern, w)
        return einsum_1
        """,
        (X.transpose(1, 2).contiguous(), W),
    )


def steps(program: Callable[..., torch.Tensor], *arguments: torch.Tensor) -> list[int]:
    """How many operands the steps have that a contraction is split into."""
    traced = fx.symbolic_trace(program)
    propagate(traced, arguments)
    ChoosePaths().apply(traced)
    traced.recompile()
    assert_same(traced(*arguments), program(*arguments))
    return [len(node.args) - 1 for node in traced.graph.nodes if "einsum" in node.name]


def test_a_kernel_of_factors_is_split_along_its_plan_and_patterns_go_along() -> None:
    pattern = IndexPattern(32, 3, padding=1)

    def program(x: torch.Tensor, *factors: torch.Tensor) -> torch.Tensor:
        return einfx.einsum("ncij,koi,lpj,dr,cr,kr,lr->ndop", x, pattern, pattern, *factors)

    def unpacked(
        x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor
    ) -> torch.Tensor:
        return program(x, a, b, c, d)

    factors = [randn(size, 8) for size in (64, 64, 3, 3)]
    assert sorted(steps(unpacked, randn(8, 64, 32, 32), *factors)) == [2, 2, 2, 4]


def test_a_plain_convolution_is_one_step() -> None:
    assert steps(convolved, X, W) == [3]


def test_patterns_in_a_row_are_split_along_a_plan_that_may_join_them() -> None:
    pool, slide = IndexPattern(14, 2, 2), IndexPattern(14, 3, 1, 1)

    def program(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return einfx.einsum("ncij,koi,lpj,aqo,brp,ckl->ncqr", x, slide, slide, pool, pool, w)

    x, w = randn(4, 16, 14, 14), randn(16, 3, 3)
    traced = fx.symbolic_trace(program)
    propagate(traced, (x, w))
    ChoosePaths().apply(traced)
    traced.recompile()
    assert_same(traced(x, w), program(x, w), tolerance=1e-4)
