from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

import einfx
from einfx import IndexPattern
from einfx.graphs.native_calls import NativeCall, native_call
from einfx.graphs.nodes import as_contraction
from einfx.graphs.shapes import propagate


def call_of(equation: str, *operands: Any) -> NativeCall | None:
    graph = fx.Graph()
    nodes, tensors = [], []
    for operand in operands:
        if isinstance(operand, IndexPattern):
            numbers = (
                operand.input_size,
                operand.kernel_size,
                operand.stride,
                operand.padding,
                operand.dilation,
            )
            nodes.append(graph.call_function(IndexPattern, numbers))
        else:
            nodes.append(graph.placeholder(f"x{len(nodes)}"))
            tensors.append(torch.ones(operand))
    node = graph.call_function(einfx.contract.einsum, (equation, *nodes))
    graph.output(node)
    propagate(fx.GraphModule(torch.nn.Module(), graph), tensors)
    contraction = as_contraction(node)
    assert contraction is not None
    return native_call(contraction)


P = IndexPattern(8, 3, 2, 1)


@pytest.mark.parametrize(
    ("equation", "operands", "kind"),
    [
        ("nci,koi,dck->ndo", ((2, 5, 8), P, (4, 5, 3)), "forward"),
        ("i,koi,k->o", ((8,), P, (3,)), "forward"),
        ("gci,koi,gk->ogc", ((2, 5, 8), P, (2, 3)), "forward"),
        ("ndo,koi,dck->nci", ((2, 4, 4), P, (4, 5, 3)), "input"),
        ("nci,koi,ndo->dck", ((2, 5, 8), P, (2, 4, 4)), "weight"),
    ],
)
def test_convolutions_are_told_by_where_labels_are(
    equation: str, operands: tuple[Any, ...], kind: str
) -> None:
    call = call_of(equation, *operands)
    assert call is not None
    assert call.kind == kind


@pytest.mark.parametrize(
    ("equation", "operands"),
    [
        ("nci,koi->nco", ((2, 5, 8), P)),
        ("nci,koi,dck->nd", ((2, 5, 8), P, (4, 5, 3))),
        ("nci,koi,dcki->ndo", ((2, 5, 8), P, (4, 5, 3, 8))),
        ("nci,koi,dck,nd->ndo", ((2, 5, 8), P, (4, 5, 3), (2, 4))),
        ("nii,koi,dnk->ndo", ((2, 8, 8), P, (4, 2, 3))),
        ("nci,koi,dck->ndo", ((2, 1, 8), P, (4, 5, 3))),
        ("nci,koi,dk->ndo", ((2, 5, 8), P, (4, 3))),
    ],
)
def test_other_contractions_are_no_convolutions(equation: str, operands: tuple[Any, ...]) -> None:
    assert call_of(equation, *operands) is None


def test_a_convolution_of_four_dimensions_is_left_to_einsum() -> None:
    q = IndexPattern(4, 2)
    operands = ((1, 1, 4, 4, 4, 4), q, q, q, q, (1, 1, 2, 2, 2, 2))
    assert call_of("ncijkl,aei,bfj,ugk,vhl,dcabuv->ndefgh", *operands) is None
