"""A linear region is one contraction: the same values for every chain of operations, at every size."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import einfx
from einfx.conv.capture.pieces import pieces_of
from einfx.conv.capture.regions import Region, region_of
from einfx.graphs.shapes import propagate
from einfx.legality import Effects
from einfx.passes import DEFAULT, CaptureConvolutions
from tests.conv.capture.chains import chain
from tests.rewriting import assert_same

E = torch.einsum


def region(program: Any, *arguments: Tensor) -> tuple[Region | None, str | None]:
    """The largest region that ends at the output of a program."""
    traced = fx.symbolic_trace(program)
    propagate(traced, arguments)
    pieces, _ = pieces_of(traced.graph, traced)
    output = next(node for node in reversed(traced.graph.nodes) if node.op == "output")
    root: Any = output.args[0]
    return region_of(root, pieces, Effects(traced.graph, traced))


def names(found: Region | None) -> list[str]:
    assert found is not None
    return [piece.node.name for piece in found.pieces]


def gradients(out: Tensor, weights: Tensor, model: nn.Module) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad((out * weights).sum(), list(model.parameters()), allow_unused=True)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_random_chains_compute_the_same_captured(seed: int) -> None:
    model, x = chain(seed)
    traced = fx.symbolic_trace(model)
    propagate(traced, (x,))
    CaptureConvolutions(worth=math.inf).apply(traced)
    traced.recompile()
    n, c, h, w = x.shape
    for shape in ((n, c, h, w), (2, c, h + 3, w - 1), (1, c, 5, 12)):
        given_ = torch.randn(shape, dtype=x.dtype)
        try:
            expected = model(given_)
        except RuntimeError:  # a window that is larger than this input
            continue
        found = traced(given_)
        assert_same(found.detach(), expected.detach(), tolerance=1e-10)
        if not expected.requires_grad or not expected.numel():
            continue
        weights = torch.randn_like(expected)
        wanted = gradients(expected, weights, model)
        try:
            got = gradients(found, weights, model)
        except RuntimeError as error:
            # Torch's float64 kernel refuses some strides of dimensions of size 1, whoever calls it.
            if "grad_weight must be contiguous" not in str(error):
                raise
            continue
        for gradient, its in zip(wanted, got, strict=True):
            assert (gradient is None) == (its is None)
            if gradient is not None and its is not None:
                scale = float(gradient.abs().max())
                assert_same(its, gradient, tolerance=1e-9, magnitude=max(scale, 1e-6))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_random_chains_compute_the_same_behind_all_passes(seed: int) -> None:
    model, x = chain(seed)
    optimized = einfx.optimize(model, (x,), passes=(CaptureConvolutions(worth=math.inf), *DEFAULT))
    with torch.no_grad():
        assert_same(optimized(x), model(x), tolerance=1e-10)


X, W = torch.randn(2, 4, 9, 8), torch.randn(6, 4, 3, 3)


def test_a_region_reaches_through_views_numbers_and_merges() -> None:
    found, _ = region(
        lambda x, w, v: E("nlc,dc->nld", (2 * F.conv2d(x, w)).flatten(2).transpose(1, 2), v),
        X,
        W,
        torch.randn(5, 6),
    )
    assert names(found) == ["conv2d", "mul", "flatten", "transpose", "einsum"]


def test_a_region_ends_where_something_else_uses_a_value() -> None:
    def program(x: Tensor, w: Tensor) -> Any:
        y = F.conv2d(x, w)
        return y.mean((2, 3)) + y.sum()

    traced = fx.symbolic_trace(program)
    propagate(traced, (X, W))
    pieces, _ = pieces_of(traced.graph, traced)
    mean = next(node for node in traced.graph.nodes if node.name == "mean")
    found, _ = region_of(mean, pieces, Effects(traced.graph, traced))
    assert names(found) == ["mean"]


def test_sizes_that_only_a_region_reads_go_with_it() -> None:
    found, reason = region(lambda x, w, v: v @ F.conv2d(x, w).view(2, 6, -1), X, W, torch.randn(3, 6))
    assert names(found)[-1] == "matmul"
    assert "conv2d" not in names(found)
    assert reason is not None
    assert "aren't known to be its own" in reason

    def program(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        y = F.conv2d(x, w)
        return v @ y.view(y.size(0), y.shape[1], -1)

    found, _ = region(program, X, W, torch.randn(3, 6))
    assert names(found) == ["conv2d", "view", "matmul"]


def test_a_region_says_why_it_ends() -> None:
    found, reason = region(
        lambda x, w, b: F.conv2d(F.conv2d(x, w, b), w.transpose(0, 1)), X, W, W[:, 0, 0, 0]
    )
    assert names(found) == ["conv2d_1"] or "transpose" in names(found)
    assert reason is not None
    assert "bias" in reason


def test_a_module_of_its_own_is_no_piece() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    class Leafy(fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return True

    model = nn.Sequential(Doubled(8, 3))
    traced = fx.GraphModule(model, Leafy().trace(model))
    propagate(traced, (X,))
    assert pieces_of(traced.graph, traced) == ({}, {})
