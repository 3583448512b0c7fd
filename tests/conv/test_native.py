"""Convolutions of any number of dimensions against torch, and against loops where torch has none."""

from __future__ import annotations

import pytest
import torch

from einfx.conv.functional import unfoldNd
from einfx.conv.native import conv_transposeNd, convNd
from einfx.errors import OperandError
from tests.conv.expressions.test_transposed import some as some_transposed
from tests.conv.expressions.test_transposed import transposed
from tests.conv.reference import close, conv
from tests.conv.test_functional import DIMENSIONS, some


@pytest.mark.parametrize("n", DIMENSIONS)
def test_convolutions_and_their_gradients(n: int) -> None:
    for draw in some(n):
        x, weight = draw.x().requires_grad_(), draw.weight().requires_grad_()
        bias = torch.randn(draw.out_channels, dtype=x.dtype, requires_grad=True)
        expected = conv(x, weight, draw) + bias.reshape(-1, *(1,) * n)
        got = convNd(x, weight, bias, groups=draw.groups, **draw.hyper)
        assert close(got, expected), draw
        v = torch.randn_like(expected)
        gradients = torch.autograd.grad(got, (x, weight, bias), v)
        wanted = torch.autograd.grad(expected, (x, weight, bias), v)
        assert all(close(a, b) for a, b in zip(gradients, wanted, strict=True)), draw


def test_large_convolutions_run_under_torch_func() -> None:
    x = torch.randn(3, 2, 2, 3, 3, 3, 3, dtype=torch.float64)
    weight = torch.randn(3, 2, 3, 3, 1, 1, dtype=torch.float64)
    mapped = torch.func.vmap(lambda x: convNd(x, weight, padding=1))(x)
    assert close(mapped, torch.stack([convNd(sample, weight, padding=1) for sample in x]))


def test_convolutions_refuse_what_does_not_fit() -> None:
    with pytest.raises(OperandError, match="expected input to have 2 channels, but got 3"):
        convNd(torch.ones(1, 3, 5, 5), torch.ones(4, 2, 3, 3))
    with pytest.raises(OperandError, match=r"expected 5D .unbatched. or 6D .batched. input to conv4d"):
        convNd(torch.ones(1, 2, 5, 5), torch.ones(4, 2, 1, 1, 1, 1))


def test_padding_may_differ_from_side_to_side_and_crop() -> None:
    x, weight = torch.randn(2, 2, 7, 7, dtype=torch.float64), torch.randn(3, 2, 2, 2, dtype=torch.float64)
    padded = torch.nn.functional.pad(x, (-1, 2, 3, -2))
    got = convNd(x, weight, padding=((3, -2), (-1, 2)))
    assert close(got, torch.nn.functional.conv2d(padded, weight))


