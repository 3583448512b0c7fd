"""Moving blocks of tensors between where they lie and where they are computed with, in the background.

There is one interface, :class:`Transfers`: a thread that copies one block after the other, in the order in
which it was told to. What differs between a GPU and a CPU is how a piece is moved and how computing waits for
it. On a CPU other threads compute meanwhile, page faults of mapped files included; the copy takes one thread,
since a team of threads beside those that compute makes both slow. On a GPU, pieces go through two small
buffers of pinned memory, on a stream of their own.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Transfer", "Transfers", "pieces"]

Addition = Callable[[Tensor, Tensor], Tensor]

PIECE_BYTES = 8 << 20
"""How much is moved at once: between two pieces a transfer can be stopped."""

SERIAL = 32768
"""Torch copies fewer elements than these by one thread."""


class Transfer:
    """One copy under way.

    Attributes:
        moved: how a GPU's stream of computations waits for it, once the thread has started it.
    """

    def __init__(self, target: Tensor, source: Tensor, after: Any, add: Addition | None) -> None:
        self.target, self.source, self.after, self.add = target, source, after, add
        self.done = threading.Event()
        self.moved: Any = None


class Transfers:
    """Copies blocks of tensors in the background, one after the other.

    Args:
        device: where is computed; the other end of every copy is host memory.

    Example:
        >>> source, target = torch.arange(6.0).view(2, 3), torch.zeros(3)
        >>> with Transfers(torch.device("cpu")) as transfers:
        ...     started = transfers.copy(target, source[1])
        ...     transfers.wait(started)
        ...     target
        tensor([3., 4., 5.])
    """

    def __init__(self, device: torch.device) -> None:
        self._worker = _Worker(_Cuda(device) if device.type == "cuda" else _Host())
        # The thread doesn't know this object, which ends it even where an interruption prevents closing.
        self._thread = threading.Thread(target=self._worker.work, name="einfx transfers", daemon=True)
        self._thread.start()

    def __del__(self) -> None:
        if worker := getattr(self, "_worker", None):
            worker.stop()

    def __enter__(self) -> Transfers:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def copy(
        self, target: Tensor, source: Tensor, *, after: Any = None, add: Addition | None = None
    ) -> Transfer:
        """Begin to copy.

        Args:
            target: where to; one of both is dense, see :func:`pieces`. Its dtype is the one it gets.
            source: what, of the same shape.
            after: a moment, by :meth:`mark`, that has to have passed before.
            add: how the source is added to what the target holds, which is replaced where None.
        """
        started = Transfer(target, source, after, add)
        self._worker.waiting.put(started)
        return started

    def mark(self) -> Any:
        """The moment at which everything has been computed that was begun until now."""
        return self._worker.mover.mark()

    def wait(self, transfer: Transfer) -> None:
        """Let what is computed from now on see what was copied.

        Raises:
            Exception: what went wrong with this copy or an earlier one.
        """
        transfer.done.wait()
        if self._worker.error is not None:
            raise self._worker.error
        self._worker.mover.wait(transfer.moved)

    def close(self) -> None:
        """Stop at once, whatever is under way; nothing is copied any more when this returns."""
        interrupted: KeyboardInterrupt | None = None
        while self._thread.is_alive():
            try:
                self._worker.stop()
                self._thread.join()
            except KeyboardInterrupt as error:
                # A piece is soon moved, and memory isn't given back while it is.
                interrupted = error
        self._worker.error = None
        if interrupted is not None:
            raise interrupted


class _Worker:
    """What the thread knows.

    Attributes:
        mover: how pieces are moved.
        waiting: the transfers to make; None at the end.
        error: what went wrong.
    """

    def __init__(self, mover: _Mover) -> None:
        self.mover = mover
        self.waiting: SimpleQueue[Transfer | None] = SimpleQueue()
        self.error: BaseException | None = None
        self._stopped = False
        self._inference = torch.is_inference_mode_enabled()

    def stop(self) -> None:
        """Begin no more pieces."""
        self._stopped = True
        self.waiting.put(None)

    def work(self) -> None:
        """Make the transfers."""
        # Which mode torch is in is a matter of the thread.
        with torch.inference_mode(self._inference), torch.no_grad():
            while (transfer := self.waiting.get()) is not None:
                try:
                    if self.error is None and not self._stopped:
                        self._move(transfer)
                except BaseException as error:
                    self.error = error
                transfer.done.set()
            self.mover.close()

    def _move(self, transfer: Transfer) -> None:
        mover = self.mover
        with mover.moving(transfer.after):
            for target, source in pieces(
                transfer.target, transfer.source, mover.piece_bytes, mover.scattered
            ):
                if self._stopped:
                    return
                mover.move(target, source, transfer.add)
            transfer.moved = mover.moved()


def pieces(
    target: Tensor, source: Tensor, most_bytes: int, scattered: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The parts in which a tensor is copied, each of so many bytes at most.

    Args:
        target: where to.
        source: what, of the same shape. Where one of both is dense, so are its parts.
        most_bytes: of a part; a single element may take more.
        scattered: how many elements a part may have that isn't one stretch of memory in both; any number for
            None.

    Example:
        >>> whole = torch.zeros(6, 100)
        >>> [part.shape for part, _ in pieces(whole, whole, 1000)]
        [torch.Size([2, 100]), torch.Size([2, 100]), torch.Size([2, 100])]
    """
    count = target.numel()
    if count == 0:
        return
    small = count * target.itemsize <= most_bytes
    if count == 1 or (small and (scattered is None or count < scattered or _is_stretch(target, source))):
        yield target, source
        return
    dense = target if _is_dense(target) else source
    strides = dense.stride()
    dim = max((d for d in range(target.dim()) if target.shape[d] > 1), key=lambda d: strides[d])
    size = target.shape[dim]
    most = (scattered or count) - 1 if small else most_bytes // target.itemsize
    step = max(1, most // (count // size))
    for start in range(0, size, step):
        length = min(step, size - start)
        parts = target.narrow(dim, start, length), source.narrow(dim, start, length)
        yield from pieces(*parts, most_bytes, scattered)


def _is_stretch(target: Tensor, source: Tensor) -> bool:
    """Whether two tensors are the same stretch of bytes, in one place and in another."""
    if target.dtype != source.dtype or source.is_conj() or source.is_neg():
        return False
    strides = zip(target.shape, target.stride(), source.stride(), strict=True)
    return _is_dense(target) and all(size == 1 or one == other for size, one, other in strides)


def _is_dense(tensor: Tensor) -> bool:
    """Whether its elements fill a stretch of memory, in whatever order of its dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


class _Mover(Protocol):
    """How pieces are moved; all but ``mark``, ``wait`` and ``close`` run in the thread."""

    piece_bytes: int
    scattered: int | None

    def mark(self) -> Any: ...

    def wait(self, moved: Any) -> None: ...

    def moving(self, after: Any) -> Any: ...

    def move(self, target: Tensor, source: Tensor, add: Addition | None) -> None: ...

    def moved(self) -> Any: ...

    def close(self) -> None: ...


class _Host:
    """Moves within host memory, where what was begun is done."""

    piece_bytes = PIECE_BYTES
    scattered: int | None = SERIAL

    def mark(self) -> None:
        return None

    def wait(self, moved: Any) -> None:
        pass

    def moving(self, after: Any) -> Any:
        return torch.no_grad()

    def move(self, target: Tensor, source: Tensor, add: Addition | None) -> None:
        if add is not None:
            target.copy_(add(target, source))
        elif _is_stretch(target, source):
            _read_ahead(source)
            ctypes.memmove(target.data_ptr(), source.data_ptr(), target.numel() * target.itemsize)
        else:
            target.copy_(source)

    def moved(self) -> None:
        return None

    def close(self) -> None:
        pass


class _Cuda:
    """Moves between host memory and a GPU, on a stream of its own.

    A piece that isn't pinned, isn't dense or has another dtype is gathered in pinned memory first, in one of
    two buffers, while the other one is on its way.
    """

    piece_bytes = PIECE_BYTES
    scattered: int | None = None

    def __init__(self, device: torch.device) -> None:
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

    def moving(self, after: Any) -> Any:
        if after is not None:
            self.stream.wait_event(after)
        # The current stream and device are a matter of the thread too.
        return torch.cuda.stream(self.stream)

    def move(self, target: Tensor, source: Tensor, add: Addition | None) -> None:
        if self._is_load(target, source):
            alike = source.dtype == target.dtype and source.stride() == target.stride()
            if alike and not source.is_conj() and source.is_pinned():
                target.copy_(source, non_blocking=True)
                return
            staged, free = self._staged(target)
            staged.copy_(source)
            target.copy_(staged, non_blocking=True)
            free.record(self.stream)
            return
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
        """A part of pinned memory laid out like a dense tensor, and the event after which it's free again."""
        if len(self.staging) < 2:
            memory = _pinned(self.piece_bytes)
            self.staging.append((memory, torch.cuda.Event()))
        memory, free = self.staging[self.turn % 2]
        self.turn += 1
        free.synchronize()
        elements = memory[: like.numel() * like.itemsize].view(like.dtype)
        return elements.as_strided(like.shape, like.stride()), free


def _read_ahead(source: Tensor) -> None:
    """Let the system begin to read a piece, and the next one, where these are of a file: all at once."""
    if sys.platform == "linux":
        start, extent = source.data_ptr(), source.numel() * source.itemsize
        page = start // mmap.PAGESIZE * mmap.PAGESIZE
        # What doesn't lie in a file, or beyond its end, is left as it is.
        length = ctypes.c_size_t(start - page + 2 * extent)
        ctypes.CDLL(None).madvise(ctypes.c_void_p(page), length, mmap.MADV_WILLNEED)


def _pinned(bytes_: int) -> Tensor:
    return torch.empty(bytes_, dtype=torch.uint8, pin_memory=True)
