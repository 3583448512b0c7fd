"""What operations are said to take inside is what torch's allocator says that they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from einfx.graph_memory.liveness import liveness
from einfx.graph_memory.workspace import workspace_bytes
from tests.measuring import allocated_bytes

X, Y = torch.randn(100, 200, dtype=torch.float64), torch.randn(100, 200)
SMALL = 40_000
"""What isn't counted: buffers of fixed size."""

OPERATIONS: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "a product and an activation": (lambda x: (x.t() @ x).relu().sum(), (X,)),
    "a product of parts": (lambda x: torch.mm(x[::2, ::3], x[:67, ::2]), (Y,)),
    "a product in half precision": (lambda x: x @ x.t(), (Y.half(),)),
    "a product of batches": (lambda x: torch.matmul(x[:, None], x[None]), (torch.randn(8, 40, 40),)),
    "a linear layer of a transposed input": (
        lambda x, w: F.linear(x.transpose(0, 1), w),
        (torch.randn(40, 30, 60), torch.randn(50, 60)),
    ),
    "log, sum, exp": (lambda x: torch.logsumexp(x, 0), (X,)),
    "softmax along columns": (lambda x: torch.softmax(x.t(), 0), (X,)),
    "normalisation of a transposed input": (lambda x: F.layer_norm(x.t(), (100,)), (X,)),
    "groups": (lambda x: F.group_norm(x, 2), (torch.randn(4, 8, 40, 60),)),
    "batch norm": (lambda x: F.batch_norm(x, None, None, training=True), (torch.randn(4, 8, 40, 60),)),
    "a sum of two dtypes": (lambda x, y: x + y, (X, Y)),
    "a sum of two dtypes in place": (lambda x, y: y.exp().add_(x), (X, Y)),
    "a comparison of two dtypes": (lambda x, y: x > y, (X, Y)),
    "a choice of two dtypes": (lambda x, y: torch.where(x > 0, x, y), (X, Y)),
    "a concatenation of two dtypes": (lambda x, y: torch.cat([x, y]), (X, Y)),
    "magnitudes of complex numbers": (lambda x: x.abs(), (torch.randn(100, 200, dtype=torch.complex64),)),
    "a mean in half precision": (lambda x: x.mean(0), (Y.half(),)),
    "a sum of integers": (lambda x: x.sum(0), (torch.ones(100, 200, dtype=torch.int32),)),
    "a median": (lambda x: x.median(0), (X,)),
    "sorting": (lambda x: x.sort(0), (X,)),
    "the largest": (lambda x: x.topk(5), (X,)),
    "a maximum and its place": (lambda x: x.max(0), (X,)),
    "a loss": (lambda x: F.mse_loss(x, x + 1), (X,)),
    "dropout": (lambda x: F.dropout(x, 0.5, True), (X,)),
    "pooling": (lambda x: F.max_pool2d(x, 2), (torch.randn(4, 8, 40, 60),)),
    "a convolution": (lambda x, w: torch.conv2d(x, w), (torch.randn(4, 8, 20, 20), torch.randn(16, 8, 3, 3))),
    "a convolution in double precision": (
        lambda x, w: torch.conv2d(x, w),
        (torch.randn(4, 8, 20, 20).double(), torch.randn(16, 8, 3, 3).double()),
    ),
    "views": (lambda x: x.t().unsqueeze(0)[:, 5:].expand(3, -1, -1).diagonal(0, 1, 2), (X,)),
    "a copy of a view": (lambda x: x.t().reshape(-1), (X,)),
    "a gathering of rows": (lambda x: x[torch.arange(50)], (X,)),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_as_much_is_predicted_as_the_allocator_gives(name: str) -> None:
    function, operands = OPERATIONS[name]
    found = liveness(fx.symbolic_trace(function), operands)
    measured = allocated_bytes(function, *operands)
    assert found.uncovered == ()
    assert measured - SMALL <= found.peak_bytes <= 2 * measured + SMALL


def test_an_operation_that_is_not_known_is_said_not_to_be() -> None:
    assert workspace_bytes(torch.ops.aten.linalg_svd.default, (X,), X) is None
    found = liveness(fx.symbolic_trace(lambda x: torch.linalg.inv(x)), (torch.eye(3),))
    ((node, reason),) = found.uncovered
    assert "inv" in node
    assert "allocates inside isn't known" in reason
