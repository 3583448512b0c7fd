"""Modules of any number of dimensions compute what torch.nn's do, and are as good as those in every tool."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations

import einfx
from einfx.conv.modules import ConvNd, ConvTransposeNd, FoldNd, UnfoldNd, portable
from einfx.conv.modules.boundary import pad
from einfx.errors import OperandError, UsageError
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


def pairs() -> list[tuple[nn.Module, Any, tuple[int, ...]]]:
    return [
        (nn.Conv1d(4, 6, 3, padding="same"), ConvNd, (2, 4, 9)),
        (
            nn.Conv2d(4, 6, (3, 2), stride=2, groups=2, padding_mode="reflect", padding=1),
            ConvNd,
            (2, 4, 9, 8),
        ),
        (nn.Conv3d(2, 3, 2, bias=False), ConvNd, (2, 5, 6, 7)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), ConvTransposeNd, (2, 4, 5, 6)),
        (nn.Unfold(3, padding=1), UnfoldNd, (2, 3, 5, 6)),
        (nn.Unfold((2, 3), dilation=2), UnfoldNd, (3, 5, 6)),
        (nn.Fold(4, 2, stride=2), FoldNd, (2, 12, 4)),
    ]


@pytest.mark.parametrize(("native", "cls", "shape"), pairs(), ids=lambda value: type(value).__name__)
def test_modules_from_torch_share_its_parameters_and_turn_back(
    native: nn.Module, cls: Any, shape: tuple[int, ...]
) -> None:
    native.eval()
    module = cls.from_nn(native)
    x = torch.randn(shape)
    assert type(module) is cls
    assert not module.training
    assert torch.equal(module(x), native(x))
    assert all(a is b for a, b in zip(module.parameters(), native.parameters(), strict=True))
    back = module.to_nn()
    assert type(back) is type(native)
    assert repr(back) == repr(native) or isinstance(native, (nn.Unfold, nn.Fold))
    assert torch.equal(back(x), native(x))
    assert all(a is b for a, b in zip(back.parameters(), native.parameters(), strict=True))


def test_hooks_come_along_and_later_ones_stay_where_they_are_put() -> None:
    native = nn.Conv1d(1, 1, 1)
    native.register_forward_hook(lambda module, args, output: output * 0)
    module = ConvNd.from_nn(native)
    x = torch.ones(1, 1, 3)
    assert not module(x).any()
    module.register_forward_hook(lambda module, args, output: output + 1)
    assert not native(x).any()
    assert module(x).all()


def test_parametrized_weights_stay_parametrized() -> None:
    native = parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    module = ConvNd.from_nn(native)
    x = torch.randn(1, 3, 5, 5)
    assert torch.equal(module(x), native(x))
    assert list(module.state_dict()) == list(native.state_dict())
    torch.nn.utils.parametrize.remove_parametrizations(module, "weight")
    assert type(module) is ConvNd
    assert torch.equal(module(x), native(x))


class Doubled(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_only_modules_that_compute_the_same_are_taken() -> None:
    with pytest.raises(UsageError, match=r"takes torch\.nn\.Conv1d.*not Linear"):
        ConvNd.from_nn(nn.Linear(2, 2))
    with pytest.raises(UsageError, match=r"takes torch\.nn\.Fold, not Unfold"):
        FoldNd.from_nn(nn.Unfold(2))
    with pytest.raises(UsageError, match="Doubled is a subclass of Conv2d that defines forward"):
        ConvNd.from_nn(Doubled(1, 1, 1))
    with pytest.raises(UsageError, match="LazyConv2d before its parameters are made"):
        ConvNd.from_nn(nn.LazyConv2d(1, 1))
    with pytest.raises(UsageError, match="4 dimensions"):
        ConvNd(4, 1, 1, 1).to_nn()
    with pytest.raises(UsageError, match="two dimensions, not 3"):
        UnfoldNd((1, 1, 1)).to_nn()
    with pytest.raises(UsageError, match="both sides alike"):
        UnfoldNd((2, 2), padding="same").to_nn()


def make(cls: Any, *arguments: Any, **options: Any) -> Callable[[], nn.Module]:
    return lambda: cls(*arguments, **options)


EVERYTHING: list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = [
    ("conv1", make(ConvNd, 1, 2, 4, 3, padding="same"), (2, 2, 7)),
    ("conv1 even same", make(ConvNd, 1, 2, 4, 4, padding="same"), (2, 2, 7)),
    ("conv2", make(ConvNd, 2, 2, 4, 3, stride=2, padding=1, groups=2), (2, 2, 7, 6)),
    ("conv2 circular", make(ConvNd, 2, 2, 4, 3, padding=1, padding_mode="circular"), (2, 2, 7, 6)),
    ("conv3", make(ConvNd, 3, 2, 4, 2, dilation=2), (2, 2, 4, 5, 6)),
    ("conv4", make(ConvNd, 4, 2, 4, 2, padding=1, stride=(1, 2, 1, 2)), (2, 2, 3, 4, 5, 4)),
    ("conv4 reflect", make(ConvNd, 4, 2, 4, 3, padding=1, padding_mode="reflect"), (2, 2, 3, 4, 5, 4)),
    ("conv5", make(ConvNd, 5, 1, 2, 2, padding="same"), (2, 1, 3, 2, 3, 2, 3)),
    ("transposed 2", make(ConvTransposeNd, 2, 4, 2, 3, stride=2, output_padding=1), (2, 4, 3, 4)),
    ("transposed 4", make(ConvTransposeNd, 4, 4, 2, 2, stride=2, padding=1), (2, 4, 3, 4, 3, 4)),
    ("unfold 1", make(UnfoldNd, (3,), padding=1), (2, 2, 5)),
    ("unfold of any", make(UnfoldNd, 2, padding="same"), (2, 2, 5, 4, 3)),
    ("unfold 4", make(UnfoldNd, (2, 1, 2, 2), stride=2), (2, 2, 5, 4, 3, 4)),
    ("fold 1", make(FoldNd, (5,), (3,), padding=1), (2, 6, 5)),
    ("fold 2", make(FoldNd, (5, 4), 2), (2, 8, 12)),
    ("fold 3", make(FoldNd, (3, 4, 5), 2), (2, 8, 24)),
]
everything = pytest.mark.parametrize(
    ("build", "shape"), [case[1:] for case in EVERYTHING], ids=[case[0] for case in EVERYTHING]
)


@everything
def test_they_trace_symbolically(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    module = build()
    traced = torch.fx.symbolic_trace(nn.Sequential(module))
    x = torch.randn(shape)
    assert torch.equal(traced(x), module(x))
    assert len([node for node in traced.graph.nodes if node.op == "call_function"]) <= 2
    assert torch.equal(pickle.loads(pickle.dumps(traced))(x), module(x))


@everything
def test_they_script_and_load_again(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    module = build()
    x = torch.randn(shape)
    scripted = torch.jit.script(module)
    torch.testing.assert_close(scripted(x), module(x), rtol=1e-4, atol=1e-5)
    buffer = io.BytesIO()
    torch.jit.save(scripted, buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.jit.load(buffer)(x), module(x), rtol=1e-4, atol=1e-5)


@everything
def test_they_export_for_batches_of_any_size(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    module = build()
    x = torch.randn(shape)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(module, (x,), dynamic_shapes={"input": {0: batch}}).module()
    for other in (x, torch.randn(5, *shape[1:])):
        torch.testing.assert_close(program(other), module(other), rtol=1e-4, atol=1e-5)


@everything
def test_they_compile_without_breaks(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    module = build()
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(shape, requires_grad=True)
    torch._dynamo.mark_dynamic(x, 0)
    torch.testing.assert_close(compiled(x), module(x), rtol=1e-4, atol=1e-5)
    (got,) = torch.autograd.grad(compiled(x).sin().sum(), x)
    (want,) = torch.autograd.grad(module(x).sin().sum(), x)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@everything
def test_traces_by_running_hold_for_other_batches(
    build: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    module = build()
    # A batch as large as no other dimension: symbolic sizes that are equal are taken for one.
    x, other = torch.randn(11, *shape[1:]), torch.randn(5, *shape[1:])
    for traced in (
        torch.jit.trace(module, x),
        make_fx(module, tracing_mode="symbolic", _allow_non_fake_inputs=True)(x),
    ):
        torch.testing.assert_close(traced(other), module(other), rtol=1e-4, atol=1e-5)


@everything
def test_they_map_over_inputs_and_parameters(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    modules = [build(), build()]
    parameters, _ = torch.func.stack_module_state(modules)
    x = torch.randn(2, *shape)
    mapped = torch.func.vmap(lambda state, x: torch.func.functional_call(modules[0], state, (x,)))(
        parameters, x
    )
    for got, module, each_x in zip(mapped, modules, x, strict=True):
        torch.testing.assert_close(got, module(each_x), rtol=1e-4, atol=1e-5)


@everything
def test_they_take_batches_without_elements_and_other_dtypes(
    build: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    module, x = build(), torch.randn(shape)
    assert module(x[:0]).shape == (0, *module(x).shape[1:])
    assert build().to("meta")(x.to("meta")).shape == module(x).shape
    for dtype in (torch.bfloat16, torch.complex64):
        assert build().to(dtype)(x.to(dtype)).dtype == dtype


@everything
def test_second_derivatives_are_right(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    module = build().double()
    x = torch.randn(1, *shape[1:], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: module(x) ** 2, x, fast_mode=True)


@everything
def test_they_copy_and_pickle(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    module = build()
    x = torch.randn(shape)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x), module(x))
        assert repr(other) == repr(module)


def test_a_program_with_them_is_optimized() -> None:
    class Program(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = ConvNd(2, 3, 4, 3, padding=1)
            self.weight = nn.Parameter(torch.randn(4, 5))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("nchw,cd->ndhw", self.conv(x), self.weight)

    program, x = Program(), torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(einfx.optimize(program, (x,))(x), program(x), rtol=1e-4, atol=1e-5)


def test_output_sizes_script_as_in_torch() -> None:
    up = ConvTransposeNd(2, 2, 3, 3, stride=2)
    x = torch.randn(1, 2, 4, 4)
    scripted = torch.jit.script(up)
    assert torch.equal(scripted(x, [10, 9]), up(x, output_size=[10, 9]))


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
        (FoldNd(4, 2), (1, 4, 8), r"spatial sizes \[9\]"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_inputs_that_do_not_fit_are_named(module: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(OperandError, match=message):
        module(torch.randn(shape))


def test_an_output_size_that_cannot_be_is_named() -> None:
    with pytest.raises(OperandError, match=r"requested output_size=\[20, 20\]"):
        ConvTransposeNd(2, 1, 1, 3, stride=2)(torch.ones(1, 1, 4, 4), output_size=[20, 20])
