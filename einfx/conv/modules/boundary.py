"""What lies beyond the ends of a convolution's input, in the modes of ``torch.nn.functional.pad``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import OperandError
from ..checks import check_rank, check_tensors
from .arguments import recording

__all__ = ["pad"]


def pad(x: Tensor, padding: list[int], mode: str) -> Tensor:
    """An input with more of it on either side, for any number of dimensions.

    Args:
        x: shape: (batch, channels, *sizes), or without the batch.
        padding: elements on the left and on the right of each dimension, the last dimension first.
        mode: ``"reflect"``, ``"replicate"`` or ``"circular"``.

    Raises:
        OperandError: more padding than the input has elements to fill it with.

    Example:
        >>> pad(torch.arange(4.0)[None], [2, 1], "reflect")
        tensor([[2., 1., 0., 1., 2., 3., 2.]])
    """
    n = len(padding) // 2
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        _check(x, padding, mode)
    if n <= 3:
        return F.pad(x, padding, mode)
    for i in range(n):
        # One dimension at a time, as the first of two: any mode is a product of itself along each dimension.
        dim = x.dim() - 1 - i
        left, right = padding[2 * i], padding[2 * i + 1]
        if left == 0 and right == 0:
            continue
        lead, rest = x.shape[:dim], x.shape[dim + 1 :]
        y = x.flatten(0, dim - 1).unsqueeze(1)
        y = y.flatten(3) if i > 0 else y.unsqueeze(3)
        y = F.pad(y, [0, 0, left, right], mode).squeeze(1)
        y = y.unflatten(2, rest) if i > 0 else y.squeeze(2)
        x = y.unflatten(0, lead)
    return x


def _check(x: Tensor, padding: list[int], mode: str) -> None:
    if recording(x):
        return
    check_tensors(("input", x))
    check_rank("input", x.shape, len(padding) // 2)
    for i in range(len(padding) // 2):
        size = x.shape[x.dim() - 1 - i]
        most = max(padding[2 * i], padding[2 * i + 1])
        if mode == "reflect" and most >= size:
            raise OperandError(
                "padding size should be less than the corresponding input dimension, but got padding_mode="
                f"'reflect' with padding {most} at dimension {x.dim() - 1 - i} of input of size "
                f"{list(x.shape)}"
            )
        if mode == "circular" and most > size:
            raise OperandError(
                "padding value causes wrapping around more than once: padding_mode='circular' with padding "
                f"{most} at dimension {x.dim() - 1 - i} of input of size {list(x.shape)}"
            )
