from __future__ import annotations

import operator

import pytest
import torch
from torch import fx

from einfx.graphs.values import erase_unused_patterns, is_pattern, number_of, pattern_of, size_read, value_of
from einfx.pattern import IndexPattern


def graph_of(*shape: int) -> tuple[fx.Graph, fx.Node]:
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(shape)
    return graph, x


def test_a_pattern_is_read_however_its_numbers_are_given() -> None:
    graph, _ = graph_of()
    positional = graph.call_function(IndexPattern, (8, 3, 2, (1, 0), 2))
    named = graph.call_function(IndexPattern, (8,), {"kernel_size": 3, "padding": "same"})
    assert pattern_of(positional) == IndexPattern(8, 3, 2, (1, 0), 2)
    assert pattern_of(named) == IndexPattern(8, 3, padding=1)


def test_a_pattern_has_a_shape_and_no_device() -> None:
    graph, _ = graph_of()
    value = value_of(graph.call_function(IndexPattern, (8, 3)))
    assert value is not None
    assert (value.shape, value.device.type) == ((3, 6, 8), "meta")


@pytest.mark.parametrize("spelling", ["size", "shape", "all sizes"])
def test_a_size_of_a_tensor_is_read_as_a_hint(spelling: str) -> None:
    graph, x = graph_of(2, 8)
    if spelling == "size":
        size = graph.call_method("size", (x, -1))
    elif spelling == "shape":
        size = graph.call_function(operator.getitem, (graph.call_function(getattr, (x, "shape")), 1))
    else:
        size = graph.call_function(operator.getitem, (graph.call_method("size", (x,)), 1))
    assert size_read(size)[0] is x
    whole = graph.call_function(operator.floordiv, (graph.call_function(operator.add, (size, 1)), 2))
    assert (number_of(size), number_of(whole)) == (8, 4)
    assert pattern_of(graph.call_function(IndexPattern, (whole, 3))) == IndexPattern(4, 3)


def test_what_isnt_known_is_no_pattern() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    unknown = graph.call_function(IndexPattern, (graph.call_method("size", (x, 0)), 3))
    invalid = graph.call_function(IndexPattern, (2, 3))
    assert is_pattern(unknown)
    assert value_of(invalid) is None
    assert [pattern_of(node) for node in (unknown, invalid, x)] == [None, None, None]


def test_elements_of_tensors_and_other_calls_are_no_numbers() -> None:
    graph, x = graph_of(4)
    assert number_of(graph.call_function(operator.getitem, (x, 0))) is None
    assert number_of(graph.call_function(operator.add, (x, 1))) is None
    zero = graph.call_function(operator.floordiv, (graph.call_method("size", (x, 0)), 0))
    assert number_of(zero) is None


def test_unused_patterns_go_with_the_sizes_that_made_them() -> None:
    graph, x = graph_of(8)
    size = graph.call_method("size", (x, 0))
    graph.call_function(IndexPattern, (graph.call_function(operator.add, (size, 1)), 3))
    used = graph.call_function(IndexPattern, (8, 3))
    graph.output(used)
    erase_unused_patterns(graph)
    assert [node.op for node in graph.nodes] == ["placeholder", "call_function", "output"]
