from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx

import einfx
from einfx import IndexPattern
from einfx.errors import OperandError
from einfx.graphs.shapes import propagate
from einfx.passes import LowerPatterns
from tests.rewriting import assert_same, check_declined, check_rewrite


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def lowered(program: Callable[..., Any], *arguments: torch.Tensor) -> fx.GraphModule:
    traced = fx.symbolic_trace(program)
    propagate(traced, arguments)
    LowerPatterns().apply(traced)
    traced.recompile()
    return traced


def called(module: fx.GraphModule) -> list[str]:
    return [getattr(node.target, "__name__", str(node.target)) for node in module.graph.nodes]


def test_a_convolution_becomes_that_of_torch() -> None:
    across, down = IndexPattern(6, 3, padding=1), IndexPattern(7, 2, stride=2)

    def program(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return einfx.einsum("ncij,koi,lpj,dckl->ndop", x, across, down, w)

    check_rewrite(
        LowerPatterns(),
        program,
        """
        matched = einfx_conv_guards_matched(x, w, [-1, -1, 6, 7], [-1, -1, 3, 2], [1, 1])
        getitem = matched[0]
        getitem_1 = matched[1]
        conv2d = torch.conv2d(getitem, getitem_1, None, [1, 2], [1, 0], [1, 1], 1)
        return conv2d
        """,
        (randn(2, 5, 6, 7), randn(4, 5, 3, 2)),
        rewrites=1,
    )


def test_groups_are_merged_with_channels_and_split_again() -> None:
    pattern = IndexPattern(8, 3, padding=(2, 0), dilation=2)

    def program(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return einfx.einsum("icng,koi,gdck->ngdo", x, pattern, w)

    check_rewrite(
        LowerPatterns(),
        program,
        """
        matched = einfx_conv_guards_matched(x, w, [8, -1, -1, -1], [-1, -1, -1, 3], [1, 2, 3, 0])
        getitem = matched[0]
        getitem_1 = matched[1]
        permute = torch.permute(getitem, (2, 3, 1, 0))
        flatten = permute.flatten(1, 2)
        flatten_1 = getitem_1.flatten(0, 1)
        size = getitem.size(3)
        pad = torch.nn.functional.pad(flatten, [2, 0])
        conv1d = torch.conv1d(pad, flatten_1, None, [1], [0], [2], size)
        size_1 = getitem_1.size(1)
        unflatten = conv1d.unflatten(1, [size, size_1])
        return unflatten
        """,
        (randn(8, 5, 2, 3), randn(3, 4, 5, 3)),
    )


def test_the_gradient_of_the_input_becomes_a_transposed_convolution() -> None:
    pattern = IndexPattern(8, 3, stride=2, padding=1)

    def program(v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return einfx.einsum("ndo,koi,dck->nci", v, pattern, w)

    module = lowered(program, randn(2, 4, 4), randn(4, 5, 3))
    assert "conv_transpose1d" in called(module)
    x, v, w = randn(3, 5, 8).requires_grad_(), randn(3, 4, 4), randn(4, 5, 3)
    (expected,) = torch.autograd.grad(F.conv1d(x, w, stride=2, padding=1), x, v)
    assert_same(module(v, w), expected)


def test_the_gradient_of_a_kernel_becomes_that_of_torch() -> None:
    pattern = IndexPattern(8, 3, stride=2, padding=1)

    def program(x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return einfx.einsum("nci,koi,ndo->dck", x, pattern, v)

    module = lowered(program, randn(2, 5, 8), randn(2, 4, 4))
    assert "weight_gradient" in called(module)
    x, v, w = randn(3, 5, 8), randn(3, 4, 4), randn(4, 5, 3).requires_grad_()
    (expected,) = torch.autograd.grad(F.conv1d(x, w, stride=2, padding=1), w, v)
    assert_same(module(x, v), expected)


@pytest.mark.parametrize("size", [7, 9])
def test_another_size_than_that_of_the_pattern_is_refused(size: int) -> None:
    pattern = IndexPattern(8, 3)
    module = lowered(
        lambda x, w: einfx.einsum("nci,koi,dck->ndo", x, pattern, w), randn(2, 5, 8), randn(4, 5, 3)
    )
    with pytest.raises(OperandError, match="must have 8 elements, the size of the index pattern"):
        module(randn(2, 5, size), randn(4, 5, 3))
    with pytest.raises(OperandError, match="must have 3 elements"):
        module(randn(2, 5, 8), randn(4, 5, 4))


@pytest.mark.parametrize("shape", [(1, 5, 8), (2, 1, 8), (2, 5, 1), (0, 5, 8), (7, 5, 8)])
def test_other_batches_work_and_dimensions_of_size_1_are_stretched(shape: tuple[int, ...]) -> None:
    pattern = IndexPattern(8, 3, padding=1)

    def program(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return einfx.einsum("nci,koi,dck->ndo", x, pattern, w)

    module = lowered(program, randn(2, 5, 8), randn(4, 5, 3))
    x, w = randn(*shape), randn(4, 5, 3)
    assert_same(module(x, w), program(x, w))
    assert_same(module(randn(2, 5, 8), w[:, :1]), program(randn(2, 5, 8), w[:, :1]))


def symbolic(equation: str, axis: int, *numbers: Any) -> fx.GraphModule:
    """A convolution whose pattern is made for the size of the first tensor."""
    graph = fx.Graph()
    x, w = graph.placeholder("x"), graph.placeholder("w")
    pattern = graph.call_function(IndexPattern, (graph.call_method("size", (x, axis)), *numbers))
    graph.output(graph.call_function(einfx.contract.einsum, (equation, x, pattern, w)))
    return fx.GraphModule(torch.nn.Module(), graph)


@pytest.mark.parametrize("padding", [(1, 1), (0, 0), (2, 1)])
def test_a_pattern_made_for_the_size_of_its_input_is_lowered_for_every_size(padding: tuple[int, int]) -> None:
    module = symbolic("nci,koi,dck->ndo", 2, 3, 2, padding, 1)
    propagate(module, (randn(2, 5, 8), randn(4, 5, 3)))
    assert LowerPatterns().apply(module) == 1
    module.recompile()
    assert "IndexPattern" not in called(module)
    for size in (8, 9, 5, 3):
        x, w = randn(2, 5, size), randn(4, 5, 3)
        assert_same(module(x, w), F.conv1d(F.pad(x, padding), w, stride=2))


def test_the_gradient_of_a_kernel_is_lowered_for_every_size_too() -> None:
    module = symbolic("nci,koi,ndo->dck", 2, 3, 2, (1, 1), 1)
    propagate(module, (randn(2, 5, 8), randn(2, 4, 4)))
    assert LowerPatterns().apply(module) == 1
    module.recompile()
    w = randn(4, 5, 3).requires_grad_()
    for size in (8, 9, 11):
        x = randn(2, 5, size)
        y = F.conv1d(x, w, stride=2, padding=1)
        (expected,) = torch.autograd.grad(y, w, torch.ones_like(y))
        assert_same(module(x, torch.ones_like(y)), expected)
    with pytest.raises(OperandError, match="has 4 positions on an input of size 8"):
        module(randn(2, 5, 8), randn(2, 4, 5))


def test_what_is_lowered_scripts_and_exports() -> None:
    pattern = IndexPattern(8, 3, padding=1)

    def program(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return einfx.einsum("ncgi,koi,gdck->ngdo", x, pattern, w)

    arguments = randn(2, 5, 2, 8), randn(2, 4, 5, 3)
    module = lowered(program, *arguments)
    scripted = torch.jit.script(einfx.jitable(copy.deepcopy(module)))
    exported = torch.export.export(module, arguments).module()
    for form in (scripted, exported):
        assert_same(form(*arguments), program(*arguments))


def test_what_is_no_convolution_stays_a_call_of_einsum() -> None:
    pattern = IndexPattern(8, 3)
    check_declined(
        LowerPatterns(),
        lambda x, w: einfx.einsum("nci,koi,cd->nkod", x, pattern, w),
        (randn(2, 5, 8), randn(5, 4)),
        "it is no convolution of at most three dimensions",
    )


def test_integers_stay_a_call_of_einsum() -> None:
    pattern = IndexPattern(8, 3)
    check_declined(
        LowerPatterns(),
        lambda x, w: einfx.einsum("nci,koi,dck->ndo", x, pattern, w),
        (torch.ones(2, 5, 8, dtype=torch.int64), torch.ones(4, 5, 3, dtype=torch.int64)),
        "floating dtype",
    )
