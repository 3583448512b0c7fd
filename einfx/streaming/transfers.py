"""Moving blocks of tensors between where they lie and where they are computed with, in the background.

There is one interface, :class:`Transfers`: a thread that moves one block after the other, in the order in
which it was told to. What differs between a GPU and a CPU is how a piece is moved and how computing waits for
it, see :mod:`.movers`. On a CPU other threads compute meanwhile, page faults of mapped files included.
"""

from __future__ import annotations

import _thread
import weakref
from queue import Empty, SimpleQueue
from typing import Any

import torch
from torch import Tensor

from .movers import Addition, Mover, mover_for
from .pieces import pieces

__all__ = ["Addition", "Transfer", "Transfers"]

ABANDONED_SECONDS = 1.0
"""So often the thread looks whether anybody is left for whom it could work."""


class Transfer:
    """One block under way.

    Attributes:
        moved: how a GPU's stream of computations waits for it, once the thread has started it.
    """

    def __init__(self, target: Tensor | None, source: Tensor, after: Any, add: Addition | None) -> None:
        self.target, self.source, self.after, self.add = target, source, after, add
        # A lock that is held until then: a Ctrl-C that hits threading.Event may become another error.
        self.done = _thread.allocate_lock()
        self.done.acquire()
        self.moved: Any = None


class Transfers:
    """Copies blocks of tensors in the background, one after the other.

    Where an interruption prevents that this is closed, the thread ends by itself. There's no finalizer, since
    an interruption that hit it would be lost.

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
        self._worker = _Worker(mover_for(device), weakref.ref(self))
        self._told = False
        self._worker.start()

    def __enter__(self) -> Transfers:
        return self

    def __exit__(self, *exception: Any) -> None:
        error = self.close()
        if error is not None and not self._told and exception[0] is None:
            raise error

    def copy(
        self, target: Tensor, source: Tensor, *, after: Any = None, add: Addition | None = None
    ) -> Transfer:
        """Begin to copy.

        Args:
            target: where to; one of both is dense, see :func:`.pieces.pieces`. Its dtype is the one it gets.
            source: what, of the same shape.
            after: a moment, by :meth:`mark`, that has to have passed before.
            add: how the source is added to what the target holds, which is replaced where None.
        """
        return self._begun(Transfer(target, source, after, add))

    def stays(self, target: Tensor, source: Tensor) -> bool:
        """Whether a block that will only be read needn't be copied: it can be computed with where it lies.

        Args:
            target: what it would be copied to; dense.
            source: the block.
        """
        return self._worker.mover.stays(target, source)

    def read(self, source: Tensor) -> Transfer:
        """Begin to read a block that stays where it lies, and may be in a file as yet."""
        return self._begun(Transfer(None, source, None, None))

    def _begun(self, transfer: Transfer) -> Transfer:
        self._worker.waiting.put(transfer)
        return transfer

    def mark(self) -> Any:
        """The moment at which everything has been computed that was begun until now."""
        return self._worker.mover.mark()

    def wait(self, transfer: Transfer) -> None:
        """Let what is computed from now on see what was copied.

        Raises:
            Exception: what went wrong with this copy or an earlier one.
        """
        with transfer.done:
            pass
        if self._worker.error is not None:
            self._told = True
            raise self._worker.error
        self._worker.mover.wait(transfer.moved)

    def close(self) -> BaseException | None:
        """Stop at once, whatever is under way; nothing is copied any more when this returns.

        Returns:
            What went wrong.
        """
        interrupted: KeyboardInterrupt | None = None
        while not self._worker.ended:
            try:
                self._worker.stop()
                self._worker.running.acquire()
            except KeyboardInterrupt as error:
                # A piece is soon moved, and memory isn't given back while it is.
                interrupted = error
        failed, self._worker.error = self._worker.error, None
        if interrupted is not None:
            try:
                raise interrupted
            finally:
                # It knows this frame: both would stay until Python looks for such rings.
                del interrupted
        return failed


class _Worker:
    """What the thread knows.

    Attributes:
        mover: how pieces are moved.
        owner: for whom.
        waiting: the transfers to make; None at the end.
        running: a lock that is held until the thread has ended.
        ended: whether it has.
        error: what went wrong.
    """

    def __init__(self, mover: Mover, owner: weakref.ref[Transfers]) -> None:
        self.mover, self.owner = mover, owner
        self.waiting: SimpleQueue[Transfer | None] = SimpleQueue()
        self.running = _thread.allocate_lock()
        self.ended = False
        self.error: BaseException | None = None
        self._stopped = False
        self._inference = torch.is_inference_mode_enabled()

    def start(self) -> None:
        """Start the thread.

        It is one of the lower interface of Python: what ``threading`` runs when a thread starts, and when its
        object goes, may lose a Ctrl-C or become another error.
        """
        self.running.acquire()
        _thread.start_new_thread(self.work, ())

    def stop(self) -> None:
        """Begin no more pieces."""
        self._stopped = True
        self.waiting.put(None)

    def work(self) -> None:
        """Make the transfers."""
        try:
            # Which mode torch is in is a matter of the thread.
            with torch.inference_mode(self._inference), torch.no_grad():
                self._work()
        except BaseException as error:
            self.error = self.error or error
        finally:
            self.ended = True
            self.running.release()

    def _work(self) -> None:
        while (transfer := self._next()) is not None:
            try:
                if self.error is None and not self._stopped:
                    self._move(transfer)
            except BaseException as error:
                self.error = error
            transfer.done.release()
        self.mover.close()

    def _next(self) -> Transfer | None:
        while True:
            try:
                return self.waiting.get(timeout=ABANDONED_SECONDS)
            except Empty:
                if self.owner() is None:
                    return None

    def _move(self, transfer: Transfer) -> None:
        mover, target, source = self.mover, transfer.target, transfer.source
        with mover.moving(transfer.after):
            for part, other in pieces(source if target is None else target, source, mover.piece_bytes):
                if self._stopped:
                    return
                if target is None:
                    mover.read(other)
                else:
                    mover.move(part, other, transfer.add)
            transfer.moved = mover.moved()
