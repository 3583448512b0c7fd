"""FLOPs and peak bytes of a graph, counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

import einfx
from einfx.equation import Equation
from einfx.graphs.estimate import Estimate, contraction_flops, estimate, pair_flops
from einfx.graphs.shapes import propagate
from einfx.passes import DEFAULT
from einfx.rewrite import Pipeline
from tests.measuring import allocated_bytes

E = torch.einsum


def estimated(program: Callable[..., Any], *shapes: tuple[int, ...]) -> Estimate:
    traced = fx.symbolic_trace(program)
    propagate(traced, [torch.rand(shape) for shape in shapes])
    return estimate(traced.graph, traced)


@pytest.mark.parametrize(
    ("equation", "shapes", "flops"),
    [
        ("ij,jk->ik", ((2, 3), (3, 4)), 2 * 2 * 3 * 4),
        ("bij,bjk->bik", ((5, 2, 3), (5, 3, 4)), 5 * 2 * 2 * 3 * 4),
        ("i,i->", ((7,), (7,)), 2 * 7),
        ("i,j->ij", ((7,), (3,)), 7 * 3),
        ("ij,ij->ij", ((2, 3), (2, 3)), 2 * 3),
        ("ij->", ((2, 3),), 2 * 3),
        ("ij->i", ((2, 3),), 2 * 3),
        ("ij->ji", ((2, 3),), 0),
        ("ii->i", ((3, 3),), 0),
        ("ij,jk->ik", ((2, 1), (3, 4)), 2 * 2 * 3 * 4),
        ("ij,jk->ik", ((0, 3), (3, 4)), 0),
        ("ij,jk,kl->il", ((2, 30), (30, 40), (40, 5)), 2 * 2 * 30 * 40 + 2 * 2 * 40 * 5),
        ("ij,jk,kl->il", ((50, 60), (60, 70), (70, 5)), 2 * 60 * 70 * 5 + 2 * 50 * 60 * 5),
    ],
)
def test_flops_are_one_multiplication_less_than_operands_and_the_additions_of_the_sum(
    equation: str, shapes: tuple[tuple[int, ...], ...], flops: int
) -> None:
    assert contraction_flops(Equation.parse(equation), shapes) == flops


def test_a_step_of_three_multiplies_twice() -> None:
    equation = Equation.parse("i,i,i->")
    assert pair_flops(equation, equation.sizes([(5,)] * 3)) == 3 * 5


@pytest.mark.parametrize(
    ("program", "shapes", "flops"),
    [
        (lambda a, b: a @ b, ((2, 3), (3, 4)), 48),
        (lambda a, b: torch.tensordot(a, b, 1).sum(), ((2, 3), (3, 4)), 48 + 8),
        (lambda a, b: (a @ b).exp() * 2, ((2, 3), (3, 4)), 48),
        (lambda a, b: E("ij,jk->ik", a, b) + a @ b, ((2, 3), (3, 4)), 96),
        (lambda a, b: a.t().permute(1, 0), ((2, 3), (3, 4)), 0),
        (lambda a, b: einfx.einsum("ij,jk->ik", a, b, semiring="log"), ((2, 3), (3, 4)), 48),
        (lambda a, b: einfx.einsum("ij,jk->ik", a, b, memory_limit="1MiB") + 1, ((2, 3), (3, 4)), 48),
    ],
)
def test_contractions_of_every_spelling_count_and_nothing_else_does(
    program: Callable[..., Any], shapes: tuple[tuple[int, ...], ...], flops: int
) -> None:
    assert estimated(program, *shapes).flops == flops


def test_lowered_contractions_count_as_what_they_compute() -> None:
    traced = fx.symbolic_trace(lambda a, b: E("ij,kj->ki", a, b))
    propagate(traced, (torch.rand(20, 30), torch.rand(40, 30)))
    before = estimate(traced.graph, traced).flops
    Pipeline(DEFAULT).run(traced)
    assert not any(node.target is torch.functional.einsum for node in traced.graph.nodes)
    assert estimate(traced.graph, traced).flops == before == 2 * 20 * 30 * 40


@pytest.mark.parametrize(
    ("program", "elements"),
    [
        (lambda x: x.exp(), 6),
        (lambda x: x.exp().sin(), 12),
        (lambda x: x.exp().sin().cos(), 12),
        (lambda x: (x.exp(), x.sin(), x.cos()), 18),
        (lambda x: x.exp() + x.sin(), 18),
        (lambda x: x.exp().view(-1).t(), 6),
        (lambda x: x.exp().add_(1).mul_(2), 6),
        (lambda x: x.t(), 0),
        (lambda x: x, 0),
        (lambda x: x.exp().sum(), 7),
        (lambda x: torch.cat([x.exp(), x]), 18),
    ],
)
def test_peak_bytes_are_what_lives_together_inputs_apart(program: Callable[..., Any], elements: int) -> None:
    assert estimated(program, (2, 3)).peak_bytes == 4 * elements


def test_a_value_lives_until_its_last_view_was_read() -> None:
    def program(x: torch.Tensor) -> torch.Tensor:
        view = x.exp().t()
        other = x.sin().cos()
        return view @ other

    assert estimated(program, (3, 3)).peak_bytes == 4 * 9 * 3


def test_values_of_unknown_shape_count_nothing() -> None:
    traced = fx.symbolic_trace(lambda a, b: (a @ b).exp())
    assert estimate(traced.graph) == Estimate(0, 0)


def test_peak_bytes_count_the_intermediates_of_an_einsum_of_several_operands() -> None:
    def program(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ij,jk,kl->il", a, b, c)

    operands = torch.ones(20, 30), torch.ones(30, 40), torch.ones(40, 5)
    traced = fx.symbolic_trace(program)
    assert propagate(traced, operands) == []
    measured = allocated_bytes(program, *operands)
    assert measured <= estimate(traced.graph).peak_bytes <= measured + 64
