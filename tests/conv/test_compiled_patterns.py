"""Contractions with index patterns in functions that torch compiles, exports, traces and transforms."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx.experimental.proxy_tensor import make_fx

import einfx
from einfx import IndexPattern
from einfx.errors import UsageError

PATTERN = IndexPattern(8, 3, stride=2, padding=1)
SAME = IndexPattern(8, 3, padding=1)
Function = Callable[..., Tensor]


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """A convolution."""
    result: Tensor = einfx.einsum("nci,koi,dck->ndo", x, PATTERN, weight)
    return result


def convolve_by_torch(x: Tensor, weight: Tensor) -> Tensor:
    """The same through torch's own function."""
    result: Tensor = torch.einsum("nci,koi,dck->ndo", x, PATTERN, weight)
    return result


def convolve_by_sublists(x: Tensor, weight: Tensor) -> Tensor:
    """The same in the interleaved form."""
    result: Tensor = einfx.einsum(x, [0, 1, 2], PATTERN, [3, 4, 2], weight, [5, 1, 3], [0, 5, 4])
    return result


def convolve_built(x: Tensor, weight: Tensor) -> Tensor:
    """A pattern that is built where it's used."""
    pattern = IndexPattern(x.shape[-1], weight.shape[-1], stride=2, padding=1)
    result: Tensor = einfx.einsum("nci,koi,dck->ndo", x, pattern, weight)
    return result


def average(x: Tensor, weight: Tensor) -> Tensor:
    """Windows that are summed, and no native convolution."""
    result: Tensor = einfx.einsum("nci,koi,dck->nd", x.cos(), PATTERN, weight) / 4
    return result


def fold(x: Tensor, weight: Tensor) -> Tensor:
    """A product of windows that are added up, and no native convolution."""
    result: Tensor = einfx.einsum("nco,koi,dck,o->ndi", x, SAME, weight, x[0, 0])
    return result


def dilate(x: Tensor, weight: Tensor) -> Tensor:
    """Grey-scale morphology."""
    result: Tensor = einfx.einsum("nci,koi,dck->ndo", x, PATTERN, weight, semiring="max_plus")
    return result


def smooth(x: Tensor, weight: Tensor) -> Tensor:
    """A convolution of logarithms, whose kernel is none."""
    result: Tensor = einfx.einsum(
        "nci,koi,dck->ndo", x, PATTERN, weight.exp(), semiring="log", linear_operands=[2]
    )
    return result


FUNCTIONS = [
    convolve,
    convolve_by_torch,
    convolve_by_sublists,
    convolve_built,
    average,
    fold,
    dilate,
    smooth,
]


