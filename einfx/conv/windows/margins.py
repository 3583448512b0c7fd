"""Zeros added on either side of a tensor's dimensions, or elements cut from there."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

__all__ = ["with_margins"]


def with_margins(x: Tensor, dim: int, margins: Sequence[tuple[int, int]]) -> Tensor:
    """Pad and crop neighbouring dimensions.

    ``torch.nn.functional.pad`` does the same, but refuses to cut more than there is where it adds on the
    other side.

    Args:
        x: any tensor.
        dim: the first of the dimensions.
        margins: for each of them the elements on the left and on the right: added where positive, cut where
            negative.

    Returns:
        A copy where zeros are added, else a view.

    Example:
        >>> import torch
        >>> with_margins(torch.tensor([1, 2, 3]), 0, [(-4, 3)]).tolist()
        [0, 0]
    """
    added = [max(side, 0) for pair in reversed(margins) for side in pair]
    if any(added):
        x = F.pad(x, [0, 0] * (x.ndim - dim - len(margins)) + added)
    for offset, (left, right) in enumerate(margins):
        if left < 0 or right < 0:
            start = max(-left, 0)
            x = x.narrow(dim + offset, start, x.shape[dim + offset] - start - max(-right, 0))
    return x
