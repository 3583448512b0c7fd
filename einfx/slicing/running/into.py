"""One contraction written into a part of a buffer that is there already, and what that takes beside it.

Products of matrices go straight into the buffer where BLAS can write there, and otherwise into the workspace
of the schedule first; everything else is computed apart and then copied or added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...costs.cost import Kernel, choose_kernel
from ...costs.semiring_cost import SemiringKernel, choose_step
from ...equation import Equation
from ...kernels import log_strided
from ...kernels.real import emit_kernel
from ...kernels.steps import contract_step
from ...machine import item_bytes, machine_for
from ...options import REAL, Options
from ...program import call
from .budget import direct_seconds, kernel_budget
from .matrix_views import Place, Scratch, matrix_order, merged, readable, writable
from .parts import Part, Step, Views
from .products import Product, added_up, beside, elements, multiplied
from .tiles import in_tiles, is_large, tile_elements, tiles_of

__all__ = ["Into", "Place", "Scratch", "into", "is_real"]

Sizes = tuple[int, ...]

ADDED_LOGS_SECONDS = 1.8e-9
"""For each element, for torch.logaddexp."""

LONG_SUM = 16
"""Sums of so many terms are made apart where BLAS would add them one by one to what is there."""

SMALL_SECONDS = 20e-6
"""Products of elements which take no longer are made as products of matrices."""


@dataclass(frozen=True)
class Into:
    """How a contraction is written into a buffer.

    Args:
        equation: the contraction.
        options: over which semiring.
        accumulate: whether it is added to what the buffer holds.
        kernel: what computes one or two real operands; None for more, and over another semiring.
        matrices: whether it is one product of matrices that BLAS writes into memory that is there.
        elementwise: whether it is one product of elements, or a copy, that is written there.
        workspace_bytes: what it takes meanwhile: of products of matrices what ``scratch`` gives, of all
            others what torch allocates.
        seconds: predicted time.
        budget_bytes: the part of the workspace that a kernel over a semiring may take beside its result.
        apart: whether the product of matrices is made in ``scratch``, as BLAS can't write it where it goes,
            or would round it there.
        places: where the operands and the target lie.
        strided: whether it is over logarithms, and they are written where they go.
    """

    equation: Equation
    options: Options
    accumulate: bool
    kernel: Kernel | None
    matrices: bool
    elementwise: bool
    workspace_bytes: int
    seconds: float
    budget_bytes: int = 0
    apart: bool = False
    places: tuple[Place, ...] = ()
    strided: bool = False

    @cached_property
    def product(self) -> Product:
        """The product of matrices."""
        assert self.kernel is not None
        *operands, target = self.places
        return Product.of(self.kernel, self.equation, operands, target, self.accumulate, self.apart)

    def steps(self, operands: Sequence[Part], target: Part, views: Views, scratch: Scratch) -> list[Step]:
        """What contracts, in every round of the loops around.

        Args:
            operands: what to contract.
            target: where to.
            views: of these.
            scratch: gives memory that stays as long as the steps do.
        """
        if self.matrices:
            return self.product.steps(operands, target, views, scratch)
        work: Callable[..., Any] = Tensor.add_ if self.accumulate else Tensor.copy_
        equation = self.equation
        if self.elementwise:
            pairs = zip(operands, equation.inputs, strict=True)
            factors = [x.seen(beside(x.place, own, equation.output)) for x, own in pairs]
            if len(factors) == 2:
                replace_by = added_up if self.strided else multiplied
                work = Tensor.addcmul_ if self.accumulate else replace_by
            return [elements(work, target, factors, views, None)]
        now, written, read = views.now, views.slot(target), views.slots(operands)
        if self.kernel is None:
            return [lambda: self._contract([now[x] for x in read], now[written])]
        kernel, shapes = self.kernel, [x.shape for x in operands]

        def computed() -> None:
            tensors = [now[x] for x in read]
            result = emit_kernel(call, kernel, equation, tensors, shapes, guarded=False)
            in_tiles(work, now[written], [result])

        return [computed]

    def run(self, operands: Sequence[Tensor], target: Tensor, scratch: Scratch) -> None:
        """Contract once.

        Args:
            operands: what to contract.
            target: where to.
            scratch: gives memory meanwhile.
        """
        memory = target.new_empty if scratch is torch.empty else scratch
        parts = [Part.of(x) for x in operands]
        for step in self.steps(parts, Part.of(target), Views(target.device.type), memory):
            step()

    def _contract(self, operands: Sequence[Tensor], target: Tensor) -> None:
        """Over a semiring."""
        if self.strided:
            inputs, output = self.equation.inputs, self.equation.output
            if log_strided.add_sums(inputs, output, operands, target, accumulate=self.accumulate):
                return
        options = self.options.unlimited()
        result = contract_step(self.equation, operands, options, budget_bytes=self.budget_bytes)
        if self.accumulate:
            result = self.options.semiring.add(target, result)
        target.copy_(result)


def into(
    equation: Equation,
    operands: Sequence[Place],
    target: Place,
    accumulate: bool,
    dtype: torch.dtype,
    device: str,
    options: Options = REAL,
) -> Into:
    """Choose how a contraction is written into a buffer.

    Args:
        equation: the contraction, of any number of operands.
        operands: where the operands lie.
        target: where the result goes.
        accumulate: whether it is added to what is there.
        dtype: of all of them.
        device: where they are.
        options: over which semiring.

    Example:
        >>> square = Place((64, 64), (64, 1))
        >>> equation = Equation.parse("ij,jk->ik")
        >>> how = into(equation, (square, square), square, True, torch.float32, "cpu")
        >>> how.matrices, how.workspace_bytes
        (True, 0)
        >>> x, out = torch.eye(64), torch.ones(64, 64)
        >>> how.run((x, x), out, torch.empty)
        >>> bool((out == 1 + x).all())
        True
    """
    threads = torch.get_num_threads()
    return _into(equation, tuple(operands), target, accumulate, dtype, device, options, threads)


@lru_cache(maxsize=65536)
def _into(
    equation: Equation,
    operands: tuple[Place, ...],
    target: Place,
    accumulate: bool,
    dtype: torch.dtype,
    device: str,
    options: Options,
    threads: int,
) -> Into:
    how = _chosen(equation, operands, target, accumulate, dtype, device, options)
    how = replace(how, places=(*operands, target))
    tile = tile_elements(threads) if device == "cpu" else 0
    if how.elementwise:
        inputs = zip(operands, equation.inputs, strict=True)
        factors = [beside(place, own, equation.output) for place, own in inputs]
        sources = tuple(
            [
                tuple([0 if n == 1 else step for n, step in zip(x.shape, x.strides, strict=True)])
                for x in factors
            ]
        )
        tiles = tiles_of(target.shape, target.strides, sources) if tile else None
        tile = 0 if tiles is None else tiles.elements
    else:
        # Where nothing else is copied, only the result is.
        alone = how.apart and how.workspace_bytes <= item_bytes(dtype) * prod(target.shape)
        copied = (target,) if alone else (*operands, target)
        if how.kernel is None or not how.workspace_bytes or not any(is_large(x.shape) for x in copied):
            tile = 0
    return replace(how, workspace_bytes=how.workspace_bytes + item_bytes(dtype) * tile) if tile else how


def _chosen(
    equation: Equation,
    operands: tuple[Place, ...],
    target: Place,
    accumulate: bool,
    dtype: torch.dtype,
    device: str,
    options: Options,
) -> Into:
    """The same without what is taken for tiles."""
    shapes = [place.shape for place in operands]
    written = item_bytes(dtype) * prod(target.shape)
    # The result apart, then once more through memory.
    finish = machine_for(device).stream((2 + accumulate) * written)
    copies = len(operands) == 1 and not equation.summed and not options.linear_operands
    if copies and (not accumulate or is_real(options, dtype)):
        turning = 0 if accumulate else _turning_bytes(target, dtype)
        return Into(equation, options, accumulate, None, False, True, turning, finish)
    if not is_real(options, dtype) or len(operands) > 2:
        step = choose_step(equation, shapes, dtype, device, options)
        sizes = equation.sizes(shapes)
        budget = kernel_budget(step, sizes, options, dtype, gradients=False)
        direct = direct_seconds(step, equation, (*operands, target), dtype, device, options)
        if direct is not None:
            at_once = step.name == "multiply" and len(operands) == 2 and not accumulate
            seconds = step.cost.seconds if at_once else direct
            return Into(equation, options, accumulate, None, False, at_once, 0, seconds, budget, strided=True)
        workspace = budget + (1 + accumulate) * written
        workspace += item_bytes(dtype) * _arranged(step, equation, operands)
        seconds = step.cost.seconds + finish
        if accumulate and options.semiring.addition is torch.logaddexp:
            seconds += ADDED_LOGS_SECONDS * prod(target.shape) * item_bytes(dtype) / 4
        return Into(equation, options, accumulate, None, False, False, workspace, seconds, budget)
    strides = [place.strides for place in operands]
    kernel = choose_kernel(equation, shapes, dtype, device, strides=strides)
    product = _rather_matrices(kernel, equation, equation.sizes(shapes))
    for way in (product, replace(product, swapped=not product.swapped)):
        # Either factor may come first: it is the target that says which.
        copied = _copied(way, equation, operands, target)
        if copied is not None:
            apart = accumulate and _is_vector(way, equation.sizes(shapes))
            workspace = item_bytes(dtype) * copied + written * apart
            return Into(
                equation, options, accumulate, way, True, False, workspace, kernel.cost.seconds, apart=apart
            )
    sizes = equation.sizes(shapes)
    if len(operands) == 2 and all(sizes[label] == 1 for label in equation.summed):
        return Into(equation, options, accumulate, kernel, False, True, 0, kernel.cost.seconds)
    turning = 0 if accumulate else _turning_bytes(target, dtype)
    copied = None if turning else _copied(kernel, equation, operands, _as_matrices(kernel, equation, target))
    if copied is not None:
        workspace, seconds = item_bytes(dtype) * copied + written, kernel.cost.seconds + finish
        return Into(equation, options, accumulate, kernel, True, False, workspace, seconds, apart=True)
    workspace = kernel.cost.workspace_bytes + written + turning
    for place, labels, own in zip(operands, equation.inputs, kernel.presummed, strict=False):
        # Sums lie in memory as what was summed did, and may be copied to lie otherwise.
        rest = [n for n, label in zip(place.shape, labels, strict=True) if label not in own]
        workspace += item_bytes(dtype) * prod(rest) if own else 0
    seconds = kernel.cost.seconds + finish
    return Into(equation, options, accumulate, kernel, False, False, workspace, seconds)


def _is_vector(kernel: Kernel, sizes: Mapping[int, int]) -> bool:
    """Whether a product of matrices is a vector, or several, whose sums are long.

    BLAS adds their terms to what is there one by one, each rounded to the size of that: over many blocks as
    many terms as there are in all. Sums of a block by themselves are as exact as without blocks.
    """
    rows, columns, terms = (
        prod([sizes[x] for x in labels]) for labels in (kernel.rows, kernel.columns, kernel.summed)
    )
    return 1 in (rows, columns) and terms >= LONG_SUM


def _rather_matrices(kernel: Kernel, equation: Equation, sizes: Mapping[int, int]) -> Kernel:
    """A product of matrices in place of products of elements that are made apart and then summed.

    Where small operands have to be copied for it the product of matrices may be slower by a microsecond,
    which the line costs several times over; products of elements take far more memory than copies. So do
    long sums of products of vectors with one another.
    """
    if kernel.name != "multiply_sum" or any(kernel.presummed) or any(kernel.narrowed):
        return kernel
    first, second = equation.inputs
    both = {*first} & {*second}
    batch = tuple([x for x in equation.output if x in both])
    rows = tuple([x for x in equation.output if x in first and x not in both])
    columns = tuple([x for x in equation.output if x in second and x not in both])
    summed = tuple([x for x in first if x in both and x not in equation.output])
    if rows and columns:
        if kernel.cost.seconds > SMALL_SECONDS:
            return kernel
    elif not batch or prod([sizes[x] for x in summed]) < LONG_SUM:
        return kernel
    name = "bmm" if batch else "mm"
    return replace(kernel, name=name, batch=batch, rows=rows, columns=columns, summed=summed, order=())


def _turning_bytes(target: Place, dtype: torch.dtype) -> int:
    """What torch allocates to copy a matrix into its transpose: a square of 60 x 60, of bytes 120 x 120."""
    square = 120 if item_bytes(dtype) == 1 else 60
    turns = len(target.shape) == 2 and prod(target.shape) >= square**2
    return item_bytes(dtype) * square**2 if turns else 0


def is_real(options: Options, dtype: torch.dtype) -> bool:
    """Whether it is the contraction that torch's products of matrices compute."""
    usual = options.semiring.name == "real" and not options.semiring.zero_annihilates
    return usual and (dtype.is_floating_point or dtype.is_complex)


