from __future__ import annotations

import pytest
import torch

from einfx import IndexPattern
from einfx.conv.scriptable import pattern_tensor, pattern_windows

PATTERNS = [
    IndexPattern(8, 3),
    IndexPattern(8, 3, 2, (1, 1)),
    IndexPattern(9, 2, 3, (2, 0), 3),
    IndexPattern(7, 4, 1, (-2, 3)),
    IndexPattern(7, 1, 2, (0, -3)),
]


def numbers(pattern: IndexPattern) -> tuple[int, int, list[int], int]:
    return pattern.kernel_size, pattern.stride, [pattern.left, pattern.right], pattern.dilation


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_the_tensor_is_that_of_the_pattern(pattern: IndexPattern) -> None:
    got = pattern_tensor(pattern.input_size, *numbers(pattern), torch.ones(1, dtype=torch.float64))
    assert torch.equal(got, pattern.tensor(torch.float64))


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_windows_are_the_contraction_with_the_tensor(pattern: IndexPattern) -> None:
    x = torch.arange(2.0 * pattern.input_size * 3).reshape(2, pattern.input_size, 3)
    got = pattern_windows(x, 1, *numbers(pattern))
    assert torch.equal(got, torch.einsum("aib,koi->aokb", x, pattern.tensor(torch.float32)))
