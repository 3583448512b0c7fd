"""Convolutions join the linear operations beside them where that is cheaper, and stay elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import einfx
from einfx.graphs.shapes import propagate
from einfx.passes import DEFAULT, CaptureConvolutions
from einfx.rewrite import collect_declined
from tests.rewriting import assert_same, check_declined, check_rewrite

E = torch.einsum
Program = Callable[..., Any]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Plans depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randn(*shape: int) -> Tensor:
    torch.manual_seed(sum(shape))
    return torch.randn(shape)


X = randn(8, 64, 32, 32)
W = randn(64, 64, 3, 3)
FLAT = randn(64, 64 * 9)


class Model(nn.Module):
    """A function of an input, with modules and parameters."""

    def __init__(self, function: Callable[[Any, Any], Any], **members: Any) -> None:
        super().__init__()
        self._function = function
        for name, member in members.items():
            setattr(self, name, member)

    def forward(self, x: Tensor) -> Any:
        return self._function(self, x)


def captured(model: Program | nn.Module, *arguments: Tensor) -> tuple[fx.GraphModule, int, list[str]]:
    """The graph after the pass, its rewrites, and what it declined."""
    traced = fx.symbolic_trace(model)
    propagate(traced, arguments)
    with collect_declined() as declined:
        rewrites = CaptureConvolutions().apply(traced)
    traced.recompile()
    return traced, rewrites, [entry.reason for entry in declined]


# What is unfolded.


def test_unfolding_and_a_product_become_a_convolution() -> None:
    check_rewrite(
        CaptureConvolutions(),
        lambda x, w: E("dq,nqp->ndp", w, F.unfold(x, 3)),
        """
        unflatten = w.unflatten(1, (-1, 3, 3))
        size = x.size(2)
        index_pattern = einfx_pattern_IndexPattern(size, 3, 1, (0, 0), 1)
        size_1 = x.size(3)
        index_pattern_1 = einfx_pattern_IndexPattern(size_1, 3, 1, (0, 0), 1)
        einsum_1 = einfx_contract_einsum('abcd,ebfg,chf,dig->eahi', unflatten, x, index_pattern, \
index_pattern_1)
        flatten = einsum_1.flatten(2, 3)
        return flatten
        """,
        (X, FLAT),
        rewrites=1,
    )


@pytest.mark.parametrize(
    "program",
    [
        lambda x, w: w @ F.unfold(x, 3, padding=1),
        lambda x, w: torch.matmul(w, F.unfold(x, 3, padding=1)).flatten(1),
        lambda x, w: F.linear(F.unfold(x, 3, stride=2).transpose(1, 2), w),
        lambda x, w: F.linear(F.unfold(x, 3, dilation=2).permute(0, 2, 1), w, w[:, 0]),
        lambda x, w: E("nqp,dq->npd", F.unfold(x, 3), w) / 3,
    ],
)
def test_a_product_with_what_is_unfolded_is_read_in_every_spelling(program: Program) -> None:
    traced, rewrites, _ = captured(program, X, FLAT)
    assert rewrites == 1
    assert not any(node.target is F.unfold for node in traced.graph.nodes)
    assert_same(traced(X, FLAT), program(X, FLAT))
    small = randn(3, 64, 9, 11)
    assert_same(traced(small, FLAT), program(small, FLAT))


def test_averaged_patches_are_never_built() -> None:
    check_rewrite(
        CaptureConvolutions(),
        lambda x: F.unfold(x, 3, padding=1).mean(-1),
        """
        size = x.size(2)
        index_pattern = einfx_pattern_IndexPattern(size, 3, 1, (1, 1), 1)
        size_1 = x.size(3)
        index_pattern_1 = einfx_pattern_IndexPattern(size_1, 3, 1, (1, 1), 1)
        einsum = einfx_contract_einsum('abcd,efc,ghd->abeg', x, index_pattern, index_pattern_1)
        flatten = einsum.flatten(1, 3)
        mul = size * size_1
        truediv = flatten / mul
        return truediv
        """,
        (X,),
        rewrites=1,
    )


@pytest.mark.parametrize(
    "program",
    [
        lambda x: (lambda u: E("npo,nqo->pq", u, u))(F.unfold(x, 3, padding=1)),
        lambda x: (lambda u: (u @ u.transpose(1, 2)).sum(0))(F.unfold(x, 3)),
    ],
)
def test_the_second_moment_of_patches_is_one_contraction(program: Program) -> None:
    x = randn(4, 16, 20, 20)
    traced, rewrites, _ = captured(program, x)
    assert rewrites == 1
    assert not any(node.target is F.unfold for node in traced.graph.nodes)
    assert_same(traced(x), program(x))
    assert_same(traced(x[:, :, :7]), program(x[:, :, :7]))


@pytest.mark.parametrize(
    "program",
    [
        lambda x, w: E("nckp,ck->ncp", F.unfold(x, 3, padding=1).unflatten(1, (-1, 9)), w.flatten(1)),
        lambda x, w: E(
            "nckp,dck->ndp", F.unfold(x, 3).view(x.shape[0], x.size(1), 9, -1), w.unflatten(0, (-1, 16))
        ),
        lambda x, w: E("ncijp,cij->ncp", F.unfold(x, 3).reshape(x.size(0), -1, 3, 3, 36), w),
    ],
)
def test_patches_that_are_split_again_are_read(program: Program) -> None:
    x, w = randn(4, 16, 8, 8), randn(16, 3, 3)
    if "dck" in str(program.__code__.co_consts):
        w = randn(32, 9)
    traced = fx.symbolic_trace(program)
    propagate(traced, (x, w))
    rewrites = CaptureConvolutions(worth=math.inf).apply(traced)
    traced.recompile()
    fixed = "ncijp" in str(program.__code__.co_consts)
    assert rewrites == (0 if fixed else 1)  # 36 positions are those of one size of images
    for given in (x, randn(2, 16, 8, 8)) if fixed else (x, randn(2, 16, 5, 9)):
        assert_same(traced(given, w), program(given, w))


# Averages behind convolutions.


def test_a_convolution_and_an_average_are_one_convolution_with_a_larger_kernel() -> None:
    check_rewrite(
        CaptureConvolutions(),
        lambda x, w: F.avg_pool2d(F.conv2d(x, w, w[:, 0, 0, 0], padding=1), 2),
        """
        getitem = w[(slice(None, None, None), 0, 0, 0)]
        pad = torch.nn.functional.pad(w, (1, 1, 1, 1))
        avg_pool2d_1 = torch._C._nn.avg_pool2d(pad, (2, 2), 1)
        conv2d_1 = torch.conv2d(x, avg_pool2d_1, getitem, (2, 2), (1, 1), 1, 1)
        return conv2d_1
        """,
        (X, W),
        rewrites=1,
    )


@pytest.mark.parametrize("size", [(7, 9), (12, 12), (33, 5)])
def test_a_larger_kernel_gives_the_same_for_other_sizes_and_groups(size: tuple[int, int]) -> None:
    model = Model(
        lambda self, x: F.avg_pool2d(self.conv(x), (2, 3), divisor_override=5),
        conv=nn.Conv2d(64, 64, (3, 1), padding=(2, 1), groups=2, bias=False),
    )
    traced, rewrites, _ = captured(model, X)
    assert rewrites == 1
    x = randn(2, 64, *size)
    assert_same(traced(x), model(x))


def test_an_average_goes_before_a_kernel_of_one_element() -> None:
    model = Model(lambda self, x: self.pool(self.conv(x)), conv=nn.Conv2d(64, 32, 1), pool=nn.AvgPool2d(2))
    traced, rewrites, _ = captured(model, X)
    assert rewrites == 1
    calls = [str(node.target) for node in traced.graph.nodes if node.op.startswith("call")]
    assert len(calls) == 2
    assert calls[1] == "conv"
    for x in (X, randn(3, 64, 9, 7)):
        assert_same(traced(x), model(x))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "average",
    [
        lambda y: y.mean((2, 3)),
        lambda y: y.mean(dim=(-1, -2), keepdim=True),
        lambda y: F.adaptive_avg_pool2d(y, 1).flatten(1),
        lambda y: (lambda z: z.view(z.size(0), -1))(F.adaptive_avg_pool2d(y, 1)),
        lambda y: y.mean(3),
    ],
)
def test_the_mean_of_a_convolution_is_that_of_its_windows(bias: bool, average: Program) -> None:
    model = Model(lambda self, x: average(self.conv(x)), conv=nn.Conv2d(64, 64, 3, bias=bias))
    traced, rewrites, _ = captured(model, X)
    assert rewrites == 1
    for x in (X, randn(2, 64, 9, 7)):
        assert_same(traced(x), model(x))


# Convolutions behind convolutions.


def test_convolutions_in_a_row_are_one_where_the_first_widens() -> None:
    model = nn.Sequential(nn.Conv2d(32, 256, 1, bias=False), nn.Conv2d(256, 32, 3, padding=1))
    x = randn(8, 32, 32, 32)
    check_rewrite(
        CaptureConvolutions(),
        model,
        """
        input_1 = input
        size = input_1.size(2)
        index_pattern = einfx_pattern_IndexPattern(size, 1, 1, (0, 0), 1)
        size_1 = input_1.size(3)
        index_pattern_1 = einfx_pattern_IndexPattern(size_1, 1, 1, (0, 0), 1)
        _0_weight = getattr(self, "0").weight
        index_pattern_2 = einfx_pattern_IndexPattern(size, 3, 1, (1, 1), 1)
        index_pattern_3 = einfx_pattern_IndexPattern(size_1, 3, 1, (1, 1), 1)
        _1_weight = getattr(self, "1").weight
        einsum = einfx_contract_einsum('abcd,efc,ghd,ibeg,jkf,lmh,nijl->ankm', input_1, index_pattern, \
index_pattern_1, _0_weight, index_pattern_2, index_pattern_3, _1_weight)
        _1_bias = getattr(self, "1").bias
        present = einfx_conv_capture_writing_present(_1_bias)
        reshape = present.reshape(-1, 1, 1)
        add = einsum + reshape
        return add
        """,
        (x,),
        rewrites=1,
    )


def test_a_bias_in_between_keeps_convolutions_apart() -> None:
    model = nn.Sequential(nn.Conv2d(32, 256, 1), nn.Conv2d(256, 32, 3, padding=1))
    check_declined(
        CaptureConvolutions(), model, (randn(8, 32, 32, 32),), "no linear operation", "a bias is added"
    )


def test_a_chain_that_is_cheap_already_stays() -> None:
    model = nn.Sequential(
        nn.Conv2d(64, 8, 1, bias=False), nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Conv2d(8, 64, 1)
    )
    check_declined(CaptureConvolutions(), model, (X,), *["isn't predicted to be faster"] * 3)


def test_a_convolution_and_a_product_over_its_channels_are_one() -> None:
    model = Model(
        lambda self, x: E("nchw,dc->nhwd", self.conv(x), self.weight),
        conv=nn.Conv2d(64, 256, 3, padding=1, bias=False),
        weight=nn.Parameter(randn(16, 256)),
    )
    traced, rewrites, _ = captured(model, X)
    assert rewrites == 1
    for x in (X, randn(1, 64, 5, 4)):
        assert_same(traced(x), model(x))


@pytest.mark.parametrize(
    "tokens",
    [
        lambda y: y.flatten(2).transpose(1, 2),
        lambda y: y.reshape(y.shape[0], y.shape[1], -1).permute(0, 2, 1),
        lambda y: y.view(y.size(0), y.size(1), -1).transpose(-1, -2),
    ],
)
def test_patches_and_a_linear_layer_are_one(tokens: Program) -> None:
    model = Model(
        lambda self, x: self.linear(tokens(self.conv(x))),
        conv=nn.Conv2d(3, 256, 8, stride=8, bias=False),
        linear=nn.Linear(256, 64),
    )
    x = randn(8, 3, 64, 64)
    traced, rewrites, _ = captured(model, x)
    assert rewrites == 1
    for given in (x, randn(2, 3, 25, 40)):
        assert_same(traced(given), model(given))


# Numbers.


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (
            lambda x, w: 2 * F.conv2d(x, w) / 3,
            "mul_1 = w * 0.6666666666666666\nconv2d_1 = torch.conv2d(x, mul_1)\nreturn conv2d_1",
        ),
        (
            lambda x, w: F.conv2d(-x, w, bias=w[0, 0, 0, :1].expand(64)),
            "getitem = w[(0, 0, 0, slice(None, 1, None))]\nexpand = getitem.expand(64)\n"
            "mul = w * -1\nconv2d_1 = torch.conv2d(x, mul, bias = expand)\nreturn conv2d_1",
        ),
        (
            lambda x, w: F.conv_transpose2d(x, w, w[0, :, 0, 0], stride=2) * 4,
            "getitem = w[(0, slice(None, None, None), 0, 0)]\nmul_1 = getitem * 4\nmul_2 = w * 4\n"
            "conv_transpose2d_1 = torch.conv_transpose2d(x, mul_2, mul_1, stride = 2)\n"
            "return conv_transpose2d_1",
        ),
    ],
)
def test_numbers_go_into_the_weight(program: Program, expected: str) -> None:
    check_rewrite(CaptureConvolutions(), program, expected, (X, W), rewrites=1)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(64, 64, 3, padding="same"),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect", bias=False),
        nn.Conv2d(64, 64, 3, groups=64),
        nn.ConvTranspose2d(64, 64, 3, stride=2, output_padding=1, groups=4),
    ],
    ids=["same", "reflect", "depthwise", "transposed"],
)
def test_numbers_go_into_the_weight_of_a_module(conv: nn.Module) -> None:
    model = Model(lambda self, x: self.conv(x) / 8, conv=conv)
    traced, rewrites, _ = captured(model, X)
    assert rewrites == 1
    assert_same(traced(X), model(X))
    loss = [torch.autograd.grad(m(X).square().sum(), list(conv.parameters())) for m in (model, traced)]
    for found, expected in zip(loss[1], loss[0], strict=True):
        assert_same(found, expected)


def test_a_number_stays_where_the_weight_is_larger_than_the_result() -> None:
    check_declined(
        CaptureConvolutions(), lambda x, w: F.conv2d(x, w) * 2, (X[:1, :, :4, :4], W), "isn't predicted"
    )


# What stays.


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (lambda x, w: F.conv2d(x, w), "no linear operation"),
        (lambda x, w: F.conv2d(x, w).relu() * 2, "no linear operation"),
        (lambda x, w: (lambda y: (2 * y, y))(F.conv2d(x, w)), "no linear operation"),
        (lambda x, w: F.avg_pool2d(x, 3, padding=1, count_include_pad=False), "count_include_pad"),
        (lambda x, w: F.avg_pool2d(x, 3, ceil_mode=True) * 2, "ceil_mode"),
    ],
)
def test_what_has_nothing_beside_it_stays(program: Program, reason: str) -> None:
    check_declined(CaptureConvolutions(), program, (X, W), reason)


def test_what_is_written_to_stays() -> None:
    def program(x: Tensor, w: Tensor) -> Tensor:
        y = F.conv2d(x, w)
        y.relu_()
        return y * 2

    _, rewrites, reasons = captured(program, X, W)
    assert rewrites == 0
    assert reasons

    def overwritten(x: Tensor, w: Tensor) -> Tensor:
        y = F.conv2d(x, w)
        x.zero_()
        return y * 2

    traced, rewrites, _ = captured(overwritten, X, W)
    assert rewrites == 0
    assert_same(traced(X.clone(), W), overwritten(X.clone(), W))


def test_an_in_place_activation_keeps_its_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(64, 64, 1, bias=False), nn.ReLU(inplace=True), nn.AvgPool2d(2))
    _, rewrites, _ = captured(model, X)
    assert rewrites == 0


def test_half_precision_and_other_dtypes_stay() -> None:
    x, w = X[:1].half(), W.half()
    _, rewrites, reasons = captured(lambda x, w: F.conv2d(x, w).mean((2, 3)), x, w)
    assert rewrites == 0
    assert any("float16" in reason for reason in reasons)


def test_hooks_keep_a_module_as_it_is() -> None:
    conv = nn.Conv2d(64, 64, 3)
    conv.register_forward_hook(lambda module, inputs, output: None)
    model = Model(lambda self, x: 2 * self.conv(x), conv=conv)
    traced = fx.symbolic_trace(model)
    with collect_declined() as declined:
        assert CaptureConvolutions().apply(traced) == 0
    assert any("hooks" in entry.reason for entry in declined)


def test_without_shapes_nothing_is_captured_and_the_reason_said() -> None:
    traced = fx.symbolic_trace(lambda x, w: 2 * F.conv2d(x, w))
    with collect_declined() as declined:
        assert CaptureConvolutions().apply(traced) == 0
    assert any("shape" in entry.reason for entry in declined)


def test_a_weight_that_two_convolutions_share_stays_shared() -> None:
    model = Model(
        lambda self, x: F.avg_pool2d(self.conv(self.conv(x).relu()), 2),
        conv=nn.Conv2d(64, 64, 1),
    )
    optimized = einfx.optimize(model, (X,), passes=(CaptureConvolutions(), *DEFAULT))
    assert optimized.report.passes[0].rewrites == 1
    assert set(optimized.state_dict()) == set(model.state_dict())
    loss = [torch.autograd.grad(m(X).square().sum(), list(model.parameters())) for m in (model, optimized)]
    for found, expected in zip(loss[1], loss[0], strict=True):
        assert_same(found, expected)


def test_the_memory_of_an_input_is_never_returned() -> None:
    traced, _, _ = captured(lambda x: F.unfold(x, 1).flatten(1), X)
    assert traced(X).data_ptr() != X.data_ptr()
