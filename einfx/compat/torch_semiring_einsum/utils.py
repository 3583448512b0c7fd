"""Additions, multiplications and sums for :func:`.extend.semiring_einsum_forward`.

Those that end in ``_in_place`` write into their first argument. Those that end in ``_block`` sum some
dimensions of a tensor, of which there may be none; they may return it or a view of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "add_in_place",
    "clip_inf_in_place",
    "logical_and_in_place",
    "logical_or_block",
    "logical_or_in_place",
    "max_block",
    "max_in_place",
    "min_block",
    "min_in_place",
    "multiply_in_place",
    "sum_block",
]


def add_in_place(a: Tensor, b: Tensor) -> None:
    """Add ``b`` to ``a``."""
    a.add_(b)


def multiply_in_place(a: Tensor, b: Tensor) -> None:
    """Multiply ``a`` by ``b``."""
    a.mul_(b)


def max_in_place(a: Tensor, b: Tensor) -> None:
    """Replace elements of ``a`` by larger ones of ``b``, or by nan."""
    torch.maximum(a, b, out=a)


def min_in_place(a: Tensor, b: Tensor) -> None:
    """Replace elements of ``a`` by smaller ones of ``b``, or by nan."""
    torch.minimum(a, b, out=a)


def logical_or_in_place(a: Tensor, b: Tensor) -> None:
    """Whether ``a`` or ``b`` is true, into ``a``."""
    a.logical_or_(b)


def logical_and_in_place(a: Tensor, b: Tensor) -> None:
    """Whether ``a`` and ``b`` are true, into ``a``."""
    a.logical_and_(b)


def sum_block(a: Tensor, dims: Sequence[int]) -> Tensor:
    """The sum over some dimensions.

    Example:
        >>> sum_block(torch.ones(2, 3), (1,)), sum_block(torch.ones(2), ())
        (tensor([3., 3.]), tensor([1., 1.]))
    """
    return torch.sum(a, dim=tuple(dims)) if dims else a


def max_block(a: Tensor, dims: Sequence[int]) -> Tensor:
    """The largest over some dimensions; over no elements, the smallest number that there is.

    Example:
        >>> max_block(torch.tensor([[1.0, 4.0], [3.0, 2.0]]), (0, 1)), max_block(torch.ones(2, 0), (1,))
        (tensor(4.), tensor([-inf, -inf]))
    """
    if not dims:
        return a
    if _none(a, dims):
        return _without(a, dims, largest=False)
    return torch.amax(a, dim=tuple(dims))


def min_block(a: Tensor, dims: Sequence[int]) -> Tensor:
    """The smallest over some dimensions; over no elements, the largest number that there is.

    Example:
        >>> min_block(torch.tensor([[1.0, 4.0], [3.0, 2.0]]), (0, 1)), min_block(torch.ones(0), (0,))
        (tensor(1.), tensor(inf))
    """
    if not dims:
        return a
    if _none(a, dims):
        return _without(a, dims, largest=True)
    return torch.amin(a, dim=tuple(dims))


def logical_or_block(a: Tensor, dims: Sequence[int]) -> Tensor:
    """Whether any is true, over some dimensions.

    Example:
        >>> logical_or_block(torch.tensor([[True, False], [False, False]]), (1,))
        tensor([ True, False])
    """
    return max_block(a, dims)


def clip_inf_in_place(a: Tensor) -> None:
    """Infinities become the largest finite numbers, of their sign; nan stays.

    Example:
        >>> values = torch.tensor([-math.inf, 0.0, math.nan])
        >>> clip_inf_in_place(values)
        >>> values
        tensor([-3.4028e+38,  0.0000e+00,         nan])
    """
    a.nan_to_num_(nan=math.nan)


def _none(a: Tensor, dims: Sequence[int]) -> bool:
    return any(a.shape[dim] == 0 for dim in dims)


def _without(a: Tensor, dims: Sequence[int], largest: bool) -> Tensor:
    """What an extremum over nothing is, in the shape without some dimensions."""
    if a.dtype.is_floating_point:
        value: float = math.inf if largest else -math.inf
    elif a.dtype == torch.bool:
        value = largest
    else:
        value = torch.iinfo(a.dtype).max if largest else torch.iinfo(a.dtype).min
    gone = {dim % a.ndim for dim in dims}
    return a.new_full([size for dim, size in enumerate(a.shape) if dim not in gone], value)
