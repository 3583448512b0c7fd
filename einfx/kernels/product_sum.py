"""The sum of a large product, whose gradients are contractions too.

Left to itself, autograd makes gradients as large as the product, whatever its operands, and puts those of
blocks together again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..costs.cost import choose_kernel
from ..equation import Equation
from .real import emit_kernel

__all__ = ["product_sum"]


def product_sum(
    compute: Callable[[Tensor, Tensor, list[int]], Tensor], a: Tensor, b: Tensor, dims: list[int]
) -> Tensor:
    """The sum over ``dims`` (counted from the right) of a broadcast product, for gradients of every order.

    Args:
        compute: what computes it.
        a: one operand.
        b: the other one, aligned from the right.
        dims: which dimensions are summed.

    Example:
        >>> a, b = torch.ones(3, 1, requires_grad=True), torch.ones(2, 3, 4)
        >>> product_sum(lambda x, y, dims: (x * y).sum(dims), a, b, [-1]).sum().backward()
        >>> a.grad
        tensor([[8.],
                [8.],
                [8.]])
    """
    result: Tensor = _ProductSum.apply(compute, a, b, dims)  # type: ignore[no-untyped-call]
    return result


class _ProductSum(torch.autograd.Function):
    @staticmethod
    def forward(compute: Any, a: Tensor, b: Tensor, dims: list[int]) -> Tensor:
        result: Tensor = compute(a, b, dims)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.compute, a, b, ctx.dims = inputs
        ctx.save_for_backward(a, b)
        ctx.save_for_forward(a, b)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        _, needs_a, needs_b, _ = ctx.needs_input_grad
        mine = _gradient(a, b, gradient, ctx.dims) if needs_a else None
        return None, mine, _gradient(b, a, gradient, ctx.dims) if needs_b else None, None

    @staticmethod
    def jvp(ctx: Any, _: None, a: Tensor | None, b: Tensor | None, __: None) -> Tensor | None:
        first, second = ctx.saved_tensors
        left = None if a is None else ctx.compute(a, second, ctx.dims)
        right = None if b is None else ctx.compute(first, b, ctx.dims)
        return right if left is None else left if right is None else left + right


def _gradient(operand: Tensor, other: Tensor, gradient: Tensor, dims: Sequence[int]) -> Tensor:
    """The gradient of one operand: the incoming one times the other operand, summed where it broadcasts."""
    rank = max(operand.dim(), other.dim())
    sizes = [
        max(x, y) if min(x, y) else 0
        for x, y in zip(*(_padded(x, rank) for x in (operand, other)), strict=True)
    ]
    kept = tuple(i for i in range(rank) if i - rank not in dims)
    mine, theirs = ([i for i, n in enumerate(_padded(x, rank)) if n == sizes[i]] for x in (operand, other))
    values = [gradient, other.conj() if other.is_complex() else other]
    values[1] = values[1].reshape([n for i, n in enumerate(_padded(other, rank)) if i in theirs])
    output = tuple(i for i in mine if i in kept or i in theirs)
    equation = Equation((kept, tuple(theirs)), output)
    shapes = [tuple(x.shape) for x in values]
    kernel = choose_kernel(
        equation, shapes, operand.dtype, operand.device, strides=[x.stride() for x in values]
    )
    found = emit_kernel(
        lambda function, *args: function(*args), kernel, equation, values, shapes, guarded=False
    )
    # Along what is summed in this operand alone its gradient is the same.
    missing = rank - operand.dim()
    shape = [sizes[i] if i in output else 1 for i in range(missing, rank)]
    return found.reshape(shape).expand(operand.shape)  # type: ignore[no-any-return]


def _padded(tensor: Tensor, rank: int) -> list[int]:
    return [1] * (rank - tensor.dim()) + list(tensor.shape)
