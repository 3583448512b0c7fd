"""What a kernel over a semiring may take while it computes one block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch

from ...costs.semiring_cost import SemiringKernel
from ...equation import Equation
from ...kernels import log_strided
from ...kernels.log_sums import whole_bytes
from ...machine import accumulation_dtype, item_bytes
from ...options import Options
from .matrix_views import Place

__all__ = ["direct_seconds", "kernel_budget"]

MOST_BYTES = 32 << 20
"""What a kernel takes at most."""

AT_ONCE_BYTES = 4 << 20
"""Products over logarithms that take less are never cut: blocks of them take longer than what is in them."""

SHARED_SECONDS = 100e-6
"""Sums over logarithms that take longer are shared among threads."""


def kernel_budget(
    step: SemiringKernel, sizes: Mapping[int, int], options: Options, dtype: torch.dtype, *, gradients: bool
) -> int:
    """What a kernel may take, in bytes.

    Args:
        step: the kernel.
        sizes: of the labels of the block.
        options: over which semiring.
        dtype: of the operands.
        gradients: whether it is for gradients.

    Example:
        >>> from einfx.equation import Equation
        >>> from einfx.costs.semiring_cost import choose_step
        >>> shapes, options = ((64, 64), (64, 64)), Options.read("log")
        >>> step = choose_step(Equation.parse("ij,jk->ik"), shapes, torch.float32, "cpu", options)
        >>> kernel_budget(step, {0: 64, 1: 64, 2: 64}, options, torch.float32, gradients=False)
        229376
    """
    if step.name == "matmul" and options.semiring.name == "boolean":
        # Operands and result as float32.
        return 4 * step.cost.workspace_bytes
    budget = min(step.cost.workspace_bytes, MOST_BYTES)
    if step.name == "matmul" and options.semiring.name == "log":
        groups = step.batch, step.rows, step.summed, step.columns
        batch, rows, depth, columns = (prod(sizes[label] for label in group) for group in groups)
        item = item_bytes(accumulation_dtype(dtype))
        whole = whole_bytes((batch, rows, depth, columns), item, gradients=gradients)
        budget = max(budget, min(whole, AT_ONCE_BYTES))
    return budget


def direct_seconds(
    step: SemiringKernel,
    equation: Equation,
    places: Sequence[Place],
    dtype: torch.dtype,
    device: str,
    options: Options,
) -> float | None:
    """What it takes to write logarithms where they go, without anything beside; None where they can't be.

    Args:
        step: the kernel that would compute them apart.
        equation: of what.
        places: where the operands lie, and where the result goes.
        dtype: of all of them.
        device: where they are.
        options: over which semiring.

    Example:
        >>> from einfx.costs.semiring_cost import choose_step
        >>> equation, shapes, options = Equation.parse("ij->i"), ((64, 64),), Options.read("log")
        >>> step = choose_step(equation, shapes, torch.float64, "cpu", options)
        >>> places = Place((64, 64), (64, 1)), Place((64,), (1,))
        >>> direct_seconds(step, equation, places, torch.float64, "cpu", options) is None
        True
    """
    plain = not options.linear_operands and not options.semiring.zero_annihilates
    if not plain or options.semiring.name != "log" or step.name == "matmul":
        return None
    shapes, inputs, output = tuple([x.shape for x in places[:-1]]), equation.inputs, equation.output
    if not log_strided.suits(inputs, output, shapes, dtype, device):
        return None
    strides = tuple([place.strides for place in places])
    seconds = log_strided.walk_of_sums(inputs, output, shapes, strides).seconds
    return seconds / torch.get_num_threads() if seconds > SHARED_SECONDS else seconds
