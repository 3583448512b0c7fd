"""A tensor contracted with itself: one copy and one matrix product, as for Kronecker factors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from math import prod

import torch
from torch import Tensor

from ...kernels.batching import tracked
from ...kernels.native import readable
from ..operators import composing

__all__ = ["second_moment", "sum_moments"]

HALVED = 256
"""Rows of a block where half a product is computed, about."""

HALVED_SUMMED = 8
"""What is summed is no less than this part of a side where half a product is computed."""


def sum_moments(parts: Iterable[Tensor], scale: float = 1.0) -> Tensor:
    """The sum of matrices times their own transposes, one part of what is summed at a time.

    Of a large product only the blocks on and below the diagonal are computed, and copied to above it.

    Args:
        parts: one at least, each of shape: (batch, side, summed), with its own number of what is summed. No
            part is kept while the next one is made.
        scale: what the result is multiplied by, within the kernel that multiplies.

    Returns:
        A new tensor, shape: (batch, side, side).

    Example:
        >>> a = torch.tensor([[[1.0, 2.0]]])
        >>> sum_moments([a, 2 * a], 0.5).item()
        12.5
    """
    total: Tensor | None = None
    blocks: list[slice] = []
    for rows in parts:
        first, plain = total is None, composing() or tracked(rows)
        if total is None:
            blocks = [] if plain else _blocks(rows)
            total = rows.new_empty((1, rows.shape[1], rows.shape[1])) if blocks else _product(rows, scale)
        for block in blocks:
            place = total[0, block, : block.stop]
            place.addmm_(rows[0, block], rows[0, : block.stop].T, beta=0 if first else 1, alpha=scale)
        if not first and not blocks:
            add = torch.baddbmm if plain else Tensor.baddbmm_
            total = add(total, rows, rows.transpose(1, 2), alpha=scale)
        del rows
    assert total is not None
    for block in blocks[1:]:
        total[0, : block.start, block] = total[0, block, : block.start].T
    return total


def _product(rows: Tensor, scale: float) -> Tensor:
    """Matrices times their own transposes; one matrix by the kernel for one, which uses every thread."""
    columns = rows.transpose(1, 2)
    if composing() or scale == 1.0:
        product = torch.bmm(rows, columns) if rows.shape[0] != 1 else (rows[0] @ columns[0])[None]
        # What is compiled is scaled as it is fused, by what may be no number yet.
        return product if isinstance(scale, float) and scale == 1.0 else product * scale
    nothing = rows.new_empty(())  # Of no weight, it's never read.
    if rows.shape[0] == 1:
        return torch.addmm(nothing, rows[0], columns[0], beta=0, alpha=scale)[None]
    return torch.baddbmm(nothing, rows, columns, beta=0, alpha=scale)


def _blocks(rows: Tensor) -> list[slice]:
    """In which blocks of rows half a product is computed; none where the whole is as fast.

    What is above the diagonal is copied from below, column by column: as slow as some products.
    """
    batch, side, summed = rows.shape
    if not rows.is_cpu or batch != 1 or side < HALVED or summed * HALVED_SUMMED < side:
        return []
    if torch._C._get_tracing_state():
        return []  # What is traced is for tensors of any size.
    height = -(-side // -(-side // HALVED))
    return [slice(start, min(start + height, side)) for start in range(0, side, height)]


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
    number = reduce(torch.mul, numbers) if numbers else None
    if number is not None and readable(number) and not tracked(number):
        scale, number = scale * number.item(), None
    if number is not None and rows.shape[2] <= rows.shape[1]:
        # The smaller of factor and product is scaled.
        product = torch.bmm(rows, rows.transpose(1, 2) * number)
    else:
        product = sum_moments([rows], scale)
        product = product if number is None else product * number
    shape = [*sizes[0], *sizes[1], *sizes[1]]
    return product.reshape(shape).permute([kept.index(label) for label in output])
