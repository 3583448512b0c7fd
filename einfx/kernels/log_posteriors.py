"""Derivatives of log-semiring products, of plain tensors: sums weighted by the shares of the terms.

With ``out_ij = log(sum over k of exp(a_ik + b_kj))``, the share of a term is
``P_ijk = exp(a_ik + b_kj - out_ij)``, the posterior of an HMM. There are three factors, ``f0_ik``,
``f1_kj`` and ``f2_ij``, one for each pair of labels, and derivatives of any order are products of P and two
of them, summed over the label that both have: over j (the result is like ``a``), over i (like ``b``) or over
k (like ``out``). With s the shifted sums, that is a product of matrices, such as
``exp(a - max a) * ((f2 / s) @ (exp(b - max b) * f1)^T)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .log_rescue import Rescued, gathered_terms, rescue
from .log_sums import Operands, is_small, terms

__all__ = ["Factors", "posterior_sums"]

Factors = Sequence[Tensor | None]
"""f0 (B, I, K), f1 (B, K, J) and f2 (B, I, J); None stands for ones."""


def posterior_sums(
    a: Tensor,
    b: Tensor,
    logs: Tensor,
    sums: Tensor,
    factors: Factors,
    target: int,
    zero_annihilates: bool,
    grad_of_neg_inf: float | str,
) -> Tensor:
    """Sum shares of terms, weighted by two factors.

    Args:
        a: (B, I, K), float32 or float64, K at least 1.
        b: (B, K, J), of the same dtype.
        logs: (B, I, J), as :func:`.log_sums.log_sums` gives them for these.
        sums: (B, I, J), likewise: relative sums, 0 where they aren't safe.
        factors: of the same dtype; that at ``target`` isn't used.
        target: which of the factors the result is like.
        zero_annihilates: as it was for ``logs``.
        grad_of_neg_inf: the share of every term of a sum that is -inf: a number, or ``"uniform"`` for 1/K.

    Returns:
        (B, I, K), (B, K, J) or (B, I, J), for a target of 0, 1 or 2.
    """
    empty_share = 1 / a.shape[2] if grad_of_neg_inf == "uniform" else float(grad_of_neg_inf)
    if is_small(a, b):
        return _all_at_once(a, b, logs, factors, target, zero_annihilates, empty_share)
    operands = Operands(a, b, exact_zeros=True)
    safe = float(sums.amin()) > 0
    shares = sums.reciprocal() if safe else torch.threshold(sums, 0, math.inf).reciprocal_()
    result = _weighted(*operands.exponentials, shares, factors, target)
    if not safe:
        _add_unsafe(result, operands, (a, b), logs, sums, factors, target, zero_annihilates)
        empty = logs == -math.inf
        if empty_share != 0 and empty.any():
            result = _with_empty(result, empty, (a.shape, b.shape), factors, target, empty_share)
    return result


def _times(x: Tensor, factor: Tensor | None) -> Tensor:
    return x if factor is None else x * factor


def _weighted(left: Tensor, right: Tensor, shares: Tensor, factors: Factors, target: int) -> Tensor:
    """The sum for terms ``left_ik right_kj shares_ij``."""
    f0, f1, f2 = factors
    if target == 0:
        return torch.bmm(_times(shares, f2), _times(right, f1).mT).mul_(left)
    if target == 1:
        return torch.bmm(_times(left, f0).mT, _times(shares, f2)).mul_(right)
    return torch.bmm(_times(left, f0), _times(right, f1)).mul_(shares)


def _all_at_once(
    a: Tensor,
    b: Tensor,
    logs: Tensor,
    factors: Factors,
    target: int,
    zero_annihilates: bool,
    empty_share: float,
) -> Tensor:
    """The sum by a tensor of all shares, (B, I, K, J)."""
    each = terms(a[..., None], b[:, None], zero_annihilates)
    kept = logs[:, :, None]
    shares = torch.where(kept.isfinite(), torch.softmax(each, 2), (each - kept).exp())
    shares = shares.masked_fill(kept == -math.inf, empty_share)
    views = [(factors[0], 3), (factors[1], 1), (factors[2], 2)]
    for position, (factor, missing) in enumerate(views):
        if position != target and factor is not None:
            shares = shares * factor.unsqueeze(missing)
    return shares.sum((3, 1, 2)[target])


def _with_empty(
    result: Tensor,
    empty: Tensor,
    shapes: tuple[torch.Size, torch.Size],
    factors: Factors,
    target: int,
    share: float,
) -> Tensor:
    """Add the terms of sums that are -inf, each with the same share; the shapes are those of a and b."""
    if math.isnan(share):
        # nan reaches just what such a sum has a part in.
        reached = empty if target == 2 else empty.any(2 - target, keepdim=True)
        return result.masked_fill(reached, math.nan)
    left, right = (result.new_ones(1).expand(shape) for shape in shapes)
    return result + _weighted(left, right, empty.to(result.dtype) * share, factors, target)


def _add_unsafe(
    result: Tensor,
    operands: Operands,
    given: tuple[Tensor, Tensor],
    logs: Tensor,
    sums: Tensor,
    factors: Factors,
    target: int,
    zero_annihilates: bool,
) -> None:
    """Add the terms of sums that aren't safe, in place; those that are -inf have none."""
    lost = sums == 0
    single = torch.zeros_like(result.mT, memory_format=torch.contiguous_format) if target == 1 else result
    for found in rescue(operands.a, operands.b, lost & logs.isfinite()):
        if isinstance(found, Rescued):
            result[found.batches] += _by_levels(found, factors, target).to(result.dtype)
            continue
        for place, left, right in gathered_terms(operands.a, operands.b, found):
            _scatter(single, place, torch.softmax(left.add_(right), 1), factors, target)
    odd = lost & ~logs.isfinite() & (logs != -math.inf)
    if odd.any():
        entries = torch.stack(odd.nonzero(as_tuple=True))
        for place, left, right in gathered_terms(*given, entries):
            shares = (terms(left, right, zero_annihilates) - logs[place][:, None]).exp_()
            _scatter(single, place, shares, factors, target)
    if target == 1:
        result += single.mT


