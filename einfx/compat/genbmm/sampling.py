"""Exact samples of the terms of log-space sums, in little memory.

For every output ``log(sum over k of exp(a_ik + b_kj))`` one k is drawn with probability proportional to its
term. The terms are cut into about √K groups: a group is drawn by the sums of all groups, which are products
over the log semiring, then a term among its √K. So there's never more than √K numbers for an output, and most
of the work is matrix products.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...kernels import log

__all__ = ["draw", "sample_terms"]

DIRECT = 64
"""Up to so many terms are all drawn from at once."""

BUDGET_BYTES = 64 << 20
"""What temporaries may take."""

BYTES_OF_TERM = 40
"""A term, its weight, the sum up to it, its index and a comparison, with copies."""


def draw(logs: Tensor, dim: int) -> Tensor:
    """Draw an index with probability proportional to the exponential.

    Uses torch's global generator of the device. Weights are added in float64, and a term of weight 0 is never
    drawn while there are others.

    Args:
        logs: of any shape, floating.
        dim: along which to draw.

    Returns:
        int64 indices, in the shape of ``logs`` without ``dim``. Among the infinite ones if there are any; any
        index where all are -inf, 0 where one is nan.

    Example:
        >>> draw(torch.tensor([[-1e9, 0.0, -1e9], [0.0, -1e9, -1e9]]), 1)
        tensor([1, 0])
    """
    top = logs.amax(dim, keepdim=True)
    # The difference of two infinities is nan.
    weights = torch.where(logs == top, 1.0, (logs - top).exp())
    sums = weights.cumsum(dim, dtype=torch.float64)
    total = sums.narrow(dim, sums.shape[dim] - 1, 1)
    place = torch.rand(total.shape, dtype=torch.float64, device=logs.device) * total
    # The product may round up to the total, which no partial sum exceeds.
    place = torch.minimum(place, torch.nextafter(total, torch.zeros_like(total)))
    return (sums <= place).sum(dim)


def sample_terms(a: Tensor, b: Tensor) -> Tensor:
    """Draw one of the K terms of every sum of a product over the log semiring.

    Args:
        a: (B, I, K), float32 or float64, K at least 1.
        b: (B, K, J), of the same dtype.

    Returns:
        int64 indices (B, I, J) into K.

    Example:
        >>> a = torch.tensor([[[0.0, -1e9], [-1e9, 0.0]]])
        >>> sample_terms(a, torch.zeros(1, 2, 1))
        tensor([[[0],
                 [1]]])
    """
    batch, rows, terms = a.shape
    columns = b.shape[2]
    width = terms if terms <= DIRECT else math.isqrt(terms - 1) + 1
    at_once = max(1, BUDGET_BYTES // (BYTES_OF_TERM * max(width, -(-terms // width))))
    across = max(1, min(columns, at_once))
    down = max(1, min(rows, at_once // across))
    deep = max(1, at_once // (across * down))
    places = torch.empty((batch, rows, columns), dtype=torch.int64, device=a.device)
    for n in range(0, batch, deep):
        for i in range(0, rows, down):
            for j in range(0, columns, across):
                left = a[n : n + deep, i : i + down]
                right = b[n : n + deep, :, j : j + across]
                places[n : n + deep, i : i + down, j : j + across] = _block(left, right, width)
    return places


def _block(a: Tensor, b: Tensor, width: int) -> Tensor:
    """The samples of one block of the output, with groups of ``width`` terms."""
    terms = a.shape[2]
    if width >= terms:
        return draw(a.unsqueeze(3) + b.unsqueeze(1), 2)
    starts = range(0, terms, width)
    groups = [log.matmul(a[:, :, k : k + width], b[:, k : k + width]) for k in starts]
    start = draw(torch.stack(groups, 3), 3) * width
    # (B, I, width, J): the last group may end early.
    index = start.unsqueeze(2) + torch.arange(width, device=a.device).view(-1, 1)
    beyond = index >= terms
    index = index.clamp_(max=terms - 1)
    left = a.gather(2, index.flatten(2)).view(index.shape)
    right = b.gather(1, index.flatten(1, 2)).view(index.shape)
    return start + draw((left + right).masked_fill_(beyond, -math.inf), 2)
