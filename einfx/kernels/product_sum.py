"""The sum of a large product, or the product itself, whose gradients are contractions too.

Left to itself, autograd makes gradients as large as the product, whatever its operands, and puts those of
blocks together again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..costs.cost import choose_kernel
from ..equation import Equation
from .real import emit_kernel
from .written import Written

__all__ = ["product_sum"]

Form = tuple[tuple[int, ...], tuple[int, ...]]  # the shape of a tensor and its strides


def product_sum(
    compute: Callable[[Tensor, Tensor, list[int]], Tensor], a: Tensor, b: Tensor, dims: list[int]
) -> Tensor:
    """The sum over ``dims`` (counted from the right) of a broadcast product, for gradients of every order.

    Args:
        compute: what computes it.
        a: one operand.
        b: the other one, aligned from the right.
        dims: which dimensions are summed; none where the product itself is wanted.

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
    form = [(tuple(x.shape), x.stride()) for x in (operand, other, gradient)]
    compute = _written(*form, tuple(dims), operand.dtype, operand.device)
    return compute(gradient, other.conj() if other.is_complex() else other)


@lru_cache(maxsize=4096)
def _written(
    operand: Form,
    other: Form,
    gradient: Form,
    dims: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Callable[[Tensor, Tensor], Tensor]:
    """The function of the incoming gradient and the other operand that computes it, for their forms."""
    rank = max(len(operand[0]), len(other[0]))
    given, beside = _padded(operand[0], rank), _padded(other[0], rank)
    sizes = [max(x, y) if min(x, y) else 0 for x, y in zip(given, beside, strict=True)]
    kept = tuple(i for i in range(rank) if i - rank not in dims)
    mine, theirs = ([i for i, n in enumerate(own) if n == sizes[i]] for own in (given, beside))
    output = tuple(i for i in mine if i in kept or i in theirs)
    equation = Equation((kept, tuple(theirs)), output)
    factor = torch.empty_strided(*other, dtype=torch.bool, device="meta").reshape([beside[i] for i in theirs])
    shapes, strides = (gradient[0], tuple(factor.shape)), (gradient[1], factor.stride())
    kernel = choose_kernel(equation, shapes, dtype, device, strides=strides)
    written = Written(2)
    first, second = written.operands
    second = written.emit(torch.reshape, second, shapes[1])
    found = emit_kernel(written.emit, kernel, equation, (first, second), shapes, guarded=False)
    # Along what is summed in this operand alone its gradient is the same.
    missing = rank - len(operand[0])
    found = written.emit(
        torch.reshape, found, tuple(sizes[i] if i in output else 1 for i in range(missing, rank))
    )
    return written.function(written.emit(Tensor.expand, found, operand[0]))


def _padded(shape: Sequence[int], rank: int) -> list[int]:
    return [1] * (rank - len(shape)) + [*shape]
