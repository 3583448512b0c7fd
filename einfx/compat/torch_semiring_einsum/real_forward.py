"""Contractions of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .block_size import AUTOMATIC_BLOCK_SIZE, BlockSize
from .contraction import common_dtype, contract, require_operands
from .equation import Equation

__all__ = ["real_einsum_forward"]


def real_einsum_forward(
    equation: Equation, *args: Tensor, block_size: BlockSize = AUTOMATIC_BLOCK_SIZE
) -> Tensor:
    """Sums of products.

    Args:
        equation: from :func:`.equation.compile_equation`.
        args: the operands; dtypes promote as torch's do.
        block_size: the longest range of a summed variable that is worked on at once, or an
            :class:`.block_size.AutomaticBlockSize`.

    Returns:
        The output. Sums of integers are int64 and those of truth values count them, as torch.sum does;
        products of truth values alone are such.

    Raises:
        OperandError: the operands don't fit the equation.
        UsageError: ``equation`` isn't compiled, or ``block_size`` can't be one.

    Example:
        >>> from einfx.compat.torch_semiring_einsum import compile_equation
        >>> a = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> real_einsum_forward(compile_equation("ik,kj->ij"), a, a, block_size=1)
        tensor([[ 7., 10.],
                [15., 22.]])
    """
    require_operands(equation, args)
    operands, semiring = _as_numbers(equation, args)
    return contract(equation, operands, semiring, block_size)  # type: ignore[no-any-return]


def _as_numbers(equation: Equation, args: Sequence[Tensor]) -> tuple[Sequence[Tensor], str]:
    """Operands of the dtype in which they are summed, and over which semiring that is."""
    dtype = common_dtype(args)
    if not (dtype.is_floating_point or dtype.is_complex):
        if equation.compiled.summed:
            dtype = torch.int64
        elif dtype == torch.bool:
            return args, "boolean"
    return [arg.to(dtype) for arg in args], "real"
