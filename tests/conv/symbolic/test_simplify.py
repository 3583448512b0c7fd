"""Simplification keeps the value of any contraction with patterns, random or handed over as tensors."""

from __future__ import annotations

import string
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from einfx.conv.expressions import convNd_forward
from einfx.conv.symbolic.network import Network
from einfx.conv.symbolic.rules import ALL, DEFAULT, Rule
from einfx.conv.symbolic.simplify import simplified, simplify
from einfx.conv.symbolic.views import View
from einfx.equation import Equation
from einfx.errors import EquationError, OperandError, UsageError
from einfx.pattern import IndexPattern
from einfx.recognition import index_pattern, recognise
from tests.conv.reference import close, draws
from tests.test_pattern import patterns

TEXT, X, PATTERN = "nci,koi->nco", torch.ones(2, 3, 8), IndexPattern(8, 3)


@st.composite
def networks(draw: st.DrawFn) -> tuple[Network, list[Tensor]]:
    """A contraction of up to three patterns, in a row or side by side, and up to three tensors."""
    sizes: dict[int, int] = {}
    inputs: list[tuple[int, ...]] = []
    operands: list[View | IndexPattern] = []

    def label(size: int) -> int:
        """A label of a size: one that is there, or a new one."""
        there = [name for name, known in sizes.items() if known == size]
        chosen: int = draw(st.sampled_from([*there, len(sizes)]))
        sizes[chosen] = size
        return chosen

    for _ in range(draw(st.integers(1, 3))):
        pattern = draw(patterns())
        operands.append(pattern)
        inputs.append(tuple(label(size) for size in pattern.shape))
    tensors = []
    torch.manual_seed(0)
    for position in range(draw(st.integers(0, 3))):
        labels = tuple(draw(st.lists(st.sampled_from(sorted(sizes)), max_size=4)))
        shape = tuple(sizes[x] for x in labels)
        if draw(st.booleans()):
            # Broadcast where labels don't repeat.
            shape = tuple(
                1 if labels.count(x) == 1 and draw(st.integers(0, 5)) == 0 else sizes[x] for x in labels
            )
        tensors.append(torch.randn(shape, dtype=torch.float64))
        operands.append(View(position, shape))
        inputs.append(labels)
    order = draw(st.permutations(list(range(len(operands)))))
    inputs, operands = [inputs[i] for i in order], [operands[i] for i in order]
    carried = sorted({x for labels in inputs for x in labels})
    output = draw(st.lists(st.sampled_from(carried), unique=True, max_size=4))
    return Network(Equation(tuple(inputs), tuple(output)), tuple(operands)), tensors


def value(network: Network, tensors: list[Tensor]) -> Tensor:
    """The result, with every pattern as a tensor."""
    dense = [
        x.tensor(torch.float64) if isinstance(x, IndexPattern) else x.to(torch.float64)
        for x in network.bind(tensors)
    ]
    return torch.einsum(network.text, *dense)


@pytest.mark.parametrize("rules", [DEFAULT, ALL], ids=["default", "all"])
@settings(max_examples=400, deadline=None)
@given(networks())
def test_any_contraction_keeps_its_value(rules: tuple[Rule, ...], case: tuple[Network, list[Tensor]]) -> None:
    network, tensors = case
    small = simplified(network, rules)
    expected = value(network, tensors)
    assert close(value(small, tensors).reshape(expected.shape), expected, 1e-10)
    assert simplified(small, rules) == small


@settings(max_examples=200, deadline=None)
@given(networks())
def test_nothing_is_copied_and_no_pattern_grows(case: tuple[Network, list[Tensor]]) -> None:
    network, tensors = case
    small = simplified(network)
    starts = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    for symbol, operand in zip(small.operands, small.bind(tensors), strict=True):
        if isinstance(symbol, View) and isinstance(operand, Tensor) and operand.numel():
            assert operand.untyped_storage().data_ptr() in starts
    largest = max(pattern.ones for pattern in network.patterns)
    assert all(pattern.ones <= largest for pattern in small.patterns)


def test_pruning_a_delta_gives_no_repeated_output() -> None:
    x = torch.randn(5, dtype=torch.float64)
    equation, operands = simplify("zij,j->ij", [IndexPattern(5, 1), x])
    dense = [op.tensor(torch.float64) if isinstance(op, IndexPattern) else op for op in operands]
    assert torch.equal(torch.einsum(str(equation), *dense), torch.diag(x))


