"""The optional C code for sums over logarithms term by term: of any number of tensors that lie in any way.

It writes and adds into tensors that are there and takes no memory beside them, where torch makes all terms.
Which label goes fastest is decided here: one along which most tensors lie side by side, and which is long.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from . import log_native
from .native import load, readable, threads

__all__ = ["add_shares", "add_sums", "built", "reads", "suits", "walk_of_shares", "walk_of_sums"]

Labels = tuple[int, ...]
Sizes = tuple[int, ...]

MOST_OPERANDS = 8
MOST_DIMS = 24

ROW_COST, STRIDED_COST, FAR_COST, SCALAR_COST, SUM_COST = 16.0, 6.0, 20.0, 10.0, 800.0
"""Costs, relative to one element of a long row of one tensor: of a row, of an element that lies apart from
the last, in a large tensor too, of a term where rows are shorter than vectors, of finishing a sum alone."""

LARGE_ELEMENTS = 1 << 19
"""More than these don't stay in a cache."""

VECTOR = 16

CALL_SECONDS, TERM_SECONDS, ELEMENT_SECONDS = 15e-6, 0.3e-9, 0.1e-9
"""What a call takes, the exponential of a term, and an element as above."""


@cache
def _library() -> ctypes.CDLL | None:
    return load("_log", _declare)


def _declare(library: ctypes.CDLL) -> None:
    pointer: Any = ctypes.c_void_p
    integer: Any = ctypes.c_int
    library.einfx_log_strided_sums.argtypes = [pointer, pointer, integer, integer, integer, integer, pointer]
    library.einfx_log_strided_shares.argtypes = [
        pointer,
        pointer,
        ctypes.c_float,
        integer,
        integer,
        pointer,
    ]
    for name in ("sums", "shares"):
        getattr(library, f"einfx_log_strided_{name}").restype = ctypes.c_int64


def built() -> bool:
    """Whether the C code is there."""
    return _library() is not None


def suits(
    inputs: Sequence[Labels],
    output: Labels,
    shapes: Sequence[Sequence[int]],
    dtype: torch.dtype,
    device: str,
) -> bool:
    """Whether it computes contractions of such operands: nothing repeats itself, and nothing is empty.

    Args:
        inputs: the labels of the operands.
        output: those of the result.
        shapes: of the operands.
        dtype: of everything.
        device: where it is.

    Example:
        >>> suits(((0, 1), (1,)), (0,), ((3, 4), (4,)), torch.float64, "cpu")
        False
    """
    if dtype != torch.float32 or device != "cpu" or len(inputs) > MOST_OPERANDS or not built():
        return False
    return _fits(tuple(inputs), tuple(output), tuple(map(tuple, shapes)))


@lru_cache(maxsize=16384)
def _fits(inputs: tuple[Labels, ...], output: Labels, shapes: tuple[Sizes, ...]) -> bool:
    sizes: dict[int, int] = {}
    for own, shape in zip(inputs, shapes, strict=True):
        for label, size in zip(own, shape, strict=True):
            if sizes.setdefault(label, size) != size or size == 0:
                return False
    once = all(len({*own}) == len(own) for own in (*inputs, output))
    return once and {*output} <= {*sizes} and len(sizes) <= MOST_DIMS - 3


@dataclass(frozen=True)
class Walk:
    """In which order terms are made.

    Attributes:
        shape: the sizes of dimensions, the one that goes fastest last of the sums' or of all.
        outer: how many of them are those of the sums.
        steps: how far apart the elements of each tensor are along them, 0 where it lacks one.
        by_columns: whether a dimension of the sums goes fastest.
        seconds: predicted time of one thread.
        geometry: the same as the C code reads it.
    """

    shape: Sizes
    outer: int
    steps: tuple[Sizes, ...]
    by_columns: bool
    seconds: float
    geometry: Any

    @classmethod
    def of(
        cls,
        shape: Sizes,
        outer: int,
        steps: tuple[Sizes, ...],
        by_columns: bool,
        cost: float,
        counts: tuple[int, int],
    ) -> Walk:
        """Write it down.

        Args:
            shape: as the attribute.
            outer: likewise.
            steps: likewise.
            by_columns: likewise.
            cost: of a term, beside those of one element for each tensor.
            counts: of the operands, and of what is added to.
        """
        numbers = [len(shape), outer, *counts, *shape, *[x for own in steps for x in own]]
        seconds = CALL_SECONDS + math.prod(shape) * (TERM_SECONDS + ELEMENT_SECONDS * (cost + len(steps)))
        return cls(shape, outer, steps, by_columns, seconds, (ctypes.c_int64 * len(numbers))(*numbers))


