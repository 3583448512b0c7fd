"""The largest of sums, and where it comes from."""

from __future__ import annotations

from torch import Tensor

from .block_size import AUTOMATIC_BLOCK_SIZE, BlockSize
from .contraction import contract
from .equation import Equation

__all__ = ["log_viterbi_einsum_forward"]


def log_viterbi_einsum_forward(
    equation: Equation, *args: Tensor, block_size: BlockSize = AUTOMATIC_BLOCK_SIZE
) -> tuple[Tensor, Tensor]:
    """The largest sum of one element of each operand, and the indices of these elements.

    Args:
        equation: from :func:`.equation.compile_equation`.
        args: the operands.
        block_size: as in :func:`.real_forward.real_einsum_forward`.

    Returns:
        The output, and int64 indices of shape (*output, S) for the S summed variables, in the order of their
        first appearance. Where terms are equal, the indices are those of one of them, the same at every call.

    Raises:
        OperandError: the operands don't fit the equation, or a summed variable has size 0.
        UsageError: ``equation`` isn't compiled, or ``block_size`` can't be one.

    Example:
        >>> import torch
        >>> from einfx.compat.torch_semiring_einsum import compile_equation
        >>> a = torch.tensor([[0.0, 3.0], [1.0, 0.0]])
        >>> log_viterbi_einsum_forward(compile_equation("ik,kj->i"), a, a)
        (tensor([4., 4.]), tensor([[1, 0],
                [0, 1]]))
    """
    values, indices = contract(equation, args, "max_plus", block_size, return_argmax=True)
    return values, indices
