"""A number times a tensor is read in every spelling, and only where it is exactly that."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from einfx.equation import Equation
from einfx.graphs.nodes import Contraction
from einfx.graphs.scaling import (
    Scale,
    Shift,
    as_scalar,
    as_scaled,
    as_shifted,
    insert_scaled,
    is_factor,
    may_cross_contraction,
    why_not_through,
)
from einfx.graphs.shapes import propagate
from einfx.options import Options
from einfx.rewrite import readable_code

X = torch.rand(3)
Program = Callable[..., torch.Tensor]


def last_node(program: Program, x: torch.Tensor = X) -> fx.Node:
    traced = fx.symbolic_trace(program)
    propagate(traced, (x,))
    return list(traced.graph.nodes)[-2]


@pytest.mark.parametrize(
    ("program", "numerator", "denominator"),
    [
        (lambda x: 2 * x, 2, 1),
        (lambda x: x * 2.5, 2.5, 1),
        (lambda x: x.mul(2), 2, 1),
        (lambda x: x.mul(other=2), 2, 1),
        (lambda x: x.multiply(2), 2, 1),
        (lambda x: torch.mul(x, 2), 2, 1),
        (lambda x: torch.mul(2, x), 2, 1),
        (lambda x: torch.mul(input=x, other=2), 2, 1),
        (lambda x: torch.mul(x, other=2), 2, 1),
        (lambda x: torch.multiply(x, 2), 2, 1),
        (lambda x: x / 2, 1, 2),
        (lambda x: x.div(2), 1, 2),
        (lambda x: x.divide(other=2), 1, 2),
        (lambda x: x.true_divide(2), 1, 2),
        (lambda x: torch.div(x, 2), 1, 2),
        (lambda x: torch.div(x, 2, rounding_mode=None), 1, 2),
        (lambda x: torch.true_divide(x, 2), 1, 2),
        (lambda x: -x, -1, 1),
        (lambda x: x.neg(), -1, 1),
        (lambda x: torch.neg(x), -1, 1),
        (lambda x: torch.negative(input=x), -1, 1),
    ],
)
def test_every_spelling_of_a_factor_is_read(program: Program, numerator: float, denominator: float) -> None:
    scaled = as_scaled(last_node(program))
    assert scaled is not None
    assert scaled.scale == Scale(numerator, denominator)
    assert scaled.tensor.name == "x"


@pytest.mark.parametrize(
    "program",
    [
        lambda x: 2 / x,
        lambda x: x * x,
        lambda x: x + 2,
        lambda x: x**2,
        lambda x: x // 2,
        lambda x: x.div(2, rounding_mode="floor"),
        lambda x: torch.mul(x, 2, out=torch.empty(3)),
        lambda x: x * True,
        lambda x: x * 0,
        lambda x: x * 0.0,
        lambda x: x / float("inf"),
        lambda x: x * float("nan"),
        lambda x: x * 1e40,
        lambda x: x * 1e-40,
        lambda x: x * 2j,
        lambda x: x.mul_(2),
        lambda x: x.abs(),
    ],
)
def test_what_is_no_factor_is_not_read(program: Program) -> None:
    assert as_scaled(last_node(program)) is None


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool])
def test_integers_are_never_scaled(dtype: torch.dtype) -> None:
    assert as_scaled(last_node(lambda x: 2 * x, torch.ones(3, dtype=dtype))) is None
    assert as_scaled(last_node(lambda x: x / 2, torch.ones(3, dtype=dtype))) is None


def test_complex_numbers_scale_complex_tensors() -> None:
    scaled = as_scaled(last_node(lambda x: x * 2j, torch.ones(3, dtype=torch.complex64)))
    assert scaled is not None
    assert scaled.scale.factor == 2j


def test_without_shapes_a_factor_is_read_only_where_the_caller_says_that_it_may() -> None:
    node = list(fx.symbolic_trace(lambda x: 2 * x).graph.nodes)[1]
    assert as_scaled(node) is None
    assert as_scaled(node, assume_floating=True) is not None


def test_factors_multiply_with_their_denominators_apart() -> None:
    product = Scale(3, 7).times(Scale(2, 5))
    assert product == Scale(6, 35)
    assert product.factor == 6 / 35
    assert Scale(6, 1).factor == 6
    assert Scale(1, 0.0).factor == float("inf")


@pytest.mark.parametrize(
    ("scale", "dtype", "expected"),
    [
        (Scale(2, 3), torch.float32, True),
        (Scale(1e30, 1), torch.float32, True),
        (Scale(1e30, 1e-30), torch.float32, False),
        (Scale(1e30, 1e-30), torch.float64, True),
        (Scale(1e5, 1), torch.float16, False),
        (Scale(1e5, 1), torch.bfloat16, True),
        (Scale(1, 0.0), torch.float64, False),
        (Scale(10**400, 1), torch.float64, False),
    ],
)
def test_a_factor_must_be_a_normal_number_of_the_dtype_in_all_its_parts(
    scale: Scale, dtype: torch.dtype, expected: bool
) -> None:
    assert is_factor(scale, dtype) is expected


@pytest.mark.parametrize(
    ("factor", "dtype", "expected"),
    [
        (1000.0, torch.float32, True),
        (1e12, torch.float32, False),
        (1e-12, torch.float32, False),
        (1e12, torch.float64, True),
        (1e100, torch.float64, False),
        (1000.0, torch.bfloat16, True),
        (2.0, torch.float16, False),
        (1000.0, torch.complex64, True),
        (1e12, torch.complex64, False),
        (1e12, torch.complex128, True),
    ],
)
def test_a_factor_crosses_a_contraction_only_far_from_the_ends_of_the_range(
    factor: float, dtype: torch.dtype, expected: bool
) -> None:
    node = last_node(lambda x: x.exp(), torch.ones(3, dtype=dtype))
    assert may_cross_contraction(Scale(factor, 1), node) is expected


@pytest.mark.parametrize(
    ("scale", "text"), [(Scale(3, 1), "exp * 3"), (Scale(1, 3), "exp / 3"), (Scale(3, 4), "exp * 0.75")]
)
def test_a_division_is_written_as_one_where_only_that_is_exact(scale: Scale, text: str) -> None:
    node = last_node(lambda x: x.exp())
    output = next(iter(node.users))
    with node.graph.inserting_before(output):
        new = insert_scaled(node.graph, scale, node)
    output.args = (new,)
    assert text in readable_code(node.graph)
    scaled = as_scaled(new)
    assert scaled is not None
    assert scaled.scale.factor == scale.factor


@pytest.mark.parametrize(
    ("program", "amount"),
    [
        (lambda x: x + 3, 3),
        (lambda x: 3.5 + x, 3.5),
        (lambda x: x - 2, -2),
        (lambda x: torch.add(x, 2.0), 2.0),
        (lambda x: torch.add(2.0, x), 2.0),
        (lambda x: torch.add(input=x, other=2.0), 2.0),
        (lambda x: torch.add(x, 2.0, alpha=1), 2.0),
        (lambda x: x.add(2.0), 2.0),
        (lambda x: x.sub(2.0), -2.0),
        (lambda x: torch.sub(x, 2.0), -2.0),
        (lambda x: torch.subtract(x, 2.0), -2.0),
        (lambda x: operator.sub(x, -1), 1),
    ],
)
def test_every_spelling_of_an_added_constant_is_read(program: Program, amount: float) -> None:
    node = last_node(program)
    shifted = as_shifted(node)
    assert shifted is not None
    assert shifted.scale == Shift(amount)
    assert shifted.tensor.name in ("x", "input_1")
    assert as_scalar(node) == shifted
    assert as_scaled(node) is None


@pytest.mark.parametrize(
    "program",
    [
        lambda x: 3 - x,
        lambda x: torch.rsub(x, 3),
        lambda x: torch.sub(3, x),
        lambda x: x + x,
        lambda x: x + True,
        lambda x: x + 1j,
        lambda x: x + float("inf"),
        lambda x: x + float("nan"),
        lambda x: x - 1e300,
        lambda x: torch.add(x, 2.0, alpha=3),
        lambda x: torch.add(x, x, alpha=3),
        lambda x: x.add_(2.0),
        lambda x: x * 2,
    ],
)
def test_what_adds_no_constant_is_not_read(program: Program) -> None:
    assert as_shifted(last_node(program)) is None


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16, torch.complex64])
def test_constants_are_read_where_they_are_added_to_real_numbers(dtype: torch.dtype) -> None:
    assert as_shifted(last_node(lambda x: x + 2, torch.ones(3, dtype=dtype))) is None


@pytest.mark.parametrize(
    ("amount", "dtype", "expected"),
    [
        (3.0, torch.float32, True),
        (-32, torch.float64, True),
        (33, torch.float64, False),
        (-1e9, torch.float32, False),
        (1.0, torch.bfloat16, False),
    ],
)
def test_a_constant_crosses_a_contraction_only_where_few_digits_are_lost(
    amount: float, dtype: torch.dtype, expected: bool
) -> None:
    node = last_node(lambda x: x.exp(), torch.ones(3, dtype=dtype))
    assert may_cross_contraction(Shift(amount), node) is expected


def test_constants_add_up() -> None:
    total = Shift(2).times(Shift(-2.5))
    assert total == Shift(-0.5)
    assert not total.is_one
    assert Shift(0).is_one
    assert str(total) == "-0.5"


def test_a_constant_is_written_as_a_sum() -> None:
    node = last_node(lambda x: x.exp())
    output = next(iter(node.users))
    with node.graph.inserting_before(output):
        new = insert_scaled(node.graph, Shift(-1.5), node)
    output.args = (new,)
    assert "exp + -1.5" in readable_code(node.graph)
    assert as_shifted(new) == (Shift(-1.5), node)


@pytest.mark.parametrize(
    ("semiring", "scale", "through"),
    [
        ("real", Scale(-2, 1), True),
        ("real", Shift(2), False),
        ("log", Shift(2), True),
        ("max_plus", Shift(-2), True),
        ("min_plus", Shift(2), True),
        ("log", Scale(2, 1), False),
        ("max_times", Scale(2, 3), True),
        ("max_times", Scale(-2, 3), False),
        ("max_times", Scale(2j, 1), False),
        ("max_times", Shift(2), False),
        ("max_min", Scale(2, 1), False),
        ("max_min", Shift(2), False),
    ],
)
def test_what_multiplies_in_the_semiring_goes_through(semiring: str, scale: Any, through: bool) -> None:
    x = fx.Graph().placeholder("x")
    contraction = Contraction(Equation.parse("ij->i"), (x,), Options.read(semiring))
    assert (why_not_through(scale, contraction, x) is None) is through
    arranged = Contraction(Equation.parse("ij->ji"), (x,))
    assert why_not_through(scale, arranged, x) is None


def test_nothing_goes_through_a_linear_operand() -> None:
    graph = fx.Graph()
    x, w = graph.placeholder("x"), graph.placeholder("w")
    options = Options.read("log", linear_operands=(1,))
    contraction = Contraction(Equation.parse("ij,jk->ik"), (x, w), options)
    assert why_not_through(Shift(1), contraction, x) is None
    assert why_not_through(Shift(1), contraction, w) is not None
    assert why_not_through(Scale(2, 1), contraction, w) is not None
