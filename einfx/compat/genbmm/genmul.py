"""Batches of matrix products over log, max-plus, max-times, and log with gradients that are samples."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...algebra import Semiring
from ...kernels import log, tropical, tropical_loop
from ...kernels.batching import apply, paired
from ...machine import accumulation_dtype
from .sampling import sample_terms

__all__ = ["logbmm", "maxbmm", "prodmaxbmm", "samplebmm"]


def logbmm(a: Tensor, b: Tensor) -> Tensor:
    """``log(sum over k of exp(a_ik + b_kj))``, twice differentiable.

    The gradient weighs the terms by their posteriors: it's the marginals of what ``a`` and ``b`` score. As
    with torch.logsumexp it's nan where all terms are -inf.

    Args:
        a: (B, I, K), floating.
        b: (B, K, J), floating.

    Returns:
        (B, I, J).

    Raises:
        OperandError: shapes or dtypes that don't fit.

    Example:
        >>> a = torch.tensor([[[0.5, 0.5]]]).log().requires_grad_()
        >>> b = torch.tensor([[[0.2], [0.6]]]).log()
        >>> out = logbmm(a, b)
        >>> out.exp()
        tensor([[[0.4000]]], grad_fn=...)
        >>> torch.autograd.grad(out.sum(), a)
        (tensor([[[0.2500, 0.7500]]]),)
    """
    return log.matmul(_apart(a), _apart(b))


def maxbmm(a: Tensor, b: Tensor) -> Tensor:
    """``max over k of a_ik + b_kj``; the gradient is 1 at the first largest term.

    Args:
        a: (B, I, K).
        b: (B, K, J).

    Returns:
        The maxima (B, I, J), without the indices; -inf where K is 0.

    Raises:
        OperandError: shapes or dtypes that don't fit.

    Example:
        >>> a = torch.tensor([[[1.0, 5.0]]], requires_grad=True)
        >>> out = maxbmm(a, torch.tensor([[[7.0], [4.0]]]))
        >>> out
        tensor([[[9.]]], grad_fn=...)
        >>> torch.autograd.grad(out.sum(), a)
        (tensor([[[0., 1.]]]),)
    """
    values: Tensor = tropical.matmul(_apart(a), _apart(b), "max_plus")
    return values


_PRODUCTS = Semiring(
    "largest product", torch.maximum, torch.mul, zero=-math.inf, one=1, dtypes=("floating",), selective=True
)
"""Of numbers of both signs: these aren't a semiring, but a single matrix product needs none of its laws."""


def prodmaxbmm(a: Tensor, b: Tensor) -> Tensor:
    """``max over k of a_ik * b_kj``, of numbers of any sign.

    The gradient goes to the first largest product.

    Args:
        a: (B, I, K), floating.
        b: (B, K, J), floating.

    Returns:
        (B, I, J); -inf where K is 0.

    Raises:
        OperandError: shapes or dtypes that don't fit.

    Example:
        >>> a = torch.tensor([[[-1.0, 5.0]]], requires_grad=True)
        >>> out = prodmaxbmm(a, torch.tensor([[[-7.0], [-4.0]]]))
        >>> out
        tensor([[[7.]]], grad_fn=...)
        >>> torch.autograd.grad(out.sum(), a)
        (tensor([[[-7., 0.]]]),)
    """
    a, b = paired("max_times", _apart(a), _apart(b))
    _PRODUCTS.check(a, b)
    if a.shape[2] == 0:
        return a.new_full((a.shape[0], a.shape[1], b.shape[2]), -math.inf)
    if not bool((a < 0).any() | (b < 0).any()):
        values: Tensor = tropical.matmul(a, b, "max_times")
        return values
    dtype = a.dtype
    a, b = a.to(accumulation_dtype(dtype)), b.to(accumulation_dtype(dtype))
    _, places = tropical_loop.matmul(_PRODUCTS, a.detach(), b.detach(), argmax=True)
    assert places is not None
    return (a.gather(2, places) * b.gather(1, places)).to(dtype)


def samplebmm(a: Tensor, b: Tensor) -> Tensor:
    """``log(sum over k of exp(a_ik + b_kj))``, whose gradient is a sample instead of the posteriors.

    For every output one term is drawn, with probability proportional to ``exp(a_ik + b_kj)``, and the whole
    gradient goes to it. Through a chain of products that is exact sampling of a path: forward filtering,
    backward sampling. It is drawn in the forward pass, from torch's global generator, so that a second
    backward pass finds the same sample.

    Args:
        a: (B, I, K), floating.
        b: (B, K, J), floating.

    Returns:
        (B, I, J). Where it is -inf there's no term to draw, and the gradient is 0; where it's nan, nan.

    Raises:
        OperandError: shapes or dtypes that don't fit.

    Example:
        >>> a = torch.tensor([[[0.25, 0.75]]]).log().expand(1, 1000, 2).requires_grad_()
        >>> out = samplebmm(a, torch.zeros(1, 2, 1))
        >>> (sample,) = torch.autograd.grad(out.sum(), a)
        >>> sample.sum(2).unique()
        tensor([1.])
        >>> 200 < int(sample[0, :, 0].sum()) < 300
        True
    """
    a, b = paired("log", a, b)
    dtype = a.dtype
    a, b = a.to(accumulation_dtype(dtype)), b.to(accumulation_dtype(dtype))
    if a.shape[2] == 0:
        return log.matmul(a, b).to(dtype)
    logs: Tensor = apply(_Sample, a, b)[0]
    return logs.to(dtype)


def _apart(x: Tensor) -> Tensor:
    """A copy of what is part of a larger tensor.

    Programs that fill a chart in place multiply parts of it and then write others. Autograd, which knows only
    that the chart has changed, would refuse to go back through these products.
    """
    return x.clone() if x.requires_grad and x._base is not None and x._base.numel() > x.numel() else x


class _Sample(torch.autograd.Function):
    """Logarithms of sums, and the index of a term of each."""

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return log.matmul(a, b), sample_terms(a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)
        ctx.terms = inputs[0].shape[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Any:
        logs, places = ctx.saved_tensors
        grad = grad.masked_fill(logs == -math.inf, 0).masked_fill(logs.isnan(), math.nan)
        batch, rows, columns = places.shape
        of_a = of_b = None
        if ctx.needs_input_grad[0]:
            of_a = grad.new_zeros((batch, rows, ctx.terms)).scatter_add(2, places, grad)
        if ctx.needs_input_grad[1]:
            of_b = grad.new_zeros((batch, ctx.terms, columns)).scatter_add(1, places, grad)
        return of_a, of_b