def add_sums(
    inputs: tuple[Labels, ...],
    output: Labels,
    operands: Sequence[Tensor],
    target: Tensor,
    *,
    accumulate: bool,
) -> bool:
    """Write logarithms of sums of exponentials of sums of operands.

    Args:
        inputs: the labels of the operands, as :func:`suits` wants them.
        output: those of the result.
        operands: float32 on the CPU, none of them empty.
        target: where to write; it shares no memory with operands.
        accumulate: whether it is added, over logarithms, to what is there.

    Returns:
        Whether that was possible: not for tensors whose numbers aren't in memory as they are.

    Example:
        >>> x, out = torch.zeros(3, 4), torch.empty(3)
        >>> if built() and add_sums(((0, 1),), (0,), [x], out, accumulate=False):
        ...     assert out.allclose(torch.tensor(4.0).log())
    """
    tensors = [*operands, target]
    library = _library()
    if library is None or not all(map(reads, tensors)):
        return False
    shapes = tuple([tuple(x.shape) for x in operands])
    how = walk_of_sums(inputs, output, shapes, tuple([x.stride() for x in tensors]))
    pointers = (ctypes.c_void_p * len(tensors))(*[x.data_ptr() for x in tensors])
    library.einfx_log_strided_sums(
        pointers,
        how.geometry,
        accumulate,
        how.by_columns,
        log_native.LEVEL,
        torch.get_num_threads(),
        threads(),
    )
    return True


def add_shares(
    inputs: tuple[Labels, ...],
    output: Labels,
    operands: Sequence[Tensor],
    total: Tensor,
    gradient: Tensor,
    targets: Sequence[Tensor | None],
    empty: float,
) -> bool:
    """Add what sums pass on of their gradient to the gradients of operands.

    Args:
        inputs: the labels of the operands, as :func:`suits` wants them.
        output: those of the sums, each of which an operand has.
        operands: float32 on the CPU, none of them empty.
        total: logarithms of sums of these terms, or of these and more.
        gradient: of those.
        targets: the gradients of operands, which share no memory with anything; None where none is wanted.
        empty: the derivative of a sum that is -inf by each of its terms.

    Returns:
        Whether that was possible: not for tensors whose numbers aren't in memory as they are.
    """
    tensors = [*operands, total, gradient, *[x for x in targets if x is not None]]
    library = _library()
    if library is None or not all(map(reads, tensors)):
        return False
    shapes = tuple([tuple(x.shape) for x in operands])
    needs = tuple([x is not None for x in targets])
    how = walk_of_shares(inputs, output, needs, shapes, tuple([x.stride() for x in tensors]))
    pointers = (ctypes.c_void_p * len(tensors))(*[x.data_ptr() for x in tensors])
    library.einfx_log_strided_shares(
        pointers, how.geometry, empty, log_native.LEVEL, torch.get_num_threads(), threads()
    )
    return True


def reads(x: Tensor) -> bool:
    """Whether it can read the numbers of a tensor."""
    return x.dtype == torch.float32 and readable(x)


@lru_cache(maxsize=16384)
def walk_of_sums(
    inputs: tuple[Labels, ...], output: Labels, shapes: tuple[Sizes, ...], strides: tuple[Sizes, ...]
) -> Walk:
    """The order for sums.

    Args:
        inputs: the labels of the operands.
        output: those of the result.
        shapes: of the operands.
        strides: of the operands, then of the result.

    Example:
        >>> walk_of_sums(((0, 1),), (0,), ((3, 400),), ((400, 1), (1,))).by_columns
        False
        >>> walk_of_sums(((1, 0),), (0,), ((3, 400),), ((400, 1), (1,))).by_columns
        True
    """
    sizes, steps = _steps((*inputs, output), inputs, shapes, strides)
    kept = [x for x in sizes if x in output]
    summed = [x for x in sizes if x not in output]
    terms = math.prod(sizes[x] for x in summed)
    chosen, least = None, math.inf if sizes else 0.0
    for label in sizes:
        cost = _row_cost(steps[: len(inputs)], label, sizes)
        if label in summed:
            cost += SUM_COST / terms
        elif sizes[label] < VECTOR:
            cost += SCALAR_COST * (1 - sizes[label] / VECTOR)
        if cost < least:
            chosen, least = label, cost
    by_columns = chosen in kept
    outer = _ordered(kept, chosen, steps, sizes)
    inner = _ordered(summed, chosen, steps, sizes)
    groups = _joined(outer, steps, sizes), _joined(inner, steps, sizes)
    shape, own = _laid(groups[0] or [()], groups[1] or [()], steps, sizes)
    return Walk.of(shape, max(1, len(groups[0])), own, by_columns, least, (len(inputs), 0))


