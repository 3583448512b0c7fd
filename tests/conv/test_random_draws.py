"""A thousand random convolutions: everything that einfx makes of each, and its derivatives, is torch's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from torch import Tensor

from einfx import einsum
from einfx.conv import conv_transposeNd, convNd, foldNd, kfac_reduceNd, kfcNd, unfoldNd
from einfx.conv import expressions as E
from tests.conv.draws import Convolution, Transposed, convolutions, spread, transposed_convolutions
from tests.conv.oracles import (
    Function,
    adjoint,
    agree,
    check,
    conv,
    kfac_reduce,
    kfc,
    like,
    transposed,
    unfolded,
)

COUNTS = {1: 400, 2: 400, 3: 250}
PARTS = 5


def expressions(
    module: Any, *sizes: Any, simplify: tuple[bool, ...] = (False, True), **options: Any
) -> dict[str, Function]:
    """The plain and the simplified expression, as functions of the tensors that an expression takes.

    Args:
        module: the module of the expression.
        sizes: what follows the tensors.
        simplify: which of the two; planning the one of a large factor takes longer than all else.
        options: the keywords of the expression.
    """

    def made(simplify: bool) -> Function:
        def run(*tensors: Tensor) -> Tensor:
            equation, operands, size = module.einsum_expression(
                *tensors, *sizes, **options, simplify=simplify
            )
            result: Tensor = einsum(equation, *operands).reshape(size)
            return result

        return run

    name = module.__name__.rpartition(".")[2]
    return {f"{name}, simplify={each}": made(each) for each in simplify}


# What is compared.


def part(draws: Iterable[Any], index: int) -> list[tuple[int, Any]]:
    """A share of the draws, with their numbers."""
    return [(number, draw) for number, draw in enumerate(draws) if number % PARTS == index]


def depth_of(number: int) -> int:
    """Gradients of every draw; of every fifth second derivatives and products with Jacobians."""
    return 2 if number // PARTS % 5 == 0 else 1


CASES = [pytest.param(n, index, id=f"{n}d, part {index}") for n in COUNTS for index in range(PARTS)]


@pytest.mark.parametrize(("n", "index"), CASES)
def test_convolutions_are_torchs(n: int, index: int) -> None:
    for number, draw in part(convolutions(n, COUNTS[n], 8 if n < 3 else 5), index):
        depth = depth_of(number)
        x, weight, bias = draw.x(), draw.weight(), draw.bias_vector()
        hyper: dict[str, Any] = {**draw.hyper, "groups": draw.groups}
        v = draw.random("v", *draw.batch, draw.out_channels, *draw.output_size)

        def forward(x: Tensor, weight: Tensor, draw: Convolution = draw) -> Tensor:
            return conv(x, weight, draw)

        def functional(x: Tensor, weight: Tensor, hyper: Any = hyper) -> Tensor:
            return convNd(x, weight, **hyper)

        check(
            forward,
            {"convNd": functional, **expressions(E.convNd_forward, **hyper)},
            (x, weight),
            draw,
            depth,
        )
        if bias is not None:
            agree(
                convNd(x, weight, bias, **hyper),
                conv(x, weight, draw) + bias.reshape(-1, *(1,) * n),
                conv(x.abs(), weight.abs(), draw) + bias.abs().reshape(-1, *(1,) * n),
                draw,
            )
        check(
            lambda weight, v, draw=draw, x=x: adjoint(lambda x: conv(x, weight, draw), like(x, v), v),
            expressions(E.convNd_input_vjp, draw.input_size, **hyper),
            (weight, v),
            draw,
            depth,
        )
        check(
            lambda x, v, draw=draw, weight=weight: adjoint(
                lambda weight: conv(x, weight, draw), like(weight, v), v
            ),
            expressions(E.convNd_weight_vjp, draw.kernel_size, **hyper),
            (x, v),
            draw,
            depth,
        )


@pytest.mark.parametrize(("n", "index"), CASES)
def test_transposed_convolutions_are_torchs(n: int, index: int) -> None:
    for number, draw in part(transposed_convolutions(n, COUNTS[n], 6 if n < 3 else 4), index):
        depth = depth_of(number)
        # Torch refuses to differentiate what it cut an output padding from three times.
        vjp_depth = depth if not any(spread(draw.output_padding, n)) else 1
        x, weight, bias = draw.x(), draw.weight(), draw.bias_vector()
        hyper: dict[str, Any] = {**draw.hyper, "groups": draw.groups}
        v = draw.random("v", *draw.batch, draw.out_channels, *draw.output_size)

        def forward(x: Tensor, weight: Tensor, draw: Transposed = draw) -> Tensor:
            return transposed(x, weight, draw)

        def functional(x: Tensor, weight: Tensor, hyper: Any = hyper) -> Tensor:
            return conv_transposeNd(x, weight, **hyper)

        candidates = {"conv_transposeNd": functional, **expressions(E.conv_transposeNd_forward, **hyper)}
        check(forward, candidates, (x, weight), draw, depth)
        if bias is not None:
            agree(
                conv_transposeNd(x, weight, bias, **hyper),
                transposed(x, weight, draw) + bias.reshape(-1, *(1,) * n),
                transposed(x.abs(), weight.abs(), draw) + bias.abs().reshape(-1, *(1,) * n),
                draw,
            )
        check(
            lambda weight, v, draw=draw, x=x: adjoint(lambda x: transposed(x, weight, draw), like(x, v), v),
            expressions(E.conv_transposeNd_input_vjp, draw.input_size, **hyper),
            (weight, v),
            draw,
            vjp_depth,
        )
        check(
            lambda x, v, draw=draw, weight=weight: adjoint(
                lambda weight: transposed(x, weight, draw), like(weight, v), v
            ),
            expressions(E.conv_transposeNd_weight_vjp, draw.kernel_size, **hyper),
            (x, v),
            draw,
            vjp_depth,
        )


@pytest.mark.parametrize(("n", "index"), CASES)
def test_patches_and_kronecker_factors_are_torchs(n: int, index: int) -> None:
    for number, draw in part(convolutions(n, COUNTS[n], 8 if n < 3 else 4), index):
        depth = depth_of(number)
        x, size, hyper = draw.x(), draw.kernel_size, draw.hyper
        grouped = {**hyper, "groups": draw.groups}
        one = (number // PARTS % 2 == 0,)

        def patches(x: Tensor, draw: Convolution = draw) -> Tensor:
            return unfolded(x, draw).flatten(-3, -2)

        candidates: dict[str, Function] = {"unfoldNd": lambda x, o=hyper, k=size: unfoldNd(x, k, **o)}
        check(patches, {**candidates, **expressions(E.convNd_unfold, size, **hyper)}, (x,), draw, depth)
        for reduce in ("mean", "sum"):
            check(
                lambda x, draw=draw, r=reduce: (
                    getattr(unfolded(x, draw), r)(-1).flatten(-2).unflatten(-1, (draw.groups, -1))
                ),
                {reduce: lambda x, o=grouped, k=size, r=reduce: unfoldNd(x, k, **o, reduce=r)},
                (x,),
                draw,
                depth,
            )
        folded = draw.random("patches", *patches(x).shape)
        sizes = draw.input_size, size
        candidates = {"foldNd": lambda x, o=hyper, s=sizes: foldNd(x, *s, **o)}
        check(
            lambda v, p=patches, x=x: adjoint(p, like(x, v), v),
            {**candidates, **expressions(E.convNd_fold, *sizes, **hyper)},
            (folded,),
            draw,
            depth,
        )
        candidates = {"kfcNd": lambda x, o=grouped, k=size: kfcNd(x, k, **o)}
        check(
            lambda x, draw=draw: kfc(x, draw),
            {**candidates, **expressions(E.convNd_kfc, size, **grouped, simplify=one)},
            (x,),
            draw,
            depth,
        )
        candidates = {"kfac_reduceNd": lambda x, o=grouped, k=size: kfac_reduceNd(x, k, **o)}
        check(
            lambda x, draw=draw: kfac_reduce(x, draw),
            {**candidates, **expressions(E.convNd_kfac_reduce, size, **grouped, simplify=one)},
            (x,),
            draw,
            depth,
        )


@pytest.mark.parametrize(("n", "index"), CASES)
def test_transposed_patches_and_kronecker_factors_are_torchs(n: int, index: int) -> None:
    for number, draw in part(transposed_convolutions(n, COUNTS[n], 6 if n < 3 else 3), index):
        depth = depth_of(number)
        x, hyper = draw.x(), draw.hyper
        grouped = {**hyper, "groups": draw.groups}
        one = (number // PARTS % 4 < 2,)
        size = draw.kernel_size
        check(
            lambda x, draw=draw: unfolded(x, draw).flatten(-3, -2),
            expressions(E.conv_transposeNd_unfold, size, **hyper),
            (x,),
            draw,
            depth,
        )
        if n > 1 and number // PARTS % 2:
            continue
        check(
            lambda x, draw=draw: kfc(x, draw),
            expressions(E.conv_transposeNd_kfc, size, **grouped, simplify=one),
            (x,),
            draw,
            depth // 2,
        )
        check(
            lambda x, draw=draw: kfac_reduce(x, draw),
            expressions(E.conv_transposeNd_kfac_reduce, size, **grouped, simplify=one),
            (x,),
            draw,
            depth,
        )
