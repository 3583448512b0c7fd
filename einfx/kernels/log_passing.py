"""What a sum over logarithms passes on of its gradient to operands of a part of its terms, by real products.

With ``out_ij = log(sum over k of exp(a_ik + b_kj))``, and operands shifted by their maxima, the gradient of
``a`` is ``exp(a - max a) * (S @ exp(b - max b)^T)``, where ``S = g * exp(max a + max b - out)``. Nothing of
the forward pass is needed for that but its result, which may be the sum of more terms than those of these
operands. Where a sum is so much smaller than the maxima that S is none of the dtype's numbers, or a term is
infinite, nothing is done, and another way has to be found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .log_operands import Shifted
from .log_posteriors import add_empty
from .log_scaling import Range

__all__ = ["Matrices", "add_products"]

Labels = tuple[int, ...]

NEGLIGIBLE = -80.0
"""Exponents below this are left out: processors are slow with numbers that are smaller than normal ones."""


class Matrices(NamedTuple):
    """A product of matrices, by the labels of these.

    Attributes:
        inputs: the labels of both operands, each once in an operand.
        output: those of the result.
        batch, rows, columns, summed: labels of both operands and the output, of the first operand alone, of
            the second alone, of both but not the output.
    """

    inputs: tuple[Labels, Labels]
    output: Labels
    batch: Labels
    rows: Labels
    columns: Labels
    summed: Labels

    def ordered(self, tensor: Tensor, labels: Labels, groups: Sequence[Labels]) -> Tensor:
        """A view with the labels of these groups in their order."""
        return tensor.permute([labels.index(x) for group in groups for x in group])


def add_products(
    matrices: Matrices,
    operands: Sequence[Tensor],
    total: Tensor,
    gradient: Tensor,
    targets: Sequence[Tensor | None],
    empty: float,
) -> bool:
    """Add what a sum passes on of its gradient to the gradients of operands.

    Args:
        matrices: which labels mean what.
        operands: two tensors of logarithms.
        total: logarithms of sums of these terms, or of these and more.
        gradient: of those.
        targets: the gradients of operands; None where none is wanted.
        empty: the derivative of a sum that is -inf by each of its terms.

    Returns:
        Whether it was possible.

    Example:
        >>> a, b = torch.zeros(2, 3), torch.zeros(3, 4)
        >>> matrices = Matrices(((0, 1), (1, 2)), (0, 2), (), (0,), (2,), (1,))
        >>> total, of_a = torch.full((2, 4), 3.0).log(), torch.zeros(2, 3)
        >>> add_products(matrices, (a, b), total, torch.ones(2, 4), (of_a, None), math.nan)
        True
        >>> of_a.mean()
        tensor(1.3333)
    """
    batch, rows, columns, summed = matrices[2:]
    forms = (batch, rows, summed), (batch, summed, columns)
    views = [
        matrices.ordered(x, labels, form)
        for x, labels, form in zip(operands, matrices.inputs, forms, strict=True)
    ]
    first, second = len(batch), len(batch) + len(rows)
    shape = views[0].shape
    lengths = shape[:first], shape[first:second], shape[second:], views[1].shape[first + len(summed) :]
    n_batch, n_rows, depth, n_columns = map(math.prod, lengths)
    if not n_batch * n_rows * depth * n_columns:
        return True
    limits = Range.of(gradient.dtype, depth)
    weights, tops = [], []
    for position, (view, form) in enumerate(zip(views, ((n_rows, depth), (depth, n_columns)), strict=True)):
        side = _shifted(view.reshape(n_batch, *form), 2 - position, limits)
        if side.special or side.weights is None:
            return False
        weights.append(side.weights)
        tops.append(side.top)
    written = matrices.output, (batch, rows, columns)
    whole, incoming = (matrices.ordered(x, *written) for x in (total, gradient))
    shares = tops[0] + tops[1]
    exponents = shares.view(whole.shape).sub_(whole)
    nothing = None
    if not float(exponents.amax()) <= -math.log(limits.floor):
        nothing = whole == -math.inf
        exponents.masked_fill_(nothing, -math.inf)
        if not float(exponents.amax()) <= -math.log(limits.floor):
            return False
    torch.threshold_(exponents, NEGLIGIBLE, -math.inf).exp_().mul_(incoming)
    if nothing is not None:
        shares.masked_fill_(nothing.reshape(shares.shape), 0)
    for position, target in enumerate(targets):
        if target is None:
            continue
        other = weights[1 - position].mT
        result = torch.bmm(shares, other) if position == 0 else torch.bmm(other, shares)
        result.mul_(weights[position])
        if nothing is not None and bool(nothing.any()):
            logs = whole.reshape(shares.shape)
            add_empty([result], logs, (None, None, incoming.reshape(shares.shape)), [position], empty)
        matrices.ordered(target, matrices.inputs[position], forms[position]).add_(
            result.view(views[position].shape)
        )
    return True


def _shifted(x: Tensor, dim: int, limits: Range) -> Shifted:
    """Exponentials of a batch of matrices, relative to their maxima along a dimension."""
    return Shifted.of(x, dim, limits, linear=False, scaled=False, keep=True)
