"""Checks of sizes in lowered code, which a graph calls and TorchScript compiles.

A contraction checks every size that it is given and stretches what has one element. A native kernel, which
takes the place of one in a graph, doesn't know what the pattern was made for: these functions do.
"""

from __future__ import annotations

from torch import Tensor

from ..errors import OperandError

__all__ = ["fixed_sizes", "same_sizes"]


def fixed_sizes(x: Tensor, dims: list[int], sizes: list[int]) -> Tensor:
    """A tensor whose dimensions have the sizes of an index pattern.

    Args:
        x: any tensor.
        dims: the dimensions that are looked at.
        sizes: the size that each must have.

    Returns:
        The tensor itself; a view where dimensions of size 1 were expanded.

    Raises:
        OperandError: another size.

    Example:
        >>> import torch
        >>> fixed_sizes(torch.ones(2, 8), [1], [8]).shape, fixed_sizes(torch.ones(2, 1), [1], [8]).shape
        (torch.Size([2, 8]), torch.Size([2, 8]))
    """
    for i in range(len(dims)):
        size = x.size(dims[i])
        if size != sizes[i]:
            if size != 1:
                raise OperandError(
                    f"dimension {dims[i]} of an operand of shape {list(x.shape)} must have {sizes[i]} "
                    f"elements, the size of the index pattern that it meets, but it has {size}"
                )
            shape = list(x.shape)
            shape[dims[i]] = sizes[i]
            x = x.expand(shape)
    return x


def same_sizes(x: Tensor, dims: list[int], other: Tensor, others: list[int]) -> Tensor:
    """A tensor whose dimensions have the sizes of those of another tensor, which they are contracted with.

    Args:
        x: any tensor.
        dims: the dimensions that are looked at.
        other: the other tensor.
        others: its dimensions, one for each.

    Returns:
        The tensor itself; a view where dimensions of size 1 were expanded.

    Raises:
        OperandError: sizes that differ, none of them 1.

    Example:
        >>> import torch
        >>> same_sizes(torch.ones(2, 1), [0, 1], torch.ones(5, 2, 1), [1, 0]).shape
        torch.Size([2, 5])
    """
    for i in range(len(dims)):
        size, wanted = x.size(dims[i]), other.size(others[i])
        if size != wanted and wanted != 1:
            if size != 1:
                raise OperandError(
                    f"dimension {dims[i]} of an operand of shape {list(x.shape)} and dimension {others[i]} "
                    f"of one of shape {list(other.shape)} have the same label, but not the same size"
                )
            shape = list(x.shape)
            shape[dims[i]] = wanted
            x = x.expand(shape)
    return x
