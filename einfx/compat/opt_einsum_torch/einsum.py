"""``einsum`` with a device and a limit for one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .planner import EinsumPlanner

__all__ = ["einsum"]


def einsum(
    formula: str,
    *tensors: Any,
    cuda_device: str | torch.device = "cuda:0",
    cuda_mem_limit: float | int = 0.9,
    async_computation: bool = True,
) -> Tensor:
    """Contract tensors on a device within a part of its memory.

    Args:
        formula: as in :func:`einfx.einsum`.
        tensors: tensors or NumPy arrays, wherever they are.
        cuda_device: where is computed, ``"cpu"`` too.
        cuda_mem_limit: as for :class:`EinsumPlanner`.
        async_computation: as in :meth:`EinsumPlanner.einsum`.

    Returns:
        The contraction, on the CPU.

    Raises:
        EquationError, OperandError, MemoryLimitError, UsageError: as :class:`EinsumPlanner`.

    Example:
        >>> einsum("ij,jk->ik", torch.ones(2, 3), torch.ones(3, 2), cuda_device="cpu").numpy()
        array([[3., 3.],
               [3., 3.]], dtype=float32)
    """
    return EinsumPlanner(cuda_device, cuda_mem_limit).einsum(
        formula, *tensors, async_computation=async_computation
    )
