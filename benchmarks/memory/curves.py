"""Time against memory: a contraction under smaller and smaller limits, beside its peers.

Every point is measured in a process of its own, in rounds that each time einfx without a limit too. A call
that takes longer than it may is ended, and told as that.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import opt_einsum
import torch
from torch import Tensor

import einfx
from einfx.errors import MemoryLimitError
from einfx.graph_memory.contraction_bytes import needed_bytes

from ..timing import interleave
from . import alone
from .curve_peers import PEERS
from .measure import available_bytes, peak_of, reason, stay_within

__all__ = ["CALL_SECONDS", "CURVES", "Curve", "CurvePoint", "Subject", "lattice", "run"]

SPARE_BYTES = 2 << 30
LEAST_LIMIT = 16 << 10

CALL_SECONDS = 30
"""What one call may take, planning included."""

ROUND_SECONDS = 8.0
"""What takes less is timed in three rounds or more, and else in one."""

POINT_SECONDS = 3.0
"""For the rounds of one point, where three take less."""


class Subject(NamedTuple):
    """What is contracted.

    Attributes:
        name: also that of the plot's file.
        title: in words.
        equation: its text.
        shapes: of its operands, float32.
    """

    name: str
    title: str
    equation: str
    shapes: tuple[tuple[int, ...], ...]


class CurvePoint(NamedTuple):
    """A contraction within a limit, or by a peer.

    Attributes:
        name: by whom.
        limit: the bytes that it was given; None without a limit.
        peak: bytes beyond the operands, the result included; None where it failed.
        slower: its time over that of einfx without a limit in the same round: median and both quartiles.
        planning_seconds: what was spent before the first call.
        needed: where the limit was refused, one that the error says would do, if it names one.
        failure: why it failed; empty where it didn't.
    """

    name: str
    limit: int | None
    peak: int | None
    slower: tuple[float, ...]
    planning_seconds: float
    needed: int | None
    failure: str


class Curve(NamedTuple):
    """The points of one contraction.

    Attributes:
        subject: what is contracted.
        points: einfx without a limit, then under smaller and smaller ones, then the peers.
    """

    subject: Subject
    points: list[CurvePoint]


def lattice(rows: int, columns: int, bond: int) -> tuple[str, tuple[tuple[int, ...], ...]]:
    """A network of tensors on a lattice without open legs: its equation and shapes."""
    names = map(opt_einsum.get_symbol, itertools.count())
    across = {(i, j): next(names) for i in range(rows) for j in range(columns - 1)}
    down = {(i, j): next(names) for i in range(rows - 1) for j in range(columns)}
    parts = [
        "".join(
            legs[at]
            for legs, at in ((across, (i, j - 1)), (across, (i, j)), (down, (i - 1, j)), (down, (i, j)))
            if at in legs
        )
        for i in range(rows)
        for j in range(columns)
    ]
    return ",".join(parts) + "->", tuple((bond,) * len(part) for part in parts)


CURVES = (
    Subject("rows", "Sums of products of rows, 4096 x 8192 each", "ak,ak,ak->a", ((4096, 8192),) * 3),
    Subject("lattice", "A lattice of 4 x 4 tensors with bonds of 40", *lattice(4, 4, 40)),
)


def run(
    subjects: Sequence[Subject] = CURVES,
    seconds: int = CALL_SECONDS,
    progress: Callable[[Subject, CurvePoint], None] | None = None,
) -> list[Curve]:
    """Measure contractions at every point of their curves.

    Args:
        subjects: what to contract.
        seconds: that one call may take.
        progress: is told every point.
    """
    curves = []
    for subject in subjects:
        points: list[CurvePoint] = []
        for answer in alone.each(f"{__name__}:contest", _asked(subject, points), seconds):
            name, limit = answer.argument[1:]
            point = CurvePoint(name, limit, None, (), 0.0, None, answer.failure)
            if not answer.failure:
                point = CurvePoint(*answer.value)
            points.append(point)
            if progress is not None:
                progress(subject, point)
        curves.append(Curve(subject, points))
    return curves


def _asked(subject: Subject, points: Sequence[CurvePoint]) -> Iterator[list[Any]]:
    """What to measure: limits, each half of the one before, until one fails; then the least one; then peers.

    Args:
        subject: what is contracted.
        points: those measured so far.
    """
    yield [subject, "einfx", None]
    limit = einfx.contract_path(subject.equation, *subject.shapes).peak_bytes
    while limit >= LEAST_LIMIT and not points[-1].failure:
        yield [subject, "einfx", limit]
        limit //= 2
    needed, *before = points[-1].needed, *(point.limit for point in points[:-1] if point.limit is not None)
    if needed is not None and needed < min(before, default=needed + 1):
        yield [subject, "einfx", needed]
    for name in PEERS:
        if PEERS[name].suits(subject.equation):
            yield [subject, name, None]


def contest(argument: Sequence[Any]) -> CurvePoint:
    """Measure one point, given what is contracted, by whom and within which limit."""
    subject, (name, limit) = Subject(*argument[0]), argument[1:]
    operands = _operands(subject)
    stay_within(available_bytes() - SPARE_BYTES)

    def unlimited() -> Tensor:
        alone.renew()
        result: Tensor = einfx.einsum(subject.equation, *operands)
        return result

    expected = unlimited()
    alone.renew()
    start = time.perf_counter()
    try:
        contract = _contender(name, limit, subject.equation, operands)
        planning = time.perf_counter() - start
        start = time.perf_counter()
        torch.testing.assert_close(contract(), expected, rtol=1e-4, atol=0.0)
        first = time.perf_counter() - start
        alone.renew()
        peak = peak_of(contract)
    except MemoryLimitError as error:
        return CurvePoint(name, limit, None, (), 0.0, needed_bytes(error), "refused")
    except (RuntimeError, MemoryError) as error:
        return CurvePoint(name, limit, None, (), 0.0, None, reason(error))
    slower = _slower(contract, unlimited, first)
    return CurvePoint(name, limit, peak, slower, planning, None, "")


def _slower(
    contract: Callable[[], Tensor], unlimited: Callable[[], Tensor], first: float
) -> tuple[float, ...]:
    """The time of one over that of the other, in the same rounds: the median and both quartiles."""

    def contracted() -> Tensor:
        alone.renew()
        return contract()

    if first < ROUND_SECONDS:
        times = interleave({"it": contracted, "unlimited": unlimited}, POINT_SECONDS, min_rounds=3)
        ratio = times.ratio("it", "unlimited")
        return ratio.median, ratio.lower, ratio.upper
    seconds = []
    for call in (contracted, unlimited):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return (seconds[0] / seconds[1],) * 3


def _contender(
    name: str, limit: int | None, equation: str, operands: Sequence[Tensor]
) -> Callable[[], Tensor]:
    if name in PEERS:
        return PEERS[name].prepare(equation, operands)
    einfx.contract_path(equation, *operands, memory_limit=limit)
    return lambda: einfx.einsum(equation, *operands, memory_limit=limit)


def _operands(subject: Subject) -> list[Tensor]:
    """Of positive numbers, so that nothing cancels; those of a network so small that nothing overflows."""
    generator = torch.Generator().manual_seed(0)
    operands = [torch.rand(tuple(shape), generator=generator) for shape in subject.shapes]
    return [x / x.mean() / x.shape[-1] for x in operands] if len(operands) > 4 else operands
