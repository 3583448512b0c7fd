"""How a piece of a tensor gets from host memory to where it is computed with, and back: one mover each.

=========  ====================================================================================
mover      moves
=========  ====================================================================================
``_Host``  within host memory, where a block of a file that lies side by side isn't copied at
           all: its pages are read ahead of what is computed with them
``_Cuda``  between host memory and a GPU, on a stream of its own, through pinned memory
=========  ====================================================================================

One thread owns a mover; ``mark`` and ``wait`` are called by those that compute.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import FileError
from .pieces import is_stretch, pieces

__all__ = ["PIECE_BYTES", "Addition", "Mover", "mover_for"]

Addition = Callable[[Tensor, Tensor], Tensor]

PIECE_BYTES = 8 << 20
"""How much is moved at once: between two pieces a transfer can be stopped."""

SERIAL = 32768
"""Torch copies fewer elements than these by one thread."""

GAPS = 4
"""Pages between what is copied are read too, where they are at most so many times as much."""

POPULATE_READ = 22
"""``MADV_POPULATE_READ`` of Linux 5.14, which :mod:`mmap` doesn't name."""


class Mover(Protocol):
    """How pieces are moved; all but ``mark`` and ``wait`` run in the thread.

    Attributes:
        piece_bytes: how much it takes at once.
    """

    piece_bytes: int

    def mark(self) -> Any:
        """The moment at which everything has been computed that was begun until now."""

    def wait(self, moved: Any) -> None:
        """Let what is computed from now on come after what was moved."""

    def stays(self, target: Tensor, source: Tensor) -> bool:
        """Whether a block is as good for computing where it lies as it would be in its buffer."""

    def moving(self, after: Any) -> Any:
        """A context in which pieces are moved, after a moment."""

    def read(self, source: Tensor) -> None:
        """Have a piece that is one stretch in memory, where it is in a file as yet."""

    def move(self, target: Tensor, source: Tensor, add: Addition | None) -> None:
        """Copy a piece, or add it to what the target holds."""

    def moved(self) -> Any:
        """What :meth:`wait` waits for."""

    def close(self) -> None:
        """Return when nothing is under way any more."""


def mover_for(device: torch.device) -> Mover:
    """How pieces are moved between host memory and a device that computes.

    Args:
        device: a CPU or a GPU.

    Example:
        >>> target, mover = torch.zeros(3), mover_for(torch.device("cpu"))
        >>> with mover.moving(None):
        ...     mover.move(target, torch.ones(3), torch.add)
        >>> target
        tensor([1., 1., 1.])
    """
    return _Cuda(device) if device.type == "cuda" else _Host()


class _Host:
    """Moves within host memory, where what was begun is done.

    Copies take one thread, since a team of threads beside those that compute makes both slow.
    """

    piece_bytes = PIECE_BYTES

    def mark(self) -> None:
        return None

    def wait(self, moved: Any) -> None:
        pass

    def stays(self, target: Tensor, source: Tensor) -> bool:
        return is_stretch(target, source)

    def moving(self, after: Any) -> Any:
        return torch.no_grad()

    def read(self, source: Tensor) -> None:
        have_pages(source)

    def move(self, target: Tensor, source: Tensor, add: Addition | None) -> None:
        if add is not None:
            target.copy_(add(target, source))
            return
        have_pages(source)
        for part, other in pieces(target, source, PIECE_BYTES, SERIAL):
            if is_stretch(part, other):
                ctypes.memmove(part.data_ptr(), other.data_ptr(), part.numel() * part.itemsize)
            else:
                part.copy_(other)

    def moved(self) -> None:
        return None

    def close(self) -> None:
        pass


