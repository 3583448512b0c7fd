"""Matrix products over the log semiring: ``out_ij = log(sum over k of exp(a_ik + b_kj))``.

Near the speed of a real matrix product, and as exact as logsumexp over all terms. Half and bfloat16 are
computed in float32. Differentiable any number of times in every mode of autograd: derivatives are sums
weighted by the posteriors of the terms, and so are theirs (:mod:`.log_autograd`, :mod:`.log_posteriors`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ..machine import accumulation_dtype
from ..semiring import get
from .batching import paired, sums_without_terms
from .log_autograd import differentiable_sums
from .log_options import LogOptions

__all__ = ["matmul"]


def matmul(
    a: Tensor,
    b: Tensor,
    *,
    zero_annihilates: bool = False,
    grad_of_neg_inf: float | str = math.nan,
    linear_operands: Sequence[int] = (),
    budget_bytes: int | None = None,
) -> Tensor:
    """A batch of matrix products over the log semiring.

    Works under autograd, ``torch.func`` and ``torch.compile``.

    Args:
        a: (B, I, K), floating.
        b: (B, K, J); dtypes promote as torch's do.
        zero_annihilates: whether -inf wins over +inf and nan; without it, -inf + inf is nan, and nan
            propagates.
        grad_of_neg_inf: what the derivative of a sum that is -inf is with respect to each of its K terms: a
            number, such as the nan that torch.logsumexp gives, or ``"uniform"`` for 1/K. In linear space,
            that is the derivative with respect to the weight.
        linear_operands: 0 for a and 1 for b, where they're given in linear space, as weights of at least 0:
            ``log(sum over k of exp(a_ik) * b_kj)`` for ``(1,)``. Derivatives with respect to weights of 0
            are right too. A negative weight that makes a sum negative gives nan, as its logarithm does.
        budget_bytes: what may be allocated beyond operands, result and gradients; 1 GiB by default. With less
            than a whole product takes, blocks are computed one by one, and again in the backward pass.

    Returns:
        (B, I, J); -inf where K is 0 or all terms are -inf, and +inf where one is.

    Raises:
        OperandError: shapes or dtypes that don't fit.
        UsageError: an option of another kind.

    Example:
        >>> import torch
        >>> a = torch.tensor([[[0.0, -200.0]]], requires_grad=True)
        >>> b = torch.tensor([[[-200.0], [0.0]]])
        >>> out = matmul(a, b)
        >>> out
        tensor([[[-199.3069]]], grad_fn=...)
        >>> torch.autograd.grad(out.sum(), a)
        (tensor([[[0.5000, 0.5000]]]),)
        >>> matmul(a, torch.tensor([[[0.25], [0.75]]]), linear_operands=(1,)).exp()
        tensor([[[0.2500]]], grad_fn=...)
    """
    a, b = paired("log", a, b)
    get("log").check(a, b)
    options = LogOptions.read(zero_annihilates, grad_of_neg_inf, linear_operands, budget_bytes)
    dtype = a.dtype
    if a.shape[2] == 0:
        return sums_without_terms(-math.inf, (a.shape[0], a.shape[1], b.shape[2]), dtype, a, b)
    own = accumulation_dtype(dtype)
    return differentiable_sums(a.to(own), b.to(own), options).to(dtype)