def test_tensors_that_are_patterns_count_as_patterns() -> None:
    x, weight = torch.randn(3, 12, dtype=torch.float64), torch.randn(4, 3, 2, dtype=torch.float64)
    for pattern in (
        index_pattern(12, 2, stride=2, dtype=torch.float64),
        index_pattern(12, 2, stride=2),
        IndexPattern(12, 2, stride=2).tensor(),
    ):
        equation, operands = simplify("ci,koi,dck->do", [x, pattern, weight])
        assert isinstance(equation, str)
        assert len(operands) == 2
        expected = torch.nn.functional.conv1d(x, weight, stride=2)
        got = torch.einsum(equation, *operands)
        assert close(got, expected)


def test_a_pattern_that_stays_keeps_its_kind() -> None:
    x = torch.randn(3, 12)
    made = index_pattern(12, 3, padding=1, dtype=torch.float32)
    _, operands = simplify("ci,koi->cko", [x, made])
    assert isinstance(operands[1], Tensor)
    assert operands[1].dtype == torch.float32
    assert recognise(operands[1]) == IndexPattern(12, 3, padding=1)
    _, operands = simplify("ci,koi->cko", [x, IndexPattern(12, 3, padding=1)])
    assert operands[1] == IndexPattern(12, 3, padding=1)


def test_tensors_that_are_no_patterns_are_left_alone() -> None:
    x, other = torch.randn(3, 4), torch.randn(2, 5, 4)
    equation, operands = simplify(Equation.parse("ci,koi->cko"), [x, other])
    assert equation == Equation.parse("ab,cb->ac")
    assert operands[0] is x
    assert isinstance(operands[1], Tensor)
    assert operands[1].shape == (10, 4)


def test_equations_and_operands_that_make_no_sense_are_refused() -> None:
    with pytest.raises(EquationError):
        simplify("i?->", [torch.ones(2)])
    with pytest.raises(OperandError, match="takes 2"):
        simplify(Equation.parse("i,i->"), [torch.ones(2)])
    with pytest.raises(OperandError, match="label 'a' has size"):
        simplify("i,koi->ko", [torch.ones(7), IndexPattern(8, 3)])


@pytest.mark.parametrize(
    ("equation", "operands", "rules", "kind", "message"),
    [
        (5, [X, PATTERN], DEFAULT, EquationError, "an equation as text, .* not 5"),
        (([[0]], []), [X], DEFAULT, EquationError, r"einfx.Equation, not \(\[\[0\]\], \[\]\)"),
        (TEXT, None, DEFAULT, OperandError, "'nci,koi->nco' takes its operands as a list .* not None"),
        (TEXT, X, DEFAULT, OperandError, r"such as \[x, pattern, weight\], not one tensor"),
        (
            TEXT,
            (X, None),
            DEFAULT,
            OperandError,
            "'nci,koi->nco': operand 1 is a NoneType, not a",
        ),
        (TEXT, (X.numpy(), PATTERN), DEFAULT, OperandError, "operand 0 is a ndarray.* by torch.as_tensor"),
        (TEXT, (X.to_sparse(), PATTERN), DEFAULT, OperandError, r"operand 0 is sparse .* by .to_dense\(\)"),
        (TEXT, (X, PATTERN), None, UsageError, "takes rules of .* as a tuple, not None"),
        (TEXT, (X, PATTERN), (5,), UsageError, r"as a tuple, not \(5,\)"),
    ],
)
def test_what_is_no_contraction_is_refused(
    equation: Any, operands: Any, rules: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        simplify(equation, operands, rules)


def test_operands_and_rules_may_come_from_any_iterable() -> None:
    expected = simplify(TEXT, [X, PATTERN])
    equation, operands = simplify(TEXT, (x for x in (X, PATTERN)), list(DEFAULT))  # type: ignore[arg-type]
    assert equation == expected[0]
    assert [x.shape for x in operands] == [x.shape for x in expected[1]]


def test_simplifying_again_is_remembered() -> None:
    made, _ = convNd_forward.symbolic((2, 3, 8, 8), (4, 3, 2, 2), 2, 0, 1, 1, False)
    before = simplified.cache_info().hits
    assert simplified(made) is simplified(made)
    assert simplified.cache_info().hits > before


def test_the_order_of_labels_never_depends_on_the_hash_seed() -> None:
    for draw in draws(2, 20):
        x, weight = draw.x(), draw.weight()
        equation, _, _ = convNd_forward.einsum_expression(x, weight, groups=draw.groups, **draw.hyper)
        inputs = equation.partition("->")[0].replace(",", "")
        assert "".join(dict.fromkeys(inputs)) == string.ascii_letters[: len(set(inputs))]
