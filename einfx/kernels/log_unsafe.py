"""The terms of sums that a single shift loses, in derivatives of log-semiring products."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from . import log_native
from .log_operands import cleaned
from .log_options import LogOptions
from .log_rescue import Entries, Rescued, Single, rescue, suits_native
from .log_scaling import Levels
from .log_terms import has_sign, shares_of_terms, weighed

__all__ = ["add_unsafe"]


def add_unsafe(
    results: Sequence[Tensor],
    a: Tensor,
    b: Tensor,
    logs: Tensor,
    sums: Tensor,
    count: int,
    factors: Sequence[Tensor | None],
    targets: Sequence[int],
    options: LogOptions,
) -> None:
    """Add the terms of sums that aren't safe, in place; those that are -inf have none.

    Args:
        results: for each target, contiguous.
        a: (B, I, K).
        b: (B, K, J).
        logs: (B, I, J).
        sums: (B, I, J), contiguous, 0 where they aren't safe.
        count: how many these are.
        factors: as for :func:`.log_posteriors.posterior_sums`.
        targets: likewise.
        options: likewise.
    """
    clean = cleaned(a, options.is_linear(0)), cleaned(b, options.is_linear(1))
    f0, f1, f2 = factors
    special = clean[0] is not a or clean[1] is not b
    if not special and f0 is f1 is None and f2 is not None and suits_native(a, b, count, options):
        _add_native(results, (a, b), (logs.contiguous(), sums, f2), targets)
        return
    lost = sums == 0
    unsafe = lost & (logs.isfinite() if special or options.linear else logs > -math.inf)
    # Sums of columns are added to in rows, and turned at the end.
    turned = {
        position: torch.zeros_like(result.mT, memory_format=torch.contiguous_format)
        for position, (result, target) in enumerate(zip(results, targets, strict=True))
        if target == 1
    }
    single = [turned.get(position, result) for position, result in enumerate(results)]
    for found in rescue(*clean, unsafe, options):
        if isinstance(found, Rescued):
            _add_levels(results, found, clean, factors, targets, options)
        else:
            _add_single(single, found, logs, factors, targets, options)
    if special or options.linear:
        odd = lost & ~logs.isfinite() & (logs != -math.inf)
        _add_single(single, Single(a, b, odd.nonzero().T), logs, factors, targets, options)
    for position, part in turned.items():
        results[position].add_(part.mT)


def _add_native(
    results: Sequence[Tensor],
    operands: tuple[Tensor, Tensor],
    of_sums: tuple[Tensor, Tensor, Tensor],
    targets: Sequence[int],
) -> None:
    """Add them by C code; logs, sums and f2 belong to the sums."""
    assert 2 not in targets, "a change of sums comes from one of an operand"
    for result, target in zip(results, targets, strict=True):
        if target == 1:
            log_native.single_gradient(*operands, *of_sums, result)
        else:
            # The same of the transposed product, whose first operand had better have its terms in a row.
            a, b = operands
            logs, sums, f2 = (x.mT for x in of_sums)
            log_native.single_gradient(b.mT.contiguous(), a.mT, logs, sums, f2, result.mT)


def _add_levels(
    results: Sequence[Tensor],
    found: Rescued,
    operands: tuple[Tensor, Tensor],
    factors: Sequence[Tensor | None],
    targets: Sequence[int],
    options: LogOptions,
) -> None:
    batches, rows, columns = found.batches, found.rows, found.columns
    dtype = found.levels.total.dtype
    places = (batches, rows), (batches, slice(None), columns), (batches, rows, columns)
    own: list[Tensor | None] = []
    for position, (factor, place) in enumerate(zip(factors, places, strict=True)):
        if factor is None and options.is_linear(position):
            factor = operands[position]
        own.append(None if factor is None else factor[place].to(dtype))
    # Shares of a pair can be as large as its smallest sum is small. Half of the exponents of the dtype are
    # taken off, so that products with a factor stay finite.
    scale = 2.0 ** (math.frexp(torch.finfo(dtype).max)[1] // 3)
    for left, right, shares in _parts(found.levels, scale, options):
        shares.mul_(found.found)
        for result, target in zip(results, targets, strict=True):
            part = _weighted(left, right, shares, own, target).mul_(scale)
            result[places[target]] += part.to(result.dtype)


def _parts(
    levels: Levels, scale: float, options: LogOptions
) -> Iterator[tuple[Tensor | None, Tensor | None, Tensor]]:
    """Exponentials of both operands, None in linear space, and what multiplies their product to be shares.

    That is divided by the scale.
    """
    if not options.linear:
        for p, q in levels.pairs:
            yield levels.left[p][0], levels.right[q][0], levels.weights(p, q).div_(scale)
        return
    logs = levels.log_sums().add_(math.log(scale))
    # Larger shares are infinite when the scale is back, but 0 times them has to be 0.
    most = math.log(torch.finfo(logs.dtype).max) - 20
    for p, left in enumerate([None] if options.is_linear(0) else levels.left):
        for q, right in enumerate([None] if options.is_linear(1) else levels.right):
            if left is not None and right is not None and (p, q) not in levels.pairs:
                continue
            distance = -logs
            for level in (left, right):
                if level is not None:
                    distance += level[1]
            yield left and left[0], right and right[0], distance.clamp_(max=most).exp_()


def _times(x: Tensor | None, factor: Tensor | None) -> Tensor:
    if x is None or factor is None:
        kept = x if factor is None else factor
        assert kept is not None, "an operand in linear space is a factor"
        return kept
    return x * factor


def _weighted(
    left: Tensor | None, right: Tensor | None, shares: Tensor, factors: Sequence[Tensor | None], target: int
) -> Tensor:
    """The sum for terms ``left_ik right_kj shares_ij``."""
    f0, f1, f2 = factors
    if target == 0:
        result = torch.bmm(_times(shares, f2), _times(right, f1).mT)
        return result if left is None else result.mul_(left)
    if target == 1:
        result = torch.bmm(_times(left, f0).mT, _times(shares, f2))
        return result if right is None else result.mul_(right)
    return torch.bmm(_times(left, f0), _times(right, f1)).mul_(shares)


def _add_single(
    results: Sequence[Tensor],
    single: Single,
    logs: Tensor,
    factors: Sequence[Tensor | None],
    targets: Sequence[int],
    options: LogOptions,
) -> None:
    """Add sums that are taken term by term; results for a target of 1 are transposed: (B, J, K)."""
    signed = has_sign(single.a, options.is_linear(0)) or has_sign(single.b, options.is_linear(1))
    for entries, left, right in single.gathered():
        known = logs[entries][:, None]
        if options.linear or signed or not bool(known.isfinite().all()):
            shares = shares_of_terms(left, right, known, 1, options)
        else:
            shares = torch.softmax(left + right, 1)
        for result, target in zip(results, targets, strict=True):
            _scatter(result, entries, (left, right), shares, factors, target, options)


def _scatter(
    result: Tensor,
    entries: Entries,
    operands: tuple[Tensor, Tensor],
    shares: Tensor,
    factors: Sequence[Tensor | None],
    target: int,
    options: LogOptions,
) -> None:
    """Add single sums to a result: their shares (M, K), weighted by the factors at their places."""
    n, i, j = entries
    f0, f1, f2 = factors
    linear = options.is_linear(0), options.is_linear(1)
    if target != 0 and (f0 is not None or linear[0]):
        shares = weighed(shares, operands[0] if f0 is None else f0[n, i], linear[0])
    if target != 1 and (f1 is not None or linear[1]):
        shares = weighed(shares, operands[1] if f1 is None else f1.mT[n, j], linear[1])
    if target == 2:
        result[entries] = shares.sum(1)
        return
    if f2 is not None:
        shares = shares * f2[entries][:, None]
    rows = n * result.shape[1] + (i if target == 0 else j)
    result.view(-1, result.shape[2]).scatter_add_(0, rows[:, None].expand(shares.shape), shares)
