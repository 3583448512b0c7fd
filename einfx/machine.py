"""How long a primitive operation takes: throughputs of a CPU or a GPU, by dtype and shape.

Constants are calibrated, not looked up: single-core figures of an AVX-512 server core with MKL, and of a
current data-centre GPU. Ratios between kernels decide which of them is chosen, and ratios vary far less
from machine to machine than times do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from .layout import Loops

__all__ = ["Machine", "accumulation_dtype", "item_bytes", "machine_for"]

_ITEM_BYTES = {
    torch.float16: 2,
    torch.bfloat16: 2,
    torch.float32: 4,
    torch.float64: 8,
    torch.complex32: 4,
    torch.complex64: 8,
    torch.complex128: 16,
}

_CPU_RATE = {  # multiply-adds per second of one core inside a large GEMM, times two
    torch.float16: 150e9,
    torch.bfloat16: 500e9,
    torch.float32: 155e9,
    torch.float64: 75e9,
    torch.complex64: 40e9,
    torch.complex128: 20e9,
}

_GPU_RATE = {
    torch.float16: 500e12,
    torch.bfloat16: 500e12,
    torch.float32: 40e12,
    torch.float64: 40e12,
    torch.complex64: 10e12,
    torch.complex128: 8e12,
}


@dataclass(frozen=True)
class Machine:
    """Predicts seconds for the primitives from which every kernel is made.

    Args:
        threads: worker threads of the CPU; 1 on a GPU, whose figures are those of the whole device.
        op_seconds: dispatch of one operation that computes.
        view_seconds: dispatch of one operation that only makes a view.
        cached_bandwidth: bytes per second while everything fits in ``cache_bytes``.
        block_bytes: products above this are made and summed in blocks.
        bandwidth: bytes per second from main memory.
        fresh_bandwidth: bytes per second of first touching memory that the allocator has to map, which
            it does for each tensor above ``fresh_bytes``.
        row_seconds: what starting one inner loop costs an elementwise kernel.
        gemm_seconds: what one matrix of a batched GEMM costs apart from its arithmetic.
        gpu: whether these are a GPU's figures.
        transfer_bandwidth: bytes per second from a mapped file on a CPU, from host memory on a GPU.
        transfer_seconds: what beginning a transfer and waiting for it costs.
        transfer_gap_bytes: as much as this is read in vain for every stretch of memory that is copied: a page
            of a file on a CPU.
    """

    threads: int
    op_seconds: float
    view_seconds: float
    cache_bytes: int
    block_bytes: int
    cached_bandwidth: float
    bandwidth: float
    fresh_bytes: int
    fresh_bandwidth: float
    row_seconds: float
    gemm_seconds: float
    gpu: bool
    transfer_bandwidth: float
    transfer_seconds: float
    transfer_gap_bytes: int

    def rate(self, dtype: torch.dtype) -> float:
        """Floating-point operations per second of a large GEMM on all threads."""
        rates = _GPU_RATE if self.gpu else _CPU_RATE
        return rates.get(dtype, 2e9) * self.threads

    def stream(self, bytes_: float, written: float = 0.0) -> float:
        """Seconds to move ``bytes_`` through the memory system, ``written`` of them to a new tensor."""
        threads = self.threads if bytes_ > 400_000 else 1
        bandwidth = self.cached_bandwidth if bytes_ <= self.cache_bytes else self.bandwidth
        seconds = bytes_ / (bandwidth * threads)
        if written > self.fresh_bytes:
            seconds += written / self.fresh_bandwidth
        return seconds

    def transfer(self, bytes_: float, stretch: float | None = None) -> float:
        """Seconds to copy from elsewhere, in stretches of so many bytes."""
        wasted = 1.0 if stretch is None else 1.0 + self.transfer_gap_bytes / max(stretch, 1)
        return self.transfer_seconds + wasted * bytes_ / self.transfer_bandwidth

    def gemm(self, batch: int, rows: int, columns: int, summed: int, dtype: torch.dtype) -> float:
        """Seconds of ``batch`` products of (rows, summed) by (summed, columns) matrices, operands dense."""
        item = item_bytes(dtype)
        outputs = batch * rows * columns
        moved = item * (batch * summed * (rows + columns) + outputs)
        seconds = self.op_seconds + self.stream(moved, item * outputs)
        if self.gpu:
            padded = batch * max(rows, 16) * max(columns, 16) * (summed + 16)
            return seconds + 2 * padded / self.rate(dtype)
        if batch > 1 and rows * columns * summed < 400:
            # torch.bmm's own loop: a scalar start for each output, then a vectorised sum.
            arithmetic = outputs * (4e-9 + 0.25e-9 * summed) / self._workers(outputs * summed)
            return self.op_seconds + max(self.stream(moved), arithmetic)
        if batch > 1 and rows * columns == 1:
            return seconds + 2.3e-9 * batch * summed / self._workers(batch * summed)
        if min(rows, columns) == 1:
            if batch > 1:
                padded = batch * max(rows, columns) * 8 * (summed + 8)
                return seconds + batch * self.gemm_seconds + 2 * padded / self.rate(dtype)
            return self.op_seconds + max(self.stream(moved), 2 * outputs * summed / (0.2 * self.rate(dtype)))
        padded = batch * _pad(min(rows, columns), 4) * _pad(max(rows, columns), 16) * (summed + 8)
        workers = self.threads / self._workers(outputs * summed)
        return seconds + batch * self.gemm_seconds + 2 * padded * workers / self.rate(dtype)

    def elementwise(self, read: int, written: int, loops: Loops, dtype: torch.dtype) -> float:
        """Seconds to compute ``written`` elements from ``read`` in loops like these."""
        item = item_bytes(dtype)
        seconds = self.stream(item * (read + written), item * written)
        return self.op_seconds + seconds + self._walk(written, loops)

    def multiply_into_blocks(self, read: int, written: int, loops: Loops, dtype: torch.dtype) -> float:
        """Seconds for a product that is summed at once, and so made in blocks where it's large."""
        item = item_bytes(dtype)
        if item * written <= self.block_bytes:
            return self.elementwise(read, written, loops, dtype) + self.op_seconds
        seconds = self.stream(item * read) + item * written / (self.cached_bandwidth * self.threads)
        return seconds + self._walk(written, loops) + item * written / 524288 * 6 * self.op_seconds

    def accumulate(self, read: int, written: int, footprint: int, loops: Loops, dtype: torch.dtype) -> float:
        """Seconds to add a product of ``read`` elements to ``written`` that stay in the cache."""
        item = item_bytes(dtype)
        cached = item * footprint <= self.cache_bytes
        bandwidth = (self.cached_bandwidth if cached else self.bandwidth) * self._workers(written)
        seconds = item * read / bandwidth + self.stream(2 * item * written)
        return self.op_seconds + seconds + self._walk(written, loops)

    def _walk(self, elements: int, loops: Loops) -> float:
        """Seconds that short and strided loops cost beyond what they move."""
        seconds = 0.0 if loops.unit_stride else 0.5e-9 * elements
        if loops.inner < 64:
            rows = elements / max(loops.inner, 1)
            seconds += rows * self.row_seconds
            if loops.second < 64:
                seconds += rows / max(loops.second, 1) * 10 * self.row_seconds
        return seconds / self._workers(elements)

    def reduce(self, read: int, written: int, inner: int, dtype: torch.dtype) -> float:
        """Seconds to sum ``read`` elements to ``written``, ``inner`` of them side by side in memory."""
        item = item_bytes(dtype)
        rows = read / max(inner, 1) if inner < 64 else 0.0
        return (
            2 * self.op_seconds
            + 1.5 * self.stream(item * (read + written), item * written)
            + 2 * rows * self.row_seconds / self._workers(read)
        )

    def copy(self, elements: int, dtype: torch.dtype, run: int = 1, row: int = 16) -> float:
        """Seconds to copy a tensor into another order of its dimensions.

        Args:
            elements: its number of elements.
            dtype: its dtype.
            run: how many neighbours in memory stay neighbours.
            row: how many elements are written one after the other from places that are evenly spaced.
        """
        moved = 2 * item_bytes(dtype) * elements
        seconds = self.op_seconds + self.stream(moved, moved / 2)
        if self.gpu:
            return seconds + 2 * self.stream(moved)
        each = min(0.65e-9, 4e-9 / max(run, 1))
        if moved > self.cache_bytes and run < 16:
            each *= 2.5
        # Every row is a call within torch, which long ones hide.
        each += max(0.0, 6e-9 / max(row, 1) - 0.4e-9)
        return seconds + elements * each / self._workers(elements)

    def _workers(self, elements: float) -> int:
        return self.threads if elements > 32768 else 1


