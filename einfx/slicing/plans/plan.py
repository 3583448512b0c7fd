"""A contraction in blocks as data: planned, printed, kept as text, read back, run, and derived again.

A :class:`einfx.Plan` is an order of steps; a :class:`SlicedPlan` is the very program that is run: loops over
blocks of labels, every buffer, and what is written where. The one is what there is to decide without a limit,
the other what a limit makes of it, and what gradients are computed by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...equation import Equation
from ...errors import MemoryLimitError, OperandError, PlanError
from ...machine import accumulation_dtype
from ...options import Options
from ...plans import Shapes, linear_path, refuse_others
from ..running.memory import Demand
from ..running.run import run
from ..schedules.flops import count_flops
from ..schedules.plain import kept_labels, plain
from ..schedules.schedule import Schedule
from ..schedules.tree import ContractionTree, Cut
from ..search.find_schedule import Sliced, find_schedule
from .parts import algebra_of, demand_of, examples, found_fields, has_gradients, program_of, written
from .printing import described
from .text import broken, plan_text, read_fields

__all__ = ["PlannedLoop", "SlicedPlan"]


class PlannedLoop(NamedTuple):
    """A loop of a plan.

    Attributes:
        label: its letter.
        block: the length of a block.
        blocks: how many there are.
        around: the operands whose contraction is inside of it.
    """

    label: str
    block: int
    blocks: int
    around: tuple[int, ...]


@dataclass(frozen=True)
class SlicedPlan:
    """A contraction, or its gradients, as a program of loops over blocks of labels.

    :func:`einfx.contract_path` makes them where there's a limit, :meth:`vjp` for gradients. It is run by
    ``einfx.einsum(..., optimize=plan)``, within its limit and with gradients, or by :meth:`run`.

    Args:
        equation: the contraction.
        letters: what its labels are called.
        shapes: of its operands, for which it was planned.
        strides: of these, in elements.
        dtype: of all of them.
        device: where it is computed, as text.
        options: over which semiring, and within which limit.
        steps: which values each step joins: operands are 0 to n-1, step i gives value n+i.
        cuts: for every loop the value around whose computation it is, its label and the length of a block.
        repeated: the values that are computed again for every block of a loop that doesn't change them, where
            a loop further inside cuts them; as -1 - value those that always are.
        needs_grad: for each operand whether its gradient is computed; empty for the contraction itself.
        schedule: the program.
        flops: multiplications and additions.
        peak_bytes: the most that is allocated beside the operands at any time, the results included.
        seconds: predicted time.
        naive_flops: multiplications and additions of a single sum over all labels.
        unlimited_flops: those of the fastest order without a limit.

    Example:
        >>> import einfx
        >>> a, b, c = torch.ones(60, 900), torch.ones(900, 900), torch.ones(900, 50)
        >>> plan = einfx.contract_path("ij,jk,kl->il", a, b, c, memory_limit="32 KiB")
        >>> plan.peak_bytes <= 32 << 10, plan.path, [(loop.label, loop.around) for loop in plan.loops]
        (True, ((1, 2), (0, 1)), [('j', (0, 1, 2))])

        What was kept as text runs as it was planned:

        >>> text = plan.to_text()
        >>> einfx.einsum("ij,jk,kl->il", a, b, c, optimize=text)[0, 0].item()
        810000.0
    """

    equation: Equation
    letters: tuple[str, ...]
    shapes: Shapes
    strides: Shapes
    dtype: torch.dtype
    device: str
    options: Options
    steps: tuple[tuple[int, ...], ...]
    cuts: tuple[tuple[int, int, int], ...]
    repeated: tuple[int, ...]
    needs_grad: tuple[bool, ...]
    schedule: Schedule
    flops: int
    peak_bytes: int
    seconds: float
    naive_flops: int
    unlimited_flops: int

    @cached_property
    def path(self) -> tuple[tuple[int, ...], ...]:
        """The steps in opt_einsum's linear convention: positions in a list that shrinks."""
        return linear_path(len(self.shapes), self.steps)

    @property
    def memory_limit(self) -> int | None:
        """The bytes that it stays within."""
        return self.options.memory_limit

    @property
    def loops(self) -> tuple[PlannedLoop, ...]:
        """The loops, those around more first."""
        found = []
        for value, label, block in self.cuts:
            size = self.sizes[label]
            found.append(PlannedLoop(self.letters[label], block, -(-size // block), self._below(value)))
        return tuple(sorted(found, key=lambda loop: (-len(loop.around), -loop.blocks, loop.label)))

    @property
    def slices(self) -> int:
        """In how many blocks, each with all operands, the whole is cut."""
        return prod(loop.blocks for loop in self.loops if len(loop.around) == len(self.shapes))

    @cached_property
    def sizes(self) -> dict[int, int]:
        """The size of every label."""
        return self.equation.sizes(self.shapes)

    @cached_property
    def tree(self) -> ContractionTree:
        """The order of contraction, of operands without what repeats or broadcasts in them."""
        simple, operands = plain(self.equation, self._examples())
        sizes = simple.sizes([x.shape for x in operands])
        return ContractionTree(simple, tuple(sizes[label] for label in simple.labels), self.steps)

    @cached_property
    def kept(self) -> tuple[int, ...]:
        """For every label of the tree and the program the label of the equation that it is."""
        return kept_labels(self.equation, self._examples())

    @cached_property
    def demand(self) -> Demand:
        """What the program takes, line by line."""
        operands = plain(self.equation, self._examples())[1]
        return self._demand(tuple(x.stride() for x in operands), self.dtype, self.device)

    def __str__(self) -> str:
        return described(self)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.equation, self.shapes, self.steps, self.cuts, self.needs_grad, self.dtype))

    def __reduce__(self) -> tuple[Any, ...]:
        return SlicedPlan.from_text, (self.to_text(),)

    def run(self, *operands: Tensor) -> Any:
        """Run the program; autograd doesn't see it.

        Args:
            operands: those of the contraction. For gradients, then the gradient of the result, and over
                every semiring but the real numbers the result as a plan of the same path gives it.

        Returns:
            The result; for gradients a tuple of those that ``needs_grad`` names.

        Raises:
            PlanError: operands of other shapes or another dtype than planned for.

        Example:
            >>> import einfx
            >>> plan = einfx.contract_path("ij,jk->ik", (2, 3), (3, 4))
            >>> a, b, gradient = torch.ones(2, 3), torch.ones(3, 4), torch.ones(2, 4)
            >>> plan.vjp((False, True)).run(a, b, gradient)[0].shape
            torch.Size([3, 4])
        """
        count = len(self.shapes)
        expected = self.schedule.count
        if len(operands) != expected:
            more = ("", ", then the gradient of the result", ", then its gradient and the result")
            raise OperandError(
                f"this plan of {self.text!r} takes {count} operand(s){more[expected - count]}: "
                f"{expected} tensor(s), but {len(operands)} were given"
            )
        refuse_others(self.text, self.shapes, self.dtype, operands[:count])
        result_shape = self.equation.output_shape(self.shapes)
        for name, extra in zip(("the gradient of the result", "the result"), operands[count:], strict=False):
            if not isinstance(extra, Tensor):
                raise OperandError(
                    f"this plan of {self.text!r} takes {name} as a torch.Tensor, not a {type(extra).__name__}"
                )
            if tuple(extra.shape) != result_shape or extra.dtype != self.dtype:
                raise OperandError(
                    f"this plan of {self.text!r} takes {name} as {self.dtype} of shape {result_shape}, "
                    f"not {extra.dtype} of {tuple(extra.shape)}"
                )
        inputs = plain(self.equation, [x.detach() for x in operands[:count]])[1]
        extras = [x.detach().contiguous() for x in operands[count:]]
        strides = tuple(x.stride() for x in inputs)
        found = self._demand(strides, self.dtype, operands[0].device.type)
        wide = accumulation_dtype(self.dtype)
        how = algebra_of(self.options)
        made = run(self.schedule, [*inputs, *extras], found, how, dtype=wide, stored=self.dtype)
        if not self.needs_grad:
            return made[0]
        wanted = [i for i, needed in enumerate(self.needs_grad) if needed]
        return tuple(self._as_operand(i, x) for i, x in zip(wanted, made, strict=True))

    def vjp(self, needs_grad: Sequence[bool] | None = None) -> SlicedPlan:
        """The plan of gradients: the vector-Jacobian product of the contraction, within the same limit.

        It takes the operands, then the gradient of the result, and over every semiring but the real numbers
        then the result; what the contraction made on its way it makes again, block by block.

        Args:
            needs_grad: for each operand whether its gradient is computed; by default all are.

        Raises:
            MemoryLimitError: they don't fit the limit.
            PlanError: this is a plan of gradients already; a semiring or a dtype that has none.

        Example:
            >>> import einfx
            >>> plan = einfx.contract_path("ij,jk->ik", (200, 300), (300, 400), memory_limit="1 MiB")
            >>> plan.vjp().needs_grad
            (True, True)
        """
        if self.needs_grad:
            raise PlanError(
                f"this plan is of the gradients of {self.text!r} already; for second derivatives "
                "differentiate einfx.einsum(..., memory_limit=...) twice"
            )
        count = len(self.shapes)
        given = (True,) * count if needs_grad is None else needs_grad
        wanted = tuple(map(bool, given)) if isinstance(given, (tuple, list)) else ()
        if len(wanted) != count or not any(wanted):
            raise PlanError(
                f"needs_grad={needs_grad!r}: {self.text!r} has {count} operand(s); it is as many truth "
                "values, one of them true"
            )
        if self.schedule.loaded or not has_gradients(self.dtype, self.options):
            raise PlanError(
                f"{self.text!r} over {self.options.semiring.name!r} in {self.dtype} has no plan of "
                "gradients; einfx.einsum differentiates it, where it can be"
            )
        operands = plain(self.equation, self._examples())[1]
        strides = tuple(x.stride() for x in operands)
        try:
            made = self.sliced(strides, self.memory_limit, self.dtype, self.device, wanted)
        except MemoryLimitError as error:
            text = f"einsum {self.text!r}, read as {str(error).removeprefix('einsum ')}"
            raise MemoryLimitError(text, error.needed_bytes) from None
        # Of the same path, with all values as long as they are.
        whole = program_of(self.tree, (), (), wanted, self.options)
        return replace(
            self,
            needs_grad=wanted,
            unlimited_flops=count_flops(whole, self.options),
            **found_fields(made, self.kept, self.options),
        )

    def jobs(self, count: int | None = None) -> Any:
        """The plan as jobs that don't depend on one another, and how their results meet.

        Args:
            count: into how many ranges of one label the contraction is cut; by default one job is a block
                of the outermost loops around the whole contraction.

        Returns:
            The :class:`.jobs.Jobs`.

        Example:
            >>> import einfx
            >>> a, b = torch.ones(6, 900), torch.ones(900, 5)
            >>> jobs = einfx.contract_path("ij,jk->ik", a, b, memory_limit="1 MiB").jobs(4)
            >>> [job.ranges for job in jobs][:2], jobs.merges
            ([{'j': (0, 225)}, {'j': (225, 450)}], ({'j': 'add'},))
            >>> jobs.merge([job.run(a, b) for job in jobs])[0]
            tensor([900., 900., 900., 900., 900.])
        """
        from .jobs import jobs_of

        return jobs_of(self, count)

    def is_of(self, equation: Equation, shapes: Shapes) -> bool:
        """Whether it is of an equation without what repeats or broadcasts, for operands of these shapes."""
        tree = self.tree
        if equation != tree.equation:
            return False
        return shapes == tuple(tuple(tree.sizes[x] for x in labels) for labels in equation.inputs)

    def sliced(
        self,
        strides: Shapes,
        limit: int | None,
        dtype: torch.dtype,
        device: str,
        wanted: tuple[bool, ...] = (),
    ) -> Sliced:
        """The program for operands that lie as given, or for their gradients.

        It is the plan's own where that stays within the limit; otherwise the plan's path is cut anew.

        Args:
            strides: of the operands of :attr:`tree`.
            limit: bytes, None for none.
            dtype: of the operands.
            device: where they are.
            wanted: for each operand whether its gradient is computed; empty for the contraction itself.

        Raises:
            MemoryLimitError: there's none.
        """
        tree = self.tree
        made = None
        if self.needs_grad == wanted:
            made = Sliced(self.schedule, self._demand(strides, dtype, device), tree, self.tree_cuts)
        elif self.memory_limit is None:
            program = program_of(tree, self.tree_cuts, self.repeated, wanted, self.options)
            found = demand_of(program, dtype, device, self.options, strides)
            made = Sliced(program, found, tree, self.tree_cuts)
        if made is not None and (limit is None or made.bytes <= limit):
            return made
        assert limit is not None
        shapes = [tuple(tree.sizes[label] for label in labels) for labels in tree.equation.inputs]
        return find_schedule(
            tree.equation,
            shapes,
            [self.steps],
            limit,
            dtype,
            device,
            options=algebra_of(self.options),
            wanted=wanted,
            strides=strides,
        )

    @cached_property
    def tree_cuts(self) -> tuple[Cut, ...]:
        """The cuts with the labels of the tree."""
        number = {label: position for position, label in enumerate(self.kept)}
        return tuple(Cut(value, number[label], block) for value, label, block in self.cuts)

    @property
    def text(self) -> str:
        """The equation in its letters."""
        return written(self.equation, self.letters)

    def to_text(self) -> str:
        """The plan as one line of JSON, which :meth:`from_text` and einsum's ``optimize`` read."""
        return plan_text(self)

    @classmethod
    def from_text(cls, text: str) -> SlicedPlan:
        """Read what :meth:`to_text` wrote.

        Raises:
            PlanError: the text isn't that of a plan in blocks.
        """
        made = cls(**read_fields(text))
        try:
            whole = made.tree.equation.inputs == made.schedule.labels[: len(made.shapes)]
            whole = whole and made.tree.sizes == made.schedule.sizes and len(made.tree_cuts) == len(made.cuts)
        except (ValueError, RuntimeError, KeyError) as error:
            raise broken(made.equation, str(error)) from None
        if not whole:
            raise broken(made.equation, "its program is of another contraction")
        return made

    def _below(self, value: int) -> tuple[int, ...]:
        """The operands that a value is made of."""
        if value < len(self.shapes):
            return (value,)
        return tuple(sorted(x for child in self.steps[value - len(self.shapes)] for x in self._below(child)))

    def _examples(self) -> list[Tensor]:
        return examples(self.shapes, self.strides, self.dtype)

    def _demand(self, strides: Shapes, dtype: torch.dtype, device: str) -> Demand:
        return demand_of(self.schedule, dtype, device, self.options, strides)

    def _as_operand(self, position: int, gradient: Tensor) -> Tensor:
        """The gradient of an operand, from that without what repeats or broadcasts in it."""
        shape = self.shapes[position]
        if tuple(gradient.shape) == shape:
            return gradient
        whole = gradient.new_zeros(shape)
        views = list(self._examples())
        views[position] = whole
        plain(self.equation, views)[1][position].copy_(gradient)
        return whole
