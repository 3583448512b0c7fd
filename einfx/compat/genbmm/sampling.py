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

DIRECT = 24
"""Up to so many terms are all drawn from at once."""

BUDGET_BYTES = 64 << 20
"""What temporaries may take."""


def draw(logs: Tensor) -> Tensor:
    """Draw an index into the first dimension with probability proportional to the exponential.

    Uses torch's global generator of the device. Weights are added in float64, and a term of weight 0 is never
    drawn while there are others.

    Args:
        logs: (N, ...), floating. Used up: its memory is written to.

    Returns:
        int64 indices (...). Among the infinite ones if there are any; any index where all are -inf or one is
        nan.

    Example:
        >>> draw(torch.tensor([[-1e9, 0.0], [0.0, -1e9], [-1e9, -1e9]]))
        tensor([1, 0])
    """
    # The difference of two infinities is nan, and these are the terms to draw from.
    weights = logs.sub_(logs.amax(0)).exp_().nan_to_num_(nan=1.0)
    sums = torch.zeros_like(weights[0], dtype=torch.float64)
    for weight in weights:
        sums += weight
    place = torch.rand(sums.shape, dtype=torch.float64, device=logs.device) * sums
    # The product may round up to the total.
    place = torch.minimum(place, torch.nextafter(sums, torch.zeros_like(sums)))
    index = torch.zeros_like(sums, dtype=torch.int64)
    sums.zero_()
    for weight in weights:
        sums += weight
        index += sums <= place
    return index


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
    numbers = max(width, -(-terms // width))
    at_once = max(1, BUDGET_BYTES // (2 * numbers * a.element_size() + OTHER_BYTES))
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


OTHER_BYTES = 64
"""For an output, beside its terms: sums, a random number, indices, elements that are gathered."""


def _block(a: Tensor, b: Tensor, width: int) -> Tensor:
    """The samples of one block of the output, with groups of ``width`` terms."""
    terms = a.shape[2]
    if width >= terms:
        return draw(torch.stack([a[:, :, k : k + 1] + b[:, k : k + 1] for k in range(terms)]))
    starts = range(0, terms, width)
    groups = [log.matmul(a[:, :, k : k + width], b[:, k : k + width]) for k in starts]
    start = draw(torch.stack(groups)).mul_(width)
    chosen = []
    for k in range(width):
        # The last group may end early.
        place = (start + k).clamp_(max=terms - 1)
        term = a.gather(2, place).add_(b.gather(1, place))
        chosen.append(term.masked_fill_(start + k >= terms, -math.inf))
    return draw(torch.stack(chosen)).add_(start)
