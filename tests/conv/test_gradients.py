from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from einfx.conv.gradients import input_gradient, weight_gradient
from einfx.errors import OperandError

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (3, 2, 2)])
@pytest.mark.parametrize("groups", [1, 2])
def test_both_gradients_are_those_of_autograd(
    n: int, stride: int, padding: int, dilation: int, groups: int
) -> None:
    for size in (6, 7, 8):
        x = torch.randn(2, 4, *(size,) * n, dtype=torch.float64, requires_grad=True)
        w = torch.randn(6, 4 // groups, *(3,) * n, dtype=torch.float64, requires_grad=True)
        y = CONVOLUTIONS[n](x, w, None, stride, padding, dilation, groups)
        v = torch.randn_like(y)
        of_x, of_w = torch.autograd.grad(y, (x, w), v)
        numbers = [stride] * n, [padding] * n, [dilation] * n, groups
        torch.testing.assert_close(input_gradient(v, w, [size] * n, *numbers), of_x)
        torch.testing.assert_close(weight_gradient(x, v, [3] * n, *numbers), of_w)


def test_a_vector_of_no_output_is_refused() -> None:
    x, v, w = torch.ones(1, 1, 8), torch.ones(1, 1, 5), torch.ones(1, 1, 3)
    with pytest.raises(OperandError, match="has 6 positions on an input of size 8"):
        weight_gradient(x, v, [3], [1], [0], [1], 1)
    with pytest.raises(OperandError, match="but the gradient has 5"):
        input_gradient(v, w, [8], [1], [0], [1], 1)
