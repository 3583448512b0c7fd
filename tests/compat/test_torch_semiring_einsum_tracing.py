"""The stand-in for torch_semiring_einsum: in traced programs its calls are einfx's, and optimised too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx

import einfx
from einfx.compat import torch_semiring_einsum as ours
from einfx.compat.torch_semiring_einsum import compile_equation
from einfx.errors import UsageError

PRODUCT = compile_equation("ij,jk->ik")
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "real": ours.einsum,
    "log": ours.log_einsum,
    "max_plus": ours.max_tropical_einsum_forward,
    "min_plus": ours.min_tropical_einsum_forward,
}


class Chain(torch.nn.Module):
    """Two products, one after the other."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weight = torch.nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.function(PRODUCT, self.function(PRODUCT, x, y), self.weight)


def einsums(module: fx.GraphModule) -> list[tuple[Any, ...]]:
    return [(node.args[0], node.kwargs) for node in module.graph.nodes if node.target is einfx.einsum]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_traced_program_holds_contractions_of_einfx(name: str) -> None:
    model, x, y = Chain(FUNCTIONS[name]), torch.randn(3, 6), torch.randn(6, 5)
    traced = fx.symbolic_trace(model)
    words = {} if name == "real" else {"semiring": name}
    assert einsums(traced) == [("ab,bc->ac", words)] * 2
    torch.testing.assert_close(traced(x, y), model(x, y))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_optimised_program_gives_the_same(name: str) -> None:
    model, x, y = Chain(FUNCTIONS[name]), torch.randn(3, 6), torch.randn(6, 5)
    optimized = einfx.optimize(model, (x, y))
    torch.testing.assert_close(optimized(x, y), model(x, y))
    if name != "real":
        assert {node.target for node in optimized.graph.nodes if node.op[:4] == "call"} == {einfx.einsum}


def test_a_block_size_stays_in_a_traced_program() -> None:
    def program(x: Tensor, y: Tensor) -> Any:
        values, places = ours.log_viterbi_einsum_forward(PRODUCT, x, y, block_size=2)
        return values, places, ours.log_einsum(PRODUCT, x, y, block_size=3, grad_of_neg_inf=0.0)

    traced = fx.symbolic_trace(program)
    assert einsums(traced) == [
        ("ab,bc->ac", {"semiring": "max_plus", "block_size": 2, "return_argmax": True}),
        ("ab,bc->ac", {"semiring": "log", "block_size": 3, "grad_of_neg_inf": 0.0}),
    ]
    x, y = torch.randn(3, 6), torch.randn(6, 5)
    for got, expected in zip(traced(x, y), program(x, y), strict=True):
        torch.testing.assert_close(got, expected)


def test_truth_values_in_a_traced_program() -> None:
    def program(x: Tensor, y: Tensor) -> Tensor:
        return ours.boolean_einsum_forward(PRODUCT, x, y)

    x, y = torch.rand(3, 6) > 0.7, torch.rand(6, 5) > 0.7
    assert torch.equal(fx.symbolic_trace(program)(x, y), program(x, y))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_no_tensor_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"'ij,jk->ik': operand 1 is a list, not a tensor"):
        FUNCTIONS[name](PRODUCT, torch.ones(2, 2), [[1.0, 2.0], [3.0, 4.0]])
