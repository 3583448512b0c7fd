"""Einsums in the words of TorchScript."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

import einfx
from einfx.errors import UsageError
from einfx.kernels.scriptable import contract_semiring
from einfx.torchscript.einsums import einsum_as_text, semiring_by_torch_functions

E, L = torch.einsum, functools.partial(einfx.einsum, semiring="log")


def einsum_node(program: Callable[..., Any]) -> fx.Node:
    """The einsum of a program that was traced without shapes."""
    return next(n for n in fx.symbolic_trace(program).graph.nodes if n.op == "call_function")


@pytest.mark.parametrize(
    ("program", "text"),
    [
        (lambda a, b: E(a, (0, 1), b, (1, 2)), "AB,BC"),
        (lambda a, b: E(a, [0, 1], b, [1, 30], [30, 0]), "AB,Be->eA"),
        (lambda a, b: E(a, (..., 0), b, (..., 0), (...,)), "...A,...A->..."),
    ],
)
def test_lists_of_labels_become_text(program: Callable[..., Any], text: str) -> None:
    node = einsum_node(program)
    assert einsum_as_text(node)
    assert node.args[0] == text
    assert not einsum_as_text(node)


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        (lambda a, b: L("xy,yz", a, b), ("ab,bc->ac", "log", [], False, "nan")),
        (lambda a, b: L(a, [0, 1], b, [1, 2], [2, 0]), ("ab,bc->ca", "log", [], False, "nan")),
        (
            lambda a, b: L("xy,yz", [a, b], linear_operands=(1,), grad_of_neg_inf="uniform"),
            ("ab,bc->ac", "log", [1], False, "uniform"),
        ),
        (
            lambda a, b: einfx.einsum("xy,yz", a, b, semiring="viterbi", zero_annihilates=True),
            ("ab,bc->ac", "max_plus", [], True, "nan"),
        ),
    ],
)
def test_a_contraction_over_a_semiring_becomes_a_call_of_a_function_of_torch_alone(
    program: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    node = einsum_node(program)
    a, b = node.all_input_nodes
    assert semiring_by_torch_functions(node)
    assert node.target is contract_semiring
    assert node.args == (arguments[0], [a, b], *arguments[1:])
    assert node.kwargs == {}
    assert not semiring_by_torch_functions(node)


def test_over_real_numbers_it_becomes_an_einsum_of_torch() -> None:
    node = einsum_node(lambda a, b: einfx.einsum("xy,yz", a, b, optimize="auto"))
    assert semiring_by_torch_functions(node)
    assert node.target is torch.functional.einsum
    assert (node.args[0], node.kwargs) == ("ab,bc->ac", {})


def test_operators_of_exported_graphs_become_functions_of_torch_alone_too() -> None:
    class Model(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = L("ij,jk->ik", a, b, linear_operands=(1,))
            return result

    a, b = torch.rand(3, 4), torch.rand(4, 5)
    exported = torch.export.export(Model(), (a, b)).graph
    graph = fx.Graph()
    graph.output(graph.graph_copy(exported, {}))
    script: Any = torch.jit.script(einfx.jitable(fx.GraphModule({}, graph)))
    (got,) = script(a, b)
    torch.testing.assert_close(got, Model()(a, b))
    assert "contract_semiring" in script.code


def test_other_nodes_stay_as_they_are() -> None:
    for program in (lambda a, b: E("ij,jk", a, b), lambda a, b: torch.mm(a, b)):
        node = einsum_node(program)
        assert not semiring_by_torch_functions(node)
        assert not einsum_as_text(node)
    unread = einsum_node(lambda a, b: einfx.einsum("...j,jk", a, b))
    assert not semiring_by_torch_functions(unread)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (lambda a, b: L("ij,jk", a, b, block_size=4), "block_size"),
        (lambda a, b: L("ij,jk", a, b, memory_limit=1 << 20), "memory_limit"),
        (lambda a, b: einfx.einsum("ij,jk", a, b, memory_limit=1 << 20), "memory_limit aren.t kept"),
        (lambda a, b: L("ij,jk", a, b, grad_of_neg_inf=float("inf")), "from 0 up, not inf"),
        (lambda a, b: L("...j,jk", a, b), "without an ellipsis"),
        (lambda a, b: einfx.einsum("ij,jk", a, b, semiring="max_min", return_argmax=True), "no argmax"),
        (lambda a, b: L("ij,jk", a, b, optimize="greedy"), "no order of steps"),
    ],
)
def test_what_has_no_function_is_refused_with_the_reason(program: Callable[..., Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        semiring_by_torch_functions(einsum_node(program))
