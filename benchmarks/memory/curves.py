"""Time against memory: a contraction under smaller and smaller limits, beside its peers where they run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import opt_einsum
import torch
from torch import Tensor

import einfx

from . import alone
from .measure import Point, at_most, available_bytes, measured, stay_within

__all__ = ["CURVES", "Curve", "Subject", "lattice", "run"]

SPARE_BYTES = 2 << 30
LEAST_LIMIT = 16 << 10
SEARCH_SECONDS = 60.0
"""What looking for limits may take, planning included."""

SLOWEST = 50.0
"""Times of the unlimited contraction after which no smaller limits are tried."""

MOST_SLICES = 1000


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


class Curve(NamedTuple):
    """The points of one contraction.

    Attributes:
        subject: what is contracted.
        points: einfx without a limit, then under smaller and smaller ones, then the peers.
    """

    subject: Subject
    points: list[Point]


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
    Subject("lattice", "A lattice of 4 x 4 tensors with bonds of 48", *lattice(4, 4, 48)),
)


def run(subjects: Sequence[Subject] = CURVES, seconds: float = 60.0) -> list[Curve]:
    """Measure the contractions, each in a process of its own.

    Args:
        subjects: what to contract.
        seconds: for the times of one contraction.
    """
    found = []
    for answer in alone.each(f"{__name__}:contest", [[subject, seconds] for subject in subjects]):
        subject = Subject(*answer.argument[0])
        if answer.failure:
            raise RuntimeError(f"the curve of {subject.name!r} failed: {answer.failure}")
        found.append(Curve(subject, [Point(*point) for point in answer.value]))
    return found


def contest(argument: Sequence[Any]) -> list[Point]:
    """Measure one contraction."""
    subject, seconds = Subject(*argument[0]), argument[1]
    shapes = tuple(tuple(shape) for shape in subject.shapes)
    generator = torch.Generator().manual_seed(0)
    # Of positive numbers, so that nothing cancels, and scaled so that nothing overflows.
    operands = [torch.rand(shape, generator=generator) for shape in shapes]
    if len(operands) > 4:
        operands = [x / x.mean() / x.shape[-1] for x in operands]
    stay_within(available_bytes() - SPARE_BYTES)
    calls: dict[tuple[str, int | None], Callable[[], Any]] = {
        ("einfx", None): lambda: einfx.einsum(subject.equation, *operands)
    }
    for limit in possible(subject.equation, operands):
        calls["einfx", limit] = lambda limit=limit: einfx.einsum(  # type: ignore[misc]
            subject.equation, *operands, memory_limit=limit
        )
    calls["torch.einsum", None] = lambda: torch.einsum(subject.equation, *operands)
    calls["opt_einsum", None] = lambda: opt_einsum.contract(subject.equation, *operands)
    calls |= sliced(subject.equation, operands)
    return measured(calls, seconds)


def possible(equation: str, operands: list[Tensor]) -> Iterator[int]:
    """Limits, each a quarter of the one before, as far as there are plans that don't take very long."""
    limit = einfx.contract_path(equation, *operands).peak_bytes // 2
    einfx.einsum(equation, *operands)
    unlimited = _seconds(lambda: einfx.einsum(equation, *operands))
    left = SEARCH_SECONDS
    while limit >= LEAST_LIMIT and left > 0:
        start = time.process_time()
        try:
            with at_most(left):
                einfx.einsum(equation, *operands, memory_limit=limit)
                taken = _seconds(partial(einfx.einsum, equation, *operands, memory_limit=limit))
        except (einfx.EinfxError, TimeoutError):
            return
        if taken > SLOWEST * unlimited:
            return
        yield limit
        left -= time.process_time() - start
        limit //= 4


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def sliced(equation: str, operands: list[Tensor]) -> dict[tuple[str, int | None], Callable[[], Any]]:
    """What cotengra makes of it with smaller and smaller largest intermediates, where it is installed."""
    try:
        import cotengra
    except ImportError:
        return {}
    inputs, _, output = equation.partition("->")
    terms = inputs.split(",")
    if len(terms) < 4:
        return {}
    sizes = {x: n for term, tensor in zip(terms, operands, strict=True) for x, n in zip(term, tensor.shape)}  # noqa: B905
    tree = cotengra.array_contract_tree(terms, output, sizes, optimize="auto")
    calls: dict[tuple[str, int | None], Callable[[], Any]] = {
        ("cotengra", None): lambda: tree.contract(operands)
    }
    size = int(tree.max_size())
    for factor in (4, 16, 64, 256):
        cut = tree.slice(target_size=size // factor, seed=0)
        if cut.nslices > MOST_SLICES:
            break
        calls[f"cotengra, sliced {cut.nslices} times", None] = lambda cut=cut: cut.contract(operands)  # type: ignore[misc]
    return calls
