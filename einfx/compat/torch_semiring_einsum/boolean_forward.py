"""Contractions of truth values."""

from __future__ import annotations

import torch
from torch import Tensor

from .block_size import AUTOMATIC_BLOCK_SIZE, BlockSize
from .contraction import contract, require_operands
from .equation import Equation

__all__ = ["boolean_einsum_forward"]


def boolean_einsum_forward(
    equation: Equation, *args: Tensor, block_size: BlockSize = AUTOMATIC_BLOCK_SIZE
) -> Tensor:
    """Whether any product is true, where a product is whether all its factors are.

    Args:
        equation: from :func:`.equation.compile_equation`.
        args: the operands, bool; of another dtype, numbers other than 0 are true.
        block_size: as in :func:`.real_forward.real_einsum_forward`.

    Returns:
        The output, of the dtype of the first operand.

    Raises:
        OperandError: the operands don't fit the equation.
        UsageError: ``equation`` isn't compiled, or ``block_size`` can't be one.

    Example:
        >>> from einfx.compat.torch_semiring_einsum import compile_equation
        >>> edges = torch.tensor([[False, True, False], [False, False, True], [False, False, False]])
        >>> boolean_einsum_forward(compile_equation("ij,jk->ik"), edges, edges).nonzero()
        tensor([[0, 2]])
    """
    require_operands(equation, args)
    truths = [arg.to(torch.bool) for arg in args]
    result: Tensor = contract(equation, truths, "boolean", block_size)
    return result.to(args[0].dtype)
