"""What the kernels that see numbers share: batches folded into their own, checked operands, empty sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..errors import OperandError

__all__ = ["fold", "has_tangents", "paired", "sums_without_terms", "tracked", "unfold"]


def fold(size: int, dims: Sequence[int | None], tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Merge the dimension of a vmap into the first one of every tensor.

    Args:
        size: of that dimension.
        dims: for each tensor, where its mapped dimension is; None where it has none.
        tensors: of shapes (B, ...), beside that dimension; None stays None.

    Returns:
        Tensors of shapes (size·B, ...).

    Example:
        >>> [x.shape for x in fold(3, (1, None), (torch.ones(2, 3, 4), torch.ones(2, 5)))]
        [torch.Size([6, 4]), torch.Size([6, 5])]
    """
    folded: list[Tensor | None] = []
    for dim, tensor in zip(dims, tensors, strict=True):
        if tensor is None:
            folded.append(None)
        else:
            front = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            folded.append(front.reshape(size * front.shape[1], *front.shape[2:]))
    return folded


def unfold(size: int, tensor: Tensor) -> Tensor:
    """Undo :func:`fold`: (size·B, ...) becomes (size, B, ...)."""
    return tensor.reshape(size, tensor.shape[0] // size, *tensor.shape[1:])


def tracked(*tensors: Tensor) -> bool:
    """Whether a derivative of what is computed from these may be asked for."""
    if torch._C._are_functorch_transforms_active():
        return True
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return True
    return has_tangents(tensors)


def has_tangents(tensors: Sequence[Tensor]) -> bool:
    """Whether a forward-mode derivative of what is computed from these is being taken."""
    if forward_ad._current_level < 0:
        return False
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def paired(name: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The operands of a matrix product in one dtype.

    Args:
        name: of the semiring, for messages.
        a: (B, I, K).
        b: (B, K, J).

    Returns:
        Both in the dtype that torch's promotion rules give.

    Raises:
        OperandError: the shapes don't fit, or the tensors are on different devices.
    """
    if a.ndim != 3 or b.ndim != 3 or a.shape[0] != b.shape[0] or a.shape[2] != b.shape[1]:
        raise OperandError(
            f"a matrix product over {name!r} takes shapes (B, I, K) and (B, K, J), "
            f"not {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if a.device != b.device:
        raise OperandError(f"a matrix product over {name!r} got operands on {a.device} and {b.device}")
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """``function.apply(*args)``, which torch leaves without types."""
    return function.apply(*args)


def sums_without_terms(zero: Any, shape: Sequence[int], dtype: torch.dtype, *operands: Tensor) -> Tensor:
    """Sums of no terms at all: of any values of the operands, but a backward pass may start from them.

    Args:
        zero: what a sum of nothing is.
        shape: of the sums.
        dtype: of the sums.
        *operands: what they would be sums of; the gradient of each is zero.

    Example:
        >>> x = torch.ones(2, 0, requires_grad=True)
        >>> total = sums_without_terms(0.0, (2,), x.dtype, x)
        >>> total, torch.autograd.grad(total.sum(), x)[0].shape
        (tensor([0., 0.], grad_fn=...), torch.Size([2, 0]))
    """
    values = operands[0].new_full(tuple(shape), zero, dtype=dtype)
    for operand in operands:
        if operand.requires_grad and dtype.is_floating_point:
            nothing = operand.flatten()[:0].sum()
            values = torch.where(torch.ones_like(values, dtype=torch.bool), values, nothing)
    return values
