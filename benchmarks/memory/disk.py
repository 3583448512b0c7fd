"""Operands in files larger than the limit: how fast they are contracted, against reading the files."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import einfx

from . import alone
from .measure import MIB, anonymous_bytes

__all__ = ["EQUATIONS", "Reading", "run"]

FILE_BYTES = 1 << 29
LIMIT = 64 * MIB
COLUMNS = 256
ROUNDS = 3
PIECE_BYTES = 8 * MIB
EQUATIONS = {
    "nk,k->n": "a product of a matrix in a file with a vector",
    "nk,nj->kj": "second moments of its rows",
    "nk,kj,nl,lj->j": "its variances in 8 directions",
}


class Reading(NamedTuple):
    """One way to go through a file.

    Attributes:
        equation: what is computed; empty for reading alone.
        name: by whom.
        cached: whether the system had the file in memory.
        seconds: median of rounds in which everything ran.
        peak: anonymous bytes beyond those before, the result included.
        size: bytes of the file.
    """

    equation: str
    name: str
    cached: bool
    seconds: float
    peak: int
    size: int


def run(size: int = FILE_BYTES, limit: int = LIMIT, folder: Path | None = None) -> list[Reading]:
    """Measure all equations, in a process of their own.

    Args:
        size: bytes of the file that is made.
        limit: for einfx.
        folder: where the file is made; by default where temporary files are.
    """
    with tempfile.TemporaryDirectory(dir=folder) as made:
        path = Path(made) / "matrix.npy"
        _write(path, size)
        (answer,) = alone.each(f"{__name__}:contest", [[str(path), limit]])
    if answer.failure:
        raise RuntimeError(f"reading from disk failed: {answer.failure}")
    return [Reading(*row) for row in answer.value]


def contest(argument: Sequence[Any]) -> list[Reading]:
    """Measure what goes through one file."""
    path, limit = Path(argument[0]), argument[1]
    calls: dict[tuple[str, str], Callable[[], object]] = {("", "reading"): lambda: _read(path)}
    generator = torch.Generator().manual_seed(0)
    vector, directions = (torch.rand(shape, generator=generator) for shape in ((COLUMNS,), (COLUMNS, 8)))
    others = {"k": vector, "kj": directions, "lj": directions}
    for equation in EQUATIONS:
        parts = [others.get(part) for part in equation.partition("->")[0].split(",")]
        calls[equation, "einfx"] = _contraction(einfx.einsum, equation, path, parts, memory_limit=limit)
        calls[equation, "torch.einsum, of the mapped file"] = _contraction(
            torch.einsum, equation, path, parts
        )
    size, found = path.stat().st_size, []
    for cached in (False, True):
        times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
        peaks = dict.fromkeys(calls, 0)
        for _ in range(ROUNDS):
            for key, call in calls.items():
                if cached:
                    _read(path)
                else:
                    _forget(path)
                with _Watch() as watch:
                    start = time.perf_counter()
                    call()
                    times[key].append(time.perf_counter() - start)
                peaks[key] = max(peaks[key], watch.peak)
        found += [Reading(*key, cached, statistics.median(times[key]), peaks[key], size) for key in calls]
    return found


def _contraction(
    contract: Callable[..., object],
    equation: str,
    path: Path,
    parts: Sequence[torch.Tensor | None],
    **options: Any,
) -> Callable[[], object]:
    """A contraction that has the mapped file in the place of every operand that is None."""

    def call() -> object:
        # torch warns of what can't be written to; "c" lets it be, and never writes the file.
        matrix = np.load(path, mmap_mode="c")
        file = matrix if options else torch.from_numpy(matrix)
        return contract(equation, *(file if part is None else part for part in parts), **options)

    return call


def _write(path: Path, size: int) -> None:
    rows = size // (4 * COLUMNS)
    matrix = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, COLUMNS))
    piece = np.random.default_rng(0).random((1 << 12, COLUMNS), dtype=np.float32)
    for start in range(0, rows, len(piece)):
        matrix[start : start + len(piece)] = piece[: rows - start]
    matrix.flush()


def _read(path: Path) -> None:
    buffer = bytearray(PIECE_BYTES)
    with path.open("rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass


def _forget(path: Path) -> None:
    """Have the system drop the file from its memory."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class _Watch:
    """The most anonymous memory of this process meanwhile; pages of mapped files are not counted."""

    def __enter__(self) -> _Watch:
        self.before = anonymous_bytes()
        self.peak = 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.ended.wait(0.002):
            self.peak = max(self.peak, anonymous_bytes() - self.before)

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()
