"""Matrix products over max_plus, min_plus, max_times and max_min.

On the CPU, float32 and float64 go through the C extension where it's built; everything else through a loop in
torch. Half and bfloat16 are computed in float32.

The gradient of a product goes to the term that was selected, the first one where several are equal: the
selected elements of both operands are gathered and multiplied again, by ordinary torch functions, so that
derivatives of every order and kind follow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import OperandError
from ..machine import accumulation_dtype
from ..modes import is_captured
from ..semiring import get
from . import tropical_loop, tropical_native
from .batching import apply, fold, paired, sums_without_terms, tracked, unfold
from .selected_product import selected_product

__all__ = ["matmul", "workspace_bytes"]


def matmul(
    a: Tensor,
    b: Tensor,
    semiring: str = "max_plus",
    *,
    return_argmax: bool = False,
    zero_annihilates: bool = False,
) -> Any:
    """A batch of matrix products over a semiring whose addition is a maximum or a minimum.

    Differentiable in both operands, any number of times; works under ``torch.func`` and ``torch.compile``.

    Args:
        a: (B, I, K).
        b: (B, K, J); dtypes promote as torch's do.
        semiring: ``"max_plus"``, ``"min_plus"``, ``"max_times"`` or ``"max_min"``.
        return_argmax: whether to return where the selected terms are.
        zero_annihilates: whether the semiring's zero wins over infinity and nan; without it, -inf + inf and
            0 * inf are nan, and nan propagates.

    Returns:
        Values (B, I, J): the semiring's zero where K is 0. With ``return_argmax``, also int64 indices
        (B, I, J) into K: of the first of equal terms, of the first nan where the value is nan, and 0 where
        the value is the semiring's zero.

    Raises:
        OperandError: shapes, dtypes or numbers that the semiring doesn't take; an argmax for a K of 0.

    Example:
        >>> a = torch.tensor([[[1.0, 5.0]]], requires_grad=True)
        >>> b = torch.tensor([[[7.0], [4.0]]])
        >>> values, indices = matmul(a, b, return_argmax=True)
        >>> values.item(), indices.item()
        (9.0, 1)
        >>> torch.autograd.grad(values.sum(), a)
        (tensor([[[0., 1.]]]),)
    """
    algebra = get(semiring)
    a, b = paired(algebra.name, a, b)
    algebra.check(a, b)
    dtype = a.dtype
    a, b = a.to(accumulation_dtype(dtype)), b.to(accumulation_dtype(dtype))
    if a.shape[2] == 0:
        if return_argmax:
            raise OperandError(f"a sum over {algebra.name!r} without terms has no argmax: K is 0")
        shape = a.shape[0], a.shape[1], b.shape[2]
        return sums_without_terms(algebra.zero_of(dtype), shape, dtype, a, b)
    differentiable = dtype.is_floating_point and _differentiable(a, b)
    values, places = _select(
        a.detach(), b.detach(), algebra.name, zero_annihilates, return_argmax or differentiable
    )
    if differentiable:
        values = _selected(a, b, places, algebra.name, zero_annihilates)
    values = values.to(dtype)
    return (values, places) if return_argmax else values


def workspace_bytes(
    batch: int,
    rows: int,
    depth: int,
    columns: int,
    dtype: torch.dtype,
    *,
    argmax: bool = False,
    device: str = "cpu",
) -> int:
    """What :func:`matmul` allocates beside its results, at most, for contiguous operands of plain numbers.

    The extension packs blocks of the operands; the loop in torch has tiles of values, terms and, for the
    argmax, of indices. Half precision is computed in float32, of which both operands and the values are made.

    Args:
        batch: B.
        rows: I.
        depth: K.
        columns: J.
        dtype: of both operands.
        argmax: whether indices are found, as they are where a gradient is asked for.
        device: a type of device.

    Example:
        >>> workspace_bytes(1, 1024, 1024, 1024, torch.float32, argmax=True) < 16 << 20
        True
    """
    wide = accumulation_dtype(dtype)
    converted = 0
    if wide != dtype:
        converted = wide.itemsize * batch * (rows * depth + depth * columns + rows * columns)
    if device == "cpu" and wide in (torch.float32, torch.float64) and tropical_native.available():
        return converted + tropical_native.workspace_bytes(batch, rows, depth, columns, wide.itemsize)
    simple = wide.is_floating_point
    return converted + tropical_loop.workspace_bytes(
        batch, rows, depth, columns, wide.itemsize, argmax, device, simple=simple
    )


def _differentiable(a: Tensor, b: Tensor) -> bool:
    if is_captured():
        return torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    return tracked(a, b)


def _selected(a: Tensor, b: Tensor, places: Tensor, semiring: str, zero_annihilates: bool) -> Tensor:
    """The product of the selected elements, as a differentiable function of the operands."""
    algebra = get(semiring).annihilating(zero_annihilates)
    return selected_product(algebra, a.gather(2, places), b.gather(1, places))


def _select(
    a: Tensor, b: Tensor, semiring: str, zero_annihilates: bool, argmax: bool
) -> tuple[Tensor, Tensor]:
    if is_captured():
        values, places = torch.ops.einfx.select_matmul(a, b, semiring, zero_annihilates, argmax)
    else:
        values, places = apply(_Select, a, b, semiring, zero_annihilates, argmax)
    return values, places


def _compute(
    a: Tensor, b: Tensor, semiring: str, zero_annihilates: bool, argmax: bool
) -> tuple[Tensor, Tensor]:
    """Values and indices of plain tensors; no indices without ``argmax``."""
    if tropical_native.takes(a, b):
        values, places = tropical_native.tropical_matmul(
            semiring, a, b, argmax=argmax, zero_annihilates=zero_annihilates
        )
    else:
        algebra = get(semiring).annihilating(zero_annihilates)
        values, places = tropical_loop.matmul(algebra, a, b, argmax=argmax)
    return values, values.new_empty(0, dtype=torch.int64) if places is None else places


class _Select(torch.autograd.Function):
    """Values and indices, both without derivatives."""

    @staticmethod
    def forward(
        a: Tensor, b: Tensor, semiring: str, zero_annihilates: bool, argmax: bool
    ) -> tuple[Tensor, Tensor]:
        return _compute(a, b, semiring, zero_annihilates, argmax)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        a: Tensor,
        b: Tensor,
        semiring: str,
        zero_annihilates: bool,
        argmax: bool,
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int | None]]:
        size = info.batch_size
        values, places = apply(_Select, *fold(size, in_dims[:2], (a, b)), semiring, zero_annihilates, argmax)
        return (unfold(size, values), unfold(size, places) if argmax else places), (0, 0 if argmax else None)


@torch.library.custom_op("einfx::select_matmul", mutates_args=())
def _operator(
    a: Tensor, b: Tensor, semiring: str, zero_annihilates: bool, argmax: bool
) -> tuple[Tensor, Tensor]:
    return _compute(a, b, semiring, zero_annihilates, argmax)


@_operator.register_fake
def _(a: Tensor, b: Tensor, semiring: str, zero_annihilates: bool, argmax: bool) -> tuple[Tensor, Tensor]:
    shape = (a.shape[0], a.shape[1], b.shape[2])
    return a.new_empty(shape), a.new_empty(shape if argmax else 0, dtype=torch.int64)