@lru_cache(maxsize=16384)
def walk_of_shares(
    inputs: tuple[Labels, ...],
    output: Labels,
    needs: tuple[bool, ...],
    shapes: tuple[Sizes, ...],
    strides: tuple[Sizes, ...],
) -> Walk:
    """The order for shares.

    Args:
        inputs: the labels of the operands.
        output: those of the sums.
        needs: for each operand whether its gradient is added to.
        shapes: of the operands.
        strides: of operands, sums, their gradients, and the gradients that are added to.

    Example:
        >>> square = (300, 1)
        >>> walk_of_shares(((0, 1), (1, 2)), (0, 2), (True, True), ((300, 300),) * 2, (square,) * 6).shape
        (300, 300, 300)
    """
    needed = [labels for labels, need in zip(inputs, needs, strict=True) if need]
    sizes, steps = _steps((*inputs, output, output, *needed), inputs, shapes, strides)
    chosen, least = None, math.inf if sizes else 0.0
    for label in sizes:
        cost = _row_cost(steps, label, sizes)
        cost += SCALAR_COST * max(0.0, 1 - sizes[label] / VECTOR)
        if cost < least:
            chosen, least = label, cost
    order = _ordered(list(sizes), chosen, steps, sizes)
    shared = [x for x in order[:-1] if all(x in own for own in needed)]
    if shared:
        # Threads share what all gradients have.
        order = [shared[0], *(x for x in order if x != shared[0])]
    groups = _joined(order, steps, sizes)
    while len(groups) < 3:
        groups.insert(0, ())
    shape, own = _laid(groups, [], steps, sizes)
    return Walk.of(shape, 0, own, False, least, (len(inputs), len(needed)))


def _steps(
    labels: Sequence[Labels], inputs: Sequence[Labels], shapes: Sequence[Sizes], strides: Sequence[Sizes]
) -> tuple[dict[int, int], list[dict[int, int]]]:
    """The sizes of labels that are longer than 1, and for each tensor its steps along them."""
    sizes = {x: n for own, shape in zip(inputs, shapes, strict=True) for x, n in zip(own, shape, strict=True)}
    sizes = {x: n for x, n in sizes.items() if n != 1}
    return sizes, [
        {x: step for x, step in zip(own, lying, strict=True) if x in sizes}
        for own, lying in zip(labels, strides, strict=True)
    ]


def _row_cost(steps: Sequence[Mapping[int, int]], label: int, sizes: Mapping[int, int]) -> float:
    """What an element of a row takes where a label goes fastest."""
    apart = 0.0
    for own in steps:
        step = own.get(label, 0)
        if step not in (0, 1):
            far = step > VECTOR and _elements(own, sizes) > LARGE_ELEMENTS
            apart += FAR_COST if far else STRIDED_COST
    return apart + ROW_COST * len(steps) / sizes[label]


def _elements(own: Mapping[int, int], sizes: Mapping[int, int]) -> int:
    return math.prod([sizes[x] for x in own])


def _ordered(
    labels: Sequence[int], last: int | None, steps: Sequence[Mapping[int, int]], sizes: Mapping[int, int]
) -> list[int]:
    """Labels as the largest tensor that has them lies, one of them last whatever it is.

    Before that come those along which a large tensor lies side by side, for the sake of lines of the cache.
    """
    largest = sorted(steps, key=lambda own: _elements(own, sizes), reverse=True)
    large = [own for own in steps if _elements(own, sizes) > LARGE_ELEMENTS]

    def place(label: int) -> tuple[bool, bool, int]:
        step = next((own[label] for own in largest if label in own), 0)
        return label == last, any(own.get(label) == 1 for own in large), -step

    return sorted(labels, key=place)


def _joined(
    labels: Sequence[int], steps: Sequence[Mapping[int, int]], sizes: Mapping[int, int]
) -> list[tuple[int, ...]]:
    """Groups of labels that are one dimension for all tensors."""
    groups: list[tuple[int, ...]] = []
    for label in labels:
        if groups and all(own.get(groups[-1][-1], 0) == own.get(label, 0) * sizes[label] for own in steps):
            groups[-1] = (*groups[-1], label)
        else:
            groups.append((label,))
    return groups


def _laid(
    outer: Sequence[tuple[int, ...]],
    inner: Sequence[tuple[int, ...]],
    steps: Sequence[Mapping[int, int]],
    sizes: Mapping[int, int],
) -> tuple[Sizes, tuple[Sizes, ...]]:
    """The sizes of groups, and the steps of all tensors along them; one without labels has size 1."""
    groups = [*outer, *inner]
    shape = tuple([math.prod([sizes[x] for x in group]) for group in groups])
    return shape, tuple([tuple([own.get(group[-1], 0) if group else 0 for group in groups]) for own in steps])
