"""Contractions with patterns that are planned ahead refuse what they can't plan and take what einsum does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import einfx
from einfx.errors import EquationError, OperandError
from einfx.pattern import IndexPattern

TEXT, PATTERN = "nci,koi->nco", IndexPattern(8, 3)


@pytest.mark.parametrize("shape", [None, 5, "abc", (2, None, 8), (2, 3.0, 8), (2, 3, -8)])
@pytest.mark.parametrize(
    ("function", "semiring"),
    [(einfx.contract_path, "real"), (einfx.contract_expression, "real"), (einfx.contract_expression, "log")],
)
def test_what_is_no_shape_is_refused(function: Callable[..., Any], semiring: str, shape: Any) -> None:
    with pytest.raises(OperandError, match=f"{function.__name__} takes shapes such as"):
        function(TEXT, shape, PATTERN, semiring=semiring)


@pytest.mark.parametrize("equation", [5, None, (1,)])
def test_an_equation_that_is_no_text_is_refused(equation: Any) -> None:
    with pytest.raises(EquationError, match="text such as 'nci,koi->nco', not "):
        einfx.contract_path(equation, (2, 3, 8), PATTERN)


def test_lists_and_tensors_say_shapes() -> None:
    plans = [einfx.contract_path(TEXT, x, PATTERN) for x in ((2, 3, 8), [2, 3, 8], torch.ones(2, 3, 8))]
    assert len({str(plan) for plan in plans}) == 1


def test_a_planned_contraction_takes_arrays() -> None:
    x = torch.randn(2, 3, 8)
    array: Any = x.numpy()
    planned = einfx.contract_expression(TEXT, (2, 3, 8), PATTERN)
    torch.testing.assert_close(planned(array), einfx.einsum(TEXT, x, PATTERN))
