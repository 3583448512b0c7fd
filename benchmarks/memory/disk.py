"""Operands in files larger than the limit: how fast they are contracted, against reading the files."""

from __future__ import annotations

import importlib.util
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import einfx

from . import alone
from .measure import MIB, anonymous_bytes, stay_within

__all__ = ["EQUATIONS", "Reading", "run"]

FILE_BYTES = 1 << 29
LIMIT = 64 * MIB
MOST_BYTES = 3 << 30
"""What a contender may take beside what is there; more is refused."""
COLUMNS = 256
ROUNDS = 5
SECONDS = 35.0
"""For all rounds with the file in memory, or without; one round is always made."""
PIECE_BYTES = 8 * MIB
EQUATIONS = {
    "nk,k->n": "a product of a matrix in a file with a vector",
    "nk,kj->nj": "one with a matrix of 8 columns",
    "nk,nj->kj": "one of its transpose with such a matrix",
    "nk,nl->kl": "its transpose times itself, given twice",
    "nk,kj,nl,lj->j": "its variances in 8 directions",
}
READING = ("", "reading")

Key = tuple[str, str]


class Reading(NamedTuple):
    """One way to go through a file.

    Attributes:
        equation: what is computed; empty for reading alone.
        name: by whom.
        cached: whether the system had the file in memory.
        seconds: median of rounds in which everything ran; nan where it failed.
        ratio: median of these, each over reading alone in the same round.
        peak: anonymous bytes beyond those before, the result included.
        size: bytes of the file.
        failure: why it failed; empty where it didn't.
    """

    equation: str
    name: str
    cached: bool
    seconds: float
    ratio: float
    peak: int
    size: int
    failure: str = ""


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
    """Measure what goes through one file, in a process that is for nothing else."""
    path, limit = Path(argument[0]), argument[1]
    stay_within(MOST_BYTES + 2 * path.stat().st_size)
    return readings(path, limit)


def readings(path: Path, limit: int) -> list[Reading]:
    """Measure what goes through one file."""
    calls = _calls(path, limit)
    return [reading for cached in (False, True) for reading in _measured(path, calls, cached)]


def _calls(path: Path, limit: int) -> dict[Key, Callable[[], object]]:
    calls: dict[Key, Callable[[], object]] = {READING: lambda: _read(path)}
    rows = np.load(path, mmap_mode="r").shape[0]
    generator = torch.Generator().manual_seed(0)
    vector, directions, weights = (
        torch.rand(shape, generator=generator) for shape in ((COLUMNS,), (COLUMNS, 8), (rows, 8))
    )
    others = {"k": vector, "kj": directions, "lj": directions, "nj": weights}
    for equation in EQUATIONS:
        parts = [others.get(part) for part in equation.partition("->")[0].split(",")]
        how = equation, path, parts
        calls[equation, "einfx"] = _contraction(einfx.einsum, *how, memory_limit=limit)
        calls[equation, "torch.einsum, of the mapped file"] = _contraction(torch.einsum, *how)
        if importlib.util.find_spec("opt_einsum") is not None:
            import opt_einsum

            calls[equation, "opt_einsum, of the mapped file"] = _contraction(opt_einsum.contract, *how)
    return calls


def _measured(path: Path, calls: Mapping[Key, Callable[[], object]], cached: bool) -> list[Reading]:
    """Peaks of one round that isn't timed, in which plans are made too, and the times of others."""

    def prepared() -> None:
        (_read if cached else _forget)(path)

    size = path.stat().st_size
    peaks, failures = dict.fromkeys(calls, 0), dict.fromkeys(calls, "")
    for key, call in calls.items():
        prepared()
        try:
            with _Watch() as watch:
                call()
            peaks[key] = watch.peak
        except (einfx.EinfxError, RuntimeError, MemoryError) as error:
            failures[key] = str(error).splitlines()[0] or "out of memory"
    times: dict[Key, list[float]] = {key: [] for key in calls}
    end = time.perf_counter() + SECONDS
    while not times[READING] or (len(times[READING]) < ROUNDS and time.perf_counter() < end):
        for key, call in calls.items():
            if failures[key]:
                continue
            prepared()
            start = time.perf_counter()
            call()
            times[key].append(time.perf_counter() - start)
    found = []
    for key, own in times.items():
        ratios = [seconds / reading for seconds, reading in zip(own, times[READING], strict=False)]
        figures = (statistics.median(own), statistics.median(ratios)) if own else (float("nan"),) * 2
        found.append(Reading(*key, cached, *figures, peaks[key], size, failures[key]))
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
