"""The smallest of sums."""

from __future__ import annotations

from torch import Tensor

from .block_size import AUTOMATIC_BLOCK_SIZE, BlockSize
from .contraction import contract
from .equation import Equation

__all__ = ["min_tropical_einsum_forward"]


def min_tropical_einsum_forward(
    equation: Equation, *args: Tensor, block_size: BlockSize = AUTOMATIC_BLOCK_SIZE
) -> Tensor:
    """The smallest sum of one element of each operand.

    Args:
        equation: from :func:`.equation.compile_equation`.
        args: the operands.
        block_size: as in :func:`.real_forward.real_einsum_forward`.

    Returns:
        The output. Its gradient goes to the terms that are the smallest, of equal ones to the first.

    Raises:
        OperandError: the operands don't fit the equation.
        UsageError: ``equation`` isn't compiled, or ``block_size`` can't be one.

    Example:
        >>> import torch
        >>> from einfx.compat.torch_semiring_einsum import compile_equation
        >>> a = torch.tensor([[0.0, 3.0], [1.0, 0.0]])
        >>> min_tropical_einsum_forward(compile_equation("ik,kj->ij"), a, a)
        tensor([[0., 3.],
                [1., 0.]])
    """
    return contract(equation, args, "min_plus", block_size)  # type: ignore[no-any-return]
