"""What nothing uses goes, unless computing it does more than compute."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from einfx.capture import capture
from einfx.passes import RemoveUnused
from einfx.rewrite import readable_code
from tests.rewriting import check_declined, check_rewrite

A, B = torch.rand(3, 3), torch.rand(3, 3)


def test_a_contraction_that_nothing_reads_goes() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        torch.einsum("ij,jk->ik", a, b)
        return a + b

    check_rewrite(RemoveUnused(), program, "add = a + b\nreturn add", (A, B), rewrites=1)


def test_a_chain_goes_from_its_end_to_its_start() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        torch.exp(a @ b).sum(0)
        return a

    check_rewrite(RemoveUnused(), program, "return a", (A, B), rewrites=3)


def test_arguments_stay_in_the_signature() -> None:
    check_rewrite(
        RemoveUnused(), lambda a, b: a, "def forward(self, a, b):\n    return a", (A, B), rewrites=0
    )


def test_attributes_that_nothing_reads_go_from_the_graph_but_stay_in_the_state() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.outer(self.weight, self.weight)
            return x

    traced = capture(Model())
    assert RemoveUnused().apply(traced) == 2
    traced.recompile()
    assert (
        readable_code(traced.graph)
        == "def forward(self, x : _torch_Tensor_) -> _torch_Tensor_:\n    return x"
    )
    assert list(traced.state_dict()) == ["weight"]


def _unused(function: Callable[..., Any]) -> Callable[..., torch.Tensor]:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        function(a, b)
        return a + b

    return program


@fx.wrap
def unknown_function(a: torch.Tensor) -> None:
    """Could do anything."""


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda a, b: a.add_(b), id="a method that writes"),
        pytest.param(lambda a, b: torch.mul(a, b, out=b), id="an output that is given"),
        pytest.param(lambda a, b: torch.relu_(a), id="a function that writes"),
        pytest.param(lambda a, b: unknown_function(a), id="a function that einfx doesn't know"),
        pytest.param(lambda a, b: torch.nn.functional.dropout(a), id="a draw of random numbers"),
        pytest.param(lambda a, b: torch.rand_like(a), id="a draw of as many random numbers"),
        pytest.param(lambda a, b: a.item, id="what may raise an error"),
    ],
)
def test_what_may_do_more_than_compute_stays(function: Callable[..., Any]) -> None:
    traced = fx.symbolic_trace(_unused(function))
    before = readable_code(traced.graph)
    assert RemoveUnused().apply(traced) == 0
    assert readable_code(traced.graph) == before


def test_augmented_assignments_stay() -> None:
    graph = fx.Graph()
    a = graph.placeholder("a")
    graph.call_function(operator.iadd, (a, 1))
    graph.output(a)
    assert RemoveUnused().apply(fx.GraphModule(torch.nn.Module(), graph)) == 0


def test_a_program_that_uses_everything_is_left_as_it_is() -> None:
    check_declined(RemoveUnused(), lambda a, b: a @ b, (A, B))
