"""Modules trace, script, export, compile, map and copy as those of torch.nn do."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import einfx
from einfx.conv.modules import ConvNd, ConvTransposeNd, FoldNd, UnfoldNd


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
