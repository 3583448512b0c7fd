"""A contraction with patterns by windows: data, made from symbols, that runs on tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ...costs.cost import StepCost
from ...equation import Equation
from ..symbolic.views import View
from .operations import (
    Contract,
    Dense,
    Fold,
    Moment,
    Operation,
    Pool,
    SumWindows,
    WindowMoment,
    Windows,
)

__all__ = ["WindowProgram"]


@dataclass(frozen=True)
class WindowProgram:
    """A contraction as operations on registers.

    Args:
        views: the first registers: the caller's tensors, seen through steps.
        operations: each makes one more register; the last one is the result.
        last_uses: for every register the last operation that reads it or a view of it.
        cost: what all of it costs; its workspace is the most that is allocated at any time, result included.

    Example:
        >>> import torch
        >>> from ...pattern import IndexPattern
        >>> from ..symbolic.network import network
        >>> unfold = network(["nci", "koi"], "ncko", View(0, (2, 3, 8)), IndexPattern(8, 3))
        >>> from .builder import window_programs
        >>> program = window_programs(unfold, torch.float32, "cpu")[0]
        >>> str(program), program.run([torch.ones(2, 3, 8)]).shape
        ('windows', torch.Size([2, 3, 3, 6]))
    """

    views: tuple[View, ...]
    operations: tuple[Operation, ...]
    last_uses: tuple[int, ...]
    cost: StepCost

    def run(self, tensors: Sequence[Tensor], like: Tensor | None = None) -> Tensor:
        """Compute it.

        Args:
            tensors: the caller's tensors, by the positions of the views.
            like: a tensor of the dtype and on the device in which patterns are built, where no view says it.
        """
        registers: list[Tensor] = [view.apply(tensors[view.position]) for view in self.views]
        like = registers[0] if registers else like
        assert like is not None
        for number, operation in enumerate(self.operations):
            registers.append(operation.run(registers, like))
            for register in self._free[number]:
                registers[register] = None  # type: ignore[call-overload]
        return registers[-1]

    @cached_property
    def _free(self) -> tuple[tuple[int, ...], ...]:
        """The registers that nothing reads after an operation."""
        return tuple(
            tuple(r for r, last in enumerate(self.last_uses) if last == number)
            for number in range(len(self.operations))
        )

    def __str__(self) -> str:
        words: list[str] = []
        for operation in self.operations:
            word = _WORDS.get(type(operation))
            if isinstance(operation, Contract):
                word = _contraction_word(operation.equation)
            if word and word not in words:
                words.append(word)
        return " + ".join(words) or "view"


_WORDS: dict[type[Operation], str] = {
    Windows: "windows",
    SumWindows: "sums of slices",
    Pool: "sums of slices",
    WindowMoment: "windows + GEMM",
    Moment: "GEMM with itself",
    Fold: "fold",
    Dense: "dense pattern",
}


def _contraction_word(equation: Equation) -> str:
    if len(equation.inputs) == 1:
        return "sum" if equation.summed else ""
    return "GEMM" if len(equation.inputs) == 2 and equation.summed else "einsum"
