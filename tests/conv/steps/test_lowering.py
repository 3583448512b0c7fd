"""Convolutions and their gradients are recognised whatever their labels, and computed by native kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from einfx.conv.expressions import (
    conv_transposeNd_forward,
    conv_transposeNd_input_vjp,
    conv_transposeNd_weight_vjp,
    convNd_forward,
    convNd_input_vjp,
    convNd_kfac_reduce,
    convNd_unfold,
    convNd_weight_vjp,
)
from einfx.conv.expressions.common import Symbolic
from einfx.conv.steps.lowering import Native, lowered
from einfx.conv.symbolic.network import Constant, network
from einfx.conv.symbolic.simplify import simplified
from einfx.conv.symbolic.views import View
from einfx.pattern import IndexPattern
from tests.conv.expressions.test_expressions import COUNTS
from tests.conv.expressions.test_transposed import some as some_transposed
from tests.conv.expressions.test_transposed import transposed
from tests.conv.reference import close, conv, draws


def result(made: Symbolic, kind: str, *tensors: Tensor) -> Tensor:
    """The result of a network that must be of a kind."""
    native = lowered(made[0])
    assert native is not None, str(made[0])
    assert native.kind == kind
    return native.run(tensors).reshape(made[1])


@pytest.mark.parametrize("n", list(COUNTS))
def test_expressions_of_convolutions_are_convolutions(n: int) -> None:
    for draw in draws(n, COUNTS[n] // 2 + 3, largest=8 if n < 3 else 5 if n == 3 else 3, seed=5):
        x, weight = draw.x().requires_grad_(), draw.weight().requires_grad_()
        expected = conv(x, weight, draw)
        v = torch.randn_like(expected)
        x_gradient, weight_gradient = torch.autograd.grad(expected, (x, weight), v)
        hyper: tuple[Any, ...] = (draw.stride, draw.padding, draw.dilation, draw.groups, False)
        xs, ws, vs = tuple(x.shape), tuple(weight.shape), tuple(v.shape)
        forward = convNd_forward.symbolic(xs, ws, *hyper)
        assert close(result(forward, "forward", x, weight), expected), draw
        input_vjp = convNd_input_vjp.symbolic(ws, vs, draw.input_size, *hyper)
        assert close(result(input_vjp, "input_vjp", weight, v), x_gradient), draw
        order = (draw.dilation, draw.padding, draw.stride, draw.groups, False)
        weight_vjp = convNd_weight_vjp.symbolic(xs, vs, draw.kernel_size, *order)
        assert close(result(weight_vjp, "weight_vjp", x, v), weight_gradient), draw


@pytest.mark.parametrize("n", list(COUNTS))
def test_expressions_of_transposed_convolutions_are_convolutions(n: int) -> None:
    for draw, hyper in some_transposed(n)[::2]:
        x = draw.x().requires_grad_()
        group = draw.out_channels // draw.groups
        weight = torch.randn(draw.in_channels, group, *draw.kernel_size, dtype=x.dtype, requires_grad=True)
        expected = transposed(x, weight, draw.groups, hyper)
        v = torch.randn_like(expected)
        x_gradient, weight_gradient = torch.autograd.grad(expected, (x, weight), v)
        options: dict[str, Any] = {**hyper, "groups": draw.groups, "simplify": False}
        xs, ws, vs = tuple(x.shape), tuple(weight.shape), tuple(v.shape)
        forward = conv_transposeNd_forward.symbolic(xs, ws, **options)
        assert close(result(forward, "input_vjp", x, weight), expected), (draw, hyper)
        input_vjp = conv_transposeNd_input_vjp.symbolic(ws, vs, draw.input_size, **options)
        assert close(result(input_vjp, "forward", weight, v), x_gradient), (draw, hyper)
        weight_vjp = conv_transposeNd_weight_vjp.symbolic(xs, vs, draw.kernel_size, **options)
        assert close(result(weight_vjp, "weight_vjp", x, v), weight_gradient), (draw, hyper)


def test_labels_and_operands_come_in_any_order() -> None:
    x, weight = torch.randn(8, 2, 3, dtype=torch.float64), torch.randn(3, 3, 4, dtype=torch.float64)
    pattern = IndexPattern(8, 3, padding=1)
    made = network(["kcd", "koi", "inc"], "odn", View(1, (3, 3, 4)), pattern, View(0, (8, 2, 3)))
    native = lowered(made)
    assert native is not None
    expected = torch.nn.functional.conv1d(x.permute(1, 2, 0), weight.permute(2, 1, 0), padding=1)
    assert close(native.run([x, weight]), expected.permute(2, 1, 0))


def test_depthwise_convolutions_and_scales_are_recognised() -> None:
    x, weight = torch.randn(2, 5, 9, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    operands = View(0, (2, 5, 9)), IndexPattern(9, 3), View(1, (5, 3)), Constant(0.5)
    native = lowered(network(["nci", "koi", "ck", ""], "nco", *operands))
    assert native is not None
    assert (native.kind, native.groups) == ("forward", 5)
    expected = 0.5 * torch.nn.functional.conv1d(x, weight[:, None], groups=5)
    assert close(native.run([x, weight]), expected)


def test_simplified_convolutions_are_recognised_too() -> None:
    for draw in draws(2, 100, seed=6):
        x, weight = draw.x(), draw.weight()
        made, shape = convNd_forward.symbolic(
            tuple(x.shape), tuple(weight.shape), draw.stride, draw.padding, draw.dilation, draw.groups
        )
        native = lowered(made)
        assert (native is None) == (not made.patterns)
        if native is not None:
            assert close(native.run([x, weight]).reshape(shape), conv(x, weight, draw)), draw


def test_what_is_no_convolution_is_left_alone() -> None:
    unfold, _ = convNd_unfold.symbolic((2, 3, 8), 3)
    kfac, _ = convNd_kfac_reduce.symbolic((2, 3, 8), 3)
    assert lowered(unfold) is None
    assert lowered(kfac) is None
    x, weight, pattern = View(0, (2, 8)), View(1, (4, 3)), IndexPattern(8, 3)
    # Positions that something else has, a pattern that meets another, a kernel that is kept.
    assert lowered(network(["ni", "koi", "dk", "o"], "ndo", x, pattern, weight, View(2, (6,)))) is None
    assert lowered(network(["ni", "koi", "poi", "dk"], "ndop", x, pattern, pattern, weight)) is None
    assert lowered(network(["ni", "koi", "dk"], "ndok", x, pattern, weight)) is None
    assert lowered(network(["ni", "koi", "dk"], "do", x, pattern, weight)) is None
    assert lowered(network(["ii", "koi", "dk"], "do", View(0, (8, 8)), pattern, weight)) is None


def test_lowering_is_data_and_remembered() -> None:
    made, _ = convNd_forward.symbolic((2, 3, 8), (4, 3, 3), simplify=False)
    native = lowered(made)
    assert isinstance(native, Native)
    assert lowered(made) is native
    assert hash(native) == hash(lowered(simplified(made, ())))


def test_tensors_of_one_element_multiply_the_result() -> None:
    x, weight = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(4, 3, 3, dtype=torch.float64)
    scale = torch.tensor([3.0], dtype=torch.float64)
    operands = View(0, (2, 3, 8)), IndexPattern(8, 3), View(1, (4, 3, 3)), View(2, (1,))
    native = lowered(network(["nci", "koi", "dck", "s"], "ndo", *operands))
    assert native is not None
    assert native.factors == (2,)
    assert close(native.run([x, weight, scale]), 3 * torch.nn.functional.conv1d(x, weight))
    # One that has a label of the others is part of the convolution.
    single = View(0, (1, 1, 1)), IndexPattern(1, 1), View(1, (1, 1, 1))
    whole = lowered(network(["nci", "koi", "dck"], "ndo", *single))
    assert whole is not None
    assert whole.factors == ()


def test_a_native_convolution_says_what_it_is() -> None:
    made, _ = convNd_forward.symbolic((2, 4, 8), (4, 2, 3), 1, 0, 1, 2, False)
    assert str(lowered(made)) == "conv1d of 2 groups"


@pytest.mark.parametrize("kind", ["forward", "input_vjp", "weight_vjp"])
def test_tensors_whose_strides_say_two_layouts_are_convolved_and_differentiated(kind: str) -> None:
    equations = {
        "forward": "ngci,koi,gdck->ngdo",
        "input_vjp": "ngdo,koi,gdck->ngci",
        "weight_vjp": "ngci,koi,ngdo->gdck",
    }
    pattern = IndexPattern(2, 2) if kind == "input_vjp" else IndexPattern(1, 2, padding=1)
    sizes = {"n": 1, "g": 4, "c": 3, "d": 3, "k": 2, "o": pattern.output_size, "i": pattern.input_size}
    first, _, second = equations[kind].split("->")[0].split(",")
    # Channels lie side by side, and what has one element might lie anywhere.
    x = torch.randn(12, dtype=torch.float64).as_strided((1, 4, 3, 1), (12, 3, 1, 3)).requires_grad_()
    other = torch.randn([sizes[label] for label in second], dtype=torch.float64, requires_grad=True)
    inputs, output = equations[kind].split("->")
    views = View(0, (1, 4, 3, 1)), View(1, tuple(other.shape))
    native = lowered(network(inputs.split(","), output, views[0], pattern, views[1]))
    assert native is not None
    assert native.kind == kind
    assert list(x.shape) == [sizes[label] for label in first]
    made = native.run([x, other])
    dense = torch.einsum(equations[kind], x, pattern.tensor(torch.float64), other)
    assert close(made, dense)
    vector = torch.randn_like(dense)
    got = torch.autograd.grad(made, (x, other), vector)
    wanted = torch.autograd.grad(dense, (x, other), vector)
    assert all(close(one, each) for one, each in zip(got, wanted, strict=True))
