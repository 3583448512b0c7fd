"""Errors against float64 of everything in lower precision: none larger than those of torch's own.

Torch has convolutions, their gradients, ``unfold`` and products of matrices. What it has no operation for, a
factor or an average, is built from these, as its users do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from einfx import einsum
from einfx.conv import conv_transposeNd, convNd, foldNd, kfac_reduceNd, kfcNd, unfoldNd
from einfx.conv import expressions as E
from einfx.errors import OperandError

Function = Callable[..., Tensor]

DTYPES = [torch.float32, torch.bfloat16, torch.float16]

# Batch, input channels, output channels, size, kernel, stride, padding, dilation, groups.
LAYERS = [
    (4, 16, 16, 14, 3, 1, 1, 1, 1),
    (4, 16, 24, 15, 3, 2, 1, 1, 1),
    (4, 32, 32, 12, 3, 1, 1, 1, 32),
    (4, 32, 16, 10, 1, 1, 0, 1, 1),
    (4, 12, 12, 16, 7, 1, 3, 1, 3),
    (4, 8, 12, 16, 3, 1, 2, 2, 2),
    (4, 3, 24, 16, 4, 4, 0, 1, 1),
]


def expression(module: Any, *sizes: Any, **options: Any) -> Function:
    """The contraction of an expression, as a function of its tensors."""

    def run(*tensors: Tensor) -> Tensor:
        equation, operands, shape = module.einsum_expression(*tensors, *sizes, **options)
        result: Tensor = einsum(equation, *operands).reshape(shape)
        return result

    return run


def gradient(function: Function, position: int) -> Function:
    """The gradient of a function of two tensors for a third as the direction."""

    def run(*tensors: Tensor) -> Tensor:
        leaves = [x.detach().requires_grad_() for x in tensors[:-1]]
        return torch.autograd.grad(function(*leaves), leaves[position], tensors[-1])[0]

    return run


def patches(x: Tensor, groups: int, size: int, hyper: dict[str, int]) -> Tensor:
    """Torch's patches, shape: (groups, batch, side, positions)."""
    return F.unfold(x, size, **hyper).unflatten(1, (groups, -1)).transpose(0, 1)


def second_moment(x: Tensor, groups: int, size: int, hyper: dict[str, int]) -> Tensor:
    """KFC with torch."""
    rows = patches(x, groups, size, hyper).movedim(1, 2).flatten(2)
    return rows @ rows.mT / x.shape[0]


def averaged_moment(x: Tensor, groups: int, size: int, hyper: dict[str, int]) -> Tensor:
    """KFAC-reduce with torch."""
    mean = patches(x, groups, size, hyper).mean(-1)
    return mean.mT @ mean / x.shape[0]