def operands(batch: int = 2, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """An input and a kernel."""
    generator = torch.Generator().manual_seed(batch)
    x = torch.randn(batch, 3, 8, dtype=dtype, generator=generator)
    return x, torch.randn(4, 3, 3, dtype=dtype, generator=generator)


def close(got: Any, expected: Any) -> None:
    """Assert that results are the same up to rounding."""
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_compiled_functions_compute_the_same_and_their_gradients(function: Function, backend: str) -> None:
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    arguments = [x.requires_grad_() for x in operands()]
    got, expected = compiled(*arguments), function(*arguments)
    close(got, expected)
    cotangent = torch.rand_like(expected)
    close(torch.autograd.grad(got, arguments, cotangent), torch.autograd.grad(expected, arguments, cotangent))


@pytest.mark.parametrize("function", [convolve, average, dilate])
def test_inductor_compiles_them(function: Function) -> None:
    compiled = torch.compile(function, fullgraph=True)
    x, weight = operands(dtype=torch.float32)
    torch.testing.assert_close(compiled(x, weight), function(x, weight), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_any_batch_has_one_compilation(function: Function) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=None)
    for batch in (2, 3, 5, 7, 11):
        arguments = operands(batch)
        if batch == 2:
            torch._dynamo.mark_dynamic(arguments[0], 0)
        close(compiled(*arguments), function(*arguments))
    assert counter.frame_count == 1


def test_another_pattern_is_another_compilation() -> None:
    def function(x: Tensor, weight: Tensor, pattern: IndexPattern) -> Tensor:
        result: Tensor = einfx.einsum("nci,koi,dck->ndo", x, pattern, weight)
        return result

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    x, weight = operands()
    for pattern in (PATTERN, SAME, IndexPattern(8, 3, dilation=2), PATTERN):
        close(compiled(x, weight, pattern), function(x, weight, pattern))


def test_an_argmax_is_compiled_too() -> None:
    def function(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        value, places = einfx.einsum(
            "nci,koi,dck->ndo", x, PATTERN, weight, semiring="max_plus", return_argmax=True
        )
        return value, places

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    got, expected = compiled(*operands()), function(*operands())
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


def test_a_semiring_that_nobody_registered_is_refused_while_compiling() -> None:
    mine = einfx.Semiring("mine", torch.maximum, torch.add, zero=-float("inf"), one=0.0)
    compiled = torch.compile(
        lambda x, weight: einfx.einsum("nci,koi,dck->ndo", x, PATTERN, weight, semiring=mine),
        backend="eager",
        fullgraph=True,
    )
    with pytest.raises((UsageError, torch._dynamo.exc.Unsupported), match=r"register|mine"):
        compiled(*operands())


class Module(nn.Module):
    """A function as a module, for torch.export."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """What the function returns."""
        return self.function(x, weight)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_exported_programs_take_any_batch(function: Function, strict: bool) -> None:
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(
        Module(function), operands(), dynamic_shapes=({0: batch}, None), strict=strict
    )
    for exported in (program, program.run_decompositions()):
        for size in (2, 7):
            close(exported.module()(*operands(size)), function(*operands(size)))


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_make_fx_records_torch_operations_alone(function: Function, mode: Any) -> None:
    graph = make_fx(function, tracing_mode=mode)(*operands())
    names = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    assert not any("patterns" in name for name in names)
    close(graph(*operands()), function(*operands()))
    if mode == "symbolic":
        close(graph(*operands(6)), function(*operands(6)))


@pytest.mark.parametrize("function", [*FUNCTIONS[:2], *FUNCTIONS[3:7]])
def test_jit_trace_records_them_for_any_batch(function: Function) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        traced = torch.jit.trace(function, operands())
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    for batch in (2, 5):
        close(loaded(*operands(batch)), function(*operands(batch)))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functional_transforms_go_around_and_into_compiled_code(function: Function) -> None:
    x, weight = operands()
    batch = torch.stack([x, 2 * x, x + 1])

    def mapped(batch: Tensor, weight: Tensor) -> Tensor:
        result: Tensor = torch.func.vmap(function, (0, None))(batch, weight)
        return result

    def gradient(x: Tensor, weight: Tensor) -> Tensor:
        result: Tensor = torch.func.grad(lambda w: function(x, w).sum())(weight)
        return result

    def pushed(x: Tensor, weight: Tensor) -> Tensor:
        result: Tensor = torch.func.jvp(lambda x: function(x, weight), (x,), (x.cos(),))[1]
        return result

    expected = torch.stack([function(one, weight) for one in batch])
    close(mapped(batch, weight), expected)
    variable = weight.clone().requires_grad_()
    slope = torch.autograd.grad(function(x, variable).sum(), variable)[0]
    close(gradient(x, weight), slope)
    jacobian = torch.autograd.functional.jacobian(lambda x: function(x, weight), x)
    close(pushed(x, weight), torch.tensordot(jacobian, x.cos(), 3))
    close(torch.func.jacrev(lambda x: function(x, weight))(x), jacobian)
    transformed: list[tuple[Function, tuple[Tensor, Tensor]]] = [(mapped, (batch, weight))]
    if function not in (dilate, smooth):
        # Operators of kernels over other semirings have no derivatives within torch.func in compiled code.
        transformed += [(gradient, (x, weight)), (pushed, (x, weight))]
    for inside, arguments in transformed:
        compiled = torch.compile(inside, fullgraph=True, backend="aot_eager")
        close(compiled(*arguments), inside(*arguments))


def test_a_hessian_is_that_of_the_convolution() -> None:
    x, weight = operands()

    def loss(function: Function) -> Callable[[Tensor], Tensor]:
        return lambda weight: function(x, weight).pow(3).sum()

    expected = torch.func.hessian(loss(lambda x, w: torch.nn.functional.conv1d(x, w, None, 2, 1)))(weight)
    close(torch.func.hessian(loss(convolve))(weight), expected)
    close(torch.func.hessian(loss(convolve_built))(weight), expected)
