"""A call is read as the contraction that it computes, or said to have none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations, weight_norm

import einfx
from einfx.conv.capture.readings import Reading, Window
from einfx.conv.capture.spellings import read
from einfx.graphs.folding import attribute
from einfx.graphs.shapes import propagate

Program = Callable[..., Any]


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def last_call(program: Program | nn.Module, arguments: list[Tensor]) -> tuple[fx.GraphModule, fx.Node]:
    traced = program if isinstance(program, fx.GraphModule) else fx.symbolic_trace(program)
    propagate(traced, arguments)
    output = next(node for node in reversed(traced.graph.nodes) if node.op == "output")
    return traced, output.args[0]


def computed(reading: Reading, owner: nn.Module, given: dict[str, Tensor]) -> Tensor:
    """What a reading says, by torch's einsum over patterns that are built."""

    def tensor(source: Any) -> Tensor:
        if isinstance(source, str):
            return attribute(owner, source)
        return given[source.name] if source.name in given else attribute(owner, str(source.target))

    def stepped(value: Tensor, steps: Any) -> Tensor:
        for step in steps:
            value = getattr(value, step.method)(*step.arguments)
        return value

    data = tensor(reading.data)
    if reading.boundary is not None:
        data = F.pad(data, reading.boundary[0], reading.boundary[1])
    divisor = reading.divisor
    for dim in reading.averaged:
        divisor *= data.shape[dim]
    data = stepped(data, reading.data_steps)
    patterns = [window.pattern(data.shape[window.dim]).tensor(data.dtype) for window in reading.windows]
    weights = [] if reading.weight is None else [stepped(tensor(reading.weight), reading.weight_steps)]
    out = torch.einsum(str(reading.equation), data, *patterns, *weights)
    out = stepped(out, reading.result_steps) / divisor
    if reading.bias is not None:
        out = out + tensor(reading.bias).reshape(-1, *(1,) * len(reading.windows))
    return out


def check(program: Program | nn.Module, *arguments: Tensor) -> Reading:
    """The reading of the last call of a program, which computes what the program does."""
    traced, node = last_call(program, list(arguments))
    reading = read(node, traced)
    assert isinstance(reading, Reading), reading
    names = [x.name for x in traced.graph.nodes if x.op == "placeholder"]
    found = computed(reading, traced, dict(zip(names, arguments, strict=True)))
    torch.testing.assert_close(found, traced(*arguments), rtol=1e-11, atol=1e-11)
    return reading


SIZES = {1: (11,), 2: (9, 10), 3: (6, 7, 5)}


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("batched", [True, False])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_convolution_and_its_transpose_are_read_for_all_hyper_parameters(
    n: int, batched: bool, data: st.DataObject
) -> None:
    groups = data.draw(st.sampled_from([1, 2, 3]))
    inner, outer = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    kernel = tuple(data.draw(st.integers(1, 3)) for _ in range(n))
    stride, dilation = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    padding = data.draw(st.integers(0, 2))
    with_bias = data.draw(st.booleans())
    x, w, w_back, b, b_back = tensors(
        ((2,) if batched else ()) + (groups * inner, *SIZES[n]),
        (groups * outer, inner, *kernel),
        (groups * inner, outer, *kernel),
        (groups * outer,),
        (groups * outer,),
    )
    conv, back = getattr(F, f"conv{n}d"), getattr(F, f"conv_transpose{n}d")
    bias, bias_back = (b, b_back) if with_bias else (None, None)
    program: Any = (
        (lambda x, w, b: conv(x, w, b, stride, padding, dilation, groups))
        if with_bias
        else (lambda x, w: conv(x, w, None, stride, padding, dilation, groups))
    )
    check(program, x, w, *([bias] if bias is not None else []))
    extra = data.draw(st.integers(0, max(stride, dilation) - 1))
    if (
        min(
            (s - 1) * stride - 2 * padding + dilation * (k - 1) + 1
            for s, k in zip(SIZES[n], kernel, strict=True)
        )
        > 0
    ):
        program = (
            (lambda x, w, b: back(x, w, b, stride, padding, extra, groups, dilation))
            if with_bias
            else (lambda x, w: back(x, w, None, stride, padding, extra, groups, dilation))
        )
        check(program, x, w_back, *([bias_back] if bias_back is not None else []))


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    batched=st.booleans(),
)
def test_unfolding_and_folding_are_read_for_all_hyper_parameters(
    kernel: tuple[int, int], stride: int, padding: int, dilation: int, batched: bool
) -> None:
    (x,) = tensors(((2,) if batched else ()) + (3, 8, 7))
    check(lambda x: F.unfold(x, kernel, dilation, padding, stride), x)
    patches = F.unfold(x, kernel, dilation, padding, stride)
    check(lambda p: F.fold(p, (8, 7), kernel, dilation, padding, stride), patches)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("stride", [None, 1, 3])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_averages_over_windows_are_read(n: int, stride: int | None, padding: int) -> None:
    (x,) = tensors((2, 3, *SIZES[n]))
    pool = getattr(F, f"avg_pool{n}d")
    reading = check(lambda x: pool(x, 2, stride, padding), x)
    assert reading.divisor == 2**n
    check(getattr(nn, f"AvgPool{n}d")(2, stride, padding), x)


