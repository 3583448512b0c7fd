from __future__ import annotations

import pytest
import torch

from einfx.conv.guards import fixed_sizes, matched
from einfx.errors import OperandError


def test_a_tensor_of_the_right_sizes_is_given_back_itself() -> None:
    x = torch.ones(2, 8)
    assert fixed_sizes(x, [1], [8]) is x
    y = torch.ones(8, 2)
    made = matched(x, y, [-1, 8], [-1, -1], [0, 1, 1, 0])
    assert made[0] is x
    assert made[1] is y


def test_a_dimension_of_size_1_is_stretched() -> None:
    x = torch.arange(3.0).reshape(3, 1)
    assert torch.equal(fixed_sizes(x, [1], [4]), x.expand(3, 4))
    assert torch.equal(matched(x, torch.ones(3, 4), [-1, -1], [-1, -1], [1, 1, 0, 0])[0], x.expand(3, 4))
    assert torch.equal(matched(torch.ones(3), x, [3], [-1, 5], [])[1], x.expand(3, 5))


def test_the_other_tensor_may_be_the_one_of_size_1() -> None:
    x = torch.ones(2, 8)
    made = matched(x, torch.ones(1), [-1, -1], [-1], [1, 0])
    assert made[0] is x
    assert made[1].shape == (8,)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(
        OperandError, match=r"dimension 1 of an operand of shape \[2, 7\] must have 8 elements"
    ):
        fixed_sizes(torch.ones(2, 7), [1], [8])
    with pytest.raises(OperandError, match="have the same label, but not the same size"):
        matched(torch.ones(2, 7), torch.ones(8), [-1, -1], [-1], [1, 0])
    with pytest.raises(OperandError, match=r"dimension 0 of an operand of shape \[8\] must have 7 elements"):
        matched(torch.ones(2, 7), torch.ones(8), [-1, -1], [7], [])


def test_no_channels_are_refused_and_an_empty_batch_is_not() -> None:
    with pytest.raises(OperandError, match="no elements in dimension 1, which are the channels"):
        matched(torch.ones(2, 0, 8), torch.ones(5, 0, 3), [-1, -1, 8], [-1, -1, 3], [1, 1])
    x, _ = matched(torch.ones(0, 2, 8), torch.ones(0, 5, 6), [-1, -1, 8], [-1, -1, 6], [0, 0], True)
    assert x.shape == (0, 2, 8)
