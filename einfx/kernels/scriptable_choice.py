"""Products over semirings whose addition selects, and over bool, for TorchScript: torch functions alone.

``torch.jit.script`` compiles these with a program, so they run in a process that has only torch. The place of
what a sum selects is looked for without gradients, in pieces of limited size; the result is then taken from
there, so that the gradient goes to the first of equal terms.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["any_product", "choice_product", "choice_sum"]


def _zero(semiring: str, like: Tensor) -> Tensor:
    """The identity of the addition, without dimensions; the extreme integers stand for infinities."""
    value = 0
    if like.is_floating_point() and semiring != "max_times":
        infinity = float("inf") if semiring == "min_plus" else -float("inf")
        return torch.full([], infinity, dtype=like.dtype, device=like.device)
    if semiring != "max_times" and like.dtype != torch.bool:
        bits = 8 * like.element_size() - 1
        highest = (1 << (bits - 1)) - 1 + (1 << (bits - 1))
        lowest = -highest - 1
        if like.dtype == torch.uint8:
            highest, lowest = 255, 0
        value = highest if semiring == "min_plus" else lowest
    return torch.full([], value, dtype=like.dtype, device=like.device)


def _times(semiring: str, x: Tensor, y: Tensor, zero_annihilates: bool) -> Tensor:
    """The product of two tensors that broadcast."""
    if semiring == "max_min":
        product = torch.where((x <= y) | x.isnan(), x, y)
    elif semiring == "max_times":
        product = torch.logical_and(x, y) if x.dtype == torch.bool else x * y
    else:
        product = x + y
        if not x.is_floating_point():
            infinity = _zero(semiring, product)
            product = torch.where((x == infinity) | (y == infinity), infinity, product)
    if zero_annihilates:
        zero = _zero(semiring, product)
        product = torch.where((x == zero) | (y == zero), zero, product)
    return product


def _best(semiring: str, terms: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """What is selected along a dimension, and the index of the first such term."""
    if terms.dtype == torch.bool:
        values, places = torch.max(terms.to(torch.uint8), dim)
        return values.to(torch.bool), places
    if semiring == "min_plus":
        values, places = torch.min(terms, dim)
        return values, places
    values, places = torch.max(terms, dim)
    return values, places


def _is_better(semiring: str, x: Tensor, y: Tensor) -> Tensor:
    """Whether ``x`` takes the place of ``y``, which came first; nan takes that of numbers."""
    better = x < y if semiring == "min_plus" else x > y
    return better | (x.isnan() & torch.logical_not(y.isnan()))


def _places(a: Tensor, b: Tensor, semiring: str, zero_annihilates: bool) -> Tensor:
    """Which k each element of the product selects, found in pieces of about 2 million terms."""
    count = a.shape[2]
    elements = a.shape[0] * a.shape[1] * b.shape[2]
    step = max(1, min(count, (1 << 21) // max(1, elements)))
    best = torch.zeros([0], dtype=a.dtype, device=a.device)
    place = torch.zeros([0], dtype=torch.int64, device=a.device)
    for start in range(0, count, step):
        length = min(step, count - start)
        left = a.narrow(2, start, length).unsqueeze(3)
        right = b.narrow(1, start, length).unsqueeze(1)
        found, index = _best(semiring, _times(semiring, left, right, zero_annihilates), 2)
        if start == 0:
            best, place = found, index
        else:
            better = _is_better(semiring, found, best)
            best = torch.where(better, found, best)
            place = torch.where(better, index + start, place)
    return place


def choice_product(
    a: Tensor,  # shape: (batch, i, k)
    b: Tensor,  # shape: (batch, k, j)
    semiring: str,
    zero_annihilates: bool,
) -> Tensor:  # shape: (batch, i, j)
    """A batch of matrix products over max_plus, min_plus, max_times or max_min.

    Example:
        >>> x = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
        >>> choice_product(x, x, "max_plus", False)
        tensor([[[3., 4.],
                 [5., 6.]]])
    """
    shape = [a.shape[0], a.shape[1], b.shape[2]]
    if a.shape[2] == 0:
        return _zero(semiring, a).expand(shape).contiguous()
    place = _places(a.detach(), b.detach(), semiring, zero_annihilates)
    left = a.gather(2, place)
    right = b.gather(1, place)
    return _times(semiring, left, right, zero_annihilates)


def choice_sum(x: Tensor, semiring: str) -> Tensor:
    """The sum of the rows of a matrix over max_plus, min_plus, max_times or max_min.

    Example:
        >>> choice_sum(torch.tensor([[1.0, 3.0], [2.0, 0.0]]), "max_plus")
        tensor([3., 2.])
    """
    if x.shape[1] == 0:
        return _zero(semiring, x).expand([x.shape[0]]).contiguous()
    _, place = _best(semiring, x.detach(), 1)
    return x.gather(1, place.unsqueeze(1)).squeeze(1)


def any_product(a: Tensor, b: Tensor) -> Tensor:
    """A batch of matrix products of bool, (batch, i, k) by (batch, k, j).

    Example:
        >>> x = torch.tensor([[[True, False], [True, True]]])
        >>> any_product(x, x)
        tensor([[[ True, False],
                 [ True,  True]]])
    """
    return torch.bmm(a.to(torch.float32), b.to(torch.float32)) > 0