def test_a_stride_that_steps_over_the_input_gives_zeros() -> None:
    x = torch.randn(1, 1, 1, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    got = convNd(
        x, torch.ones(1, 1, 1, 1, 1, 1, dtype=torch.float64), stride=(3, 1, 1, 1), padding=(1, 0, 0, 0)
    )
    assert got.shape == (1, 1, 1, 2, 2, 2)
    assert not got.any()
    assert not torch.autograd.grad(got.sum(), x)[0].any()


@pytest.mark.parametrize("n", DIMENSIONS)
def test_transposed_convolutions_and_their_gradients(n: int) -> None:
    for draw, hyper in some_transposed(n):
        x = draw.x().requires_grad_()
        group = draw.out_channels // draw.groups
        weight = torch.randn(draw.in_channels, group, *draw.kernel_size, dtype=x.dtype, requires_grad=True)
        bias = torch.randn(draw.out_channels, dtype=x.dtype, requires_grad=True)
        expected = transposed(x, weight, draw.groups, hyper) + bias.reshape(-1, *(1,) * n)
        got = conv_transposeNd(x, weight, bias, groups=draw.groups, **hyper)
        assert close(got, expected), (draw, hyper)
        v = torch.randn_like(expected)
        gradients = torch.autograd.grad(got, (x, weight, bias), v)
        wanted = torch.autograd.grad(expected, (x, weight, bias), v)
        assert all(close(a, b) for a, b in zip(gradients, wanted, strict=True)), (draw, hyper)


def test_a_transposed_convolution_is_cut_from_side_to_side() -> None:
    x, weight = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(3, 2, 3, 3, dtype=torch.float64)
    bias = torch.randn(2, dtype=torch.float64)
    whole = torch.nn.functional.conv_transpose2d(x, weight, bias, stride=2)
    got = conv_transposeNd(x, weight, bias, stride=2, padding=((1, 0), (0, 2)))
    assert close(got, whole[:, :, 1:, :-2])


def test_transposed_convolutions_refuse_what_does_not_fit() -> None:
    with pytest.raises(OperandError, match="expected input to have 3 channels, but got 2"):
        conv_transposeNd(torch.ones(1, 2, 5), torch.ones(3, 2, 3))
    with pytest.raises(OperandError, match="output_padding=2 with stride=2"):
        conv_transposeNd(torch.ones(1, 3, 5), torch.ones(3, 2, 3), stride=2, output_padding=2)


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_autocast_gives_the_dtype_that_it_asks_for(n: int) -> None:
    x, weight, bias = torch.randn(2, 4, *(3,) * n), torch.randn(4, 4, *(2,) * n), torch.randn(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = [
            convNd(x, weight, bias),
            convNd(x, weight, bias, padding=((1, 0),) * n),
            conv_transposeNd(x, weight, bias),
            conv_transposeNd(x, weight, bias, padding=((1, 0),) * n),
            convNd(x.bfloat16(), weight, bias),
        ]
    for result in results:
        assert result.dtype == torch.bfloat16
    exact = convNd(x.double(), weight.double(), bias.double())
    assert close(results[0].double(), exact, 4 * torch.finfo(torch.bfloat16).eps)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_margins_may_crop_more_than_the_input_has_where_they_add(n: int) -> None:
    x, weight = torch.arange(4.0**n).reshape(1, 1, *(4,) * n), torch.ones(1, 1, *(2,) * n)
    # Nothing is left of the input but zeros that were added on the other side.
    for sides in ((-4, 3), (3, -4), (-6, 8), (-3, 1)):
        padded = x
        for dim in range(2, n + 2):
            rows = [*padded.unbind(dim), torch.zeros_like(padded.select(dim, 0))]
            met = [i if 0 <= i < 4 else 4 for i in range(-sides[0], 4 + sides[1])]
            padded = torch.stack([rows[i] for i in met], dim)
        expected = convNd(padded, weight)
        assert torch.equal(convNd(x, weight, padding=(sides,) * n), expected)
        assert torch.equal(unfoldNd(x, (2,) * n, padding=(sides,) * n), unfoldNd(padded, (2,) * n))
        reduced = unfoldNd(x, (2,) * n, padding=(sides,) * n, reduce="sum")
        assert torch.equal(reduced, unfoldNd(padded, (2,) * n, reduce="sum"))


@pytest.mark.parametrize(("stride", "kernel", "groups"), [(2, 2, 1), (3, 2, 2), (1, 1, 1), (2, 1, 2)])
def test_windows_that_share_nothing_are_one_product(stride: int, kernel: int, groups: int) -> None:
    x = torch.randn(3, 4, 6, 7, 6, 5, dtype=torch.float64, requires_grad=True)
    sizes = (6, 4 // groups, *(kernel,) * 4)
    weight = torch.randn(sizes, dtype=torch.float64, requires_grad=True)
    rows = []
    for start in range(0, x.shape[2] - kernel + 1, stride):
        slices = [(x[:, :, start + k], weight[:, :, k]) for k in range(kernel)]
        made = [torch.conv3d(a, b, stride=stride, groups=groups) for a, b in slices]
        rows.append(torch.stack(made).sum(0))
    expected, got = torch.stack(rows, 2), convNd(x, weight, stride=stride, groups=groups)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    vector = torch.randn_like(got)
    gradients = [torch.autograd.grad(out, (x, weight), vector) for out in (got, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_products_of_windows_are_differentiated_twice_and_mapped() -> None:
    def convolved(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return convNd(x, weight, stride=2, groups=2)

    x = torch.randn(2, 2, 2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, 2, 2, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        convolved, (x, weight), check_forward_ad=True, check_batched_grad=True, fast_mode=True
    )
    assert torch.autograd.gradgradcheck(convolved, (x, weight), fast_mode=True)
    many = torch.randn(3, *x.shape, dtype=torch.float64)
    mapped = torch.func.vmap(convolved, in_dims=(0, None))(many, weight)
    torch.testing.assert_close(mapped, torch.stack([convolved(each, weight) for each in many]))