def test_a_divisor_is_read() -> None:
    (x,) = tensors((2, 3, 8, 8))
    assert check(lambda x: F.avg_pool2d(x, 3, padding=1, divisor_override=5), x).divisor == 5


def test_means_are_read() -> None:
    (x,) = tensors((2, 3, 4, 5))
    check(lambda x: x.mean((2, 3)), x)
    check(lambda x: x.mean(-1, keepdim=True), x)
    check(lambda x: torch.mean(x, dim=(1, -1), keepdim=True), x)
    check(lambda x: F.adaptive_avg_pool2d(x, 1), x)
    check(lambda x: F.adaptive_avg_pool2d(x, (1, 1)), x)
    check(nn.AdaptiveAvgPool2d(1), x)
    check(lambda x: F.adaptive_avg_pool1d(x, 1), x[0])


MODULES: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Conv1d(4, 6, 3, 2, 1), (2, 4, 9)),
    (nn.Conv2d(4, 6, (3, 2), padding="same", groups=2), (2, 4, 9, 8)),
    (nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), (4, 9, 8)),
    (nn.Conv2d(4, 8, 3, padding=1, groups=4), (2, 4, 9, 8)),
    (nn.Conv3d(2, 3, 2, padding="valid", dilation=2), (2, 2, 5, 6, 7)),
    (nn.Conv2d(2, 3, 3, padding=(2, 1), padding_mode="reflect"), (2, 2, 6, 7)),
    (nn.Conv1d(2, 3, 4, padding="same", padding_mode="circular"), (2, 2, 9)),
    (nn.ConvTranspose1d(4, 6, 3, 2, 1, 1), (2, 4, 9)),
    (nn.ConvTranspose2d(4, 4, 3, 2, groups=4), (2, 4, 5, 6)),
    (nn.ConvTranspose3d(2, 3, 2), (2, 2, 4, 5, 6)),
    (nn.Unfold(3, padding=1), (2, 3, 7, 8)),
    (nn.Fold((4, 5), 2), (2, 8, 12)),
    (einfx.conv.ConvNd(4, 2, 3, 2, padding=1), (2, 2, 3, 4, 3, 4)),
    (einfx.conv.ConvNd(2, 2, 3, 3, padding="same", groups=1), (2, 2, 6, 7)),
    (einfx.conv.ConvTransposeNd(2, 2, 3, 3, stride=2), (2, 2, 4, 5)),
    (einfx.conv.UnfoldNd(3, padding=1), (2, 2, 4, 5, 6)),
    (einfx.conv.FoldNd((4, 5), 2), (2, 8, 12)),
]


@pytest.mark.parametrize(("module", "shape"), MODULES, ids=lambda x: type(x).__name__)
def test_modules_are_read_with_their_parameters(module: nn.Module, shape: tuple[int, ...]) -> None:
    wrapped = nn.Sequential(module).double()
    check(wrapped, *tensors(shape))


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1)),
        nn.Sequential(nn.Conv2d(4, 6, 3, padding="same")),
        nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, 1, 1)),
        nn.Sequential(nn.AvgPool2d(2)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1)),
        nn.Sequential(nn.Unfold(2)),
        nn.Sequential(nn.Fold((7, 8), 1)),
    ],
    ids=lambda module: type(module[0]).__name__,
)
def test_exported_programs_are_read(module: nn.Module) -> None:
    shape = (2, 4, 56) if isinstance(module[0], nn.Fold) else (2, 4, 7, 8)  # type: ignore[index]
    (x,) = tensors(shape)
    exported = torch.export.export(module.double(), (x,)).module()
    found = [read(node, exported) for node in exported.graph.nodes]
    propagate(exported, (x,))
    nodes = [node for node in exported.graph.nodes if isinstance(read(node, exported), Reading)]
    assert len(nodes) == 1, found
    reading = read(nodes[0], exported)
    assert isinstance(reading, Reading)
    result = computed(reading, exported, {nodes[0].all_input_nodes[0].name: x})
    torch.testing.assert_close(result, module(x), rtol=1e-11, atol=1e-11)


