"""Contractions with patterns that are planned ahead: to be printed, or to be called often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..contract import contract_patterns
from ..contract_path import contract_path
from ..dispatch import read_equation
from ..equation import Equation
from ..errors import EquationError, OperandError, UsageError
from ..expression import contract_expression
from ..operands import as_tensor, is_array, shape_of
from ..options import Options
from ..paths.choices import hashable
from ..pattern import IndexPattern
from ..pattern_functions import taking_patterns
from .planning import plan_network
from .planning.cut_plan import CutPlan
from .planning.limits import plan_within
from .planning.plan import ConvPlan
from .symbolic.network import Network, Operand
from .symbolic.views import View

__all__ = ["PatternExpression"]


class PatternExpression:
    """A planned contraction; call it with the operands that are neither patterns nor constant.

    Attributes:
        plan: how all operands are contracted; None over another semiring than the real one.

    Example:
        >>> import einfx
        >>> pattern = IndexPattern(8, 3, padding=1)
        >>> smooth = einfx.contract_expression("ni,koi,k->no", (4, 8), pattern, torch.ones(3), constants=[2])
        >>> smooth(torch.ones(4, 8))[0]
        tensor([2., 3., 3., 3., 3., 3., 3., 2.])
    """

    def __init__(
        self,
        equation: str,
        constants: Mapping[int, Tensor | IndexPattern],
        count: int,
        plan: ConvPlan | CutPlan | None,
        optimize: Any,
        options: Options,
    ) -> None:
        self.plan = plan
        self._equation, self._optimize, self._options = equation, optimize, options
        self._known = {
            i: x if isinstance(x, IndexPattern) else x.detach() for i, x in sorted(constants.items())
        }
        self._varying = [i for i in range(count) if i not in constants]

    def __call__(self, *operands: Tensor) -> Tensor:
        """Contract; operands may have other shapes than planned for, as long as they fit the equation.

        Raises:
            OperandError: another number of operands than vary, or shapes that don't fit.
        """
        if len(operands) != len(self._varying):
            raise OperandError(
                f"this expression of {self._equation!r} takes {len(self._varying)} operand(s), but "
                f"{len(operands)} were given"
            )
        operands = tuple(as_tensor(x, f"operand {i}") if is_array(x) else x for i, x in enumerate(operands))
        every: list[Any] = [None] * (len(self._varying) + len(self._known))
        for i, value in zip(self._varying, operands, strict=True):
            every[i] = value
        for i, known in self._known.items():
            like = operands[0] if operands else None
            every[i] = known if isinstance(known, IndexPattern) or like is None else known.to(like)
        result: Tensor = contract_patterns(self._equation, every, self._optimize, self._options, False)
        return result

    def __repr__(self) -> str:
        return f"<einfx expression\n{self.plan or self._equation}>"


def _symbols(function: str, given: Sequence[Any]) -> tuple[Operand, ...]:
    """Patterns, and what stands for tensors of the shapes that were given."""
    return tuple(
        x if isinstance(x, IndexPattern) else View(position, shape_of(function, x))
        for position, x in enumerate(given)
    )


@taking_patterns(contract_path)
def _path(
    equation: str, shapes: Sequence[Any], dtype: torch.dtype, device: Any, optimize: Any, options: Options
) -> ConvPlan | CutPlan:
    """How a contraction with patterns would be computed."""
    if options.semiring.name != "real":
        raise UsageError(
            f"contract_path shows contractions with index patterns over real numbers, not over "
            f"{options.semiring.name!r}"
        )
    if not isinstance(equation, (str, Equation)):
        raise EquationError(f"an equation is text such as 'nci,koi->nco', not {type(equation).__name__}")
    symbols = _symbols("contract_path", shapes)
    network = Network(read_equation(equation, [len(x.shape) for x in symbols]), symbols)
    if options.memory_limit is None:
        return plan_network(network, dtype, device, optimize=optimize)
    return plan_within(network, dtype, device, options.memory_limit, optimize)


@taking_patterns(contract_expression)
def _expression(
    equation: str,
    given: Sequence[Any],
    known: Mapping[int, Any],
    dtype: torch.dtype,
    device: Any,
    optimize: Any,
    options: Options,
) -> PatternExpression:
    """A contraction with patterns that is planned once."""
    _symbols("contract_expression", given)
    patterns = {i: x for i, x in enumerate(given) if isinstance(x, IndexPattern)}
    plan = None
    if options.semiring.name == "real":
        plan = _path(equation, given, dtype, device, optimize, options)
    optimize = hashable(optimize)
    return PatternExpression(equation, {**known, **patterns}, len(given), plan, optimize, options)
