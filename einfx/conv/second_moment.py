"""A tensor contracted with itself: one copy and one matrix product, as for Kronecker factors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import prod

import torch
from torch import Tensor

from ..kernels.batching import tracked
from .operators import composing

__all__ = ["add_products", "second_moment"]


def add_products(total: Tensor | None, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
    """Matrix products of a batch, scaled and added to others by the kernel that multiplies.

    Args:
        total: shape: (batch, rows, columns): what is added to, in place where no derivative of it may be
            asked for; None for nothing.
        a: shape: (batch, rows, summed).
        b: shape: (batch, summed, columns).
        scale: of the products.

    Returns:
        A tensor, shape: (batch, rows, columns). One matrix is multiplied by the kernel for one, which uses
        every thread.

    Example:
        >>> a = torch.tensor([[[1.0, 2.0]]])
        >>> total = add_products(None, a, a.mT, 0.5)
        >>> total.item(), add_products(total, a, a.mT).item()
        (2.5, 7.5)
    """
    single = a.shape[0] == 1
    if single:
        a, b = a[0], b[0]
        total = None if total is None else total[0]
    if total is None and (scale == 1.0 or composing()):
        made = torch.mm(a, b) if single else torch.bmm(a, b)
        made = made if scale == 1.0 else made * scale
    elif total is None:
        # Of no weight, it's never read.
        nothing = a.new_empty(())
        made = (torch.addmm if single else torch.baddbmm)(nothing, a, b, beta=0, alpha=scale)
    elif composing() or tracked(total, a, b):
        made = (torch.addmm if single else torch.baddbmm)(total, a, b, alpha=scale)
    else:
        made = total.addmm_(a, b, alpha=scale) if single else total.baddbmm_(a, b, alpha=scale)
    return made[None] if single else made


def second_moment(
    tensors: Sequence[Tensor],
    inputs: Sequence[Sequence[int]],
    output: Sequence[int],
    scale: float = 1.0,
) -> Tensor | None:
    """Contract a tensor with itself.

    Args:
        tensors: the operands.
        inputs: their labels.
        output: the labels of the output.
        scale: what the result is multiplied by.

    Returns:
        The result, or None where the operands are anything but one tensor twice, with labels that are either
        the same in both or kept from each, and numbers.

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> second_moment([x, x], [[0, 1], [2, 1]], [0, 2]).tolist()
        [[5.0, 11.0], [11.0, 25.0]]
        >>> second_moment([x, x + 0], [[0, 1], [2, 1]], [0, 2]) is None
        True
    """
    numbers = [tensor for tensor, labels in zip(tensors, inputs, strict=True) if not labels]
    pair = [(tensor, labels) for tensor, labels in zip(tensors, inputs, strict=True) if labels]
    if len(pair) != 2 or pair[0][0] is not pair[1][0]:
        return None
    (x, first), (_, second) = pair
    if len({*first}) < len(first) or len({*second}) < len(second):
        return None
    # What each factor alone carries and the output lacks is summed first, once for both.
    alone = [
        dim
        for dim, label in enumerate(first)
        if second[dim] != label and label not in output and second[dim] not in output
    ]
    if alone:
        x = x.sum(alone)
        first = [label for dim, label in enumerate(first) if dim not in alone]
        second = [label for dim, label in enumerate(second) if dim not in alone]
    shared = [dim for dim, label in enumerate(first) if second[dim] == label]
    batch = [dim for dim in shared if first[dim] in output]
    summed = [dim for dim in shared if first[dim] not in output]
    own = [dim for dim in range(x.ndim) if dim not in shared]
    kept = [first[dim] for dim in (*batch, *own)] + [second[dim] for dim in own]
    # A label at two places, or one of a single factor that is summed, is for an einsum to see to.
    if not summed or len({*kept}) < len(kept) or sorted(kept) != sorted(output):
        return None
    sizes = [[x.shape[dim] for dim in dims] for dims in (batch, own, summed)]
    rows = x.permute(*batch, *own, *summed).reshape([prod(part) for part in sizes])
    columns = rows.transpose(1, 2)
    # The smaller of factor and product is scaled.
    early = rows.shape[2] <= rows.shape[1]
    if numbers and early:
        columns = columns * reduce(torch.mul, numbers)
    product = add_products(None, rows, columns, scale)
    if numbers and not early:
        product = product * reduce(torch.mul, numbers)
    shape = [*sizes[0], *sizes[1], *sizes[1]]
    return product.reshape(shape).permute([kept.index(label) for label in output])