def test_a_depthwise_kernel_that_is_state_has_one_label_for_its_channels() -> None:
    wrapped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4)).double()
    assert str(check(wrapped, *tensors((2, 4, 6, 6))).equation) == "abcd,efc,ghd,beg->abfh"


def test_a_kernel_that_is_an_input_may_have_more_channels_in_the_next_call() -> None:
    reading = check(lambda x, w: F.conv1d(x, w, groups=4), *tensors((2, 4, 6), (4, 1, 3)))
    assert reading.data_steps
    assert reading.result_steps


X, W = tensors((2, 4, 8, 8), (6, 4, 3, 3))


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (lambda x, w: F.avg_pool2d(x, 3, padding=1, count_include_pad=False), "count_include_pad"),
        (lambda x, w: F.avg_pool2d(x, 3, ceil_mode=True), "ceil_mode"),
        (lambda x, w: F.adaptive_avg_pool2d(x, 3), "different sizes"),
        (lambda x, w: F.conv2d(x, w, padding="same"), "may change from call to call"),
        (lambda x, w: F.unfold(x, w.shape[2]), "computed by the program"),
        (lambda x, w: x.mean(), "all elements"),
        (lambda x, w: torch.mean(x, 1, dtype=torch.float64), "say more"),
    ],
)
def test_calls_without_a_contraction_are_said_to_have_none(program: Program, reason: str) -> None:
    module, node = last_call(program, [X, W])
    found = read(node, module)
    assert isinstance(found, str)
    assert reason in found


def test_patches_that_are_never_built_are_left_as_they_are() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(einfx.conv.unfoldNd, (x, 3), {"reduce": "mean"}))
    module, node = last_call(fx.GraphModule(nn.Module(), graph), [X])
    found = read(node, module)
    assert isinstance(found, str)
    assert "already" in found


def test_a_shape_that_is_not_known_is_said() -> None:
    traced = fx.symbolic_trace(lambda x, w: F.conv2d(x, w))
    found = read(list(traced.graph.nodes)[2], traced)
    assert isinstance(found, str)
    assert "shape" in found


class Named(nn.Module):
    """A module of the user's own that has a convolution's name and another meaning."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def test_modules_are_matched_by_their_type_alone() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = Named()

        def forward(self, x: Tensor) -> Any:
            return self.conv1(x)

    class Leafy(fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return True

    class Sub(nn.Conv2d):
        pass

    model = Model()
    traced = fx.GraphModule(model, Leafy().trace(model))
    assert read(last_call(traced, [X])[1], traced) is None
    wrapped = nn.Sequential(Sub(4, 4, 1)).double()
    traced = fx.GraphModule(wrapped, Leafy().trace(wrapped))
    assert read(last_call(traced, [X])[1], traced) is None


def test_hooks_and_parametrizations_keep_a_module_as_it_is() -> None:
    hooked = nn.Conv2d(4, 4, 3).double()
    hooked.register_forward_hook(lambda module, inputs, output: None)
    own = nn.Conv2d(4, 4, 3).double()
    own.__dict__["forward"] = lambda x: x
    for module in (hooked, own):
        traced = fx.symbolic_trace(nn.Sequential(module))
        found = read(next(node for node in traced.graph.nodes if node.op == "call_module"), traced)
        assert isinstance(found, str)
        assert "hooks" in found
    normed = nn.Sequential(weight_norm(nn.Conv2d(4, 4, 3).double()))
    traced = fx.symbolic_trace(normed)
    assert isinstance(read(next(n for n in traced.graph.nodes if n.op == "call_module"), traced), str)
    parametrized = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(4, 4, 3).double()))
    traced = fx.symbolic_trace(parametrized)
    assert not any(isinstance(read(node, traced), Reading) for node in traced.graph.nodes)


@pytest.mark.parametrize("size", [5, 8])
def test_a_window_tells_the_pattern_of_every_size(size: int) -> None:
    assert Window(2, 3, 2, (1, 1)).pattern(size).output_size == (size + 2 - 3) // 2 + 1
    assert Window(2, 2, 1, (0, 0), 3, extra=1).pattern(size).output_size == size
