"""A trace records what a program writes in place, which torch.fx alone forgets or refuses."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from einfx.capture import capture
from einfx.tracing import record_writes, restore_arithmetic

ASSIGNMENTS = {
    "+=": "iadd", "-=": "isub", "*=": "imul", "/=": "itruediv", "//=": "ifloordiv", "%=": "imod",
    "**=": "ipow", "&=": "iand", "|=": "ior", "^=": "ixor", "<<=": "ilshift", ">>=": "irshift",
}  # fmt: skip


def program(line: str) -> Callable[..., Any]:
    namespace: dict[str, Any] = {"torch": torch}
    exec(f"def program(a, b):\n    {line}\n    return a", namespace)
    function: Callable[..., Any] = namespace["program"]
    return function


def traced(function: Callable[..., Any]) -> fx.GraphModule:
    tracer = fx.Tracer()
    record_writes(tracer)
    graph = tracer.trace(function)
    restore_arithmetic(graph)
    return fx.GraphModule(tracer.root, graph)


@pytest.mark.parametrize(("sign", "name"), ASSIGNMENTS.items())
def test_an_augmented_assignment_to_a_tensor_writes_it(sign: str, name: str) -> None:
    function = program(f"a {sign} b")
    module = traced(function)
    assert [node.name for node in module.graph.nodes] == ["a", "b", name, "output"]
    a, b = torch.tensor([5, 6, 7]), torch.tensor([1, 2, 3])
    if sign == "/=":
        a, b = a.double(), b.double()
    expected, got = a.clone(), a.clone()
    returned = function(expected, b)
    assert torch.equal(module(got, b), returned)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("line", ["a[0] = 1", "a[:, 1] = b", "a[a > 0] = 0", "a[..., 0] += 1"])
def test_an_assignment_to_items_writes_them(line: str) -> None:
    function = program(line)
    module = traced(function)
    a, b = torch.arange(6.0).reshape(2, 3), torch.ones(2)
    expected, got = a.clone(), a.clone()
    function(expected, b)
    module(got, b)
    assert torch.equal(got, expected)


def test_torch_fx_alone_would_forget_the_write() -> None:
    module = fx.symbolic_trace(program("a += b"))
    a = torch.zeros(2)
    module(a, torch.ones(2))
    assert a.sum() == 0


@pytest.mark.parametrize(
    "line",
    [
        "n = a.shape[0]\n    n *= 2\n    n += 1\n    return a.new_zeros(n)",
        "n = a.size(0)\n    n -= 1\n    return a.new_zeros(n)",
        "n = a.numel() + 1\n    n //= 2\n    return a.new_zeros(n)",
        "n = a.dim()\n    n **= 2\n    return a.new_zeros(n)",
    ],
)
def test_arithmetic_with_sizes_stays_arithmetic(line: str) -> None:
    function = program(line)
    module = traced(function)
    a = torch.ones(4, 3)
    assert module(a, a).shape == function(a, a).shape
    in_place = {getattr(operator, name) for name in ASSIGNMENTS.values()}
    assert not any(node.target in in_place for node in module.graph.nodes)


def test_a_tracer_with_proxies_of_its_own_keeps_them() -> None:
    class Mine(fx.Tracer):
        def proxy(self, node: fx.Node) -> fx.Proxy:
            return fx.Proxy(node, self)

    tracer = Mine()
    record_writes(tracer)
    assert "proxy" not in vars(tracer)


def test_captured_models_write_what_they_write() -> None:
    module = capture(program("a *= b"))
    a = torch.full((2,), 3.0)
    module(a, torch.full((2,), 2.0))
    assert a.tolist() == [6.0, 6.0]
