"""The functions that generated code calls where torch has none of its own.

They read sizes when they run, so they're right for every size for which the einsum is: none, one, more,
and a dimension of size 1 where the other operand has more. TorchScript compiles them and torch.compile and
torch.export trace through them. Every one is ordinary torch code, differentiable as often as one likes.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["contiguous", "contract", "matmul", "matvec", "mm", "multiply_sum", "unrolled_multiply_sum"]


def contiguous(a: Tensor) -> Tensor:
    """``a`` itself where it is contiguous, otherwise a contiguous copy."""
    return a.contiguous()


def mm(
    a: Tensor,  # shape: (i, k)
    b: Tensor,  # shape: (k, j)
) -> Tensor:  # shape: (i, j)
    """A product of matrices; one of the two sizes of ``k`` may be 1."""
    if a.shape[1] == b.shape[0]:
        return torch.mm(a, b)
    if a.shape[1] == 1:
        return torch.mm(a, b.sum(0, keepdim=True))
    return torch.mm(a.sum(1, keepdim=True), b)


def matmul(
    a: Tensor,  # shape: (..., i, k)
    b: Tensor,  # shape: (..., k, j)
) -> Tensor:  # shape: (..., i, j)
    """A product of batches of matrices; sizes of the batch broadcast, and so do those of ``k``."""
    if a.shape[-1] != b.shape[-2]:
        if a.shape[-1] == 1:
            b = b.sum(-2, keepdim=True)
        else:
            a = a.sum(-1, keepdim=True)
    return torch.matmul(a, b)


def matvec(
    a: Tensor,  # shape: (..., i, k)
    b: Tensor,  # shape: (..., k)
) -> Tensor:  # shape: (..., i)
    """A product of batches of matrices with batches of vectors, broadcasting as :func:`matmul`."""
    return matmul(a, b.unsqueeze(-1)).squeeze(-1)


def contract(
    a: Tensor,  # shape: (*batch, *rows, *summed)
    b: Tensor,  # shape: (*batch, *summed, *columns)
    batch: int,
    summed: int,
) -> Tensor:  # shape: (*batch, *rows, *columns)
    """A product of batches of matrices whose rows, columns and summed index have several dimensions each.

    Args:
        a: the first operand.
        b: the second operand.
        batch: the number of batch dimensions; they broadcast.
        summed: the number of summed dimensions; they broadcast.
    """
    first = a.dim() - summed
    for i in range(summed):
        if a.shape[first + i] != b.shape[batch + i]:
            if a.shape[first + i] == 1:
                b = b.sum(batch + i, keepdim=True)
            else:
                a = a.sum(first + i, keepdim=True)
    shape = list(a.shape[:batch])
    other = list(b.shape[:batch])
    rows = 1
    for i in range(batch, first):
        rows = rows * a.shape[i]
    inner = 1
    for i in range(first, a.dim()):
        inner = inner * a.shape[i]
    columns = 1
    for i in range(batch + summed, b.dim()):
        columns = columns * b.shape[i]
    result = torch.matmul(a.reshape(shape + [rows, inner]), b.reshape(other + [inner, columns]))
    outer = list(result.shape[:batch]) + list(a.shape[batch:first]) + list(b.shape[batch + summed :])
    return result.reshape(outer)


def multiply_sum(
    a: Tensor,
    b: Tensor,
    dims: list[int],
) -> Tensor:
    """The sum over ``dims`` of a broadcast product of two operands that are aligned from the right."""
    return torch.mul(a, b).sum(dims)


def unrolled_multiply_sum(
    a: Tensor,
    b: Tensor,
    dim: int,
) -> Tensor:
    """:func:`multiply_sum` over one dimension ``dim``, counted from the right, that has only a few elements.

    The products are added one after the other, so no tensor with the summed dimension is made.
    """
    count = a.shape[dim]
    if count != b.shape[dim] or count == 0 or count > 32:
        return torch.mul(a, b).sum(dim)
    parts = a.unbind(dim)
    others = b.unbind(dim)
    result = torch.mul(parts[0], others[0])
    for k in range(1, count):
        result = torch.addcmul(result, parts[k], others[k])
    return result
