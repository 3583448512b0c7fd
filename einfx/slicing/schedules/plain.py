"""A contraction with every label once in an operand, and without dimensions that broadcast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ...equation import Equation

__all__ = ["kept_labels", "plain"]


def plain(equation: Equation, tensors: Sequence[Tensor]) -> tuple[Equation, list[Tensor]]:
    """The same contraction of views: repeated labels as diagonals, dimensions of size 1 that broadcast gone.

    Args:
        equation: what is contracted.
        tensors: the operands, which may be without data.

    Raises:
        OperandError: the shapes don't fit the equation.

    Example:
        >>> import torch
        >>> simple, (a, b) = plain(Equation.parse("iij,jk->ik"), (torch.ones(2, 2, 1), torch.ones(3, 4)))
        >>> simple, a.shape, b.shape
        (Equation('a,bc->ac'), torch.Size([2]), torch.Size([3, 4]))
    """
    sizes = equation.sizes([x.shape for x in tensors])
    found = [_simple(*pair, sizes) for pair in zip(equation.inputs, tensors, strict=True)]
    return Equation(tuple(labels for labels, _ in found), equation.output), [x for _, x in found]


def kept_labels(equation: Equation, tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """For every label of what :func:`plain` returns the label of the equation that it is.

    Example:
        >>> import torch
        >>> kept_labels(Equation.parse("ij,jk->ik"), (torch.ones(2, 1), torch.ones(3, 4)))
        (0, 1, 2)
        >>> kept_labels(Equation.parse("ij,kj,ik->j"), (torch.ones(1, 2), torch.ones(4, 2), torch.ones(3, 4)))
        (1, 2, 0)
    """
    sizes = equation.sizes([x.shape for x in tensors])
    found = [_simple(*pair, sizes)[0] for pair in zip(equation.inputs, tensors, strict=True)]
    return tuple(dict.fromkeys(label for labels in found for label in labels))


def _simple(
    labels: Sequence[int], tensor: Tensor, sizes: Mapping[int, int]
) -> tuple[tuple[int, ...], Tensor]:
    """One operand, with the labels of its dimensions."""
    names = list(labels)
    for dim in reversed(range(len(names))):
        if tensor.shape[dim] == 1 and sizes[names[dim]] != 1:
            tensor = tensor.squeeze(dim)
            del names[dim]
    while len({*names}) < len(names):
        first = next(i for i, label in enumerate(names) if names.count(label) > 1)
        second = names.index(names[first], first + 1)
        tensor = tensor.diagonal(0, first, second)
        names = [x for i, x in enumerate(names) if i not in (first, second)] + [names[first]]
    return tuple(names), tensor
