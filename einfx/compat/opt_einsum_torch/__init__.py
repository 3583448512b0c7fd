"""The interface of opt-einsum-torch over einfx: einsums larger than the memory of a GPU, or of a CPU.

Operands may be larger than the device: blocks of them are copied there while earlier ones are computed. All
that einfx's einsum takes is taken here, an ellipsis, broadcasting, complex numbers and integers among it; the
result lies on the CPU, and has gradients. There needn't be a GPU:

    >>> import numpy, torch
    >>> a, b = numpy.ones((3, 500), dtype=numpy.float32), torch.ones(500, 4)
    >>> einsum("ij,jk->ik", a, b, cuda_device="cpu", cuda_mem_limit=0.1)[0]
    tensor([500., 500., 500., 500.])
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .planner import EinsumPlanner

__version__ = "0.1.0"

__all__ = ["EinsumPlanner", "einsum"]


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
    """
    return EinsumPlanner(cuda_device, cuda_mem_limit).einsum(
        formula, *tensors, async_computation=async_computation
    )
