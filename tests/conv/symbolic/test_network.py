"""Networks as data: named labels, binding to tensors, printing."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor

from einfx.conv.symbolic.network import Constant, network
from einfx.conv.symbolic.views import Slice, View
from einfx.errors import OperandError
from einfx.pattern import IndexPattern


def test_labels_are_given_by_name() -> None:
    made = network([["n", "i0"], ["k0", "o0", "i0"]], ["n", "o0", "k0"], View(0, (2, 8)), IndexPattern(8, 3))
    assert made.text == "ab,cdb->adc"
    assert made.shape == (2, 6, 3)
    assert made.patterns == (IndexPattern(8, 3),)


def test_equal_networks_are_equal_whatever_their_names() -> None:
    first = network([["row", "column"]], ["column"], View(0, (2, 3)))
    second = network(["ij"], "j", View(0, (2, 3)))
    assert first == second
    assert hash(first) == hash(second)
    assert pickle.loads(pickle.dumps(first)) == second


def test_binding_looks_at_tensors_through_their_views() -> None:
    x = torch.arange(8.0, dtype=torch.float64)
    made = network(
        ["i", "koi", "s"], "k", View(0, (8,), (Slice(0, 1, 3, 2),)), IndexPattern(3, 2), Constant(0.5, 1)
    )
    first, pattern, scale = made.bind([x])
    assert isinstance(first, Tensor)
    assert first.tolist() == [1, 3, 5]
    assert pattern == IndexPattern(3, 2)
    assert isinstance(scale, Tensor)
    assert (scale.dtype, scale.tolist()) == (torch.float64, [0.5])


def test_operands_that_disagree_are_refused_where_they_are_given() -> None:
    with pytest.raises(OperandError, match="label 'a' has size"):
        network(["i", "koi"], "k", View(0, (7,)), IndexPattern(8, 3))
    with pytest.raises(OperandError, match="1 inputs are named, but 2 operands"):
        network(["i"], "i", View(0, (7,)), View(1, (7,)))


def test_a_network_prints_its_operands() -> None:
    made = network(["i", "koi", ""], "k", View(0, (8,)), IndexPattern(8, 3), Constant(0.25))
    assert str(made) == "a,bca,->b (tensor 0 of (8,), IndexPattern(8, 3), 0.25) -> (3,)"
