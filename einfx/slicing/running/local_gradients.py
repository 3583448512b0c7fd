"""Gradients over semirings, of one block of a contraction, from its own sum and the whole one.

Over logarithms, shares of terms in the whole sum follow from that and from the operands. They are summed term
by term, or by real products of matrices.

Otherwise, the gradient of a part of a sum is that of the sum times the derivative of the sum with respect to
the part: exp(part - sum) over logarithms, 1 for the part that was selected, and 1 where parts are added as
numbers are. From there the part is differentiated as a contraction of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from ...costs.semiring_cost import choose_step, products_gradient_seconds
from ...equation import Equation
from ...kernels.blocked_log import log_gradients
from ...kernels.blocked_loops import Limits, Subscripts
from ...kernels.blocked_sums import LOG, WEIGHT, Spec
from ...kernels.log_passing import Matrices, add_products
from ...kernels.log_shares import add_shares
from ...kernels.steps import contract_step
from ...machine import item_bytes, machine_for
from ...options import Options
from ..schedules.schedule import Adjoint, Schedule
from .budget import kernel_budget
from .into import Place
from .matrix_views import merged
from .presummed import Presummed, alone
from .shares_work import shares_work
from .work import Work, line_options

__all__ = ["LocalGradients", "sums_in_blocks"]

Scratch = Callable[[Sequence[int]], Tensor]

LEAST_BYTES = 1 << 18
"""What a kernel may take at least, where another way was planned."""

RECORDED_SECONDS = 250e-6
"""What differentiating a part takes beside its arithmetic."""


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
        needs: which gradients are wanted.
        matrices: the contraction as a product of matrices; None where it is none.
        way: how gradients are found: by ``"shares"`` of terms, by ``"products"`` of matrices, ``"blocked"``
            for shares where weights are among the operands, ``"presummed"`` where operands are summed first
            over what they have for themselves alone, ``"recorded"`` by autograd.
        budget_bytes: what a kernel may take.
        terms: of how many terms each sum of the block is.
        whole_terms: of how many terms each whole sum is.
        work: what it takes.
        presummed: the sums of operands that come first, if any do.
    """

    equation: Equation
    options: Options
    needs: tuple[bool, ...]
    matrices: Matrices | None
    way: str
    budget_bytes: int
    terms: int
    whole_terms: int
    work: Work
    presummed: Presummed | None = None

    @classmethod
    def of(
        cls,
        line: Adjoint,
        schedule: Schedule,
        places: Mapping[int, Place],
        dtype: torch.dtype,
        device: str,
        options: Options,
    ) -> LocalGradients:
        """Choose.

        Args:
            line: which gradients of what.
            schedule: that the line is part of.
            places: of its values, or the current blocks of these.
            dtype: of its values.
            device: where it runs.
            options: over which semiring.
        """
        labels, own = schedule.labels, line_options(options, line.operands)
        equation = Equation(tuple([labels[x] for x in line.operands]), labels[line.gradient])
        there = {label for value in line.operands for label in labels[value]}
        whole = prod([schedule.sizes[label] for label in there.difference(labels[line.gradient])])
        targets = [x for x in line.gradients if x >= 0]
        needs = tuple([x >= 0 for x in line.gradients])
        total = places.get(line.target, places[line.gradient])
        where = (*[places[x] for x in line.operands], total, *[places[x] for x in (line.gradient, *targets)])
        return _local(equation, where, needs, whole, dtype, device, own, torch.get_num_threads())

    def add(
        self,
        operands: Sequence[Tensor],
        targets: Sequence[Tensor | None],
        total: Tensor,
        gradient: Tensor,
        scratch: Scratch,
        *,
        consumed: bool,
    ) -> None:
        """Add to the gradient of each operand.

        Args:
            operands: the current blocks.
            targets: the gradients that are wanted, None for others.
            total: the whole sums.
            gradient: of these.
            scratch: gives memory.
            consumed: whether what is passed on to a selected term is taken out of ``gradient``.
        """
        inputs, output = self.equation.inputs, self.equation.output
        if self.way == "shares":
            add_shares(inputs, output, operands, total, gradient, targets, scratch, self._empty)
            return
        if self.presummed is not None:
            self.presummed.add(operands, targets, total, gradient, scratch)
            return
        if self.way == "products":
            assert self.matrices is not None
            if add_products(self.matrices, operands, total, gradient, targets, self._empty):
                return
        made = self._apart(operands, total, gradient, consumed=consumed)
        for target, part in zip(targets, made, strict=True):
            if target is not None and part is not None:
                target.add_(part)

    def _apart(
        self, operands: Sequence[Tensor], total: Tensor, gradient: Tensor, *, consumed: bool
    ) -> list[Tensor | None]:
        """What is added to each gradient, in tensors of its own."""
        if self.way == "blocked":
            spec = self._spec(total.dtype)
            return [*log_gradients(spec, (*operands, total), gradient, self.needs)]
        recorded = [x.data.requires_grad_(need) for x, need in zip(operands, self.needs, strict=True)]
        with torch.enable_grad():
            part = contract_step(
                self.equation, recorded, self.options.unlimited(), budget_bytes=self.budget_bytes
            )
        share = self._of_part(part.detach(), total, gradient)
        if consumed:
            # The first block that has the largest term gets it all.
            gradient.masked_fill_(share != 0, 0)
        found = iter(torch.autograd.grad(part, [x for x in recorded if x.requires_grad], share))
        return [next(found) if need else None for need in self.needs]

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

    @property
    def _empty(self) -> float:
        """The derivative of a whole sum that is -inf by each of its terms."""
        empty = self.options.grad_of_neg_inf
        return 1 / max(self.whole_terms, 1) if empty == "uniform" else float(empty)

    def _spec(self, dtype: torch.dtype) -> Spec:
        """The sums as kernels over logarithms take them."""
        equation, linear = self.equation, self.options.linear_operands
        return Spec(
            Subscripts(equation.inputs, equation.output, equation.summed),
            "".join(WEIGHT if i in linear else LOG for i in range(len(equation.inputs))),
            Limits(None, self.budget_bytes),
            self.options.semiring.zero_annihilates,
            str(self._empty),
            dtype,
        )


