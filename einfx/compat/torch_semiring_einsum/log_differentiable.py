"""Contractions of logarithms, differentiable."""

from __future__ import annotations

import math

from torch import Tensor

from .block_size import AUTOMATIC_BLOCK_SIZE, BlockSize
from .contraction import contract
from .equation import Equation

__all__ = ["log_einsum"]


def log_einsum(
    equation: Equation,
    *args: Tensor,
    block_size: BlockSize = AUTOMATIC_BLOCK_SIZE,
    save_max: bool = True,
    save_sumexpsub: bool = True,
    grad_of_neg_inf: float | str = math.nan,
) -> Tensor:
    """The logarithm of sums of products of exponentials.

    Args:
        equation: from :func:`.equation.compile_equation`.
        args: the operands.
        block_size: as in :func:`.real_forward.real_einsum_forward`.
        save_max: without effect: the backward pass needs no largest terms.
        save_sumexpsub: without effect: the backward pass needs no sums besides the output.
        grad_of_neg_inf: the derivative of an output that is -inf with respect to each of its terms: a number,
            nan as that of torch.logsumexp; or ``"uniform"`` for equal shares that sum to 1.

    Returns:
        The output: -inf where all terms are, +inf where one is, nan where one is. Differentiable any number
        of times.

    Raises:
        OperandError: the operands don't fit the equation, or aren't floating point.
        UsageError: ``equation`` isn't compiled, or a keyword has a value that it can't have.

    Example:
        >>> import torch
        >>> from einfx.compat.torch_semiring_einsum import compile_equation
        >>> x = torch.tensor([0.0, -math.inf], requires_grad=True)
        >>> y = torch.tensor([[0.0, 0.0], [-math.inf, 0.0]])
        >>> out = log_einsum(compile_equation("k,jk->j"), x, y, grad_of_neg_inf=0.0)
        >>> out, torch.autograd.grad(out.sum(), x)
        (tensor([0., -inf], grad_fn=...), (tensor([1., 0.]),))
    """
    result: Tensor = contract(equation, args, "log", block_size, grad_of_neg_inf=grad_of_neg_inf)
    return result
