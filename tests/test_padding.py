"""Padding of one dimension as a pair of numbers; errors are tested with the patterns that raise them."""

from __future__ import annotations

import pytest

from einfx.errors import OperandError
from einfx.padding import integer, paddings


def test_paddings_are_pairs() -> None:
    assert paddings(3, 1, 2, 1) == (2, 2)
    assert paddings(3, 2, "valid", 1) == (0, 0)
    assert paddings(3, 1, "same", 3) == (3, 3)


def test_an_argument_that_is_no_integer_is_named() -> None:
    assert integer("stride", 3) == 3
    with pytest.raises(OperandError, match="stride should be an integer, but stride='3'"):
        integer("stride", "3")