@lru_cache(maxsize=16384)
def _local(
    equation: Equation,
    places: tuple[Place, ...],
    needs: tuple[bool, ...],
    whole_terms: int,
    dtype: torch.dtype,
    device: str,
    options: Options,
    threads: int,
) -> LocalGradients:
    """Choose; ``places`` are those of operands, the sum, its gradient and the gradients that are wanted."""
    count = len(equation.inputs)
    shapes = tuple([place.shape for place in places[:count]])
    sizes, machine = equation.sizes(shapes), machine_for(device)
    terms = prod([sizes[label] for label in equation.summed])
    step = choose_step(equation, shapes, dtype, device, options)
    item, elements = item_bytes(dtype), [prod(shape) for shape in shapes]
    result = prod([sizes[label] for label in equation.output])
    mine = [n for n, need in zip(elements, needs, strict=True) if need]
    budget = kernel_budget(step, sizes, options, dtype, gradients=True)

    def chosen(way: str, work: Work) -> LocalGradients:
        return LocalGradients(equation, options, needs, matrices, way, budget, terms, whole_terms, work)

    semiring, matrices = options.semiring, _matrices(equation)
    plain = not options.linear_operands and not semiring.zero_annihilates
    recorded = budget + item * (3 * result + 2 * sum(mine))
    if plain and semiring.name == "log" and dtype in (torch.float32, torch.float64):
        strides = tuple([place.strides for place in places])
        shares = shares_work(equation.inputs, equation.output, needs, shapes, strides, dtype, device)
        if matrices is None:
            if count < 2 or not any(alone(equation)):
                return chosen("shares", shares)
            rest = needs, whole_terms, dtype, device, options, threads
            first = Presummed.of(
                equation,
                places,
                needs,
                dtype,
                device,
                options,
                lambda left, there: _local(left, there, *rest),
            )
            if shares.seconds <= first.work.seconds:
                return chosen("shares", shares)
            return replace(chosen("presummed", first.work), presummed=first)
        groups = matrices.batch, matrices.rows, matrices.columns, matrices.summed
        counts = tuple([prod([sizes[x] for x in group]) for group in groups])
        arranged = _arranged(matrices, places[:count])
        wanted = iter(places[count + 2 :])
        arranged += _arranged(matrices, [next(wanted) if need else None for need in needs])
        seconds = products_gradient_seconds(counts, needs, arranged, dtype, machine)
        if shares.seconds <= seconds:
            return chosen("shares", shares)
        # What the part takes that is recorded where a sum is much smaller than its operands' maxima.
        apart = 2 * sum(elements) + 2 * result + max(mine, default=0)
        apart = max(apart, 5 * result + 2 * sum(mine) + sum(elements))
        budget = min(budget, LEAST_BYTES)
        return chosen("products", Work(0, item * apart + budget, seconds))
    if semiring.selective:
        # Where each term was selected from, and the selected elements of every operand.
        recorded += (8 * (len(equation.summed) + 3) + item * (count + 2) + 2) * result
    if step.name == "matmul":
        # Matrices that are copied, and what a product keeps of them for its gradient.
        recorded += item * (2 * sum(elements) + 2 * result)
    in_blocks = semiring.name == "log" and step.name != "multiply"
    way = "blocked" if in_blocks and (step.name == "blocked" or options.linear_operands) else "recorded"
    return chosen(way, Work(0, recorded, RECORDED_SECONDS + 3 * step.cost.seconds))


def _arranged(matrices: Matrices, places: Sequence[Place | None]) -> int:
    """How many elements of operands, or of their gradients, don't lie as matrices do."""
    batch, rows, columns, summed = matrices[2:]
    forms = (batch, rows, summed), (batch, summed, columns)
    return sum(
        prod(place.shape)
        for place, labels, groups in zip(places, matrices.inputs, forms, strict=True)
        if place is not None and merged(place, labels, groups) is None
    )


def _matrices(equation: Equation) -> Matrices | None:
    """The contraction as a product of matrices; None where it is none."""
    if len(equation.inputs) != 2:
        return None
    (a, b), output = equation.inputs, equation.output
    batch = tuple([x for x in output if x in a and x in b])
    rows, columns = (tuple([x for x in own if x not in other]) for own, other in ((a, b), (b, a)))
    if any(x not in output for x in (*rows, *columns)):
        return None
    summed = tuple([x for x in a if x in b and x not in output])
    return Matrices((a, b), output, batch, rows, columns, summed)
