"""Convolutions of one to five dimensions against nested loops over outputs and kernel elements, with numpy.

Nothing here knows a pattern: an output meets an input where ``input = stride * output + dilation * kernel -
left``, and every operation is a sum over the triples for which that lies inside of the input.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from einfx import einsum
from einfx.conv import conv_transposeNd, convNd, foldNd, kfac_reduceNd, kfcNd, unfoldNd
from einfx.conv import expressions as E
from tests.conv.draws import Convolution, Transposed, convolutions, transposed_convolutions

COUNTS = {1: 10, 2: 6, 3: 5, 4: 12, 5: 6}
Index = tuple[int, ...]


def batched(draw: Any) -> Any:
    """The same with a batch and in float64: loops know no other."""
    return replace(draw, batch=draw.batch or (2,), dtype=torch.float64)


def meetings(draw: Convolution, inputs: Index, outputs: Index) -> Iterator[tuple[Index, Index, Index]]:
    """Every output, kernel element and input that meet in a convolution between these sizes."""
    for output in itertools.product(*map(range, outputs)):
        for kernel in itertools.product(*map(range, draw.kernel_size)):
            met = tuple(
                s * o + d * k - left
                for s, o, d, k, (left, _) in zip(
                    draw.strides, output, draw.dilations, kernel, draw.margins, strict=True
                )
            )
            if all(0 <= i < size for i, size in zip(met, inputs, strict=True)):
                yield output, kernel, met


def blocks(array: Any, groups: int, dim: int) -> Any:
    """An array with one dimension split into groups."""
    return array.reshape(*array.shape[:dim], groups, -1, *array.shape[dim + 1 :])


def close(got: Tensor, expected: Any) -> None:
    torch.testing.assert_close(got, torch.from_numpy(expected), rtol=1e-12, atol=1e-12)


def contracted(module: Any, *arguments: Any, **options: Any) -> Tensor:
    """The value of a simplified expression."""
    equation, operands, shape = module.einsum_expression(*arguments, **options)
    result: Tensor = einsum(equation, *operands).reshape(shape)
    return result


def small(draw: Convolution) -> bool:
    """Whether its patches are few enough for loops and for the factors of all of them."""
    kernel, outputs = int(np.prod(draw.kernel_size)), int(np.prod(draw.output_size))
    return kernel * outputs < 4000 and outputs < 700 and draw.in_channels * kernel < 130


def some(n: int, draws: Iterator[Any], fits: Callable[[Any], bool]) -> list[Any]:
    """As many draws that fit as are wanted."""
    found = list(itertools.islice(filter(fits, map(batched, draws)), COUNTS[n]))
    assert len(found) == COUNTS[n]
    return found


@pytest.mark.parametrize("n", COUNTS)
def test_convolutions_and_their_gradients_are_sums_over_meetings(n: int) -> None:
    for draw in some(n, convolutions(n, 60, 8 if n < 3 else 4), small):
        x, weight = draw.x(), draw.weight()
        v = draw.random("v", *draw.batch, draw.out_channels, *draw.output_size)
        xs, ws = blocks(x.numpy(), draw.groups, 1), blocks(weight.numpy(), draw.groups, 0)
        vs = blocks(v.numpy(), draw.groups, 1)
        y, dx, dw = np.zeros_like(vs), np.zeros_like(xs), np.zeros_like(ws)
        every = (slice(None),) * 3
        for o, k, i in meetings(draw, draw.input_size, draw.output_size):
            y[every + o] += np.einsum("bgc,gdc->bgd", xs[every + i], ws[every + k])
            dx[every + i] += np.einsum("bgd,gdc->bgc", vs[every + o], ws[every + k])
            dw[every + k] += np.einsum("bgd,bgc->gdc", vs[every + o], xs[every + i])
        hyper: dict[str, Any] = {**draw.hyper, "groups": draw.groups}
        leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
        result = convNd(*leaves, **hyper)
        gradients = torch.autograd.grad(result, leaves, v)
        y, dx, dw = y.reshape(result.shape), dx.reshape(x.shape), dw.reshape(weight.shape)
        close(result.detach(), y)
        close(gradients[0], dx)
        close(gradients[1], dw)
        close(contracted(E.convNd_forward, x, weight, **hyper), y)
        close(contracted(E.convNd_input_vjp, weight, v, draw.input_size, **hyper), dx)
        close(contracted(E.convNd_weight_vjp, x, v, draw.kernel_size, **hyper), dw)


@pytest.mark.parametrize("n", COUNTS)
def test_transposed_convolutions_and_their_gradients_are_sums_over_meetings(n: int) -> None:
    def fits(draw: Transposed) -> bool:
        return int(np.prod(draw.output_size)) < 3000 and small(replace(draw, output_padding=0))

    for draw in some(n, transposed_convolutions(n, 60, 6 if n < 3 else 3), fits):
        x, weight = draw.x(), draw.weight()
        v = draw.random("v", *draw.batch, draw.out_channels, *draw.output_size)
        xs, ws = blocks(x.numpy(), draw.groups, 1), blocks(weight.numpy(), draw.groups, 0)
        vs = blocks(v.numpy(), draw.groups, 1)
        y, dx, dw = np.zeros_like(vs), np.zeros_like(xs), np.zeros_like(ws)
        every = (slice(None),) * 3
        # Its inputs are the outputs of the convolution that it transposes.
        for o, k, i in meetings(draw, draw.output_size, draw.input_size):
            y[every + i] += np.einsum("bgc,gcd->bgd", xs[every + o], ws[every + k])
            dx[every + o] += np.einsum("bgd,gcd->bgc", vs[every + i], ws[every + k])
            dw[every + k] += np.einsum("bgd,bgc->gcd", vs[every + i], xs[every + o])
        hyper: dict[str, Any] = {**draw.hyper, "groups": draw.groups}
        leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
        result = conv_transposeNd(*leaves, **hyper)
        gradients = torch.autograd.grad(result, leaves, v)
        y, dx, dw = y.reshape(result.shape), dx.reshape(x.shape), dw.reshape(weight.shape)
        close(result.detach(), y)
        close(gradients[0], dx)
        close(gradients[1], dw)
        close(contracted(E.conv_transposeNd_forward, x, weight, **hyper), y)
        close(contracted(E.conv_transposeNd_input_vjp, weight, v, draw.input_size, **hyper), dx)
        close(contracted(E.conv_transposeNd_weight_vjp, x, v, draw.kernel_size, **hyper), dw)


@pytest.mark.parametrize("n", COUNTS)
def test_patches_and_factors_are_what_meets_at_each_output(n: int) -> None:
    for draw in some(n, convolutions(n, 60, 8 if n < 3 else 4), small):
        x, size, hyper = draw.x(), draw.kernel_size, draw.hyper
        patches = np.zeros((*x.shape[:2], *size, *draw.output_size))
        given = draw.random("patches", *patches.shape).numpy()
        folded = np.zeros(x.shape)
        every = (slice(None),) * 2
        for o, k, i in meetings(draw, draw.input_size, draw.output_size):
            patches[every + k + o] = x.numpy()[every + i]
            folded[every + i] += given[every + k + o]
        grouped: dict[str, Any] = {**hyper, "groups": draw.groups}
        check_patches(
            x, patches.reshape(len(x), draw.groups, -1, int(np.prod(draw.output_size))), size, grouped
        )
        flat = torch.from_numpy(given.reshape(len(x), -1, int(np.prod(draw.output_size))))
        close(foldNd(flat, draw.input_size, size, **hyper), folded)
        close(contracted(E.convNd_fold, flat, draw.input_size, size, **hyper), folded)


def check_patches(x: Tensor, patches: Any, size: Index, grouped: dict[str, Any]) -> None:
    """Assert that what comes of patches is what loops say.

    Args:
        x: the input.
        patches: shape: (batch, groups, side, outputs).
        size: of the kernel.
        grouped: hyper-parameters, with groups.
    """
    hyper = {name: value for name, value in grouped.items() if name != "groups"}
    unfolded, mean = patches.reshape(len(x), -1, patches.shape[-1]), patches.mean(-1)
    close(unfoldNd(x, size, **hyper), unfolded)
    close(contracted(E.convNd_unfold, x, size, **hyper), unfolded)
    close(unfoldNd(x, size, **grouped, reduce="mean"), mean)
    close(unfoldNd(x, size, **grouped, reduce="sum"), patches.sum(-1))
    kfc = np.einsum("bgpo,bgqo->gpq", patches, patches) / len(x)
    close(kfcNd(x, size, **grouped), kfc)
    close(contracted(E.convNd_kfc, x, size, **grouped), kfc)
    reduced = np.einsum("bgp,bgq->gpq", mean, mean) / len(x)
    close(kfac_reduceNd(x, size, **grouped), reduced)
    close(contracted(E.convNd_kfac_reduce, x, size, **grouped), reduced)


@pytest.mark.parametrize("n", COUNTS)
def test_patches_of_transposed_convolutions_are_what_meets_at_each_output(n: int) -> None:
    def fits(draw: Transposed) -> bool:
        return int(np.prod(draw.output_size)) < 700 and small(replace(draw, output_padding=0))

    for draw in some(n, transposed_convolutions(n, 60, 6 if n < 3 else 3), fits):
        x, size = draw.x(), draw.kernel_size
        patches = np.zeros((*x.shape[:2], *size, *draw.output_size))
        every = (slice(None),) * 2
        for o, k, i in meetings(draw, draw.output_size, draw.input_size):
            patches[every + k + i] = x.numpy()[every + o]
        patches = patches.reshape(len(x), draw.groups, -1, int(np.prod(draw.output_size)))
        grouped: dict[str, Any] = {**draw.hyper, "groups": draw.groups}
        unfolded = patches.reshape(len(x), -1, patches.shape[-1])
        close(contracted(E.conv_transposeNd_unfold, x, size, **draw.hyper), unfolded)
        kfc = np.einsum("bgpo,bgqo->gpq", patches, patches) / len(x)
        close(contracted(E.conv_transposeNd_kfc, x, size, **grouped), kfc)
        mean = patches.mean(-1)
        reduced = np.einsum("bgp,bgq->gpq", mean, mean) / len(x)
        close(contracted(E.conv_transposeNd_kfac_reduce, x, size, **grouped), reduced)