def operations(layer: Sequence[int]) -> dict[str, tuple[Function, list[Function], list[tuple[int, ...]]]]:
    """What torch does, what does the same here, and the shapes of their tensors."""
    batch, channels, out, size, kernel, stride, padding, dilation, groups = layer
    hyper = {"stride": stride, "padding": padding, "dilation": dilation}
    grouped: dict[str, Any] = {**hyper, "groups": groups}
    outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    x, y = (batch, channels, size, size), (batch, out, outputs, outputs)
    weight, folded = (out, channels // groups, kernel, kernel), (batch, channels * kernel**2, outputs**2)
    # So many more inputs come of the outputs, where a stride doesn't fit.
    extra = (size + 2 * padding - dilation * (kernel - 1) - 1) % stride

    def native(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, **grouped)

    def here(x: Tensor, weight: Tensor) -> Tensor:
        return convNd(x, weight, **grouped)

    def up(function: Function) -> Function:
        return lambda y, weight: function(y, weight, output_padding=extra, **grouped)

    forward = expression(E.convNd_forward, **grouped)
    return {
        "forward": (native, [here, forward], [x, weight]),
        "input VJP": (
            gradient(native, 0),
            [
                gradient(here, 0),
                lambda x, weight, v: expression(E.convNd_input_vjp, size, **grouped)(weight, v),
            ],
            [x, weight, y],
        ),
        "weight VJP": (
            gradient(native, 1),
            [
                gradient(here, 1),
                lambda x, weight, v: expression(E.convNd_weight_vjp, kernel, **grouped)(x, v),
            ],
            [x, weight, y],
        ),
        "transposed": (
            up(F.conv_transpose2d),
            [
                up(conv_transposeNd),
                expression(E.conv_transposeNd_forward, output_padding=extra, **grouped),
            ],
            [y, weight],
        ),
        "averaged patches": (
            lambda x: F.unfold(x, kernel, **hyper).mean(-1).unflatten(1, (groups, -1)),
            [lambda x: unfoldNd(x, kernel, **grouped, reduce="mean")],
            [x],
        ),
        "summed patches": (
            lambda x: F.unfold(x, kernel, **hyper).sum(-1).unflatten(1, (groups, -1)),
            [lambda x: unfoldNd(x, kernel, **grouped, reduce="sum")],
            [x],
        ),
        "fold": (
            lambda v: F.fold(v, size, kernel, **hyper),
            [lambda v: foldNd(v, size, kernel, **hyper), expression(E.convNd_fold, size, kernel, **hyper)],
            [folded],
        ),
        "KFC": (
            lambda x: second_moment(x, groups, kernel, hyper),
            [lambda x: kfcNd(x, kernel, **grouped), expression(E.convNd_kfc, kernel, **grouped)],
            [x],
        ),
        "KFAC-reduce": (
            lambda x: averaged_moment(x, groups, kernel, hyper),
            [
                lambda x: kfac_reduceNd(x, kernel, **grouped),
                expression(E.convNd_kfac_reduce, kernel, **grouped),
            ],
            [x],
        ),
    }


def errors(function: Function, tensors: Sequence[Tensor], exact: Tensor, scale: Tensor) -> Tensor:
    """The errors of a result in the place of the exact one, as fractions of the summed sizes of products."""
    result = function(*tensors)
    assert result.dtype == tensors[0].dtype
    assert result.shape == exact.shape
    kept = scale > 0
    return ((result.double() - exact).abs()[kept] / scale[kept]).flatten()


@pytest.mark.parametrize("name", list(operations(LAYERS[0])))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_errors_are_no_larger_than_torchs(dtype: torch.dtype, name: str) -> None:
    made: dict[int, list[Tensor]] = {}
    for index, layer in enumerate(LAYERS):
        native, candidates, shapes = operations(layer)[name]
        generator = torch.Generator().manual_seed(index)
        for shift in (0.0, 1.0):
            tensors = [(torch.randn(s, generator=generator) + shift).to(dtype) for s in shapes]
            exact = native(*(x.double() for x in tensors))
            scale = native(*(x.double().abs() for x in tensors))
            for number, function in enumerate([native, *candidates]):
                if number == 2 and name.startswith("K") and dtype is torch.float16:
                    continue  # its scale, an operand, may be too small a number for the dtype
                made.setdefault(number, []).append(errors(function, tensors, exact, scale))
    theirs, *ours = (torch.cat(parts) for parts in made.values())
    ulp = torch.finfo(dtype).eps
    for mine in ours:
        # A slack for chance: sums in another order, and a rounding of the result to a number of this dtype.
        assert mine.square().mean().sqrt() <= 1.1 * theirs.square().mean().sqrt() + 0.02 * ulp
        assert mine.max() <= 1.25 * theirs.max() + 0.5 * ulp


def test_a_scale_that_the_dtype_does_not_hold_is_refused() -> None:
    x = torch.ones(2, 3, 20, 20)
    for dtype, message in (
        (torch.float16, r"the scale of this factor, 4\.76e-06, is too small for torch.float16"),
        (torch.int64, "Kronecker factors of torch.int64 aren't integers: convert input to a floating dtype"),
    ):
        with pytest.raises(OperandError, match=message):
            E.convNd_kfac_reduce.einsum_expression(x.to(dtype), 3)
    factor = kfac_reduceNd(x.half(), 3)
    assert torch.allclose(factor, torch.ones_like(factor), rtol=1e-3)


@pytest.mark.parametrize("n", [4, 5])
def test_errors_of_more_dimensions_are_those_of_one_sum(n: int) -> None:
    x, weight = torch.randn(1, 4, *(4,) * n), torch.randn(4, 4, *(2,) * n)
    exact = convNd(x.double(), weight.double(), padding=1)
    scale = convNd(x.double().abs(), weight.double().abs(), padding=1)
    found = errors(lambda x, weight: convNd(x, weight, padding=1), [x, weight], exact, scale)
    terms = 4 * 2**n
    assert found.max() <= torch.finfo(torch.float32).eps * sqrt(terms)
