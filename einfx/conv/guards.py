"""Checks of sizes in lowered code, which a graph calls and TorchScript compiles.

A contraction checks every size that it is given and stretches what has one element. A native kernel, which
takes the place of one in a graph, doesn't know what the pattern was made for: these functions do.
"""

from __future__ import annotations

from torch import Tensor

from ..errors import OperandError

__all__ = ["fixed_sizes", "matched"]


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


def matched(
    x: Tensor, y: Tensor, x_sizes: list[int], y_sizes: list[int], pairs: list[int], batched: bool = False
) -> list[Tensor]:
    """Two tensors that a native kernel takes, with the sizes that the contraction of them asks for.

    Args:
        x: any tensor.
        y: another one.
        x_sizes: the size that each dimension of ``x`` must have, -1 where it may have any.
        y_sizes: the same for ``y``.
        pairs: dimensions of both that must have the same size: one of ``x``, one of ``y``, and so on.
        batched: whether these are the batch, which may be empty; channels may not.

    Returns:
        Both tensors; views of them where dimensions of size 1 were expanded.

    Raises:
        OperandError: sizes that differ, none of them 1; no channels, of which torch makes something else.

    Example:
        >>> import torch
        >>> x, y = matched(torch.ones(2, 1, 8), torch.ones(5, 3), [-1, -1, 8], [-1, 3], [1, 0])
        >>> x.shape, y.shape
        (torch.Size([2, 5, 8]), torch.Size([5, 3]))
    """
    fits = True
    for size, wanted in zip(x.shape, x_sizes):  # noqa: B905 (for TorchScript)
        if wanted >= 0 and size != wanted:
            fits = False
    for size, wanted in zip(y.shape, y_sizes):  # noqa: B905
        if wanted >= 0 and size != wanted:
            fits = False
    for i in range(0, len(pairs), 2):
        if x.size(pairs[i]) != y.size(pairs[i + 1]):
            fits = False
        if x.size(pairs[i]) == 0 and not batched:
            raise OperandError(
                f"an operand of shape {list(x.shape)} has no elements in dimension {pairs[i]}, which are the "
                "channels of the convolution that this contraction was optimised to; einfx.einsum takes it"
            )
    if fits:
        return [x, y]
    for i in range(len(x_sizes)):
        if x_sizes[i] >= 0:
            x = fixed_sizes(x, [i], [x_sizes[i]])
    for i in range(len(y_sizes)):
        if y_sizes[i] >= 0:
            y = fixed_sizes(y, [i], [y_sizes[i]])
    for i in range(0, len(pairs), 2):
        x, y = _stretched(x, pairs[i], y, pairs[i + 1]), _stretched(y, pairs[i + 1], x, pairs[i])
    return [x, y]


def _stretched(x: Tensor, dim: int, other: Tensor, across: int) -> Tensor:
    """A tensor of which a dimension is as large as one of another tensor, which it is contracted with."""
    size, wanted = x.size(dim), other.size(across)
    if size == wanted or wanted == 1:
        return x
    if size != 1:
        raise OperandError(
            f"dimension {dim} of an operand of shape {list(x.shape)} and dimension {across} of one of shape "
            f"{list(other.shape)} have the same label, but not the same size"
        )
    shape = list(x.shape)
    shape[dim] = wanted
    return x.expand(shape)
