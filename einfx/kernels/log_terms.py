"""Sums over the log semiring term by term: exact, and slow unless there are few terms.

Operands that are given in linear space become logarithms here. Negative weights have the logarithms of their
absolute values and a sign.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .log_options import LogOptions

__all__ = ["has_sign", "logarithms", "shares_of_terms", "sums_of_terms", "terms", "weighed"]


def logarithms(x: Tensor, linear: bool) -> Tensor:
    """An operand as logarithms; those of finite negative weights are of their absolute values.

    Args:
        x: of any shape.
        linear: whether it is given in linear space.
    """
    if not linear:
        return x
    return torch.where((x < 0) & x.isfinite(), -x, x).log() if has_sign(x, linear) else x.log()


def has_sign(x: Tensor, linear: bool) -> bool:
    """Whether there are negative weights."""
    return linear and x.numel() > 0 and not float(x.amin()) >= 0


def terms(a: Tensor, b: Tensor, options: LogOptions) -> Tensor:
    """Products over the log semiring: a + b, and -inf wherever one of them is, if zero annihilates."""
    a, b = (logarithms(x, options.is_linear(position)) for position, x in enumerate((a, b)))
    total = a + b
    if options.zero_annihilates:
        total.masked_fill_((a == -math.inf) | (b == -math.inf), -math.inf)
    return total


def _signs(a: Tensor, b: Tensor, options: LogOptions) -> Tensor | None:
    signs = [x.sign() for position, x in enumerate((a, b)) if has_sign(x, options.is_linear(position))]
    return None if not signs else signs[0] if len(signs) == 1 else signs[0] * signs[1]


def _finite(x: Tensor) -> Tensor:
    """A shift: 0 where subtracting it would make nan."""
    return torch.where(x.isfinite(), x, 0)


def sums_of_terms(a: Tensor, b: Tensor, dim: int, options: LogOptions) -> Tensor:
    """Logarithms of sums of products.

    Args:
        a: one operand.
        b: the other one; they broadcast.
        dim: the dimension to sum along, which goes.
        options: what they mean.
    """
    each = terms(a, b, options)
    signs = _signs(a, b, options)
    if signs is None:
        return torch.logsumexp(each, dim)
    top = _finite(each.amax(dim, keepdim=True))
    # An infinite term has no sign left: +inf unless it was nan already.
    weights = (each - top).exp_() * torch.where(each == math.inf, 1, signs)
    return weights.sum(dim).log().add_(top.squeeze(dim))


def shares_of_terms(a: Tensor, b: Tensor, logs: Tensor, dim: int, options: LogOptions) -> Tensor:
    """Derivatives of ``logs`` with respect to terms, or with respect to weights in linear space.

    Args:
        a: one operand.
        b: the other one; they broadcast.
        logs: their sums, with size 1 in ``dim``.
        dim: the dimension that was summed.
        options: what they mean.

    Returns:
        ``exp(a + b - logs)`` for logarithms a and b; without b where b is linear, and likewise without a.
    """
    each = terms(a, b, options)
    if not options.linear:
        return torch.where(logs.isfinite(), torch.softmax(each, dim), (each - logs).exp())
    base = a if options.linear == 2 else b if options.linear == 1 else each.new_zeros(each.shape)
    top = _finite(each.amax(dim, keepdim=True))
    weights = (each - top).exp_()
    if (signs := _signs(a, b, options)) is not None:
        weights = weights * signs
    exact = (base - top).exp_() / weights.sum(dim, keepdim=True)
    return torch.where(logs.isfinite(), exact, (base - logs).exp())


def weighed(shares: Tensor, factor: Tensor | None, linear: bool) -> Tensor:
    """Shares times a factor; one of 0 in linear space wins over an infinite share."""
    if factor is None:
        return shares
    product = shares * factor
    return product.masked_fill_(factor == 0, 0) if linear else product
