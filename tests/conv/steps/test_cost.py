"""Costs grow with what they count, and rank native kernels as they were measured."""

from __future__ import annotations

import pytest
import torch

from einfx.conv.steps.cost import contraction_cost, fold_cost, native_cost, sum_cost, window_cost
from einfx.conv.steps.lowering import Native, lowered
from einfx.conv.symbolic.network import network
from einfx.conv.symbolic.views import View
from einfx.equation import Equation
from einfx.pattern import IndexPattern

SAME = IndexPattern(32, 3, padding=1)
HALF = IndexPattern(32, 3, 2, 1)


def native(kind: str, channels: int = 64, out_channels: int = 64, pattern: IndexPattern = SAME) -> Native:
    """A convolution of 8 images, or one of its gradients."""
    x = View(0, (8, channels, pattern.input_size, pattern.input_size))
    y = View(0, (8, out_channels, pattern.output_size, pattern.output_size))
    weight = View(1, (out_channels, channels, pattern.kernel_size, pattern.kernel_size))
    made = {
        "forward": network(["ncij", "koi", "lpj", "dckl"], "ndop", x, pattern, pattern, weight),
        "input_vjp": network(["ndop", "koi", "lpj", "dckl"], "ncij", y, pattern, pattern, weight),
        "weight_vjp": network(["ncij", "koi", "lpj", "ndop"], "dckl", x, pattern, pattern, View(1, y.shape)),
    }[kind]
    found = lowered(made)
    assert found is not None
    return found


@pytest.mark.parametrize("kind", ["forward", "input_vjp", "weight_vjp"])
def test_a_convolution_and_its_gradients_have_the_same_flops(kind: str) -> None:
    cost = native_cost(native(kind), torch.float32, "cpu")
    assert cost.flops == 2 * 8 * 32 * 32 * 64 * 64 * 9
    assert cost.seconds > 0
    twice = native_cost(native(kind, out_channels=128), torch.float32, "cpu")
    assert twice.flops == 2 * cost.flops
    assert twice.seconds > 1.5 * cost.seconds


def test_few_channels_cost_more_than_their_share() -> None:
    few, many = (native_cost(native("forward", c, c), torch.float32, "cpu") for c in (4, 64))
    assert few.seconds / few.flops > 3 * many.seconds / many.flops


def test_a_transposed_convolution_pays_for_its_stride() -> None:
    forward, transposed = (
        native_cost(native(kind, pattern=HALF), torch.float32, "cpu") for kind in ("forward", "input_vjp")
    )
    assert transposed.seconds > forward.seconds


def test_uneven_padding_is_a_padded_copy() -> None:
    even = native_cost(native("forward"), torch.float32, "cpu")
    uneven = native_cost(native("forward", pattern=IndexPattern(32, 3, 1, (2, 0))), torch.float32, "cpu")
    assert uneven.workspace_bytes >= even.workspace_bytes + 4 * 8 * 64 * 34 * 34
    assert uneven.seconds > even.seconds


def test_complex_convolutions_cost_those_of_their_parts() -> None:
    real = native_cost(native("forward"), torch.float64, "cpu")
    imaginary = native_cost(native("forward"), torch.complex128, "cpu")
    assert imaginary.seconds > 2 * real.seconds


def test_a_view_of_windows_costs_less_than_a_copy() -> None:
    view, copy = (
        window_cost(8 * 64 * 32 * 32, (IndexPattern(32, 3),) * 2, torch.float32, "cpu", copied)
        for copied in (False, True)
    )
    assert view.seconds < copy.seconds
    assert view.bytes == 0
    padded = window_cost(8 * 64 * 32 * 32, (SAME, SAME), torch.float32, "cpu", False)
    assert padded.workspace_bytes == 4 * 8 * 64 * 34 * 34


def test_sums_of_windows_read_each_element_once() -> None:
    elements = 8 * 64 * 32 * 32
    cost = sum_cost(elements, (SAME, SAME), torch.float32, "cpu")
    assert elements <= cost.flops <= 1.2 * elements
    assert cost.workspace_bytes < 4 * elements
    copy = window_cost(elements, (SAME, SAME), torch.float32, "cpu", True)
    assert cost.seconds < 0.3 * copy.seconds


def test_folding_touches_every_window() -> None:
    cost = fold_cost(8 * 64, (SAME, SAME), torch.float32, "cpu")
    assert cost.flops == 8 * 64 * 9 * 32 * 32


def test_contractions_of_any_number_of_operands_have_a_cost() -> None:
    pair = contraction_cost(
        Equation.parse("ij,jk->ik"), ((64, 64), (64, 64)), ((64, 1), (64, 1)), torch.float32, "cpu"
    )
    assert pair.flops == 2 * 64**3
    three = contraction_cost(
        Equation.parse("ij,jk,kl->il"), ((64, 64),) * 3, ((64, 1),) * 3, torch.float32, "cpu"
    )
    assert three.flops == 4 * 64**3
    assert three.seconds > pair.seconds


def test_a_gpu_has_figures_of_its_own() -> None:
    assert (
        native_cost(native("forward"), torch.float32, "cuda").seconds
        < 0.1 * native_cost(native("forward"), torch.float32, "cpu").seconds
    )
