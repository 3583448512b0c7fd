"""Contractions of numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from .block_size import AUTOMATIC_BLOCK_SIZE, BlockSize
from .contraction import common_dtype, contract, is_traced, require_operands
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
    if is_traced(args) or all(map(_is_continuous, args)):
        return contract(equation, args, "real", block_size)  # type: ignore[no-any-return]
    require_operands(equation, args)
    dtype, semiring = common_dtype(args), "real"
    if not (dtype.is_floating_point or dtype.is_complex):
        if equation.compiled.summed:
            dtype = torch.int64
        elif dtype == torch.bool:
            semiring = "boolean"
    return contract(equation, [arg.to(dtype) for arg in args], semiring, block_size)  # type: ignore[no-any-return]


def _is_continuous(arg: Tensor) -> bool:
    return isinstance(arg, Tensor) and (arg.is_floating_point() or arg.is_complex())
