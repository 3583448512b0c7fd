"""Contractions of the last dimensions of one tensor with the first of another: ``tensordot``."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from torch import Tensor

from .algebra import Semiring
from .contract import einsum
from .equation import label_text
from .errors import OperandError
from .operands import is_array

__all__ = ["tensordot"]


def tensordot(a: Tensor, b: Tensor, dims: Any = 2, semiring: str | Semiring = "real") -> Tensor:
    """Contract the last dimensions of ``a`` with the first of ``b``, or pairs of them that ``dims`` names.

    Args:
        a: the first tensor, or NumPy array.
        b: the second tensor, or NumPy array.
        dims: how many dimensions, or two sequences of dimensions: of ``a`` and of ``b``.
        semiring: as in :func:`einfx.einsum`.

    Returns:
        A tensor with the remaining dimensions of ``a``, then those of ``b``.

    Raises:
        OperandError: ``dims`` doesn't fit the tensors.

    Example:
        >>> import torch
        >>> tensordot(torch.ones(2, 3, 4), torch.ones(3, 4, 5)).shape
        torch.Size([2, 5])
        >>> tensordot(torch.ones(2, 3), torch.ones(4, 3), dims=([1], [1])).shape
        torch.Size([2, 4])
    """
    for name, operand in (("a", a), ("b", b)):
        if not (isinstance(operand, Tensor) or is_array(operand)):
            raise OperandError(
                f"tensordot: {name} is a {type(operand).__name__}, not a torch.Tensor; convert it by "
                "torch.as_tensor"
            )
    dims = _read(dims)
    ranks = (a.ndim, b.ndim)
    if isinstance(dims, int):
        if not 0 <= dims <= min(ranks):
            raise OperandError(
                f"tensordot: dims={dims} is negative or more than one of the tensors has dimensions "
                f"({ranks[0]} and {ranks[1]})"
            )
        first, second = list(range(ranks[0] - dims, ranks[0])), list(range(dims))
    else:
        first, second = dims
    if len(first) != len(second):
        raise OperandError(
            f"tensordot: dims={dims} names {len(first)} dimension(s) of a, but {len(second)} of b"
        )
    for name, chosen, rank in (("a", first, ranks[0]), ("b", second, ranks[1])):
        if len({x % rank for x in chosen if -rank <= x < rank}) < len(chosen):
            raise OperandError(
                f"tensordot: {chosen} are not different dimensions of {name}, which has {rank} dimension(s)"
            )
    left = list(label_text(range(ranks[0])))
    right = list(label_text(range(ranks[0], sum(ranks))))
    output = [x for i, x in enumerate(left) if i not in [j % ranks[0] for j in first]]
    output += [x for i, x in enumerate(right) if i not in [j % ranks[1] for j in second]]
    for i, j in zip(first, second, strict=True):
        right[j] = left[i]
    for i, j in zip(first, second, strict=True):
        # As in einsum, where one of both is 1 it broadcasts.
        if a.shape[i] != b.shape[j] and 1 not in (a.shape[i], b.shape[j]):
            raise OperandError(
                f"tensordot: dimension {i} of a, of shape {tuple(a.shape)}, and dimension {j} of b, of shape "
                f"{tuple(b.shape)}, are contracted, but have the sizes {a.shape[i]} and {b.shape[j]}"
            )
    text = f"{''.join(left)},{''.join(right)}->{''.join(output)}"
    return einsum(text, a, b, semiring=semiring)  # type: ignore[no-any-return]


def _read(dims: Any) -> int | tuple[list[int], list[int]]:
    """A number of dimensions, or those of ``a`` and of ``b``.

    Raises:
        OperandError: it's neither.
    """
    if isinstance(dims, Tensor) or is_array(dims):
        dims = dims.tolist()
    if isinstance(dims, Integral):
        return int(dims)
    if isinstance(dims, (list, tuple)) and len(dims) == 2:
        pair = [x.tolist() if isinstance(x, Tensor) or is_array(x) else x for x in dims]
        pair = [[x] if isinstance(x, Integral) else x for x in pair]
        if all(isinstance(x, (list, tuple)) and all(isinstance(i, Integral) for i in x) for x in pair):
            return [int(i) for i in pair[0]], [int(i) for i in pair[1]]
    raise OperandError(
        f"tensordot: dims={dims!r}: it is a number of dimensions, such as 2, or two lists of dimensions, of "
        "a and of b, such as ([1], [0])"
    )
