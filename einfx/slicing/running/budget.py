"""What a kernel over a semiring may take while it computes one block."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch

from ...costs.semiring_cost import SemiringKernel
from ...kernels.log_sums import whole_bytes
from ...machine import accumulation_dtype, item_bytes
from ...options import Options

__all__ = ["kernel_budget"]

MOST_BYTES = 32 << 20
"""What a kernel takes at most."""

AT_ONCE_BYTES = 4 << 20
"""Products over logarithms that take less are never cut: blocks of them take longer than what is in them."""


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