def _by_levels(found: Rescued, factors: Factors, target: int) -> Tensor:
    levels = found.levels
    dtype = levels.total.dtype
    own = [None if factor is None else factor[found.batches].to(dtype) for factor in factors]
    # Shares of a pair can be as large as its smallest sum is small. Half of the exponents of the dtype are
    # taken off, so that products with a factor stay finite.
    scale = 2.0 ** (math.frexp(torch.finfo(dtype).max)[1] // 3)
    result: Tensor | None = None
    for p, q in levels.pairs:
        shares = levels.weights(p, q).mul_(found.found).div_(scale)
        part = _weighted(levels.left[p][0], levels.right[q][0], shares, own, target).mul_(scale)
        result = part if result is None else result.add_(part)
    assert result is not None
    return result


def _scatter(
    result: Tensor, place: tuple[Tensor, Tensor, Tensor], shares: Tensor, factors: Factors, target: int
) -> None:
    """Add single sums to the result: their shares (M, K), weighted by the factors at their places.

    The result is contiguous and, for a target of 1, transposed: (B, J, K).
    """
    n, i, j = place
    f0, f1, f2 = factors
    if target != 0 and f0 is not None:
        shares = shares * f0[n, i]
    if target != 1 and f1 is not None:
        shares = shares * f1.mT[n, j]
    if target == 2:
        result[place] = shares.sum(1)
        return
    if f2 is not None:
        shares = shares * f2[place][:, None]
    rows = n * result.shape[1] + (i if target == 0 else j)
    flat = result.view(-1, result.shape[2])
    flat.scatter_add_(0, rows[:, None].expand(shares.shape), shares)
