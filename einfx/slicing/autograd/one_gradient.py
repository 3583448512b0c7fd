"""The gradient of one operand over real numbers, as a contraction of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ...equation import Equation

__all__ = ["one_gradient"]


def one_gradient(
    equation: Equation,
    operands: Sequence[Tensor],
    gradient: Tensor,
    position: int,
    contract: Callable[[Equation, list[Tensor], list[int]], Tensor],
) -> Tensor:
    """The gradient of one operand.

    Args:
        equation: what was contracted; no label twice in an operand, no dimension that broadcasts.
        operands: of which.
        gradient: of the result, with a dimension for each label of the output.
        position: of the operand.
        contract: contracts the gradient and the other operands; it is also told which these are.

    Returns:
        A tensor of the shape of the operand.

    Example:
        >>> import torch
        >>> a, b = torch.ones(2, 3), torch.ones(3, 4)
        >>> gradient = torch.ones(2, 4)
        >>> def contract(target, factors, others):
        ...     return torch.einsum(str(target), *factors)
        >>> one_gradient(Equation.parse("ij,jk->ik"), (a, b), gradient, 0, contract)
        tensor([[4., 4., 4.],
                [4., 4., 4.]])
    """
    others = [i for i in range(len(operands)) if i != position]
    inputs = (equation.output, *(equation.inputs[i] for i in others))
    there = {label for labels in inputs for label in labels}
    mine, whole = equation.inputs[position], operands[position].shape
    target = Equation(inputs, tuple(label for label in mine if label in there))
    part = contract(target, [gradient, *(operands[i].conj() for i in others)], others)
    # Along what the operand has for itself alone its gradient is the same.
    shape = [size if label in there else 1 for label, size in zip(mine, whole, strict=True)]
    return part.reshape(shape).expand(whole)
