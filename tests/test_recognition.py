"""Tensors are recognised as the patterns that they are, and as no other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from einfx.errors import OperandError
from einfx.pattern import IndexPattern
from einfx.recognition import index_pattern, recognise
from tests.test_pattern import DTYPES, by_definition, patterns


@settings(max_examples=300)
@given(patterns(), st.sampled_from(DTYPES))
def test_patterns_are_recognised_by_their_values(pattern: IndexPattern, dtype: torch.dtype) -> None:
    found = recognise(pattern.tensor(dtype))
    if pattern.ones:
        assert found is not None
        assert torch.equal(found.tensor(), by_definition(pattern))
    else:
        assert found is None


@given(patterns(), st.data())
def test_a_tensor_with_one_entry_changed_is_not_taken_for_the_pattern(
    pattern: IndexPattern, data: st.DataObject
) -> None:
    tensor = pattern.tensor(torch.float64)
    entry = tuple(data.draw(st.integers(0, size - 1)) for size in pattern.shape)
    tensor[entry] = data.draw(st.sampled_from([0.5, 2.0, -1.0])) if tensor[entry] else 1.0
    found = recognise(tensor)
    assert found is None or torch.equal(found.tensor(torch.float64), tensor)


def test_what_is_remembered_is_forgotten_when_the_tensor_is_written_to() -> None:
    tensor = index_pattern(8, 3, dtype=torch.float32)
    assert recognise(tensor) == IndexPattern(8, 3)
    tensor[0, 0, 0] = 2.0
    assert recognise(tensor) is None


def test_the_tensor_of_other_shapes_and_devices_is_no_pattern() -> None:
    assert recognise(torch.eye(3)) is None
    assert recognise(torch.zeros(2, 0, 3)) is None
    assert recognise(torch.zeros(2, 2, 3, device="meta")) is None
    assert recognise(index_pattern(5, 3, device="meta")) == IndexPattern(5, 3)


def test_patterns_are_recognised_by_their_values_in_inference_mode() -> None:
    with torch.inference_mode():
        made = index_pattern(7, 3, padding=1, dtype=torch.float32)
        assert recognise(made) == IndexPattern(7, 3, padding=1)
        made[0, 1, 0] = 0.0
        assert recognise(made) is None
        kept = index_pattern(7, 3)
    assert recognise(kept) == IndexPattern(7, 3)
    outside = index_pattern(7, 3)
    with torch.inference_mode():
        assert recognise(outside) == IndexPattern(7, 3)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (None, "takes a torch.Tensor, not a NoneType; convert it by torch.as_tensor"),
        (5, "not a int"),
        (IndexPattern(8, 3), r"not IndexPattern\(8, 3\), which is an index pattern already"),
        (torch.ones(2, 2, 2).to_sparse(), r"sparse .* by .to_dense\(\)"),
    ],
)
def test_what_is_no_tensor_of_numbers_side_by_side_is_refused(other: Any, message: str) -> None:
    with pytest.raises(OperandError, match=message):
        recognise(other)