def item_bytes(dtype: torch.dtype) -> int:
    """Bytes of one element."""
    size = _ITEM_BYTES.get(dtype)
    return dtype.itemsize if size is None else size


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which dtype sums of this one are taken: float32 for half and bfloat16."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _pad(size: int, block: int) -> int:
    return -(-size // block) * block


@lru_cache(maxsize=64)
def _machine(device: str, threads: int) -> Machine:
    if device == "cpu":
        return Machine(
            threads=threads,
            op_seconds=0.9e-6,
            view_seconds=0.7e-6,
            cache_bytes=1_900_000,
            block_bytes=8 << 20,
            cached_bandwidth=90e9,
            bandwidth=28e9,
            fresh_bytes=32 << 20,
            fresh_bandwidth=3.4e9,
            row_seconds=2e-9,
            gemm_seconds=30e-9,
            gpu=False,
            transfer_bandwidth=2e9,
            transfer_seconds=30e-6,
            transfer_gap_bytes=4096,
        )
    return Machine(
        threads=1,
        op_seconds=5e-6,
        view_seconds=0.7e-6,
        cache_bytes=40_000_000,
        block_bytes=1 << 62,
        cached_bandwidth=5e12,
        bandwidth=3e12,
        fresh_bytes=1 << 62,
        fresh_bandwidth=3e12,
        row_seconds=1e-12,
        gemm_seconds=2e-9,
        gpu=True,
        transfer_bandwidth=12e9,
        transfer_seconds=40e-6,
        transfer_gap_bytes=128,
    )


def machine_for(device: str | torch.device) -> Machine:
    """The figures of a device, with as many threads as torch now uses."""
    kind = device.type if isinstance(device, torch.device) else str(device).partition(":")[0]
    return _machine(kind, torch.get_num_threads() if kind == "cpu" else 1)
