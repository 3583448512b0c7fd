"""What it takes to pass on the gradient of a sum over logarithms term by term."""

from __future__ import annotations

from math import prod

import torch

from ...costs.semiring_cost import shares_gradient_seconds
from ...kernels import log_strided
from ...kernels.log_shares import shares_of
from ...machine import item_bytes, machine_for
from .work import Work

__all__ = ["shares_work"]

Labels = tuple[int, ...]
Sizes = tuple[int, ...]


def shares_work(
    inputs: tuple[Labels, ...],
    output: Labels,
    needs: tuple[bool, ...],
    shapes: tuple[Sizes, ...],
    strides: tuple[Sizes, ...],
    dtype: torch.dtype,
    device: str,
) -> Work:
    """What :func:`einfx.kernels.log_shares.add_shares` takes.

    Args:
        inputs: the labels of the operands.
        output: those of the sum.
        needs: for each operand whether its gradient is added to.
        shapes: of the operands.
        strides: of operands, the sum, its gradient, and the gradients that are added to.
        dtype: of all of them.
        device: where they are.

    Example:
        >>> square, strides = ((64, 64), (64, 64)), ((64, 1),) * 6
        >>> work = shares_work(((0, 1), (1, 2)), (0, 2), (True, True), square, strides, torch.float64, "cpu")
        >>> work.inside >= 8 * 64**2
        True
    """
    machine = machine_for(device)
    if log_strided.suits(inputs, output, shapes, dtype, device):
        walk = log_strided.walk_of_shares(inputs, output, needs, shapes, strides)
        return Work(seconds=walk.seconds)
    how = shares_of(inputs, output, needs, shapes, strides)
    made, sums_made = how.buffers
    seconds = shares_gradient_seconds(how.blocks, prod(how.shape), how.inner, len(strides), dtype, machine)
    # Beside the terms, which of them belong to sums that are -inf.
    return Work(item_bytes(dtype) * (made + sums_made), 3 * made, seconds)
