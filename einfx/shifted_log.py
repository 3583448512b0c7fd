"""Contractions over the log semiring by one real contraction: without a logarithm for every pair.

Each operand is shifted by its maxima over the labels that the output lacks, exponentiated, and contracted
over real numbers; the logarithm of the result and all shifts give the sum. Terms that the dtype has no normal
number for are lost. With T terms in a sum and n operands that is less than ``8 n T tiny``, so a result above
``8 n T tiny / eps`` is right to rounding, and others are refused: the steps of the plan compute them exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .dispatch import contract
from .machine import accumulation_dtype
from .planning import plan
from .plans import Plan
from .semiring_planning import DEFAULT_BUDGET_BYTES, result_bytes

__all__ = ["ShiftedLog"]

PATIENCE = 3
"""After so many refused contractions in a row only one in ``RARELY`` is tried."""

RARELY = 16


class ShiftedLog:
    """The contraction of one plan, for operands of its shapes.

    Attributes:
        floor: the smallest result that is right.
    """

    def __init__(self, chosen: Plan) -> None:
        self.equation = chosen.equation
        self.dtype = accumulation_dtype(chosen.dtype)
        self.linear = chosen.options.linear_operands
        info = torch.finfo(self.dtype)
        sizes = self.equation.sizes(chosen.shapes)
        terms = math.prod(float(sizes[x]) for x in self.equation.summed)
        self.floor = 8 * len(chosen.shapes) * terms * info.tiny / info.eps
        # Second derivatives divide by squares of the result.
        self.recorded_floor = max(self.floor, info.tiny**0.4)
        self.window = -math.log(info.tiny) - 2
        output = self.equation.output
        self.reduced = [
            tuple(dim for dim, x in enumerate(labels) if x not in output) for labels in self.equation.inputs
        ]
        self.aligned = [
            tuple(labels.index(x) if x in labels else None for x in output) for labels in self.equation.inputs
        ]
        self._refused = 0
        self._calls = 0

    @classmethod
    def of(cls, chosen: Plan) -> ShiftedLog | None:
        """The same for a plan that it is faster than; None for others."""
        options, equation = chosen.options, chosen.equation
        if options.semiring.name != "log" or options.is_limited or len(chosen.steps) < 2:
            return None
        if any(len(set(labels)) < len(labels) for labels in equation.inputs) or 0 in sum(chosen.shapes, ()):
            return None
        shifted = cls(chosen)
        if not shifted.recorded_floor < 1e-3:
            return None
        real = plan(equation, chosen.shapes, dtype=shifted.dtype, device=chosen.device)
        passes = sum(math.prod(shape) for shape in (*chosen.shapes, equation.output_shape(chosen.shapes)))
        # Exponentials are made twice on the way, beside what the real contraction takes.
        made = 2 * passes * shifted.dtype.itemsize + real.peak_bytes
        if made > DEFAULT_BUDGET_BYTES + result_bytes(equation, chosen.shapes, shifted.dtype):
            return None
        exponentials = 1e-9 * passes / (torch.get_num_threads() if passes > 32768 else 1)
        return shifted if real.seconds + exponentials < chosen.seconds else None

    def __call__(self, operands: Sequence[Tensor]) -> Tensor | None:
        """The result, or None where some of it isn't safe.

        Args:
            operands: of the plan's shapes; those that aren't linear are logarithms.
        """
        self._calls += 1
        if self._refused >= PATIENCE and self._calls % RARELY:
            return None
        recorded = torch.is_grad_enabled() and any(x.requires_grad for x in operands)
        factors, shifts = [], []
        for position, operand in enumerate(operands):
            x = operand.to(self.dtype)
            with torch.no_grad():
                top = x.amax(self.reduced[position], keepdim=True) if self.reduced[position] else x
                empty = 0.0 if position in self.linear else -math.inf
                # What is empty makes sums of nothing, which are refused.
                top = top.masked_fill(top == empty, 1.0 if position in self.linear else 0.0)
            if position in self.linear:
                factors.append(x / top)
                top = top.log()
            else:
                factors.append(torch.threshold(x - top, -self.window, -math.inf).exp())
            shifts.append(self._on_output(top, position))
        sums = contract(self.equation, factors, "auto")
        least, most = torch.aminmax(sums.detach()) if sums.numel() else (torch.ones(()), torch.ones(()))
        floor = self.recorded_floor if recorded else self.floor
        if not (float(least) > floor and float(most) < math.inf):
            self._refused += 1
            return None
        self._refused = 0
        result = sums.log()
        for shift in shifts:
            result = result + shift
        return result.to(operands[0].dtype).contiguous()

    def _on_output(self, top: Tensor, position: int) -> Tensor:
        """A shift with a dimension for every label of the output."""
        kept = [dim for dim in self.aligned[position] if dim is not None]
        for dim in reversed(self.reduced[position]):
            top = top.squeeze(dim)
        order = sorted(kept)
        top = top.permute([order.index(dim) for dim in kept])
        for place, dim in enumerate(self.aligned[position]):  # type: ignore[assignment]
            if dim is None:
                top = top.unsqueeze(place)
        return top
