"""Contractions of numbers, differentiable."""

from __future__ import annotations

from torch import Tensor

from .block_size import AUTOMATIC_BLOCK_SIZE, BlockSize
from .equation import Equation
from .real_forward import real_einsum_forward

__all__ = ["einsum"]


def einsum(equation: Equation, *args: Tensor, block_size: BlockSize = AUTOMATIC_BLOCK_SIZE) -> Tensor:
    """Sums of products; the same as :func:`.real_forward.real_einsum_forward`, which is differentiable here.

    Example:
        >>> import torch
        >>> from einfx.compat.torch_semiring_einsum import compile_equation
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> einsum(compile_equation("i,i->"), x, x, block_size=1).backward()
        >>> x.grad
        tensor([2., 4.])
    """
    return real_einsum_forward(equation, *args, block_size=block_size)
