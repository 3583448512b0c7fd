"""Products and sums over the log semiring for TorchScript: torch functions alone.

A product is one GEMM of exponentials, shifted by the largest number of each row and column. What underflows
there, and what isn't finite, is summed again term by term.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["log_product", "log_sum"]


def _finite(x: Tensor) -> Tensor:
    """``x``, with 0 where it isn't finite: shifts by infinities would make nan."""
    return torch.where(x.isfinite(), x, torch.zeros_like(x))


def _exponentials(x: Tensor, dim: int, linear: bool) -> tuple[Tensor, Tensor]:
    """Numbers of at most 1, and the logarithm (a constant for autograd) that they were divided by."""
    largest = (x.abs() if linear else x).detach().amax(dim, keepdim=True)
    if not linear:
        shift = _finite(largest)
        return torch.exp(x - shift), shift
    scale = torch.where((largest > 0) & largest.isfinite(), largest, torch.ones_like(largest))
    return x / scale, torch.log(scale)


def _may_spread(x: Tensor, linear: bool) -> bool:
    """Whether some element would make nan of more than its own terms."""
    if linear:
        return not bool(x.isfinite().all())
    return bool((x.isnan() | (x == float("inf"))).any())


def log_product(
    a: Tensor,  # shape: (batch, i, k)
    b: Tensor,  # shape: (batch, k, j)
    a_linear: bool,
    b_linear: bool,
    zero_annihilates: bool,
    grad_of_neg_inf: str,
) -> Tensor:  # shape: (batch, i, j)
    """A batch of matrix products over the log semiring; linear operands aren't logarithms.

    Example:
        >>> x = torch.tensor([[[0.0, -200.0]]])
        >>> log_product(x, -200 - x.mT, False, False, False, "nan")
        tensor([[[-199.3069]]])
    """
    count = a.shape[2]
    shape = [a.shape[0], a.shape[1], b.shape[2]]
    if count == 0:
        return torch.full(shape, -float("inf"), dtype=a.dtype, device=a.device)
    left, shift_of_left = _exponentials(a, 2, a_linear)
    right, shift_of_right = _exponentials(b, 1, b_linear)
    sums = torch.bmm(left, right)
    smallest = 1e-290 if a.dtype == torch.float64 else 1e-30
    safe = sums.isfinite() & (sums.abs() > count * smallest)
    if _may_spread(a, a_linear) or _may_spread(b, b_linear):
        safe = torch.zeros_like(safe)
        left, right = torch.zeros_like(left), torch.zeros_like(right)
        sums = torch.zeros_like(sums)
    logs = torch.log(torch.where(safe, sums, torch.ones_like(sums))) + shift_of_left + shift_of_right
    if bool(safe.all()):
        return logs
    places = torch.logical_not(safe).nonzero()
    found: list[Tensor] = []
    step = max(1, (1 << 20) // count)
    columns = b.transpose(1, 2)
    for start in range(0, places.shape[0], step):
        place = places.narrow(0, start, min(step, places.shape[0] - start))
        rows_of_a = a[place[:, 0], place[:, 1]]
        columns_of_b = columns[place[:, 0], place[:, 2]]
        found.append(
            _term_by_term(rows_of_a, columns_of_b, a_linear, b_linear, zero_annihilates, grad_of_neg_inf)
        )
    return logs.index_put((places[:, 0], places[:, 1], places[:, 2]), torch.cat(found))


def _term_by_term(
    a: Tensor, b: Tensor, a_linear: bool, b_linear: bool, zero_annihilates: bool, grad_of_neg_inf: str
) -> Tensor:
    """The log sums of products of rows, (rows, k) and (rows, k)."""
    if a_linear and b_linear:
        product = a * b
        if zero_annihilates:
            product = torch.where((a == 0) | (b == 0), torch.zeros_like(product), product)
        return torch.log(product.sum(1))
    if not a_linear and not b_linear:
        total = a + b
        if zero_annihilates:
            gone = (a == -float("inf")) | (b == -float("inf"))
            total = torch.where(gone, torch.full_like(total, -float("inf")), total)
        return log_sum(total, grad_of_neg_inf)
    logs, weights = (b, a) if a_linear else (a, b)
    if zero_annihilates:
        gone = (logs == -float("inf")) | (weights == 0)
        logs = torch.where(gone, torch.full_like(logs, -float("inf")), logs)
        weights = torch.where(gone, torch.zeros_like(weights), weights)
    return _weighted(logs, weights, grad_of_neg_inf)


def _weighted(logs: Tensor, weights: Tensor, grad_of_neg_inf: str) -> Tensor:
    """``log(sum(exp(logs) * weights))`` of rows."""
    absent = weights == 0
    counted = torch.where(absent, torch.full_like(logs, -float("inf")), logs)
    shift = _finite(counted.detach().amax(1, keepdim=True))
    # Terms of weight 0 may be far larger than all that count; what they'd be stays finite.
    power = torch.where(absent & logs.isfinite(), (logs - shift).clamp(max=80.0), logs - shift)
    total = (torch.exp(power) * weights).sum(1)
    return _with_gradient_of_empty(total, shift.squeeze(1), counted, grad_of_neg_inf)


def log_sum(x: Tensor, grad_of_neg_inf: str) -> Tensor:
    """The log sums of the rows of a matrix.

    Args:
        x: (rows, k), floating.
        grad_of_neg_inf: the derivative of a sum that is -inf with respect to each of its terms, as text:
            "nan", a number of at least 0, or "uniform" for 1/k.

    Example:
        >>> log_sum(torch.tensor([[0.0, 0.0], [-1000.0, -1000.0]]), "nan")
        tensor([ 6.9315e-01, -9.9931e+02])
    """
    if x.shape[1] == 0:
        return torch.full([x.shape[0]], -float("inf"), dtype=x.dtype, device=x.device)
    shift = _finite(x.detach().amax(1, keepdim=True))
    total = torch.exp(x - shift).sum(1)
    return _with_gradient_of_empty(total, shift.squeeze(1), x, grad_of_neg_inf)


def _with_gradient_of_empty(total: Tensor, shift: Tensor, terms: Tensor, grad_of_neg_inf: str) -> Tensor:
    """``log(total) + shift``; where the total is 0, terms of -inf get the gradient that is asked for.

    A sum of numbers that are -inf, times a positive number, is -inf and has that number as its derivative.
    """
    if grad_of_neg_inf == "nan":
        return torch.log(total) + shift
    empty = total == 0
    logs = torch.log(torch.where(empty, torch.ones_like(total), total)) + shift
    number = 1.0 / terms.shape[1] if grad_of_neg_inf == "uniform" else float(grad_of_neg_inf)
    nothing = torch.full_like(total, -float("inf"))
    if number > 0:
        kept = torch.where(empty.unsqueeze(1), terms, torch.zeros_like(terms))
        nothing = (kept * number).sum(1)
    return torch.where(empty, nothing, logs)
