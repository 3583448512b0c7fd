"""Gradients over semirings, of one block of a contraction, from its own sum and the whole one.

The gradient of a part of a sum is that of the sum times the derivative of the sum with respect to the part:
exp(part - sum) over logarithms, 1 for the part that was selected, and 1 where parts are added as numbers are.
From there the part is differentiated as a contraction of its own. Over logarithms, where no product of
matrices computes it, gradients come from the shares of terms in the whole sum at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ...equation import Equation
from ...kernels.blocked_log import log_gradients
from ...kernels.blocked_loops import Limits, Subscripts
from ...kernels.blocked_sums import LOG, WEIGHT, Spec
from ...kernels.steps import contract_step
from ...machine import item_bytes
from ...options import Options
from ...semiring_cost import SemiringKernel, choose_step
from ..schedules.schedule import Adjoint, Schedule
from .budget import kernel_budget
from .work import Work, line_options

__all__ = ["LocalGradients", "sums_in_blocks"]


def sums_in_blocks(options: Options) -> bool:
    """Whether gradients of a part of a sum follow from the part and the whole.

    Otherwise, where only its owner knows what a semiring's addition is, sums are differentiated whole.

    Example:
        >>> sums_in_blocks(Options.read("log")), sums_in_blocks(Options.read("max_plus"))
        (True, True)
    """
    return options.semiring.selective or options.semiring.addition in (torch.add, torch.logaddexp)


@dataclass(frozen=True)
class LocalGradients:
    """How a block's part of gradients is computed.

    Args:
        equation: the contraction of the block.
        options: over which semiring.
        step: what computes it.
        budget_bytes: what a kernel may take.
        terms: of how many terms each sum of the block is.
        whole_terms: of how many terms each whole sum is.
    """

    equation: Equation
    options: Options
    step: SemiringKernel
    budget_bytes: int
    terms: int
    whole_terms: int

    @classmethod
    def of(
        cls,
        line: Adjoint,
        schedule: Schedule,
        shapes: Sequence[Sequence[int]],
        dtype: torch.dtype,
        device: str,
        options: Options,
    ) -> LocalGradients:
        """Choose.

        Args:
            line: which gradients of what.
            schedule: that the line is part of.
            shapes: of the current blocks of what is contracted.
            dtype: of its values.
            device: where it runs.
            options: over which semiring.
        """
        labels, own = schedule.labels, line_options(options, line.operands)
        equation = Equation(tuple(labels[x] for x in line.operands), labels[line.gradient])
        sizes = equation.sizes(shapes)
        terms = prod(sizes[label] for label in equation.summed)
        there = {label for value in line.operands for label in labels[value]}
        whole = prod(schedule.sizes[label] for label in there.difference(labels[line.gradient]))
        step = choose_step(equation, shapes, dtype, device, own)
        budget = kernel_budget(step, sizes, own, dtype, gradients=True)
        return cls(equation, own, step, budget, terms, whole)

    @property
    def by_shares(self) -> bool:
        """Whether gradients are sums of shares of terms in whole sums, rather than found by autograd."""
        if self.options.semiring.name != "log" or self.step.name == "multiply":
            return False
        return self.step.name == "blocked" or bool(self.options.linear_operands)

    def work(self, operands: Sequence[int], needs: Sequence[bool], result: int, dtype: torch.dtype) -> Work:
        """What it takes.

        Args:
            operands: how many elements each has.
            needs: which gradients are wanted.
            result: how many elements it has.
            dtype: of all of them.
        """
        item, count = item_bytes(dtype), len(operands)
        mine = sum(n for n, need in zip(operands, needs, strict=True) if need)
        apart = self.budget_bytes + item * (3 * result + 2 * mine)
        if self.options.semiring.selective:
            # Where each term was selected from, and the selected elements of every operand.
            apart += (8 * (len(self.equation.summed) + 3) + item * (count + 2) + 2) * result
        if self.step.name == "matmul":
            # Matrices that are copied, and what a product keeps of them for its gradient.
            apart += item * (2 * sum(operands) + 2 * result)
        return Work(0, apart, 3 * self.step.cost.seconds)

    def gradients(
        self,
        operands: Sequence[Tensor],
        needs: Sequence[bool],
        total: Tensor,
        gradient: Tensor,
        *,
        consumed: bool,
    ) -> list[Tensor | None]:
        """What is added to the gradient of each operand.

        Args:
            operands: the current blocks.
            needs: which gradients are wanted.
            total: the whole sums.
            gradient: of these.
            consumed: whether what is passed on to a selected term is taken out of ``gradient``.
        """
        if self.by_shares:
            spec = self._spec(total.dtype)
            return [*log_gradients(spec, (*operands, total), gradient, needs)]
        recorded = [x.data.requires_grad_(need) for x, need in zip(operands, needs, strict=True)]
        with torch.enable_grad():
            part = contract_step(
                self.equation, recorded, self.options.unlimited(), budget_bytes=self.budget_bytes
            )
        share = self._of_part(part.detach(), total, gradient)
        if consumed:
            # The first block that has the largest term gets it all.
            gradient.masked_fill_(share != 0, 0)
        found = iter(torch.autograd.grad(part, [x for x in recorded if x.requires_grad], share))
        return [next(found) if need else None for need in needs]

    def _of_part(self, part: Tensor, total: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of a part of a sum."""
        semiring = self.options.semiring
        if semiring.selective:
            return torch.where((part == total) | (part.isnan() & total.isnan()), gradient, 0)
        if semiring.addition is not torch.logaddexp:
            return gradient
        whole = torch.exp(part - total)
        # Infinities: equal ones stand for one another. Where the sum is -inf, so is each part, whose own rule
        # for that holds; but a share of many terms is less in the whole than in the part.
        whole.masked_fill_(part == total, 1)
        if self.options.grad_of_neg_inf == "uniform":
            whole.masked_fill_(total == -torch.inf, self.terms / max(self.whole_terms, 1))
        return whole.mul_(gradient)

    def _spec(self, dtype: torch.dtype) -> Spec:
        """The sums as kernels over logarithms take them."""
        equation, options = self.equation, self.options
        linear, empty = options.linear_operands, options.grad_of_neg_inf
        return Spec(
            Subscripts(equation.inputs, equation.output, equation.summed),
            "".join(WEIGHT if i in linear else LOG for i in range(len(equation.inputs))),
            Limits(None, self.budget_bytes),
            options.semiring.zero_annihilates,
            str(1 / max(self.whole_terms, 1)) if empty == "uniform" else empty,
            dtype,
        )
