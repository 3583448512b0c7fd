"""Passes run in order, each is checked on its result, and what one breaks is said with its name."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import fx

from einfx.errors import PassError
from einfx.graphs.shapes import propagate
from einfx.passes import DEFAULT, ChoosePaths, FoldScalars, NormalizeEinsums
from einfx.rewrite import (
    Declined,
    Pass,
    Pipeline,
    collect_declined,
    copied_graph,
    decline,
    find_problem,
    readable_code,
)

E = torch.einsum
A, B = torch.rand(2, 3), torch.rand(3, 4)


def traced_chain() -> fx.GraphModule:
    traced = fx.symbolic_trace(lambda a, b: E("ij,jk", a, b) * 2 * 3)
    propagate(traced, (A, B))
    return traced


@dataclass(frozen=True)
class Does(Pass):
    """A pass that does what a test tells it."""

    name: ClassVar[str] = "does-something"
    action: Callable[[fx.Graph], int] = lambda graph: 0

    def apply(self, graph_module: fx.GraphModule) -> int:
        """Do it."""
        return self.action(graph_module.graph)


def einsum_of(graph: fx.Graph) -> fx.Node:
    return next(node for node in graph.nodes if node.target is torch.functional.einsum)


def test_results_say_what_each_pass_did() -> None:
    traced = traced_chain()
    results = Pipeline((NormalizeEinsums(), FoldScalars(), FoldScalars())).run(traced)
    assert [(result.name, result.rewrites) for result in results] == [
        ("normalize-einsums", 1),
        ("fold-scalars", 1),
        ("fold-scalars", 0),
    ]
    assert all(result.seconds >= 0 for result in results)
    assert all(result.before.flops == result.after.flops == 48 for result in results)


def test_estimates_are_taken_before_and_after_each_pass() -> None:
    traced = fx.symbolic_trace(lambda a, b: (a @ b).exp() + E("ij,jk->ik", a, b))
    propagate(traced, (A, B))
    results = Pipeline(DEFAULT).run(traced)
    for earlier, later in itertools.pairwise(results):
        assert earlier.after == later.before
    assert results[0].before.flops == 2 * results[-1].after.flops


def test_the_module_runs_the_new_code_afterwards() -> None:
    traced = traced_chain()
    Pipeline((FoldScalars(),)).run(traced)
    assert "* 6" in traced.code
    assert torch.allclose(traced(A, B), 6 * A @ B)


def _wrong_operand_count(graph: fx.Graph) -> int:
    node = einsum_of(graph)
    node.args = ("ab,bc,cd->ad", *node.args[1:])
    return 1


def _wrong_rank(graph: fx.Graph) -> int:
    node = einsum_of(graph)
    node.args = ("abc,cd->abd", *node.args[1:])
    return 1


def _wrong_order(graph: fx.Graph) -> int:
    placeholder = next(iter(graph.nodes))
    einsum_of(graph).append(placeholder)
    return 1


def _wrong_shape(graph: fx.Graph) -> int:
    output = next(iter(reversed(graph.nodes)))
    output.args = (next(iter(graph.nodes)),)
    return 1


@pytest.mark.parametrize(
    ("action", "problem"),
    [
        (_wrong_operand_count, r"equation 'ab,bc,cd->ad' has 2 operand\(s\)"),
        (_wrong_rank, r"'abc' labels operand a of shape \(2, 3\)"),
        (_wrong_order, "before it has been defined"),
        (_wrong_shape, r"an output was \(\(2, 4\).* and is now \(\(2, 3\)"),
    ],
)
def test_a_pass_that_breaks_the_graph_is_named_with_what_it_broke(
    action: Callable[[fx.Graph], int], problem: str
) -> None:
    with pytest.raises(PassError, match=problem) as caught:
        Pipeline((NormalizeEinsums(), Does(action))).run(traced_chain())
    assert "pass 'does-something' broke the graph" in str(caught.value)


def test_the_difference_that_the_broken_pass_made_is_shown_and_no_other() -> None:
    with pytest.raises(PassError) as caught:
        Pipeline((NormalizeEinsums(), Does(_wrong_rank), FoldScalars())).run(traced_chain())
    lines = str(caught.value).splitlines()
    assert "-    einsum = torch.functional.einsum('ab,bc->ac', a, b)" in lines
    assert "+    einsum = torch.functional.einsum('abc,cd->abd', a, b)" in lines
    assert sum(line.startswith(("-  ", "+  ")) for line in lines) == 2


def test_reasons_to_decline_belong_to_the_pass_that_gave_them() -> None:
    traced = fx.symbolic_trace(lambda a, b, c: E("ij,jk,kl->il", a, b, c))
    first, second = Pipeline((NormalizeEinsums(), ChoosePaths())).run(traced)
    assert first.declined == ()
    assert second.declined == (Declined("einsum", "the shapes of its operands aren't known"),)


def test_the_same_reason_is_noted_once() -> None:
    node = fx.Graph().placeholder("x")
    with collect_declined() as outer:
        decline(node, "first")
        with collect_declined() as inner:
            decline(node, "second")
            decline(node, "second")
        decline(node, "third")
    assert inner == [Declined("x", "second")]
    assert outer == [Declined("x", "first"), Declined("x", "third")]


def test_declining_outside_of_a_pipeline_does_nothing() -> None:
    decline(fx.Graph().placeholder("x"), "nobody listens")


def test_a_sound_graph_has_no_problem() -> None:
    assert find_problem(traced_chain()) is None


def test_a_copied_graph_is_equal_and_independent() -> None:
    traced = traced_chain()
    copy = copied_graph(traced.graph)
    assert readable_code(copy) == readable_code(traced.graph)
    assert [dict(n.meta) for n in copy.nodes] == [dict(n.meta) for n in traced.graph.nodes]
    before = readable_code(traced.graph)
    for node in copy.nodes:
        node.meta["mine"] = True
    einsum_of(copy).args = ("ij,jk->ki", *einsum_of(copy).args[1:])
    assert readable_code(traced.graph) == before
    assert not any("mine" in node.meta for node in traced.graph.nodes)


def test_code_is_shown_without_imports_and_deletions() -> None:
    traced = fx.symbolic_trace(lambda a, b: torch.relu(a + b).sum(dtype=torch.float64))
    text = readable_code(traced.graph)
    assert text == (
        "def forward(self, a, b):\n"
        "    add = a + b\n"
        "    relu = torch.relu(add)\n"
        "    sum_1 = relu.sum(dtype = torch.float64)\n"
        "    return sum_1"
    )


def test_a_pass_is_frozen_and_compares_by_its_options() -> None:
    assert ChoosePaths() == ChoosePaths()
    assert ChoosePaths() != ChoosePaths(optimize="greedy")
    with pytest.raises(dataclasses.FrozenInstanceError):
        ChoosePaths().optimize = "greedy"  # type: ignore[misc]
