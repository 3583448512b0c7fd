"""Modules of any number of dimensions compute what torch.nn's do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from einfx.conv.modules import ConvNd, ConvTransposeNd, FoldNd, UnfoldNd, portable
from einfx.conv.modules.boundary import pad
from einfx.errors import OperandError
from tests.conv.reference import CONV, Draw, conv_by_loops, draws, each

CLASSES: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MODES = ["zeros", "reflect", "replicate", "circular"]


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def module_of(draw: Draw, **options: Any) -> ConvNd:
    return ConvNd(
        draw.n,
        draw.in_channels,
        draw.out_channels,
        draw.kernel_size,
        groups=draw.groups,
        dtype=torch.float64,
        **{**draw.hyper, **options},
    )


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_convolution_and_its_gradients_are_those_of_torch(n: int) -> None:
    for draw in draws(n, 60):
        module = module_of(draw)
        native = CLASSES[n](
            draw.in_channels, draw.out_channels, draw.kernel_size, groups=draw.groups, **draw.hyper
        ).double()
        native.load_state_dict(module.state_dict())
        x, y = draw.x().requires_grad_(), None
        expected = native(x)
        wanted = torch.autograd.grad(expected.sin().sum(), [x, *native.parameters()])
        y = module(x)
        close(y, expected)
        for got, want in zip(
            torch.autograd.grad(y.sin().sum(), [x, *module.parameters()]), wanted, strict=True
        ):
            close(got, want)


@pytest.mark.parametrize("n", [4, 5])
def test_a_convolution_of_more_dimensions_is_the_one_of_nested_loops(n: int) -> None:
    for draw in draws(n, 12, largest=4):
        module, x = module_of(draw, bias=False), draw.x()
        close(module(x), conv_by_loops(x, module.weight, draw))


@pytest.mark.parametrize("n", [4, 5])
def test_portable_convolutions_of_more_dimensions_are_those_of_nested_loops(n: int) -> None:
    for draw in draws(n, 12, largest=4):
        module, x = module_of(draw, bias=False), draw.x()
        got = portable.convolution(
            x,
            module.weight,
            None,
            list(module.stride),
            list(module._reversed_padding_repeated_twice),
            list(module.dilation),
            module.groups,
        )
        close(got, conv_by_loops(x, module.weight, draw))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_transposed_convolution_is_the_gradient_of_a_convolution(n: int) -> None:
    tested = 0
    for draw in draws(n, 25, largest=6 if n < 4 else 4):
        if isinstance(draw.padding, str):
            continue
        conv = module_of(draw, bias=False)
        up = ConvTransposeNd(
            n,
            draw.out_channels,
            draw.in_channels,
            draw.kernel_size,
            groups=draw.groups,
            bias=False,
            dtype=torch.float64,
            **draw.hyper,
        )
        up.load_state_dict(conv.state_dict())
        x = draw.x().requires_grad_()
        y = conv(x)
        v = torch.randn_like(y)
        (expected,) = torch.autograd.grad(y, x, v)
        columns = zip(
            v.shape[-n:],
            draw.kernel_size,
            *(each(value, n) for value in (draw.stride, draw.padding, draw.dilation)),
            strict=True,
        )
        # The size without output padding.
        least = [(o - 1) * s - 2 * p + d * (k - 1) + 1 for o, k, s, p, d in columns]
        strides = each(draw.stride, n)
        if all(low <= i < low + s for i, low, s in zip(draw.input_size, least, strides, strict=True)):
            tested += 1
            close(up(v, output_size=list(draw.input_size)), expected)
            close(up(v, output_size=list(expected.shape)), expected)
    assert tested > 5


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_transposed_convolution_is_that_of_torch(n: int) -> None:
    options: dict[str, Any] = {"stride": 3, "padding": 1, "output_padding": 2, "dilation": 2, "groups": 2}
    module = ConvTransposeNd(n, 4, 6, 3, **options)
    native = TRANSPOSED[n](4, 6, 3, **options)
    native.load_state_dict(module.state_dict())
    x = torch.randn(2, 4, *range(3, 3 + n))
    assert torch.equal(module(x), native(x))
    assert torch.equal(module(x[0]), native(x[0]))
    wanted = list(native(x).shape[2:])
    wanted[0] -= 1
    assert torch.equal(module(x, output_size=wanted), native(x, output_size=wanted))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", [(2, 1, 2), "same"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_padding_modes_are_those_of_torch(n: int, padding: Any, mode: str) -> None:
    sides = padding if isinstance(padding, str) else padding[:n]
    module = ConvNd(n, 2, 3, (4, 3, 2)[:n], padding=sides, dilation=2, padding_mode=mode)
    native = CLASSES[n](2, 3, (4, 3, 2)[:n], padding=sides, dilation=2, padding_mode=mode)
    native.load_state_dict(module.state_dict())
    x = torch.randn(2, 2, *(9, 8, 7)[:n])
    assert torch.equal(module(x), native(x))
    assert torch.equal(module(x[0]), native(x[0]))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_of_more_dimensions_is_that_of_each_dimension(mode: str) -> None:
    x = torch.randn(2, 3, 4, 5, 4, 6, dtype=torch.float64)
    padding = [2, 1, 0, 0, 3, 2, 1, 0]
    expected = x
    for i in range(4):
        moved = expected.movedim(5 - i, -1)
        flat = moved.reshape(1, -1, moved.shape[-1])
        padded = F.pad(flat, padding[2 * i : 2 * i + 2], mode)
        expected = padded.reshape(*moved.shape[:-1], -1).movedim(-1, 5 - i)
    assert torch.equal(pad(x, padding, mode), expected)
    assert torch.equal(torch.jit.script(pad)(x[0], padding, mode), expected[0])
    conv = ConvNd(4, 3, 2, 3, padding=1, padding_mode=mode, dtype=torch.float64)
    assert conv(x).shape == (2, 2, 4, 5, 4, 6)
    plain = ConvNd(4, 3, 2, 3, dtype=torch.float64)
    plain.load_state_dict(conv.state_dict())
    close(conv(x), plain(pad(x, [1] * 8, mode)))


def test_unfolding_is_that_of_torch_and_folding_its_adjoint() -> None:
    for n in (1, 2, 3, 4):
        for draw in draws(n, 15, largest=5):
            x = draw.x()
            options = {"dilation": draw.dilation, "stride": draw.stride}
            unfold = UnfoldNd(draw.kernel_size, padding=draw.padding, **options)
            patches = unfold(x)
            if n == 2 and not isinstance(draw.padding, str):
                assert torch.equal(patches, F.unfold(x, draw.kernel_size, padding=draw.padding, **options))
            weight = torch.randn(draw.out_channels, draw.in_channels, *draw.kernel_size, dtype=torch.float64)
            if n <= 3:
                y = CONV[n](x, weight, padding=draw.padding, **options)
                close(weight.flatten(1) @ patches, y.flatten(len(draw.batch) + 1))
            if not isinstance(draw.padding, str):
                fold = FoldNd(draw.input_size, draw.kernel_size, padding=draw.padding, **options)
                v = torch.randn_like(patches)
                close((fold(v) * x).sum(), (v * patches).sum())


def test_arguments_of_unfolding_that_are_numbers_are_for_batches_of_any_rank() -> None:
    x = torch.randn(2, 3, 5, 6)
    assert torch.equal(UnfoldNd(3, padding=1)(x), F.unfold(x, 3, padding=1))
    assert UnfoldNd(3, padding="same")(x[:, :, 0]).shape == (2, 9, 6)
    assert torch.equal(FoldNd(5, 3)(torch.ones(1, 9, 9)), F.fold(torch.ones(1, 9, 9), 5, 3))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_parameters_start_with_the_numbers_that_torch_gives_them(n: int) -> None:
    for ours, theirs in ((ConvNd, CLASSES[n]), (ConvTransposeNd, TRANSPOSED[n])):
        torch.manual_seed(3)
        module = ours(n, 4, 6, 3, groups=2)
        torch.manual_seed(3)
        native = theirs(4, 6, 3, groups=2)
        assert list(module.state_dict()) == list(native.state_dict())
        for name, value in native.state_dict().items():
            assert torch.equal(module.state_dict()[name], value)
        assert native.load_state_dict(module.state_dict()) is not None


def test_they_show_themselves_as_torch_does_after_the_number_of_dimensions() -> None:
    for options in (
        {},
        {"stride": 2, "padding": 1, "dilation": 2, "groups": 2, "bias": False, "padding_mode": "circular"},
        {"padding": "same"},
    ):
        shown = repr(nn.Conv2d(4, 6, 3, **options)).replace("Conv2d(", "ConvNd(2, ")
        assert repr(ConvNd(2, 4, 6, 3, **options)) == shown
    shown = repr(nn.ConvTranspose1d(4, 6, 3, 2, output_padding=1))
    assert repr(ConvTransposeNd(1, 4, 6, 3, 2, output_padding=1)) == shown.replace(
        "ConvTranspose1d(", "ConvTransposeNd(1, "
    )
    assert repr(UnfoldNd(3, padding=1)) == repr(nn.Unfold(3, padding=1)).replace("Unfold", "UnfoldNd")
    assert repr(FoldNd((4, 5), (3, 2))) == (
        "FoldNd(output_size=(4, 5), kernel_size=(3, 2), dilation=(1, 1), padding=(0, 0), stride=(1, 1))"
    )


def make(cls: Any, *arguments: Any, **options: Any) -> Callable[[], nn.Module]:
    return lambda: cls(*arguments, **options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (make(ConvNd, 0, 1, 1, 1), "non-positive N .*N=0"),
        (
            make(ConvNd, 2, 3, 4, 1, groups=2),
            "in_channels must be divisible by groups: in_channels=3",
        ),
        (make(ConvNd, 2, 4, 3, 1, groups=2), "out_channels must be divisible by groups: out_channels=3"),
        (make(ConvNd, 2, 4, 3, 1, groups=0), "non-positive groups .*groups=0"),
        (
            make(ConvNd, 2, 4, 3, (1, 2, 3)),
            r"expected kernel_size .* 2 values .*kernel_size=\[1, 2, 3\]",
        ),
        (make(ConvNd, 2, 4, 3, 1, stride=0), "non-positive stride is not supported: stride=0"),
        (make(ConvNd, 2, 4, 3, 1, dilation=-1), "non-positive dilation"),
        (make(ConvNd, 2, 4, 3, 1, padding=-1), "negative padding is not supported: padding=-1"),
        (make(ConvNd, 2, 4, 3, 1, padding="some"), "invalid padding string: padding='some'"),
        (make(ConvNd, 2, 4, 3, 1, padding="same", stride=2), "padding='same' is not supported for strided"),
        (
            make(ConvNd, 2, 4, 3, 1, padding_mode="mirror"),
            "padding_mode must be one of .*'mirror'",
        ),
        (make(ConvTransposeNd, 2, 4, 3, 1, padding="same"), "padding='same' is not supported for transposed"),
        (make(ConvTransposeNd, 2, 4, 3, 1, padding_mode="circular"), "only 'zeros' padding mode"),
        (make(UnfoldNd, (1, 2), (1, 1, 1)), "expected dilation to be .* 2 values"),
        (make(UnfoldNd, 0), "non-positive kernel_size"),
        (make(FoldNd, 0, 1), "non-positive output_size"),
        (make(FoldNd, 4, 1, padding=-1), "negative padding"),
    ],
)
def test_arguments_that_do_not_fit_are_named(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(OperandError, match=message):
        build()


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (
            ConvNd(2, 3, 4, 3),
            (3, 3),
            r"expected 3D \(unbatched\) or 4D \(batched\) .*\[3, 3\]",
        ),
        (ConvNd(2, 3, 4, 3), (1, 2, 5, 5), "expected input to have 3 channels, but got 2 channels"),
        (ConvNd(1, 3, 4, 3), (1, 3, 2), "kernel size can't be greater than the padded input: kernel_size=3"),
        (ConvNd(4, 3, 4, 3), (1, 3, 5, 5, 5, 2), "kernel size can't be greater"),
        (
            ConvNd(1, 1, 1, 7, padding=3, padding_mode="reflect"),
            (1, 1, 3),
            r"padding size should be less .*padding 3 at dimension 2 of input of size \[1, 1, 3\]",
        ),
        (ConvNd(1, 1, 1, 9, padding=4, padding_mode="circular"), (1, 1, 3), "wrapping around more than once"),
        (ConvTransposeNd(2, 3, 4, 3), (1, 2, 5, 5), "to have 3 channels, but got 2"),
        (UnfoldNd((3, 3)), (5,), "expected 3D"),
        (UnfoldNd(3), (1, 2, 2, 5), "kernel size can't be greater"),
        (FoldNd(4, 2), (1, 3, 9), "divisible by"),
        (FoldNd(4, 2), (1, 4, 8), r"sliding blocks 3 . 3 = 9"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_inputs_that_do_not_fit_are_named(module: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(OperandError, match=message):
        module(torch.randn(shape))


def test_an_output_size_that_cannot_be_is_named() -> None:
    with pytest.raises(OperandError, match=r"requested output_size=\[20, 20\]"):
        ConvTransposeNd(2, 1, 1, 3, stride=2)(torch.ones(1, 1, 4, 4), output_size=[20, 20])
