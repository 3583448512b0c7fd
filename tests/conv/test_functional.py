"""Functionals against torch and against loops, values and gradients, over random hyper-parameters."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

from einfx.conv.expressions import convNd_kfac_reduce, convNd_kfc
from einfx.conv.functional import foldNd, kfac_reduceNd, kfcNd, unfoldNd
from einfx.errors import OperandError
from tests.conv.expressions.test_expressions import COUNTS, unfolded
from tests.conv.reference import Draw, close, contract, draws

DIMENSIONS = list(COUNTS)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]


def some(n: int, seed: int = 2) -> list[Draw]:
    """The draws for a number of dimensions."""
    return list(draws(n, COUNTS[n], largest=9 if n < 3 else 5 if n == 3 else 3, seed=seed))


@pytest.mark.parametrize("n", DIMENSIONS)
def test_unfolding_and_its_gradients(n: int) -> None:
    for draw in some(n):
        x = draw.x().requires_grad_()
        expected = unfolded(x, draw).flatten(-3, -2)
        got = unfoldNd(x, draw.kernel_size, **draw.hyper)
        assert torch.equal(got, expected), draw
        v = torch.randn_like(expected)
        (gradient,) = torch.autograd.grad(got, x, v)
        (wanted,) = torch.autograd.grad(expected, x, v)
        assert close(gradient, wanted), draw
        assert close(foldNd(v, draw.input_size, draw.kernel_size, **draw.hyper), wanted), draw


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("n", DIMENSIONS)
def test_reduced_patches_and_their_gradients(n: int, reduce: str) -> None:
    for draw in some(n):
        x = draw.x().requires_grad_()
        patches = unfolded(x, draw).flatten(-3, -2)
        expected = patches.mean(-1) if reduce == "mean" else patches.sum(-1)
        expected = expected.unflatten(-1, (draw.groups, -1))
        got = unfoldNd(x, draw.kernel_size, **draw.hyper, groups=draw.groups, reduce=reduce)
        assert close(got, expected), draw
        v = torch.randn_like(expected)
        (gradient,) = torch.autograd.grad(got, x, v)
        (wanted,) = torch.autograd.grad(expected, x, v)
        assert close(gradient, wanted), draw


@pytest.mark.parametrize("n", DIMENSIONS)
def test_kronecker_factors_are_those_of_the_expressions(n: int) -> None:
    for draw in some(n)[:: 2 if n < 4 else 4]:
        x = draw.x()
        if draw.in_channels * prod(draw.kernel_size) > 100:
            continue
        options: dict[str, Any] = {**draw.hyper, "groups": draw.groups}
        expected = contract(convNd_kfac_reduce.einsum_expression(x, draw.kernel_size, **options))
        assert close(kfac_reduceNd(x, draw.kernel_size, **options), expected), draw
        expected = contract(convNd_kfc.einsum_expression(x, draw.kernel_size, **options))
        assert close(kfcNd(x, draw.kernel_size, **options), expected), draw


def test_a_batch_too_large_for_its_patches_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    whole = kfcNd(x, 3, groups=2)
    (wanted,) = torch.autograd.grad(whole.square().sum(), x)
    monkeypatch.setattr("einfx.conv.functional._PATCH_BYTES", 10_000)
    parts = kfcNd(x, 3, groups=2)
    (gradient,) = torch.autograd.grad(parts.square().sum(), x)
    assert close(parts, whole)
    assert close(gradient, wanted)


def test_padding_may_differ_from_side_to_side_and_crop() -> None:
    x = torch.randn(2, 2, 7, 7, dtype=torch.float64)
    padded = torch.nn.functional.pad(x, (-1, 2, 3, -2))
    sides = ((3, -2), (-1, 2))
    expected = torch.nn.functional.unfold(padded, 2)
    assert torch.equal(unfoldNd(x, 2, padding=sides), expected)
    assert close(unfoldNd(x, 2, padding=sides, reduce="sum")[:, 0], expected.sum(-1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_keeps_itself(dtype: torch.dtype) -> None:
    x = torch.randn(2, 4, 7, 6, dtype=torch.complex128 if dtype.is_complex else torch.float64).to(dtype)
    exact = x.to(torch.complex128 if dtype.is_complex else torch.float64)
    tolerance = 4 * torch.finfo(dtype).eps
    for reduce in ("mean", "sum"):
        got = unfoldNd(x, 3, padding=1, stride=2, reduce=reduce)
        assert got.dtype == dtype
        assert close(got.to(exact.dtype), unfoldNd(exact, 3, padding=1, stride=2, reduce=reduce), tolerance)
    patches = unfoldNd(x, 3, padding=1)
    assert torch.equal(patches.to(exact.dtype), unfoldNd(exact, 3, padding=1))
    folded = foldNd(patches, (7, 6), 3, padding=1)
    assert folded.dtype == dtype
    assert close(folded.to(exact.dtype), foldNd(patches.to(exact.dtype), (7, 6), 3, padding=1), tolerance)


def test_conjugated_and_strided_inputs_are_read_as_they_are() -> None:
    x = torch.randn(2, 3, 6, 8, dtype=torch.complex128)
    plain = unfoldNd(x.conj().resolve_conj(), 3)
    assert torch.equal(unfoldNd(x.conj(), 3), plain)
    assert torch.equal(unfoldNd(x.conj().imag, 3), plain.imag)
    views = [x.real.transpose(2, 3), x.real[:, :, ::2], x.real.to(memory_format=torch.channels_last)]
    for view in views:
        assert torch.equal(unfoldNd(view, 3, padding=1), unfoldNd(view.contiguous(), 3, padding=1))
        assert torch.equal(
            unfoldNd(view, 3, padding=1, reduce="sum"),
            unfoldNd(view.contiguous(), 3, padding=1, reduce="sum"),
        )


def test_the_result_never_shares_memory_with_the_input() -> None:
    x = torch.zeros(1, 2, 3, 4)
    unfoldNd(x, 1).fill_(1)
    foldNd(x.reshape(1, 2, 12), (3, 4), 1).fill_(1)
    assert not x.any()


def test_what_a_window_does_not_hold_stays_out_of_its_sum() -> None:
    x = torch.ones(1, 1, 6, 6)
    x[0, 0, 0, 0] = torch.inf
    x[0, 0, 5, 5] = 1e30
    expected = torch.nn.functional.unfold(x, 3).sum(-1)
    assert torch.equal(unfoldNd(x, 3, reduce="sum")[:, 0], expected)
    assert torch.isfinite(expected).sum() == 8


def test_every_function_differentiates_twice_and_under_torch_func() -> None:
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64, requires_grad=True)
    options: dict[str, Any] = {"stride": 2, "padding": 1, "dilation": 1}

    def functions(x: Tensor) -> list[Tensor]:
        return [
            unfoldNd(x, 3, **options),
            unfoldNd(x, 3, **options, reduce="mean", groups=2),
            kfcNd(x, 3, **options, groups=2),
            kfac_reduceNd(x, 3, **options, groups=2),
            foldNd(unfoldNd(x, 3, **options), (6, 5), 3, **options),
        ]

    for index in range(5):

        def one(x: Tensor, index: int = index) -> Tensor:
            return functions(x)[index]

        assert torch.autograd.gradcheck(one, x, fast_mode=True)
        assert torch.autograd.gradgradcheck(one, x, fast_mode=True)
        tangent = torch.randn_like(x)
        moved = torch.func.jvp(one, (x.detach(),), (tangent,))[1]
        step = 1e-6
        numeric = (one(x.detach() + step * tangent) - one(x.detach() - step * tangent)) / (2 * step)
        torch.testing.assert_close(moved, numeric, rtol=1e-5, atol=1e-6)
        batch = torch.randn(3, *x.shape, dtype=x.dtype)
        mapped = torch.func.vmap(one, in_dims=1)(batch.transpose(0, 1))
        assert close(mapped, torch.stack([one(sample) for sample in batch]))
        gradient = torch.func.vmap(torch.func.grad(lambda x: one(x).square().sum()))(batch)
        for sample, got in zip(batch, gradient, strict=True):
            sample = sample.requires_grad_()
            assert close(got, torch.autograd.grad(one(sample).square().sum(), sample)[0])


def test_an_empty_batch_gives_empty_patches() -> None:
    x = torch.zeros(0, 4, 5, 5)
    assert unfoldNd(x, 3).shape == (0, 36, 9)
    assert unfoldNd(x, 3, groups=2, reduce="mean").shape == (0, 2, 18)
    assert kfcNd(x, 3).shape == kfac_reduceNd(x, 3).shape == (1, 36, 36)
    assert foldNd(torch.zeros(0, 36, 9), 5, 3).shape == (0, 4, 5, 5)


def test_integers_unfold_but_have_no_mean() -> None:
    x = torch.arange(24).reshape(1, 2, 3, 4)
    assert torch.equal(unfoldNd(x, 2), torch.nn.functional.unfold(x.double(), 2).long())
    with pytest.raises(OperandError, match=r"patches of torch.int64 can't be reduced"):
        unfoldNd(x, 2, reduce="mean")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduce": "max"}, "reduce is None, 'mean' or 'sum', not 'max'"),
        ({"groups": 3}, "channels must be divisible by groups: channels=4, groups=3"),
        ({"stride": 0}, "non-positive stride is not supported: stride=0"),
        ({"padding": (1, 2, 3)}, "padding to be a single integer value or a list of 2 values"),
        ({"kernel_size": 9}, "kernel_size=9 with dilation=1 spans 9 elements, but input_size=5"),
    ],
)
def test_errors_name_arguments_and_sizes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OperandError, match=message):
        unfoldNd(torch.ones(1, 4, 5, 5), **{"kernel_size": 3, **options})
