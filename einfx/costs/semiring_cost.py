"""What a step over a semiring costs, and so how it is computed.

========  =====================================================================================
kernel    computes
========  =====================================================================================
multiply  a product without a sum
matmul    a batch of matrix products, by the semiring's own kernel
blocked   all products of any number of operands, summed block by block; reductions too
========  =====================================================================================

As for real numbers one function chooses (:func:`choose_step`), planning reads its cost and the runtime
computes what it chose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch

from ..algebra import Semiring
from ..equation import Equation
from ..layout import Loops
from ..machine import Machine, accumulation_dtype, item_bytes, machine_for
from ..options import Options
from .cost import StepCost

__all__ = [
    "SemiringKernel",
    "choose_step",
    "pair_seconds",
    "products_gradient_seconds",
    "shares_gradient_seconds",
]

Labels = tuple[int, ...]

SELECTING = frozenset({"max_plus", "min_plus", "max_times", "max_min"})
"""Semirings whose matrix products the C extension computes."""

_LONG = Loops(64, 64, True)


class _Rates(NamedTuple):
    """Figures of one core, in seconds: calibrated ratios, as those of :mod:`.machine`."""

    per_term: float
    """For each product that the blocked kernel makes and sums."""
    per_operand: float
    """For each element of an operand of a matrix product, beside the arithmetic."""
    per_output: float
    """For each element of its result."""
    calls: int
    """Calls of torch that a matrix product takes."""
    blocked_calls: int
    """Calls of torch that the blocked kernel takes for one block of one operand."""


_RATES = {
    "real": _Rates(0.3e-9, 0.0, 0.0, 3, 28),
    "log": _Rates(1.1e-9, 0.5e-9, 1.0e-9, 80, 66),
    "boolean": _Rates(1.5e-9, 0.2e-9, 0.2e-9, 20, 28),
    **dict.fromkeys(SELECTING, _Rates(0.35e-9, 0.1e-9, 0.0, 50, 28)),
}
_OTHER = _Rates(6e-9, 0.5e-9, 0.0, 8, 40)

_FEW_ROWS, _FEW_COLUMNS, _FEW = 32, 16, 2.5e-9
"""Rows and columns of fewer elements are shifted slowly over logarithms: for each element beside the rest."""

_STRIDED_CALLS, _PER_TERM, _PER_ELEMENT = 25, 0.35e-9, 0.24e-9
"""Over logarithms, where the C code for tensors that lie in any way takes them: calls of torch that take as
long as one of it with what leads there, and seconds for each term and each of its elements."""

_CALLS_OF_AN_OPERAND = 24
"""Calls of torch that the blocked kernel takes for each further operand."""


@dataclass(frozen=True)
class SemiringKernel:
    """How one step over a semiring is computed.

    Attributes:
        name: one of the kernels of this module's table.
        presummed: for each operand the labels of its own that are summed before a matrix product.
        batch, rows, columns, summed: labels of both operands and the output, of the first operand alone, of
            the second alone, of both but not the output.
        cost: what it costs; the workspace is that without a limit.
    """

    name: str
    presummed: tuple[Labels, ...]
    batch: Labels
    rows: Labels
    columns: Labels
    summed: Labels
    cost: StepCost


def choose_step(
    equation: Equation,
    shapes: Sequence[Sequence[int]],
    dtype: torch.dtype,
    device: str | torch.device,
    options: Options,
) -> SemiringKernel:
    """The fastest kernel for a step of any number of operands.

    Args:
        equation: the step.
        shapes: of the operands.
        dtype: of the operands.
        device: where it runs.
        options: over which semiring, and how.

    Example:
        >>> square = [(512, 512), (512, 512)]
        >>> log = Options.read("log")
        >>> choose_step(Equation.parse("ij,jk->ik"), square, torch.float32, "cpu", log).name
        'matmul'
        >>> choose_step(Equation.parse("ij,ij->i"), square, torch.float32, "cpu", log).name
        'blocked'
    """
    return _choose(equation, tuple(map(tuple, shapes)), dtype, machine_for(device), options)


@lru_cache(maxsize=16384)
def _choose(
    equation: Equation,
    shapes: tuple[tuple[int, ...], ...],
    dtype: torch.dtype,
    machine: Machine,
    options: Options,
) -> SemiringKernel:
    sizes = equation.sizes(shapes)
    operands = [
        tuple(dict.fromkeys(x for x, size in zip(labels, shape, strict=True) if size != 1 or sizes[x] == 1))
        for labels, shape in zip(equation.inputs, shapes, strict=True)
    ]
    if not equation.summed:
        return _multiply(equation, operands, sizes, dtype, machine)
    blocked = _blocked(equation, operands, sizes, dtype, machine, options)
    if len(operands) != 2 or not _has_matmul(options.semiring, dtype):
        return blocked
    product = _matmul(equation, operands, sizes, dtype, machine, options)
    return min(blocked, product, key=lambda kernel: kernel.cost.seconds)


def _has_matmul(semiring: Semiring, dtype: torch.dtype) -> bool:
    if semiring.matmul is not None:
        return True
    if semiring.name == "real":
        return (dtype.is_floating_point or dtype.is_complex) and not semiring.zero_annihilates
    return semiring.name in _RATES


def _count(sizes: Mapping[int, int], labels: Sequence[int]) -> int:
    return math.prod(sizes[x] for x in labels)


def _multiply(
    equation: Equation,
    operands: Sequence[Labels],
    sizes: Mapping[int, int],
    dtype: torch.dtype,
    machine: Machine,
) -> SemiringKernel:
    elements, written = [_count(sizes, x) for x in operands], _count(sizes, equation.output)
    item, products = item_bytes(dtype), len(operands) - 1
    seconds = products * (machine.elementwise(sum(elements), written, _LONG, dtype) + 4 * machine.op_seconds)
    # Results are written into memory that is new, which costs once more.
    seconds += machine.stream(item * products * written)
    moved = item * products * (max(elements, default=0) + written)
    cost = StepCost(products * written, moved, seconds, item * written * (products > 1))
    return SemiringKernel("multiply", ((),) * len(operands), (), (), (), (), cost)


def _blocked(
    equation: Equation,
    operands: Sequence[Labels],
    sizes: Mapping[int, int],
    dtype: torch.dtype,
    machine: Machine,
    options: Options,
) -> SemiringKernel:
    rates = _RATES.get(options.semiring.name, _OTHER)
    terms, written = _count(sizes, equation.labels), _count(sizes, equation.output)
    read = sum(_count(sizes, x) for x in operands)
    item = item_bytes(accumulation_dtype(dtype))
    share = (1 + 0.2 * (len(operands) - 1)) * (1 + (item == 8) + 2 * dtype.is_complex)
    calls = rates.blocked_calls + _CALLS_OF_AN_OPERAND * (len(operands) - 1)
    each = rates.per_term * share
    if _by_strides(options, dtype, machine):
        calls, each = _STRIDED_CALLS, _PER_TERM + _PER_ELEMENT * len(operands)
    seconds = calls * machine.op_seconds + machine.stream(item * (read + written))
    seconds += each * terms / _workers(machine, terms)
    cost = StepCost(terms * len(operands), item * (read + written), seconds, item * min(terms, 1 << 18))
    return SemiringKernel("blocked", ((),) * len(operands), (), (), (), (), cost)


def _by_strides(options: Options, dtype: torch.dtype, machine: Machine) -> bool:
    """Whether the C code for tensors that lie in any way computes sums, where it is built."""
    plain = not options.linear_operands and not options.semiring.zero_annihilates
    return plain and options.semiring.name == "log" and dtype == torch.float32 and not machine.gpu


def _workers(machine: Machine, elements: float) -> float:
    if machine.gpu:
        return 2000.0
    return machine.threads if elements > 32768 else 1


def _matmul(
    equation: Equation,
    operands: Sequence[Labels],
    sizes: Mapping[int, int],
    dtype: torch.dtype,
    machine: Machine,
    options: Options,
) -> SemiringKernel:
    a, b = operands
    presummed = (
        tuple(x for x in a if x not in b and x not in equation.output),
        tuple(x for x in b if x not in a and x not in equation.output),
    )
    item = item_bytes(dtype)
    total = StepCost(0, 0, 0.0, 0)
    for labels, own in zip(operands, presummed, strict=True):
        if own:
            kept = tuple(x for x in labels if x not in own)
            reduction = _blocked(Equation((labels,), kept), [labels], sizes, dtype, machine, options)
            total = total + reduction.cost
    a, b = (tuple(x for x in labels if x not in own) for labels, own in zip(operands, presummed, strict=True))
    batch = tuple(x for x in equation.output if x in a and x in b)
    rows = tuple(x for x in a if x not in b)
    columns = tuple(x for x in b if x not in a)
    summed = tuple(x for x in a if x in b and x not in equation.output)
    n_batch, n_rows, n_columns, n_summed = (_count(sizes, x) for x in (batch, rows, columns, summed))
    if not summed:
        # Nothing is left to sum after what each operand has for itself.
        product = _multiply(equation, (a, b), sizes, dtype, machine).cost
        sums = sum(_count(sizes, x) for x, own in zip((a, b), presummed, strict=True) if own)
        total = total + product._replace(workspace_bytes=item * sums)
        return SemiringKernel("matmul", presummed, batch, rows, columns, summed, total)
    seconds = _matmul_seconds(options, n_batch, n_rows, n_columns, n_summed, dtype, machine)
    read, written = n_batch * n_summed * (n_rows + n_columns), n_batch * n_rows * n_columns
    seconds += machine.copy(read, dtype) * (len(rows) + len(columns) + len(summed) > 3)
    exponentials = options.semiring.name in ("log", "boolean")
    workspace = item_bytes(accumulation_dtype(dtype)) * (read + written) * exponentials
    cost = StepCost(2 * written * n_summed, item * (read + written), seconds, workspace)
    return SemiringKernel("matmul", presummed, batch, rows, columns, summed, total + cost)


def _matmul_seconds(
    options: Options,
    batch: int,
    rows: int,
    columns: int,
    summed: int,
    dtype: torch.dtype,
    machine: Machine,
) -> float:
    name = options.semiring.name
    rates = _RATES.get(name, _OTHER)
    read, written = batch * summed * (rows + columns), batch * rows * columns
    workers = _workers(machine, read + written)
    seconds = rates.calls * machine.op_seconds
    seconds += (rates.per_operand * read + rates.per_output * written) / workers
    if name in SELECTING:
        compiled = not machine.gpu and dtype.is_floating_point
        pairs = 2 * batch * max(rows, 8) * max(columns, 32) * summed
        rate = 0.45 * machine.rate(accumulation_dtype(dtype)) if compiled else 4e9 * workers
        return seconds + pairs / rate + machine.stream(item_bytes(dtype) * (read + written))
    if name == "boolean":
        many = rows * columns * summed >= 128**3
        dtype = torch.bfloat16 if many and not machine.gpu else torch.float32
    return seconds + machine.gemm(batch, rows, columns, summed, accumulation_dtype(dtype))


def _shifting_seconds(batch: int, rows: int, columns: int, summed: int) -> float:
    """What shifting matrices of short rows or columns takes beside what others take."""
    short = batch * rows * summed if summed < _FEW_ROWS else 0
    if 1 < columns < _FEW_COLUMNS:
        short += batch * columns * summed
    return _FEW * short


def pair_seconds(
    options: Options,
    read: int,
    result: int,
    counts: tuple[int, int, int, int],
    dtype: torch.dtype,
    machine: Machine,
) -> float:
    """Predicted seconds of a pairwise step, from counts alone, for the search of a path.

    Args:
        options: over which semiring.
        read: elements of both operands.
        result: elements of the result.
        counts: sizes of batch, rows, columns and summed labels.
        dtype: of the operands.
        machine: where it runs.
    """
    if counts[3] == 1:
        return 4 * machine.op_seconds + machine.elementwise(read, result, _LONG, dtype)
    rates = _RATES.get(options.semiring.name, _OTHER)
    terms = math.prod(counts)
    calls, each = rates.blocked_calls + _CALLS_OF_AN_OPERAND, 1.2 * rates.per_term
    if _by_strides(options, dtype, machine):
        calls, each = _STRIDED_CALLS, _PER_TERM + 2 * _PER_ELEMENT
    blocked = calls * machine.op_seconds + each * terms / _workers(machine, terms)
    if not _has_matmul(options.semiring, dtype):
        return blocked
    return min(blocked, _matmul_seconds(options, *counts, dtype, machine))


def shares_gradient_seconds(
    blocks: int, terms: int, inner: int, tensors: int, dtype: torch.dtype, machine: Machine
) -> float:
    """Predicted seconds of gradients over logarithms term by term, see :mod:`.kernels.log_shares`.

    Args:
        blocks: how many times terms are made.
        terms: all of them.
        inner: how many are made in a row.
        tensors: that are read and written.
        dtype: of all of them.
        machine: where it runs.
    """
    seconds = (24 + (14 + 3 * tensors) * blocks) * machine.op_seconds
    each = 1.1e-9 * item_bytes(dtype) / 4 + 26e-9 / max(inner, 1)
    return seconds + each * terms / _workers(machine, terms)


def products_gradient_seconds(
    counts: Sequence[int], needs: Sequence[bool], arranged: int, dtype: torch.dtype, machine: Machine
) -> float:
    """Predicted seconds of gradients over logarithms by products, see :mod:`.kernels.log_passing`.

    Args:
        counts: sizes of batch, rows, columns and summed labels.
        needs: which gradients are wanted.
        arranged: elements of operands and gradients that don't lie as matrices do.
        dtype: of the operands.
        machine: where it runs.
    """
    batch, rows, columns, depth = counts
    first, second, result = batch * rows * depth, batch * depth * columns, batch * rows * columns
    seconds = (150 + 20 * sum(needs)) * machine.op_seconds
    scale = item_bytes(dtype) / 4
    each = 1.0e-9 * (first + second) + 1.0e-9 * result + _shifting_seconds(batch, rows, columns, depth)
    each += 0.6e-9 * sum(n for n, need in zip((first, second), needs, strict=True) if need)
    seconds += scale * each / _workers(machine, first + second + result)
    seconds += 1.3 * machine.copy(arranged, dtype) * (arranged > 0)
    if needs[0]:
        seconds += machine.gemm(batch, rows, depth, columns, dtype)
    if needs[1]:
        seconds += machine.gemm(batch, depth, columns, rows, dtype)
    return seconds
