"""Every expression of a transposed convolution against torch; against loops beyond three dimensions."""

from __future__ import annotations

import random
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

from einfx.conv.expressions import (
    conv_transposeNd_forward,
    conv_transposeNd_input_vjp,
    conv_transposeNd_kfac_reduce,
    conv_transposeNd_kfc,
    conv_transposeNd_unfold,
    conv_transposeNd_weight_vjp,
)
from einfx.errors import OperandError
from tests.conv.expressions.test_expressions import CASES, COUNTS
from tests.conv.reference import TRANSPOSED, Draw, close, contract, conv, draws, each, patterns


def some(n: int) -> list[tuple[Draw, dict[str, Any]]]:
    """Draws for a number of dimensions, each with the keywords of a transposed convolution of its output."""
    found = []
    source = random.Random(n)
    for draw in draws(n, COUNTS[n] * (1 if n < 4 else 5), largest=5 if n < 4 else 3, seed=1):
        made = patterns(draw.input_size, draw.kernel_size, **draw.hyper)
        if any(pattern.left != pattern.right for pattern in made):
            continue
        padding = tuple(pattern.left for pattern in made)
        sizes = tuple(pattern.output_size for pattern in made)
        most = [max(s, d) for s, d in zip(each(draw.stride, n), each(draw.dilation, n), strict=True)]
        extra = tuple(source.randrange(m) for m in most)
        outputs = [
            (o - 1) * s - 2 * p + d * (k - 1) + 1 + e
            for o, s, p, d, k, e in zip(
                sizes,
                each(draw.stride, n),
                padding,
                each(draw.dilation, n),
                draw.kernel_size,
                extra,
                strict=True,
            )
        ]
        if min(outputs) < 1:
            continue
        hyper = {
            "stride": draw.stride,
            "padding": padding,
            "dilation": draw.dilation,
            "output_padding": extra,
        }
        found.append((Draw(**{**vars(draw), "input_size": sizes}), hyper))
    assert len(found) > COUNTS[n] // 3
    return found


def transposed(x: Tensor, weight: Tensor, groups: int, hyper: dict[str, Any]) -> Tensor:
    """A transposed convolution: torch's own, or the gradient of a convolution by loops."""
    n = weight.ndim - 2
    if n in TRANSPOSED:
        return TRANSPOSED[n](x, weight, groups=groups, **hyper)
    sizes = [
        (o - 1) * s - 2 * p + d * (k - 1) + 1 + e
        for o, s, p, d, k, e in zip(
            x.shape[-n:],
            each(hyper["stride"], n),
            each(hyper["padding"], n),
            each(hyper["dilation"], n),
            weight.shape[2:],
            each(hyper["output_padding"], n),
            strict=True,
        )
    ]
    batch = tuple(x.shape[: x.ndim - n - 1])
    plain = {name: hyper[name] for name in ("stride", "padding", "dilation")}
    draw = Draw(
        batch,
        groups,
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(sizes),
        tuple(weight.shape[2:]),
        **plain,
    )
    image = torch.zeros(*batch, draw.in_channels, *sizes, dtype=x.dtype, requires_grad=True)
    # An output padding that reaches a stride gives the convolution more outputs than x has: zeros there.
    out = conv(image, weight, draw)
    kept = out[(slice(None),) * (out.ndim - n) + tuple(slice(0, size) for size in x.shape[-n:])]
    return torch.autograd.grad(kept, image, x, create_graph=True)[0]


