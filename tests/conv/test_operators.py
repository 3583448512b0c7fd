"""Functionals in functions that torch compiles or exports, with batches of any size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

from einfx.conv.functional import conv_transposeNd, convNd, foldNd, kfac_reduceNd, kfcNd, unfoldNd

torch.manual_seed(0)
GROUPED = torch.randn(6, 2, 3, 3, dtype=torch.float64)
TRANSPOSED = torch.randn(4, 3, 2, 2, dtype=torch.float64)
FOUR = torch.randn(3, 2, 2, 2, 2, 2, dtype=torch.float64)

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "unfold": lambda x: unfoldNd(x, 3, padding=1, dilation=(1, 2)),
    "averaged patches": lambda x: unfoldNd(x, [3, 2], stride=2, padding="valid", groups=2, reduce="mean"),
    "fold": lambda x: foldNd(x.flatten(2).repeat(1, 4, 1)[:, :, :56], (9, 8), 2),
    "dense fold": lambda x: foldNd(x.flatten(2)[:, :, :12], (8, 6), 2, stride=2),
    "kfac reduce": lambda x: kfac_reduceNd(x, 3, groups=2),
    "kfc": lambda x: kfcNd(x, 3, padding=((0, 1), (2, 1))),
    "convolution": lambda x: convNd(x, GROUPED, groups=2, padding="same"),
    "transposed convolution": lambda x: conv_transposeNd(x, TRANSPOSED, stride=2),
    "convolution of four dimensions": lambda x: convNd(x.reshape(-1, 2, 3, 3, 4, 4), FOUR, padding=1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functionals_compile_without_a_break_for_any_batch(name: str) -> None:
    function = FUNCTIONS[name]
    torch._dynamo.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    torch._dynamo.mark_dynamic(x, 0)
    x.requires_grad_()
    got = compiled(x)
    torch.testing.assert_close(got, function(x))
    (gradient,) = torch.autograd.grad(got.square().sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad(function(x).square().sum(), x)[0])
    more = torch.randn(5, 4, 9, 8, dtype=torch.float64, requires_grad=True)
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(compiled(more), function(more))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functionals_export_to_torchs_own_operators_for_any_batch(name: str) -> None:
    function = FUNCTIONS[name]

    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    x = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    sizes = {"x": {0: torch.export.Dim("batch", min=2)}}
    program = torch.export.export(Module(), (x,), dynamic_shapes=sizes)
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any(name.startswith("einfx") for name in names), names
    more = torch.randn(5, 4, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(program.module()(more), function(more))


def test_what_is_compiled_says_what_is_wrong() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: unfoldNd(x, 9), backend="eager")
    with pytest.raises(Exception, match="kernel_size=9 with dilation=1 spans 9 elements"):
        compiled(torch.ones(1, 2, 4, 4))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_symbolic_tracing_records_a_call(name: str) -> None:
    function = FUNCTIONS[name]
    traced = fx.symbolic_trace(function)
    ours = {convNd, conv_transposeNd, unfoldNd, foldNd, kfcNd, kfac_reduceNd}
    assert sum(node.target in ours for node in traced.graph.nodes if node.op == "call_function") == 1
    for batch in (3, 2):
        x = torch.randn(batch, 4, 9, 8, dtype=torch.float64)
        if name == "convolution of four dimensions":
            x = torch.randn(batch, 4, 12, 12, dtype=torch.float64)
        assert torch.equal(traced(x), function(x))
