"""Matrix products over the boolean semiring: a real product of zeros and ones, compared with zero.

Sums of zeros and ones never cancel, so that rounding can't turn one that isn't zero into zero: bfloat16 is
exact enough, and faster where the processor multiplies it.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from ..semiring import get
from .batching import paired

__all__ = ["matmul"]

FEW = 128**3
"""Below so many products a matrix, starting a bfloat16 product takes longer than a float32 one."""


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """A batch of matrix products with *or* for + and *and* for *.

    Args:
        a: (B, I, K), bool.
        b: (B, K, J), bool.

    Returns:
        (B, I, J), bool; False where K is 0.

    Raises:
        OperandError: another dtype (``x != 0`` makes one bool), or shapes that don't fit.

    Example:
        >>> a = torch.tensor([[[True, False], [False, False]]])
        >>> matmul(a, a.mT)
        tensor([[[ True, False],
                 [False, False]]])
    """
    a, b = paired("boolean", a, b)
    get("boolean").check(a, b)
    return positive_product(a, b)


def positive_product(a: Tensor, b: Tensor) -> Tensor:
    """The same for operands that were checked before."""
    many = a.shape[1] * a.shape[2] * b.shape[2] >= FEW
    dtype = torch.bfloat16 if many and _multiplies_bfloat16(a.device.type) else torch.float32
    return torch.bmm(a.to(dtype), b.to(dtype)) > 0


@cache
def _multiplies_bfloat16(device: str) -> bool:
    """Whether products of bfloat16 are at least as fast as those of float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device == "cpu" and known is not None and bool(known())
