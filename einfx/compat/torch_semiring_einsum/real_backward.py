"""The derivative of contractions of numbers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .block_size import AUTOMATIC_BLOCK_SIZE, BlockSize
from .contraction import gradients
from .equation import Equation
from .real_forward import real_einsum_forward

__all__ = ["real_einsum_backward"]


def real_einsum_backward(
    equation: Equation,
    args: Sequence[Tensor],
    needs_grad: Sequence[bool],
    grad: Tensor,
    block_size: BlockSize = AUTOMATIC_BLOCK_SIZE,
) -> list[Tensor | None]:
    """The gradients of :func:`.real_forward.real_einsum_forward`.

    Args:
        equation: from :func:`.equation.compile_equation`.
        args: the operands.
        needs_grad: for each of them, whether its gradient is wanted.
        grad: the gradient of the output.
        block_size: as in the forward function.

    Returns:
        For each operand its gradient, or None.

    Raises:
        OperandError: the operands or ``grad`` don't fit the equation.
        UsageError: ``needs_grad`` has another length than ``args``.

    Example:
        >>> import torch
        >>> from einfx.compat.torch_semiring_einsum import compile_equation
        >>> x, y = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
        >>> real_einsum_backward(compile_equation("i,i->"), (x, y), (True, False), torch.tensor(1.0))
        [tensor([3., 4.]), None]
    """

    def function(*operands: Tensor) -> Tensor:
        return real_einsum_forward(equation, *operands, block_size=block_size)

    return gradients(equation, args, needs_grad, grad, function)