def _arranged(step: SemiringKernel, equation: Equation, operands: Sequence[Place]) -> int:
    """The elements of operands that are copied to be matrices for a semiring's own product of these."""
    if step.name != "matmul":
        return 0
    forms = ((step.batch, step.rows, step.summed), (step.batch, step.summed, step.columns))
    elements = 0
    for place, labels, groups in zip(operands, equation.inputs, forms, strict=True):
        order = [label for group in groups for label in group]
        if len({*labels}) < len(labels) or len(order) < len(labels) or merged(place, labels, groups) is None:
            elements += prod(place.shape)
    return elements


def _copied(kernel: Kernel, equation: Equation, operands: Sequence[Place], target: Place) -> int | None:
    """The elements that are copied for a product of matrices; None where it isn't one for BLAS."""
    if kernel.name not in ("mm", "bmm", "mv", "dot") or any(kernel.presummed) or any(kernel.narrowed):
        return None
    sizes = equation.sizes([place.shape for place in operands])
    used = {*kernel.batch, *kernel.rows, *kernel.columns, *kernel.summed}
    if any(size != 1 and label not in used for label, size in sizes.items()):
        return None
    batch, rows, columns, summed = kernel.batch, kernel.rows, kernel.columns, kernel.summed
    for labels, wanted in zip(
        equation.inputs, ((*batch, *rows, *summed), (*batch, *summed, *columns)), strict=True
    ):
        if len({*labels}) < len(labels) or not {*wanted} <= {*labels}:
            return None
    if kernel.swapped:
        rows, columns = columns, rows
    made = merged(target, equation.output, (batch, rows, columns))
    if made is None or not writable(made):
        return None
    elements = 0
    for place, labels, groups in zip(
        operands,
        equation.inputs,
        ((kernel.batch, kernel.rows, kernel.summed), (kernel.batch, kernel.summed, kernel.columns)),
        strict=True,
    ):
        seen = merged(place, labels, groups)
        if seen is None or not readable(seen):
            elements += prod(place.shape)
    return elements


def _as_matrices(kernel: Kernel, equation: Equation, target: Place) -> Place:
    """Where a result lies that is written as a product of matrices gives it."""
    shape = dict(zip(equation.output, target.shape, strict=True))
    strides, step = {}, 1
    for label in reversed(matrix_order(kernel, equation.output)):
        strides[label] = step
        step *= shape[label]
    return Place(target.shape, tuple([strides[label] for label in equation.output]))
