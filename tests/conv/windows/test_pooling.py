"""Averages over windows side by side, as sums of slices."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from einfx.conv.windows.pooling import applies_to, average_windows
from tests.rewriting import assert_same


@pytest.mark.parametrize("size", [(6, 8), (7, 9), (5, 3)])
@pytest.mark.parametrize("kernel", [(2, 2), (3, 1), (4, 3)])
def test_it_is_torch_s_average(size: tuple[int, int], kernel: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    expected = F.avg_pool2d(x, kernel)
    found = average_windows(x, list(kernel), float(kernel[0] * kernel[1]))
    assert_same(found.detach(), expected.detach())
    vector = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(expected, x, vector)
    assert_same(torch.autograd.grad(found, x, vector)[0], gradient)


def test_it_scripts_and_maps() -> None:
    x = torch.randn(4, 2, 7, 6)
    scripted = torch.jit.script(average_windows)
    assert_same(scripted(x, [2, 3], 6.0), average_windows(x, [2, 3], 6.0))
    mapped = torch.func.vmap(lambda one: average_windows(one, [2, 3], 6.0))(x)
    assert_same(mapped, average_windows(x, [2, 3], 6.0))


def test_other_windows_are_left_to_torch() -> None:
    assert applies_to(torch.float64, (3,), (3,))
    assert not applies_to(torch.float32, (3,), (2,))
    assert not applies_to(torch.float32, (9,), (9,))
    assert not applies_to(torch.float16, (2,), (2,))
