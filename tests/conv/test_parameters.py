"""Hyper-parameters in every form in which torch takes them; errors are tested with the expressions."""

from __future__ import annotations

import pytest

from einfx.conv.parameters import (
    conv_patterns,
    hashable,
    output_paddings,
    per_dimension,
    per_dimension_padding,
    spatial_dimensions,
    transposed_patterns,
)
from einfx.errors import OperandError
from einfx.pattern import IndexPattern


def test_numbers_are_spread_over_dimensions() -> None:
    assert per_dimension("stride", 2, 3) == (2, 2, 2)
    assert per_dimension("stride", [1, 2], 2) == (1, 2)
    assert per_dimension_padding("same", 2) == ("same", "same")
    assert per_dimension_padding(((1, 2), (3, 3)), 2) == ((1, 2), (3, 3))
    assert per_dimension_padding((1, 2), 2) == (1, 2)


def test_a_wrong_number_of_numbers_is_refused() -> None:
    with pytest.raises(OperandError, match=r"list of 2 values .* got dilation=\[1, 2, 3\]"):
        per_dimension("dilation", (1, 2, 3), 2)
    with pytest.raises(OperandError, match="padding to be a list of 3 values"):
        per_dimension_padding(((1, 2), (3, 4)), 3)
    with pytest.raises(OperandError, match="stride should be an integer, but stride='a'"):
        per_dimension("stride", "a", 2)  # type: ignore[arg-type]


def test_lists_become_keys() -> None:
    assert hashable([[1, 2], (3,)]) == ((1, 2), (3,))
    assert hashable("same") == "same"


def test_patterns_are_made_once() -> None:
    first = conv_patterns((8, 9), (3, 2), 2, ((1, 0), (0, 1)), 1)
    assert first == (IndexPattern(8, 3, 2, (1, 0)), IndexPattern(9, 2, 2, (0, 1)))
    assert conv_patterns((8, 9), (3, 2), 2, ((1, 0), (0, 1)), 1) is first


def test_a_transposed_pattern_has_the_input_as_its_output() -> None:
    (pattern,) = transposed_patterns((4,), (3,), 1, 0, 1, 2)
    assert pattern.shape == (3, 4, 9)
    assert output_paddings((4,), (3,), 1, 0, 0, 9, 2) == (1,)
    assert output_paddings((4,), (3,), 1, 0, (1,), None, 2) == (1,)


def test_the_kernel_says_how_many_dimensions_there_are() -> None:
    assert spatial_dimensions("x", (2, 3, 8, 8), 3) == 2
    assert spatial_dimensions("x", (3, 8, 8), (3, 3)) == 2
    with pytest.raises(
        OperandError, match=r"expected x of \(batch, channels, \*sizes\), but got size \[2, 3\]"
    ):
        spatial_dimensions("x", (2, 3), 3)
