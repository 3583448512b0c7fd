"""One step over a semiring: any number of operands, by the kernel that :mod:`einfx.semiring_cost` chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..algebra import Semiring
from ..equation import Equation
from ..layout import hint
from ..options import Options
from ..semiring_cost import SELECTING, SemiringKernel, choose_step
from . import blocked, boolean, log, tropical

__all__ = ["contract_step", "step_kernel"]

Labels = tuple[int, ...]


def step_kernel(equation: Equation, operands: Sequence[Tensor], options: Options) -> SemiringKernel:
    """What computes a step of these operands."""
    shapes = [tuple([hint(n) for n in x.shape]) for x in operands]
    return choose_step(equation, shapes, operands[0].dtype, operands[0].device, options)


def contract_step(
    equation: Equation,
    operands: Sequence[Tensor],
    options: Options,
    *,
    budget_bytes: int = blocked.BUDGET_BYTES,
    return_argmax: bool = False,
) -> Any:
    """Contract operands at once.

    Args:
        equation: the step.
        operands: of one dtype that the semiring takes, on one device.
        options: over which semiring, and how; ``linear_operands`` are positions in ``operands``.
        budget_bytes: what temporaries may take.
        return_argmax: for a semiring whose addition selects: also return where. A label that only one of two
            operands has, and the result lacks, is then summed before, in a step of its own.

    Returns:
        The result, with any strides. With ``return_argmax`` also int64 indices (*output, S) of the summed
        labels in the order of their numbers.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
        >>> contract_step(Equation.parse("ij,jk->ik"), (x, x), Options.read("max_plus"))
        tensor([[3., 4.],
                [5., 6.]])
    """
    kernel = step_kernel(equation, operands, options)
    if kernel.name == "multiply":
        product = _multiply(equation, operands, options)
        return (
            (product, product.new_empty((*product.shape, 0), dtype=torch.int64)) if return_argmax else product
        )
    own_argmax = options.semiring.name in SELECTING and not any(kernel.presummed)
    if kernel.name == "matmul" and (own_argmax or not return_argmax):
        return _matmul(equation, operands, kernel, options, budget_bytes, return_argmax)
    return _blocked(equation, operands, options, budget_bytes, return_argmax)


def _blocked(
    equation: Equation,
    operands: Sequence[Tensor],
    options: Options,
    budget_bytes: int,
    return_argmax: bool = False,
) -> Any:
    return blocked.contract(
        equation,
        operands,
        options.semiring,
        block_size=options.block_size,
        budget_bytes=budget_bytes,
        return_argmax=return_argmax,
        **_special(options),
    )


def _special(options: Options) -> dict[str, Any]:
    """What the kernels of the log semiring take beside their operands."""
    words: dict[str, Any] = {}
    if options.linear_operands:
        words["linear_operands"] = options.linear_operands
    if options.grad_of_neg_inf != "nan":
        text = options.grad_of_neg_inf
        words["grad_of_neg_inf"] = text if text == "uniform" else float(text)
    return words


def _squeezed(operand: Tensor, labels: Labels, sizes: dict[int, int]) -> tuple[Tensor, Labels]:
    """A view with one dimension for each label: of diagonals, and without dimensions that broadcast."""
    order = list(labels)
    for label in [x for x in dict.fromkeys(labels) if labels.count(x) > 1]:
        while order.count(label) > 1:
            first = order.index(label)
            second = order.index(label, first + 1)
            operand = operand.diagonal(0, first, second)
            order = [x for i, x in enumerate(order) if i not in (first, second)] + [label]
    unit = [i for i, x in enumerate(order) if sizes[x] != 1 and hint(operand.shape[i]) == 1]
    for dim in reversed(unit):
        operand = operand.squeeze(dim)
        del order[dim]
    return operand, tuple(order)


def _views(equation: Equation, operands: Sequence[Tensor]) -> list[tuple[Tensor, Labels]]:
    sizes = equation.sizes([[hint(n) for n in x.shape] for x in operands])
    return [_squeezed(x, labels, sizes) for x, labels in zip(operands, equation.inputs, strict=True)]


def _multiply(equation: Equation, operands: Sequence[Tensor], options: Options) -> Tensor:
    """The product of operands whose labels the result has, all of them."""
    product: Tensor | None = None
    for position, (view, labels) in enumerate(_views(equation, operands)):
        present = [x for x in equation.output if x in labels]
        view = view.permute([labels.index(x) for x in present])
        for dim, label in enumerate(equation.output):
            if label not in labels:
                view = view.unsqueeze(dim)
        if position in options.linear_operands:
            view = view.log()
        product = view if product is None else _times(options.semiring, product, view)
    assert product is not None
    return product


def _times(semiring: Semiring, x: Tensor, y: Tensor) -> Tensor:
    if semiring.name == "max_min" and x.dtype.is_floating_point:
        # torch.minimum would share the gradient of equal elements; the first operand gets it.
        return torch.where((x <= y) | x.isnan(), x, y)
    return semiring.multiply(x, y)


def _matmul(
    equation: Equation,
    operands: Sequence[Tensor],
    kernel: SemiringKernel,
    options: Options,
    budget_bytes: int,
    return_argmax: bool,
) -> Any:
    views = _views(equation, operands)
    for position, own in enumerate(kernel.presummed):
        if own:
            views[position] = _presummed(*views[position], own, position, options, budget_bytes)
    (a, of_a), (b, of_b) = views
    batch, rows, columns, summed = kernel.batch, kernel.rows, kernel.columns, kernel.summed
    a = a.permute([of_a.index(x) for x in (*batch, *rows, *summed)])
    b = b.permute([of_b.index(x) for x in (*batch, *summed, *columns)])
    first, second = len(batch), len(batch) + len(rows)
    shape = (*a.shape[:second], *b.shape[len(batch) + len(summed) :])
    depth = a.shape[second:]
    n_batch, n_rows, n_summed = math.prod(a.shape[:first]), math.prod(a.shape[first:second]), math.prod(depth)
    n_columns = math.prod(shape[second:])
    matrices = (a, (n_batch, n_rows, n_summed)), (b, (n_batch, n_summed, n_columns))
    if options.memory_limit is not None:
        rest = budget_bytes - sum(_copied_bytes(x, form) for x, form in matrices)
        if rest < 0:
            return _blocked(equation, operands, options, budget_bytes, return_argmax)
        budget_bytes = rest
    left, right = (x.reshape(form) for x, form in matrices)
    product = _product(left, right, options, budget_bytes, return_argmax)
    written = (*batch, *rows, *columns)
    order = [written.index(x) for x in equation.output]
    if not return_argmax:
        return product.reshape(shape).permute(order)
    values, place = product
    places = _unravelled(place.reshape(shape).permute(order), depth)
    by_label = sorted(range(len(summed)), key=lambda i: summed[i])
    return values.reshape(shape).permute(order), torch.stack([places[i] for i in by_label], -1)


def _copied_bytes(x: Tensor, shape: Sequence[int]) -> int:
    """What a reshape allocates: nothing where a view will do."""
    try:
        x.view(tuple(shape))
    except RuntimeError:
        return x.numel() * x.itemsize
    return 0


def _unravelled(place: Tensor, depth: Sequence[int]) -> list[Tensor]:
    """An index into each of the dimensions that were flattened to one."""
    indices = []
    for size in reversed(depth):
        indices.append(place % size)
        place = place // size
    return indices[::-1]


def _presummed(
    view: Tensor, labels: Labels, own: Labels, position: int, options: Options, budget_bytes: int
) -> tuple[Tensor, Labels]:
    kept = tuple(x for x in labels if x not in own)
    if position in options.linear_operands:
        return view.sum([labels.index(x) for x in own]), kept
    return _blocked(Equation((labels,), kept), [view], options.linear(), budget_bytes), kept


def _product(a: Tensor, b: Tensor, options: Options, budget_bytes: int, return_argmax: bool) -> Any:
    """A batch of matrix products (B, I, K) by (B, K, J)."""
    semiring = options.semiring
    if semiring.matmul is not None:
        return semiring.matmul(a, b)
    if semiring.name == "log":
        return log.matmul(
            a,
            b,
            zero_annihilates=semiring.zero_annihilates,
            budget_bytes=budget_bytes,
            **_special(options),
        )
    if semiring.name in SELECTING:
        return tropical.matmul(
            a, b, semiring.name, return_argmax=return_argmax, zero_annihilates=semiring.zero_annihilates
        )
    if semiring.name == "boolean":
        return boolean.matmul(a, b)
    return torch.bmm(a, b)
