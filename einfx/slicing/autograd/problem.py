"""A contraction within a limit as one value, and what is computed of it: itself and its derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...equation import Equation
from ...errors import MemoryLimitError, UsageError
from ...machine import accumulation_dtype
from ...options import Options
from ...paths.choices import hashable
from ...plans import size_text
from ..plans.contraction import sliced_plan
from ..running.run import run
from ..schedules.derivatives import has_directions, is_linear
from ..schedules.loads import HERE, Remote
from ..schedules.tree import ContractionTree
from ..search.find_schedule import Sliced
from .log_directions import log_second, log_tangent
from .selected_directions import selected_second, selected_tangent

__all__ = ["Problem"]

Flags = tuple[bool, ...]


class Problem(NamedTuple):
    """A contraction within a limit.

    Attributes:
        equation: no label twice in an operand.
        optimize: as in :func:`einfx.planning.plan`, or a tree.
        options: over which semiring, and within which limit.
        beside: the bytes of the limit that others take meanwhile.
    """

    equation: Equation
    optimize: Any
    options: Options
    beside: int = 0

    @classmethod
    def of(cls, equation: Equation, optimize: Any, options: Options) -> Problem:
        """The problem of a call."""
        if options.semiring.matmul is not None:
            # What a product of matrices of one's own takes, nobody knows but its owner.
            options = replace(options, semiring=replace(options.semiring, matmul=None))
        return cls(equation, hashable(optimize), options)

    def differentiable(self, operands: Sequence[Tensor], wanted: Flags) -> Problem:
        """The same where gradients are going to be asked for.

        Raises:
            MemoryLimitError: these don't stay within the limit.
        """
        try:
            backward = self.sliced(operands, wanted)
        except MemoryLimitError as error:
            self._require_value(operands, error.needed_bytes)
            raise
        if self.options.semiring.selective and not self._is_planned:
            # What was selected is told by equal numbers, which another order of products would not give.
            return self._replace(optimize=backward.tree)
        return self

    def _require_value(self, operands: Sequence[Tensor], most: int | None) -> None:
        """Raise the error of the contraction alone, where that needs more bytes than its gradients do."""
        try:
            self.sliced(operands)
        except MemoryLimitError as error:
            if error.needed_bytes is not None and most is not None and error.needed_bytes > most:
                raise error from None

    def leaving(self, size: int) -> Problem:
        """The same within a limit of which others take so many bytes more."""
        return self._replace(beside=self.beside + size)

    def result_bytes(self, saved: Sequence[Tensor]) -> int:
        """What the contraction takes when it is there; the operands come first of what is given."""
        return self._size(saved[: len(self.equation.inputs)]) * saved[0].element_size()

    def batched(self, mapped: Sequence[bool]) -> Problem:
        """The same for every element of a batch, which operands that are mapped have in front."""
        equation = self.equation
        label = 1 + max(equation.labels, default=-1)
        inputs = [(label, *own) if has else own for own, has in zip(equation.inputs, mapped, strict=True)]
        optimize = self.optimize
        if self._is_planned:
            optimize = ContractionTree(equation, (), optimize.steps)
        return self._replace(equation=Equation(tuple(inputs), (label, *equation.output)), optimize=optimize)

    def value(self, operands: Sequence[Tensor]) -> Tensor:
        """The contraction."""
        (made,) = self._run(self.sliced(operands), operands)
        return made

    def gradients(self, wanted: Flags, gradient: Tensor, saved: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The gradients of operands.

        Args:
            wanted: of which.
            gradient: of the result.
            saved: the operands, and where gradients aren't linear the result.
        """
        count = len(wanted)
        operands, result = saved[:count], saved[count:]
        if result and accumulation_dtype(gradient.dtype) != gradient.dtype:
            # Rounded, it no longer tells what was selected, or which share each term had.
            result = self._run(self.sliced(operands, wide=True), operands)
        # The sweep reads a result that is dense; one that is the same for all of a batch isn't.
        sparse = sum(x.numel() * x.element_size() for x in result if not x.is_contiguous())
        within = self.leaving(sparse)
        sliced, gradient = within._with_gradient(operands, [], gradient, wanted)
        return within._run(sliced, [*operands, gradient, *[x.contiguous() for x in result]])

    def tangent(self, moving: Flags, direction: Sequence[Tensor], saved: Sequence[Tensor]) -> Tensor:
        """The derivative in a direction.

        Args:
            moving: for each operand whether it has a part in the direction.
            direction: the tangents of those.
            saved: as in :meth:`gradients`.

        Raises:
            UsageError: over a semiring that has none within a limit.
        """
        operands = saved[: len(moving)]
        if not is_linear(self.options):
            self._require_directions()
            wide, here, along, result = self._widened(operands, direction, saved[-1])
            if self.options.semiring.selective:
                made = selected_tangent(wide, moving, along, here)
            else:
                made = log_tangent(wide, moving, along, here, result)
            return made.to(operands[0].dtype)
        sliced = self.sliced(operands, (), moving, direction)
        (made,) = self._run(sliced, [*operands, *direction])
        return made

    def second(
        self,
        wanted: Flags,
        moving: Flags,
        gradient: Tensor,
        direction: Sequence[Tensor],
        saved: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        """The gradients of the derivative in a direction; arguments as of the other two."""
        operands = saved[: len(moving)]
        if not is_linear(self.options):
            self._require_directions()
            wide, here, along, result = self._widened(operands, direction, saved[-1])
            if self.options.semiring.selective:
                found = selected_second(wide, wanted, moving, gradient, along, here)
            else:
                found = log_second(wide, wanted, moving, gradient, along, here, result)
            return tuple(x.to(gradient.dtype) for x in found)
        sliced, gradient = self._with_gradient(operands, direction, gradient, wanted, moving)
        return self._run(sliced, [*operands, *direction, gradient])

    def run_derivative(
        self, operands: Sequence[Tensor], wanted: Flags, moving: Flags, given: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """What the schedule of a derivative computes from operands and all that it takes beside these."""
        return self._run(self.sliced(operands, wanted, moving, given[: sum(moving)]), [*operands, *given])

    def _widened(
        self, operands: Sequence[Tensor], direction: Sequence[Tensor], result: Tensor
    ) -> tuple[Problem, Sequence[Tensor], Sequence[Tensor], Tensor]:
        """The same, operands, a direction and the result in the dtype that sums are taken in."""
        dtype = accumulation_dtype(operands[0].dtype)
        if dtype == operands[0].dtype:
            return self, operands, direction, result
        copied = sum(x.numel() for x in (*operands, *direction)) + self._size(operands)
        wide = self.leaving(dtype.itemsize * copied)
        here = [x.to(dtype) for x in operands]
        # Rounded, the result no longer tells which share each term had.
        return wide, here, [x.to(dtype) for x in direction], wide.value(here)

    def sliced(
        self,
        operands: Sequence[Tensor],
        wanted: Flags = (),
        moving: Flags = (),
        beside: Sequence[Tensor] = (),
        *,
        wide: bool = False,
    ) -> Sliced:
        """The schedule of a derivative.

        Args:
            operands: of the contraction.
            wanted: for each operand whether its gradient is computed; empty for none.
            moving: for each operand whether it has a part in the direction; empty for none.
            beside: the direction and the gradient, as far as they aren't contiguous.
            wide: whether the result is left in the dtype that sums are taken in.

        Raises:
            MemoryLimitError: none stays within the limit.
        """
        first, limit = operands[0], self.options.memory_limit
        assert limit is not None
        dtype = accumulation_dtype(first.dtype)
        remote, reserved = HERE, self.beside
        if dtype != first.dtype:
            made = [x.numel() for x, want in zip(operands, wanted, strict=False) if want]
            given, result = len(operands) + sum(moving) + any(wanted), self._size(operands)
            # Operands are converted block by block; results are gathered, and converted when they're done.
            remote = Remote((True,) * given, (not wide,) * (len(made) or 1), whole=True)
            reserved += 0 if wide else first.element_size() * (sum(made) if made else result)
            if made and not is_linear(self.options):
                reserved += dtype.itemsize * result
        try:
            return sliced_plan(
                self.equation,
                tuple(tuple(x.shape) for x in operands),
                tuple(x.stride() for x in (*operands, *beside)),
                self.optimize,
                max(limit - reserved, 0),
                dtype,
                first.device.type,
                self.options.unlimited(),
                wanted,
                torch.get_num_threads(),
                moving,
                remote,
            )
        except MemoryLimitError as error:
            if not reserved or error.needed_bytes is None:
                raise
            needed = error.needed_bytes + reserved
            raise MemoryLimitError(
                f"einsum {str(self.equation)!r} in {first.dtype}{' with its gradients' * any(wanted)}: "
                f"memory_limit={limit} ({size_text(limit)}) is too little; beside its operands it needs "
                f"{needed} bytes ({size_text(needed)}), as far as was found",
                needed,
            ) from None

    @property
    def _is_planned(self) -> bool:
        """Whether ``optimize`` is a plan of blocks, made before, for just these operands."""
        return hasattr(self.optimize, "sliced")

    def _require_directions(self) -> None:
        if not has_directions(self.options):
            raise UsageError(
                f"einsum {str(self.equation)!r} over {self.options.semiring.name!r} with a memory_limit: "
                "there are gradients within the limit, but no second or forward-mode derivatives; leave out "
                "memory_limit for these, or give block_size instead"
            )

    def _with_gradient(
        self,
        operands: Sequence[Tensor],
        direction: Sequence[Tensor],
        gradient: Tensor,
        wanted: Flags,
        moving: Flags = (),
    ) -> tuple[Sliced, Tensor]:
        """The schedule for an incoming gradient, and this as the schedule takes it."""
        repeated = [
            step == 0 and size > 1 for step, size in zip(gradient.stride(), gradient.shape, strict=True)
        ]
        copied = gradient.numel() * gradient.element_size()
        limit = (self.options.memory_limit or 0) - self.beside
        if gradient.is_contiguous() or self._is_planned:
            return self.sliced(operands, wanted, moving, direction), gradient.contiguous()
        linear = is_linear(self.options)
        if not (linear and any(repeated)):
            sliced = self.sliced(operands, wanted, moving, direction)
            if sliced.bytes + copied <= limit:
                return sliced, gradient.contiguous()
        sliced = self.sliced(operands, wanted, moving, [*direction, gradient])
        for dim in reversed(range(gradient.dim())):
            if linear and repeated[dim]:
                gradient = gradient.select(dim, 0)
        return sliced, gradient

    def _size(self, operands: Sequence[Tensor]) -> int:
        """How many elements the result has."""
        return prod(self.equation.output_shape([x.shape for x in operands]))

    def _run(self, sliced: Sliced, operands: Sequence[Tensor]) -> tuple[Tensor, ...]:
        first = operands[0]
        options, dtype = self.options.unlimited(), accumulation_dtype(first.dtype)
        # Results of other dtypes are converted afterwards, within the same limit.
        limit = (self.options.memory_limit or 0) - self.beside if dtype == first.dtype else 0
        within = max(limit, 0)
        return run(
            sliced.schedule, operands, sliced.demand, options, dtype=dtype, stored=first.dtype, limit=within
        )
