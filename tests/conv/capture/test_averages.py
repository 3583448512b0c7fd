"""An average of a convolution, as a convolution of averages or by a larger kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from einfx.conv.capture.averages import AveragedFirst, LargerKernel, averages_of
from einfx.conv.capture.pieces import pieces_of
from einfx.conv.capture.regions import region_of
from einfx.conv.capture.writing import FormWriter
from einfx.graphs.nodes import value_of
from einfx.graphs.shapes import propagate
from einfx.legality import Effects
from tests.rewriting import assert_same


def ways(
    program: Any, *arguments: Tensor
) -> tuple[fx.GraphModule, fx.Node, list[AveragedFirst | LargerKernel]]:
    """A traced program, its result, and the ways of computing it."""
    traced = fx.symbolic_trace(program)
    propagate(traced, arguments)
    pieces, _ = pieces_of(traced.graph, traced)
    output = next(node for node in reversed(traced.graph.nodes) if node.op == "output")
    root: Any = output.args[0]
    region, _ = region_of(root, pieces, Effects(traced.graph, traced))
    assert region is not None
    return traced, root, averages_of(region)


@pytest.mark.parametrize(
    "program",
    [
        lambda x, w: F.avg_pool2d(F.conv2d(x, w), 2),
        lambda x, w: F.avg_pool2d(F.conv2d(x, w, padding=(2, 1)), (3, 2), stride=(1, 2)),
        lambda x, w: F.avg_pool2d(F.conv2d(x, w, w[:, 0, 0, 0], padding=1, groups=1), 2, 1),
        lambda x, w: F.avg_pool2d(F.conv2d(x, w), 3, divisor_override=4),
    ],
)
def test_a_larger_kernel_computes_both(program: Any) -> None:
    x, w = torch.randn(2, 4, 9, 8).double(), torch.randn(6, 4, 3, 2).double()
    traced, root, found = ways(program, x, w)
    (way,) = found
    assert isinstance(way, LargerKernel)
    value = value_of(root)
    assert value is not None
    assert way.seconds(traced, value) > 0
    with traced.graph.inserting_before(root):
        root.replace_all_uses_with(way.write(FormWriter(traced.graph, traced)))
    traced.graph.eliminate_dead_code()
    traced.recompile()
    for given in (x, torch.randn(1, 4, 6, 11).double()):
        assert_same(traced(given, w), program(given, w), tolerance=1e-11)


@pytest.mark.parametrize("kernel", [1, 2])
def test_a_kernel_of_one_element_has_two_ways(kernel: int) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 6, kernel), torch.nn.AvgPool2d(2))
    _, _, found = ways(model, torch.randn(2, 4, 9, 8))
    assert [type(way) for way in found] == [AveragedFirst, LargerKernel][kernel - 1 :]


@pytest.mark.parametrize(
    "program",
    [
        lambda x, w: F.avg_pool2d(F.conv2d(x, w, stride=2), 2),
        lambda x, w: F.avg_pool2d(F.conv2d(x, w, dilation=2), 2),
        lambda x, w: F.avg_pool2d(F.conv2d(x, w), 2, padding=1),
        lambda x, w: F.avg_pool2d(F.conv_transpose2d(x, w.transpose(0, 1)), 2),
        lambda x, w: F.avg_pool2d(F.conv2d(x, w, w[:, 0, 0, 0]), 2, divisor_override=3),
    ],
)
def test_other_averages_have_none(program: Any) -> None:
    _, _, found = ways(program, torch.randn(2, 4, 9, 8), torch.randn(6, 4, 3, 2))
    assert found == []