@pytest.mark.parametrize(("n", "simplify"), CASES)
def test_forward_and_both_vjps_are_torchs(n: int, simplify: bool) -> None:
    for draw, hyper in some(n):
        x = draw.x().requires_grad_()
        group = draw.out_channels // draw.groups
        weight = torch.randn(draw.in_channels, group, *draw.kernel_size, dtype=x.dtype, requires_grad=True)
        expected = transposed(x, weight, draw.groups, hyper)
        v = torch.randn_like(expected)
        x_gradient, weight_gradient = torch.autograd.grad(expected, (x, weight), v)
        options: dict[str, Any] = {**hyper, "groups": draw.groups, "simplify": simplify}
        forward = conv_transposeNd_forward.einsum_expression(x, weight, **options)
        assert close(contract(forward), expected), (draw, hyper)
        input_vjp = conv_transposeNd_input_vjp.einsum_expression(weight, v, draw.input_size, **options)
        assert close(contract(input_vjp), x_gradient), (draw, hyper)
        weight_vjp = conv_transposeNd_weight_vjp.einsum_expression(x, v, draw.kernel_size, **options)
        assert close(contract(weight_vjp), weight_gradient), (draw, hyper)


def unfolded(x: Tensor, draw: Draw, hyper: dict[str, Any]) -> Tensor:
    """Patches of a transposed convolution, shape: (*batch, channels, kernel elements, output elements)."""
    elements = prod(draw.kernel_size)
    one_hot = torch.eye(elements, dtype=x.dtype).reshape(1, elements, *draw.kernel_size)
    weight = one_hot.repeat(draw.in_channels, *(1,) * (draw.n + 1))
    out = transposed(x, weight, draw.in_channels, hyper)
    return out.reshape(*draw.batch, draw.in_channels, elements, -1)


@pytest.mark.parametrize(("n", "simplify"), CASES)
def test_unfolding_and_kronecker_factors_are_those_of_patches(n: int, simplify: bool) -> None:
    for draw, hyper in some(n)[:: 2 if n < 4 else 6]:
        if draw.in_channels * prod(draw.kernel_size) > (300 if n < 4 else 60):
            continue
        x = draw.x()
        patches = unfolded(x, draw, hyper)
        expression = conv_transposeNd_unfold.einsum_expression(
            x, draw.kernel_size, **hyper, simplify=simplify
        )
        assert close(contract(expression), patches.flatten(-3, -2)), (draw, hyper)
        patches = patches.reshape(prod(draw.batch), draw.groups, -1, patches.shape[-1])
        options: dict[str, Any] = {**hyper, "groups": draw.groups, "simplify": simplify}
        kfc = torch.einsum("ngpo,ngqo->gpq", patches, patches) / len(patches)
        expression = conv_transposeNd_kfc.einsum_expression(x, draw.kernel_size, **options)
        assert close(contract(expression), kfc), (draw, hyper)
        mean = patches.mean(-1)
        reduced = torch.einsum("ngp,ngq->gpq", mean, mean) / len(patches)
        expression = conv_transposeNd_kfac_reduce.einsum_expression(x, draw.kernel_size, **options)
        assert close(contract(expression), reduced), (draw, hyper)


def test_an_output_size_takes_the_place_of_the_output_padding() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    for size in (7, 8):
        sized = conv_transposeNd_kfac_reduce.einsum_expression(x, 3, stride=2, padding=1, output_size=size)
        padded = conv_transposeNd_kfac_reduce.einsum_expression(
            x, 3, stride=2, padding=1, output_padding=size - 7
        )
        assert close(contract(sized), contract(padded))
    with pytest.raises(
        OperandError, match=r"requested output_size=\[9\], but along one dimension it is from 7 to 8"
    ):
        conv_transposeNd_kfac_reduce.einsum_expression(x, 3, stride=2, padding=1, output_size=9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 2, "output_padding": 2}, "output_padding=2 with stride=2 and dilation=1"),
        ({"padding": 5}, "output size is too small: input_size=4, kernel_size=3"),
        ({"padding": "same"}, "padding='same' is not supported for transposed convolutions"),
        ({"stride": 0}, "non-positive stride"),
        ({"groups": 3}, "input channels must be divisible by groups"),
    ],
)
def test_errors_name_arguments_and_sizes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OperandError, match=message):
        conv_transposeNd_forward.einsum_expression(torch.ones(1, 2, 4), torch.ones(2, 2, 3), **options)
