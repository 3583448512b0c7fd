"""Operations that write their result over an operand: what programs within a memory limit call.

Each returns the operand that it wrote over; where it may not write there after all, since gradients are
recorded or the sizes of a call make the result larger, it returns a new tensor instead.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["PARTWISE", "elementwise", "in_parts", "product"]

_MOST_BYTES = 1 << 20
"""What a part takes that is computed aside, at most where that makes no more than ``_MOST_PARTS``."""
_MOST_PARTS, _FEWEST_PARTS = 64, 16

PARTWISE: dict[str, Callable[..., Tensor]] = {
    "celu": functional.celu,
    "elu": functional.elu,
    "gelu": functional.gelu,
    "hardsigmoid": functional.hardsigmoid,
    "hardswish": functional.hardswish,
    "hardtanh": functional.hardtanh,
    "layer_norm": functional.layer_norm,
    "leaky_relu": functional.leaky_relu,
    "log_softmax": torch.log_softmax,
    "logsigmoid": functional.logsigmoid,
    "mish": functional.mish,
    "relu": torch.relu,
    "relu6": functional.relu6,
    "rsub": torch.rsub,
    "rtruediv": lambda tensor, number: operator.truediv(number, tensor),
    "selu": functional.selu,
    "silu": functional.silu,
    "softmax": torch.softmax,
    "softplus": functional.softplus,
}
"""Functions of one tensor that are computed apart for each index of some of its dimensions."""


def elementwise(name: str, position: int, *operands: Any, **keywords: Any) -> Tensor:
    """An elementwise operation of torch, written over one of its operands.

    Args:
        name: of the function in ``torch``, which takes ``out``; or with a ``_`` of a method of tensors, which
            writes over the first operand.
        position: of the operand to write over; its shape is that of the result, if sizes are as planned.
        operands: tensors and numbers.
        keywords: of the function.

    Returns:
        The operand at ``position``, or a new tensor where it may not be written over.

    Example:
        >>> x, y = torch.ones(2, 3), torch.ones(3)
        >>> elementwise("sub", 1, y, x, alpha=2) is x, x[0]
        (True, tensor([-1., -1., -1.]))
        >>> elementwise("add", 0, y, x).shape
        torch.Size([2, 3])
    """
    over: Tensor = operands[position]
    may_write = _may_write(over, [x for x in operands if isinstance(x, Tensor)])
    result: Tensor
    if name.endswith("_"):
        result = getattr(torch.Tensor, name if may_write else name[:-1])(*operands, **keywords)
    elif may_write:
        result = getattr(torch, name)(*operands, out=over, **keywords)
    else:
        result = getattr(torch, name)(*operands, **keywords)
    return result


def product(over: Tensor, factor: Tensor, order: Sequence[int], missing: Sequence[int]) -> Tensor:
    """The elementwise product of two tensors, written over the first.

    Args:
        over: shape that of the result.
        factor: to multiply with.
        order: the dimensions of ``factor`` in the order in which the result has them.
        missing: the dimensions that the result has beside those.

    Example:
        >>> x = torch.ones(2, 1, 3)
        >>> product(x, torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]), (1, 0), (1,)).squeeze()
        tensor([[0., 2., 4.],
                [1., 3., 5.]])
    """
    factor = factor.permute(tuple(order))
    for dimension in missing:
        factor = factor.unsqueeze(dimension)
    return elementwise("mul", 0, over, factor)


def in_parts(name: str, together: Sequence[int], over: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
    """A function of a tensor and of constants, computed part by part, each written over its operand.

    Args:
        name: a key of :data:`PARTWISE`.
        together: the dimensions that the function combines; for every index of the others it is computed
            apart.
        over: the tensor; the result has its shape.
        arguments: further arguments of the function, as for the whole tensor.
        keywords: likewise.

    Returns:
        ``over``, or a new tensor where it may not be written over.

    Example:
        >>> x = torch.randn(50, 20)
        >>> expected = torch.softmax(x, 1)
        >>> in_parts("softmax", (1,), x, 1) is x, torch.equal(x, expected)
        (True, True)
    """
    function = PARTWISE[name]
    tensors = [over, *(x for x in (*arguments, *keywords.values()) if isinstance(x, Tensor))]
    if not _may_write(over, [over]) or (torch.is_grad_enabled() and any(x.requires_grad for x in tensors)):
        return function(over, *arguments, **keywords)
    kept = {dimension % over.dim() for dimension in together}
    free = [dimension for dimension in range(over.dim()) if dimension not in kept]
    for part in _parts(over, free, _part_bytes(over)):
        part.copy_(function(part, *arguments, **keywords))
    return over


def _may_write(over: Tensor, operands: Sequence[Tensor]) -> bool:
    """Whether a result of these operands fits one of them, and nobody wants gradients."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in operands):
        return False
    shape = over.shape
    for x in operands:
        if x is over or x.shape == shape:
            continue
        if x.dim() > len(shape):
            return False
        for size, wanted in zip(reversed(x.shape), reversed(shape), strict=False):
            if size not in (1, wanted):
                return False
    return True


def _part_bytes(tensor: Tensor) -> int:
    whole = tensor.numel() * tensor.element_size()
    return max(whole // _MOST_PARTS, min(whole // _FEWEST_PARTS, _MOST_BYTES))


def _parts(tensor: Tensor, free: Sequence[int], most: int) -> Iterator[Tensor]:
    """Views that make up a tensor, cut along dimensions from the outermost on until they are small."""
    whole = tensor.numel() * tensor.element_size()
    if whole <= most or not free:
        yield tensor
        return
    each = whole // tensor.shape[free[0]]
    if each <= most:
        yield from tensor.split(max(most // max(each, 1), 1), free[0])
        return
    for row in tensor.split(1, free[0]):
        yield from _parts(row, free[1:], most)