class _Cuda:
    """Moves between host memory and a GPU, on a stream of its own.

    A piece that isn't pinned, isn't one stretch on both sides or has another dtype is gathered in pinned
    memory first, in one of two buffers, while the other one is on its way. These buffers are all the host
    memory that it takes.

    Args:
        device: a GPU; the current one where it has no number.
    """

    piece_bytes = PIECE_BYTES

    def __init__(self, device: torch.device) -> None:
        if device.index is None:
            # The current device is a matter of the thread, and the one that copies has another.
            device = torch.device("cuda", torch.cuda.current_device())
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.staging: list[tuple[Tensor, torch.cuda.Event]] = []
        self.turn = 0

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return event

    def wait(self, moved: Any) -> None:
        if moved is not None:
            torch.cuda.current_stream(self.device).wait_event(moved)

    def stays(self, target: Tensor, source: Tensor) -> bool:
        return False

    def moving(self, after: Any) -> Any:
        if after is not None:
            self.stream.wait_event(after)
        # The current stream and device are a matter of the thread too.
        return torch.cuda.stream(self.stream)

    def read(self, source: Tensor) -> None:
        have_pages(source)

    def move(self, target: Tensor, source: Tensor, add: Addition | None) -> None:
        if self._is_load(target, source):
            self._load(target, source)
        else:
            self._store(target, source, add)

    def _load(self, target: Tensor, source: Tensor) -> None:
        if is_stretch(target, source) and source.is_pinned():
            target.copy_(source, non_blocking=True)
            return
        have_pages(source)
        staged, free = self._staged(target)
        staged.copy_(source)
        target.copy_(staged, non_blocking=True)
        free.record(self.stream)

    def _store(self, target: Tensor, source: Tensor, add: Addition | None) -> None:
        staged, free = self._staged(source)
        staged.copy_(source, non_blocking=True)
        free.record(self.stream)
        free.synchronize()
        target.copy_(staged if add is None else add(target, staged))

    def _is_load(self, target: Tensor, source: Tensor) -> bool:
        return target.device.type == "cuda"

    def moved(self) -> torch.cuda.Event:
        event = torch.cuda.Event()
        event.record(self.stream)
        return event

    def close(self) -> None:
        # Memory that a copy reads or writes goes back to its allocator after this.
        self.stream.synchronize()

    def _staged(self, like: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        """A part of pinned memory laid out like a dense tensor, once what was copied from it has arrived."""
        if len(self.staging) < 2:
            memory = _pinned(self.piece_bytes)
            self.staging.append((memory, torch.cuda.Event()))
        memory, free = self.staging[self.turn % 2]
        self.turn += 1
        free.synchronize()
        elements = memory[: like.numel() * like.itemsize].view(like.dtype)
        return elements.as_strided(like.shape, like.stride()), free


def have_pages(source: Tensor) -> None:
    """Have the pages of a piece in memory, many of them at once, where it lies in a file.

    What is read page by page, as it is touched, is read slowly. Where little of the pages is asked for,
    they're left to that.

    Raises:
        FileError: some can't be read; to touch them would end the process.

    Example:
        >>> have_pages(torch.ones(5))  # in memory it is
    """
    if sys.platform != "linux" or source.numel() == 0:
        return
    last = sum((size - 1) * step for size, step in zip(source.shape, source.stride(), strict=True))
    extent = (last + 1) * source.itemsize
    if extent > GAPS * max(source.numel() * source.itemsize, mmap.PAGESIZE):
        return
    start = source.data_ptr()
    page = start // mmap.PAGESIZE * mmap.PAGESIZE
    length = start - page + extent
    advise = _advise()
    if advise(page, length, POPULATE_READ) == 0:
        return
    number = ctypes.get_errno()
    if number in (errno.EFAULT, getattr(errno, "EHWPOISON", errno.EFAULT)):
        raise FileError(
            number,
            f"{extent} bytes of an operand in a mapped file can't be read: either the disk fails, or the "
            "file is shorter than it was; map it again once it's whole",
        )
    # Before Linux 5.14, all that can be done is to have the system begin, with the next piece too.
    advise(page, length + extent, mmap.MADV_WILLNEED)


@lru_cache(maxsize=1)
def _advise() -> Callable[[int, int, int], int]:
    function = ctypes.CDLL(None, use_errno=True).madvise
    function.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    called: Callable[[int, int, int], int] = function
    return called


def _pinned(bytes_: int) -> Tensor:
    return torch.empty(bytes_, dtype=torch.uint8, pin_memory=True)
