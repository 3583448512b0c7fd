"""``EinsumPlanner``: a device and how much of its memory contractions may take."""

from __future__ import annotations

import logging
import operator
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import einsum as einfx_einsum
from ...errors import MemoryLimitError, UsageError
from ...options import read_device
from ...plans import size_text

__all__ = ["EinsumPlanner"]

_logger = logging.getLogger("OptimalEinsum")


class _NoSplitError(MemoryLimitError, ValueError):
    """What the peer raises where no blocks are small enough is a ``ValueError``."""


class EinsumPlanner:
    """Contractions on one device, within a limit on its memory.

    Args:
        cuda_device: where is computed: a CUDA device, or the CPU.
        cuda_mem_limit: the most bytes to take there, or as a float the part of its memory: of all that a GPU
            has, or of what is available on the CPU.

    Attributes:
        cuda_device: where is computed.
        cuda_mem_limit: in bytes, whole KiB.

    Raises:
        UsageError: a device that isn't there, or a limit that is none.

    Example:
        >>> planner = EinsumPlanner(torch.device("cpu"), cuda_mem_limit=100_000)
        >>> planner.cuda_mem_limit
        99328
        >>> planner.einsum("ijk,jkl->il", torch.ones(2, 30, 40), torch.ones(30, 40, 5)).shape
        torch.Size([2, 5])
    """

    def __init__(self, cuda_device: str | torch.device, cuda_mem_limit: float | int = 0.9) -> None:
        try:
            device = read_device(cuda_device)
        except UsageError as error:
            raise UsageError(f"cuda_{error}") from None
        if device.type not in ("cuda", "cpu"):
            raise UsageError(f"cuda_device={cuda_device!r}: it is a CUDA device, or 'cpu'")
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UsageError(
                f"cuda_device={cuda_device!r}: torch finds no GPU here; 'cpu' computes on the CPU"
            )
        self.cuda_device = device
        self.cuda_mem_limit = _limit_bytes(device, cuda_mem_limit) >> 10 << 10

    def einsum(self, formula: str, *tensors: Any, async_computation: bool = True) -> Tensor:
        """Contract tensors.

        Args:
            formula: as in :func:`einfx.einsum`.
            tensors: tensors or NumPy arrays, wherever they are.
            async_computation: whether this may return before a GPU is done with its last block. Copies run
                beside computing either way.

        Returns:
            The contraction, on the CPU.

        Raises:
            EquationError, OperandError: as :func:`einfx.einsum`.
            MemoryLimitError: no blocks are small enough; the message says which limit would do. It is a
                ``ValueError`` too.
        """
        _logger.debug("einsum %r on %s within %d bytes", formula, self.cuda_device, self.cuda_mem_limit)
        free = _free_bytes(self.cuda_device)
        if free < self.cuda_mem_limit:
            _logger.warning(
                "%s has less free memory (%s) than it was given as a limit (%s)",
                self.cuda_device,
                size_text(free),
                size_text(self.cuda_mem_limit),
            )
        try:
            result: Tensor = einfx_einsum(
                formula, *tensors, device=self.cuda_device, memory_limit=self.cuda_mem_limit, progress=False
            )
        except MemoryLimitError as error:
            text = str(error).replace("memory_limit=", "cuda_mem_limit=")
            raise _NoSplitError(text, error.needed_bytes) from None
        if self.cuda_device.type == "cuda" and not async_computation:
            torch.cuda.synchronize(self.cuda_device)
        return result.cpu()


def _limit_bytes(device: torch.device, limit: Any) -> int:
    if isinstance(limit, float):
        if 0 < limit <= 1:
            return int(limit * _memory_bytes(device))
    elif hasattr(limit, "__index__") and not isinstance(limit, bool) and limit > 0:
        return operator.index(limit)
    raise UsageError(
        f"cuda_mem_limit={limit!r}: it is a number of bytes, or a part of the device's memory, above 0.0 and "
        "up to 1.0"
    )


def _memory_bytes(device: torch.device) -> int:
    """All memory of a GPU, or what is available on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return _free_bytes(device)


def _free_bytes(device: torch.device) -> int:
    """What is free, or kept by torch for later."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
