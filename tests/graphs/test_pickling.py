"""A graph is stored as its nodes, and comes back as it was."""

from __future__ import annotations

import copy
import operator
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch.fx._symbolic_trace import PH
from torch.fx.experimental.proxy_tensor import make_fx

import einfx
from einfx.graphs.pickling import read_graph, write_graph
from einfx.rewrite import readable_code
from tests.rewriting import assert_same

X = torch.rand(3, 3)


def stored(graph: fx.Graph) -> fx.Graph:
    return read_graph(pickle.loads(pickle.dumps(write_graph(graph))))


PROGRAMS: list[Callable[..., Any]] = [
    lambda x: torch.relu(x + 1),
    lambda x: x[1:, ::2, None],
    lambda x: x[..., -1].sum(dim=(0,), keepdim=True),
    lambda x: torch.cat([x, x], dim=1),
    lambda x: {"a": (x, [x + 1, None]), "b": "text"},
    lambda x: torch.einsum("ij,jk->ik", x, x),
    lambda x: einfx.einsum("ij,jk->ik", x, x),
    lambda x: operator.matmul(x, x).to(torch.float64),
    lambda x: torch.zeros_like(x, dtype=torch.int64, device=torch.device("cpu")),
    lambda x: x.transpose(0, 1).reshape(x.shape[0], -1),
    lambda x: torch.ops.aten.add.Tensor(x, x, alpha=2),
    lambda x: torch.ops.aten.mm(x, x),
    lambda x: x.chunk(3)[0],
    lambda x: torch.nn.functional.max_pool1d(x, 2),
    lambda x: torch.nn.functional.adaptive_max_pool1d(x, 2, return_indices=True),
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_stored_graph_has_the_same_code_and_computes_the_same(program: Callable[..., Any]) -> None:
    graph = fx.symbolic_trace(program).graph
    restored = stored(graph)
    assert readable_code(restored) == readable_code(graph)
    assert [node.name for node in restored.nodes] == [node.name for node in graph.nodes]
    assert_same(fx.GraphModule({}, restored)(X), program(X))
    restored.lint()


def test_graphs_of_operators_are_stored() -> None:
    graph = make_fx(lambda x: torch.linalg.norm(x @ x).exp())(X).graph
    assert [node.target for node in stored(graph).nodes] == [node.target for node in graph.nodes]


def test_defaults_and_types_of_arguments_are_stored() -> None:
    def program(x: torch.Tensor, scale: float = 2.0, *rest: torch.Tensor) -> torch.Tensor:
        return x * scale

    graph = fx.symbolic_trace(program).graph
    restored = stored(graph)
    assert readable_code(restored) == readable_code(graph)
    assert [node.type for node in restored.nodes] == [node.type for node in graph.nodes]


def test_trees_of_arguments_are_stored() -> None:
    example = {"x": {"a": PH, "b": [PH]}}
    traced = fx.symbolic_trace(lambda x: x["a"] + x["b"][0], concrete_args=example)
    restored = fx.GraphModule({}, stored(traced.graph))
    argument = {"a": X, "b": [X]}
    assert_same(restored(argument), traced(argument))


def test_the_line_of_a_node_is_stored_and_other_metadata_is_not() -> None:
    graph = fx.symbolic_trace(PROGRAMS[0]).graph
    for node in graph.nodes:
        node.meta.update(stack_trace="here", val=X, anything=lambda: None)
    assert {frozenset(node.meta.items()) for node in stored(graph).nodes} == {
        frozenset({("stack_trace", "here")})
    }


def test_a_lowered_module_comes_back_without_being_traced_again() -> None:
    optimized = einfx.optimize(
        lambda a, b: torch.einsum("nc,nc->n", a, b), (torch.rand(99, 2), torch.rand(99, 2))
    )
    for duplicate in (copy.deepcopy(optimized), pickle.loads(pickle.dumps(optimized))):
        assert readable_code(duplicate.graph) == readable_code(optimized.graph)
        assert_same(duplicate(X, X), optimized(X, X))
