"""A contraction with every label once in an operand, and without dimensions that broadcast."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..equation import Equation

__all__ = ["plain"]


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
    inputs, operands = [], []
    for labels, tensor in zip(equation.inputs, tensors, strict=True):
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
        inputs.append(tuple(names))
        operands.append(tensor)
    return Equation(tuple(inputs), equation.output), operands
