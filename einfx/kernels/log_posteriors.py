"""Derivatives of log-semiring products, of plain tensors: sums weighted by the shares of the terms.

With ``out_ij = log(sum over k of exp(a_ik + b_kj))``, the share of a term is
``P_ijk = exp(a_ik + b_kj - out_ij)``, the posterior of an HMM. There are three factors, ``f0_ik``,
``f1_kj`` and ``f2_ij``, one for each pair of labels, and derivatives of any order are products of P and two
of them, summed over the label that both have: over j (the result is like ``a``), over i (like ``b``) or over
k (like ``out``). With s the shifted sums, that is a product of matrices, such as
``exp(a - max a) * ((f2 / s) @ (exp(b - max b) * f1)^T)``.

An operand in linear space is a factor rather than a part of P: the derivative with respect to a weight
``w_kj`` is ``exp(a_ik - out_ij)``, whatever the weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .log_operands import Operands, divided
from .log_options import LogOptions, blocks, cuts, sizes_of
from .log_precision import as_given
from .log_sums import Kept, block_sums, is_small
from .log_terms import shares_of_terms, weighed
from .log_unsafe import add_unsafe

__all__ = ["Factors", "add_empty", "posterior_sums"]

Factors = Sequence[Tensor | None]
"""f0 (B, I, K), f1 (B, K, J) and f2 (B, I, J). None stands for ones, or for an operand in linear space."""

ELEMENTS = (4, 4, 4)
"""How many numbers a block holds for an element of the first operand, of the second and of the output."""


@as_given
def posterior_sums(
    a: Tensor,
    b: Tensor,
    logs: Tensor,
    kept: Kept | None,
    factors: Factors,
    targets: Sequence[int],
    options: LogOptions,
) -> list[Tensor]:
    """Sum shares of terms, weighted by two factors.

    Args:
        a: (B, I, K), float32 or float64, K at least 1.
        b: (B, K, J), of the same dtype.
        logs: (B, I, J), as :func:`.log_sums.log_sums` gives them for these.
        kept: what it kept.
        factors: of the same dtype; that of a target isn't used for it.
        targets: which of the factors a result is like, for each.
        options: as they were for ``logs``.

    Returns:
        For each target of 0, 1 or 2: (B, I, K), (B, K, J) or (B, I, J).
    """
    share = options.share_of_empty(a.shape[2])
    if is_small(a, b, options.budget_bytes):
        return _all_at_once(a, b, logs, factors, targets, options, share)
    if kept is not None:
        results, lost = _by_product(a, b, logs, kept, factors, targets, options)
        if lost:
            add_empty(results, logs, factors, targets, share)
        return results
    results = [torch.zeros_like((a, b, logs)[x], memory_format=torch.contiguous_format) for x in targets]
    sizes = sizes_of(a, b)
    weights = ELEMENTS[0] * a.itemsize, ELEMENTS[1] * a.itemsize, ELEMENTS[2] * a.itemsize
    lengths = cuts(sizes, weights, options.budget_bytes // 2)
    for n, i, k, j in blocks(sizes, lengths):
        places = (n, i, k), (n, k, j), (n, i, j)
        left, right, total = a[places[0]], b[places[1]], logs[places[2]]
        own = [None if x is None else x[place] for x, place in zip(factors, places, strict=True)]
        if lengths[2] == sizes[2]:
            again = _kept(left, right, total, options)
            parts, lost = _by_product(left, right, total, again, own, targets, options)
        else:
            parts, lost = _part_of_depth(left, right, total, own, targets, options)
        if lost:
            add_empty(parts, total, own, targets, share)
        for result, target, part in zip(results, targets, parts, strict=True):
            result[places[target]] += part
    return results


def _kept(a: Tensor, b: Tensor, logs: Tensor, options: LogOptions) -> Kept:
    """What the forward pass would have kept."""
    operands = Operands.of(a, b, options, keep=True)
    sums = operands.sums()
    if operands.special:
        sums.masked_fill_(~logs.isfinite(), 0)
    return Kept(sums, *operands.kept())


def _part_of_depth(
    a: Tensor, b: Tensor, total: Tensor, factors: Factors, targets: Sequence[int], options: LogOptions
) -> tuple[list[Tensor], int]:
    """The terms of one range of the summed dimension, whose own sum is a part of the total."""
    logs, kept = block_sums(a, b, options, keep=True)
    assert kept is not None
    # The derivative of the total by this part.
    slope = torch.where(logs == total, 1, (logs - total).exp_()).masked_fill_(total == -math.inf, 0)
    f2 = factors[2]
    own = (factors[0], factors[1], slope if f2 is None else slope * f2)
    results, lost = _by_product(a, b, logs, kept, own, targets, options)
    return [x.mul_(slope) if target == 2 else x for x, target in zip(results, targets, strict=True)], lost


def _by_product(
    a: Tensor,
    b: Tensor,
    logs: Tensor,
    kept: Kept,
    factors: Factors,
    targets: Sequence[int],
    options: LogOptions,
) -> tuple[list[Tensor], int]:
    """The sums for terms ``left_ik right_kj / sums_ij``, and those that aren't safe; how many aren't."""
    linear = options.is_linear(0), options.is_linear(1)
    # In linear space, 0 / 1 stands for 0 / 0.
    tops = [x.masked_fill(x == 0, 1) if own else x for x, own in zip(kept[3:], linear, strict=True)]
    weights = kept.left, kept.right
    left, right = (
        weight if factor is None else factor / top if own else weight * factor
        for weight, factor, top, own in zip(weights, factors, tops, linear, strict=False)
    )
    results, lost = [], 0
    quotient = None if list(targets) == [2] else divided(factors[2], kept.sums)
    for target in targets:
        if target == 2:
            result, lost = divided(torch.bmm(left, right), kept.sums, in_place=True)
        else:
            assert quotient is not None
            shares, lost = quotient
            pair = (shares, right.mT) if target == 0 else (left.mT, shares)
            result = torch.bmm(*pair)
            result = result.div_(tops[target]) if linear[target] else result.mul_(weights[target])
        results.append(result)
    if lost:
        add_unsafe(results, a, b, logs, kept.sums, lost, factors, targets, options)
    return results, lost


def _all_at_once(
    a: Tensor,
    b: Tensor,
    logs: Tensor,
    factors: Factors,
    targets: Sequence[int],
    options: LogOptions,
    empty_share: float,
) -> list[Tensor]:
    """The sums by a tensor of all shares, (B, I, K, J)."""
    views = a[..., None], b[:, None], logs[:, :, None]
    empty = views[2] == -math.inf
    shares = shares_of_terms(*views, 2, options)
    results = []
    for target in targets:
        own = shares
        for position, missing in enumerate((3, 1, 2)):
            factor, linear = factors[position], options.is_linear(position)
            if position == target:
                continue
            if factor is not None:
                own = weighed(own, factor.unsqueeze(missing), linear)
            elif linear:
                own = weighed(own, views[position], linear)
        results.append(own.masked_fill(empty, 0).sum((3, 1, 2)[target]))
    add_empty(results, logs, factors, targets, empty_share)
    return results


def add_empty(
    results: list[Tensor], logs: Tensor, factors: Factors, targets: Sequence[int], share: float
) -> None:
    """Add the terms of sums that are -inf, each with the same share, in place."""
    if share == 0 or not (empty := logs == -math.inf).any():
        return
    f0, f1, f2 = factors
    for result, target in zip(results, targets, strict=True):
        if math.isnan(share):
            # nan reaches just what such a sum has a part in, and nothing where nothing depends on it.
            counted = empty if f2 is None or target == 2 else empty & (f2 != 0)
            result.masked_fill_(counted if target == 2 else counted.any(2 - target, keepdim=True), math.nan)
            continue
        shares = torch.where(empty, share if f2 is None or target == 2 else f2 * share, 0).to(logs.dtype)
        if target == 0:
            result += shares.sum(2, keepdim=True) if f1 is None else torch.bmm(shares, f1.mT)
        elif target == 1:
            result += shares.sum(1, keepdim=True) if f0 is None else torch.bmm(f0.mT, shares)
        elif f0 is not None:
            result += shares * (f0.sum(2, keepdim=True) if f1 is None else torch.bmm(f0, f1))
        else:
            assert f1 is not None, "a change of the sum comes from that of an operand"
            result += shares * f1.sum(1, keepdim=True)
