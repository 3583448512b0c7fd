"""Every expression against torch, over random hyper-parameters; against loops beyond three dimensions."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

from einfx.conv.expressions import (
    convNd_fold,
    convNd_forward,
    convNd_input_vjp,
    convNd_kfac_reduce,
    convNd_kfc,
    convNd_unfold,
    convNd_weight_vjp,
)
from einfx.errors import OperandError
from einfx.pattern import IndexPattern
from tests.conv.reference import CONV, Draw, close, contract, conv, draws, unfolded_by_loops

COUNTS = {1: 100, 2: 100, 3: 60, 4: 12, 5: 6}
CASES = [
    pytest.param(n, simplify, id=f"{n}d-{'simplified' if simplify else 'plain'}")
    for n in COUNTS
    for simplify in (False, True)
]


def some(n: int) -> list[Draw]:
    """The draws for a number of dimensions."""
    return list(draws(n, COUNTS[n], largest=8 if n < 3 else 5 if n == 3 else 3))


def unfolded(x: Tensor, draw: Draw) -> Tensor:
    """Patches, shape: (*batch, channels, kernel elements, output elements)."""
    if draw.n not in CONV:
        lead = len(draw.batch) + 1
        return unfolded_by_loops(x, draw).flatten(lead + draw.n).flatten(lead, lead + draw.n - 1)
    elements = prod(draw.kernel_size)
    one_hot = torch.eye(elements, dtype=x.dtype).reshape(elements, 1, *draw.kernel_size)
    weight = one_hot.repeat(draw.in_channels, *(1,) * (draw.n + 1))
    out = CONV[draw.n](x, weight, groups=draw.in_channels, **draw.hyper)
    return out.reshape(*draw.batch, draw.in_channels, elements, -1)


@pytest.mark.parametrize(("n", "simplify"), CASES)
def test_forward_and_both_vjps_are_torchs(n: int, simplify: bool) -> None:
    for draw in some(n):
        x, weight = draw.x().requires_grad_(), draw.weight().requires_grad_()
        expected = conv(x, weight, draw)
        v = torch.randn_like(expected)
        x_gradient, weight_gradient = torch.autograd.grad(expected, (x, weight), v)
        options: dict[str, Any] = {**draw.hyper, "groups": draw.groups, "simplify": simplify}
        forward = convNd_forward.einsum_expression(x, weight, **options)
        assert close(contract(forward), expected), draw
        input_vjp = convNd_input_vjp.einsum_expression(weight, v, draw.input_size, **options)
        assert close(contract(input_vjp), x_gradient), draw
        weight_vjp = convNd_weight_vjp.einsum_expression(x, v, draw.kernel_size, **options)
        assert close(contract(weight_vjp), weight_gradient), draw


@pytest.mark.parametrize(("n", "simplify"), CASES)
def test_unfolding_and_folding_are_torchs(n: int, simplify: bool) -> None:
    for draw in some(n):
        x = draw.x().requires_grad_()
        expected = unfolded(x, draw).flatten(-3, -2)
        expression = convNd_unfold.einsum_expression(x, draw.kernel_size, **draw.hyper, simplify=simplify)
        assert close(contract(expression), expected), draw
        patches = torch.randn_like(expected)
        folded = torch.autograd.grad(expected, x, patches)[0]
        expression = convNd_fold.einsum_expression(
            patches, draw.input_size, draw.kernel_size, **draw.hyper, simplify=simplify
        )
        assert close(contract(expression), folded), draw


@pytest.mark.parametrize(("n", "simplify"), CASES)
def test_kronecker_factors_are_second_moments_of_patches(n: int, simplify: bool) -> None:
    for draw in some(n)[::2]:
        if draw.groups * prod(draw.kernel_size) > 200:
            continue
        x = draw.x()
        patches = unfolded(x, draw).reshape(prod(draw.batch), draw.groups, -1, unfolded(x, draw).shape[-1])
        options: dict[str, Any] = {**draw.hyper, "groups": draw.groups, "simplify": simplify}
        kfc = torch.einsum("ngpo,ngqo->gpq", patches, patches) / len(patches)
        assert close(contract(convNd_kfc.einsum_expression(x, draw.kernel_size, **options)), kfc), draw
        mean = patches.mean(-1)
        reduced = torch.einsum("ngp,ngq->gpq", mean, mean) / len(patches)
        expression = convNd_kfac_reduce.einsum_expression(x, draw.kernel_size, **options)
        assert close(contract(expression), reduced), draw


def test_folding_two_dimensions_is_torchs_fold() -> None:
    patches = torch.randn(2, 3 * 6, 9, dtype=torch.float64)
    expected = torch.nn.functional.fold(patches, (4, 5), (2, 3))
    assert close(contract(convNd_fold.einsum_expression(patches, (4, 5), (2, 3))), expected)
    square = torch.randn(2, 3 * 4, 9, dtype=torch.float64)
    expected = torch.nn.functional.fold(square, 4, 2)
    assert close(contract(convNd_fold.einsum_expression(square, 4, 2)), expected)


def test_padding_may_differ_from_side_to_side() -> None:
    x, weight = torch.randn(1, 2, 6, 7, dtype=torch.float64), torch.randn(3, 2, 3, 2, dtype=torch.float64)
    expected = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (0, 2, 3, 1)), weight)
    expression = convNd_forward.einsum_expression(x, weight, padding=((3, 1), (0, 2)))
    assert close(contract(expression), expected)


def test_operands_come_in_order_and_patterns_stay_symbolic() -> None:
    x, weight = torch.randn(2, 4, 9, 9), torch.randn(6, 2, 3, 3)
    equation, operands, shape = convNd_forward.einsum_expression(
        x, weight, padding=1, stride=2, groups=2, simplify=False
    )
    pattern = IndexPattern(9, 3, 2, 1)
    assert operands[1:3] == [pattern, pattern]
    assert [tuple(operand.shape) for operand in operands] == [
        (2, 2, 2, 9, 9),
        (3, 5, 9),
        (3, 5, 9),
        (2, 3, 2, 3, 3),
    ]
    assert equation == "abcde,fgd,hie,bjcfh->abjgi"
    assert shape == (2, 6, 5, 5)
    assert isinstance(operands[0], Tensor)
    assert operands[0].data_ptr() == x.data_ptr()


def test_many_dimensions_need_many_labels() -> None:
    x = torch.randn(2, 2, *(3,) * 5, dtype=torch.float64)
    equation, operands, shape = convNd_kfac_reduce.einsum_expression(x, 2, simplify=False)
    assert len(set(equation) - set(",->")) == 35
    assert len(operands) == 13
    assert shape == (1, 64, 64)


@pytest.mark.parametrize(
    ("x", "weight", "options", "message"),
    [
        (
            (1, 3, 8),
            (4, 2, 3),
            {},
            "given groups=1, weight of size .4, 2, 3., expected input to have 2 channels",
        ),
        (
            (1, 4, 8),
            (3, 2, 3),
            {"groups": 2},
            "out_channels must be divisible by groups: out_channels=3, groups=2",
        ),
        ((1, 2, 2), (4, 2, 3), {}, "kernel_size=3 with dilation=1 spans 3 elements, but input_size=2"),
        ((1, 2, 8, 8, 8), (4, 2, 3), {}, "expected 2D .unbatched. or 3D .batched. input to conv1d"),
        ((1, 2, 8), (4, 2, 3), {"stride": (1, 2)}, "a list of 1 values to match .* stride=.1, 2."),
        ((1, 2, 8), (4, 2, 3), {"padding": "sane"}, "invalid padding string: padding='sane'"),
        ((1, 2, 8), (4, 2, 3), {"groups": 0}, "non-positive groups"),
    ],
)
def test_errors_name_arguments_and_sizes(
    x: tuple[int, ...], weight: tuple[int, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OperandError, match=message):
        convNd_forward.einsum_expression(torch.ones(x), torch.ones(weight), **options)


def test_vectors_and_patches_of_other_sizes_are_refused() -> None:
    with pytest.raises(OperandError, match=r"expected v to have the spatial sizes \[6\]"):
        convNd_input_vjp.einsum_expression(torch.ones(4, 2, 3), torch.ones(1, 4, 7), 8)
    with pytest.raises(OperandError, match=r"expected v to have the spatial sizes \[6\]"):
        convNd_weight_vjp.einsum_expression(torch.ones(1, 2, 8), torch.ones(1, 4, 7), 3)
    with pytest.raises(OperandError, match="expected v to have 4 channels, but got 3"):
        convNd_input_vjp.einsum_expression(torch.ones(4, 2, 3), torch.ones(1, 3, 6), 8)
    with pytest.raises(OperandError, match="to be divisible by the product of kernel_size"):
        convNd_fold.einsum_expression(torch.ones(1, 7, 7), (9,), 3)
    with pytest.raises(OperandError, match=r"or 3D .* patches"):
        convNd_fold.einsum_expression(torch.ones(1, 7, 7, 7), (9,), 3)
