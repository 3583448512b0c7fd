"""The product of what sums have selected: its gradient goes to one element, where several are equal too."""

from __future__ import annotations

import torch
from torch import Tensor

from ..algebra import Semiring

__all__ = ["selected_product"]


def selected_product(semiring: Semiring, x: Tensor, y: Tensor) -> Tensor:
    """The semiring's product; of equal elements, ``x`` gets the gradient that torch would share between them.

    Args:
        semiring: any.
        x: of any shape.
        y: of a shape that broadcasts with it.

    Example:
        >>> from einfx.semiring import get
        >>> x, y = torch.ones(2, requires_grad=True)
        >>> torch.autograd.grad(selected_product(get("max_min"), x, y), (x, y))
        (tensor(1.), tensor(0.))
    """
    if semiring.multiplication is torch.minimum:
        product = torch.where((x <= y) | (x != x), x, y)
    elif semiring.multiplication is torch.maximum:
        product = torch.where((x >= y) | (x != x), x, y)
    else:
        return semiring.multiply(x, y)
    if not semiring.zero_annihilates:
        return product
    zero = semiring.zero_of(product.dtype)
    return torch.where((x == zero) | (y == zero), torch.full_like(product, zero), product)
