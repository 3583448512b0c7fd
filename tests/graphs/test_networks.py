from __future__ import annotations

from typing import Any

import torch
from torch import fx

import einfx
from einfx import IndexPattern
from einfx.graphs.networks import network_of, plan_of
from einfx.graphs.nodes import Contraction, as_contraction
from einfx.graphs.shapes import propagate


def contraction_of(program: Any, *arguments: torch.Tensor) -> Contraction:
    traced = fx.symbolic_trace(program)
    if arguments:
        propagate(traced, arguments)
    (found,) = [c for node in traced.graph.nodes if (c := as_contraction(node)) is not None]
    return found


def test_a_tensor_that_is_there_twice_is_one_tensor() -> None:
    pattern = IndexPattern(8, 3)
    made = network_of(
        contraction_of(lambda x: einfx.einsum("ni,koi,mi->nmk", x, pattern, x), torch.ones(2, 8))
    )
    assert made is not None
    assert made.operands[0] == made.operands[2]


def test_unknown_shapes_have_no_network_and_no_plan() -> None:
    pattern = IndexPattern(8, 3)
    contraction = contraction_of(lambda x, w: einfx.einsum("ni,koi,k->no", x, pattern, w))
    assert network_of(contraction) is None
    assert plan_of(contraction) is None


def test_a_plan_is_that_of_the_shapes() -> None:
    pattern = IndexPattern(8, 3)
    contraction = contraction_of(
        lambda x, w: einfx.einsum("nci,koi,dck->ndo", x, pattern, w), torch.ones(2, 5, 8), torch.ones(4, 5, 3)
    )
    planned = plan_of(contraction)
    assert planned is not None
    assert planned.flops == 2 * 2 * 5 * 4 * 6 * 3
