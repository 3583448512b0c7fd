"""How much of a sum is taken at once: a number, or as much as some bytes hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import UsageError

__all__ = ["AUTOMATIC_BLOCK_SIZE", "AutomaticBlockSize", "BlockSize", "checked", "term_ranges"]


class AutomaticBlockSize:
    """As a ``block_size``: blocks as large as the memory for them allows.

    Args:
        max_cpu_bytes: what a call may take on the CPU.
        max_cuda_bytes: what it may take on a GPU; by default, what is free there.
        cache_available_cuda_memory: whether to ask a GPU only once what is free, which takes long, and to
            count on a part of that from then on.
        cuda_memory_proportion: that part, between 0 and 1.
        repr_string: what ``repr`` gives.

    Example:
        >>> AUTOMATIC_BLOCK_SIZE, AUTOMATIC_BLOCK_SIZE.max_cpu_bytes == 1 << 30
        (AUTOMATIC_BLOCK_SIZE, True)
        >>> AutomaticBlockSize(max_cpu_bytes=1 << 20)
        AutomaticBlockSize(max_cpu_bytes=1048576)
    """

    def __init__(
        self,
        max_cpu_bytes: int = 1 << 30,
        max_cuda_bytes: int | None = None,
        cache_available_cuda_memory: bool = True,
        cuda_memory_proportion: float = 0.8,
        repr_string: str | None = None,
    ) -> None:
        self.max_cpu_bytes = max_cpu_bytes
        self.max_cuda_bytes = max_cuda_bytes
        self.cache_available_cuda_memory = cache_available_cuda_memory
        self.cuda_memory_proportion = cuda_memory_proportion
        self.repr_string = repr_string
        self.available_cuda_memory: dict[int | None, int] = {}

    def __repr__(self) -> str:
        if self.repr_string is not None:
            return self.repr_string
        plain = AutomaticBlockSize()
        own = vars(self).items()
        changed = [f"{name}={value!r}" for name, value in own if value != getattr(plain, name)]
        return f"AutomaticBlockSize({', '.join(x for x in changed if not x.startswith('available'))})"

    def available_bytes(self, device: torch.device) -> int:
        """What a call on a device may take."""
        if device.type != "cuda":
            return self.max_cpu_bytes
        if self.max_cuda_bytes is not None:
            return self.max_cuda_bytes
        if not self.cache_available_cuda_memory:
            return _free_cuda_bytes(device)
        known = self.available_cuda_memory.get(device.index)
        if known is None:
            known = round(self.cuda_memory_proportion * _free_cuda_bytes(device))
            self.available_cuda_memory[device.index] = known
        return known


AUTOMATIC_BLOCK_SIZE = AutomaticBlockSize(repr_string="AUTOMATIC_BLOCK_SIZE")
"""The default: 1 GiB on the CPU, four fifths of what is free on a GPU."""

BlockSize = int | AutomaticBlockSize


def checked(block_size: BlockSize) -> BlockSize:
    """A block size that can be used.

    Raises:
        UsageError: it is neither a positive integer nor an :class:`AutomaticBlockSize`.

    Example:
        >>> checked(3)
        3
    """
    if isinstance(block_size, AutomaticBlockSize):
        return block_size
    if not isinstance(block_size, int) or block_size < 1:
        raise UsageError(
            f"unrecognized block_size: {block_size!r}; it is the longest range of each summed variable, a "
            "number from 1 up, or an AutomaticBlockSize"
        )
    return block_size


def term_ranges(
    block_size: BlockSize,
    output: Sequence[int],
    summed: Sequence[int],
    operand: Tensor,
    output_dtypes: Sequence[torch.dtype | None] = (None,),
) -> list[int]:
    """The longest range of each summed variable in one block.

    Args:
        block_size: a checked one.
        output: the sizes of the output's variables, which are never cut here.
        summed: the sizes of the summed variables.
        operand: of the dtype that terms have, on their device.
        output_dtypes: of the tensors that a sum consists of; None is the operand's.

    Returns:
        A length for each of ``summed``, at least 1. For an automatic block size, the output, what is added
        to it and the terms of a block fit the memory together, where blocks of single terms do.

    Example:
        >>> term_ranges(4, [10], [3, 100], torch.ones(()))
        [3, 4]
        >>> term_ranges(AutomaticBlockSize(max_cpu_bytes=4000), [10], [3, 100], torch.ones(()))
        [3, 25]
    """
    ranges = [max(1, size) for size in summed]
    if not isinstance(block_size, AutomaticBlockSize):
        return [min(length, block_size) for length in ranges]
    outputs = math.prod(output)
    per_output = sum((dtype or operand.dtype).itemsize for dtype in output_dtypes)
    left = block_size.available_bytes(operand.device) - 2 * per_output * outputs
    while True:
        if outputs * math.prod(ranges) * operand.dtype.itemsize <= left or max(ranges, default=1) == 1:
            return ranges
        longest = ranges.index(max(ranges))
        ranges[longest] = (ranges[longest] + 1) // 2


def _free_cuda_bytes(device: torch.device) -> int:
    """What nothing uses: free on the device, or kept by torch for later."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
