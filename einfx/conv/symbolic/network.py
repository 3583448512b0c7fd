"""A contraction of views, index patterns and numbers, as data.

Expressions and simplification speak of contractions in this form: nothing in it holds a tensor, so that an
expression is built and simplified once for each set of shapes, and every later call only looks at its tensors
through the views.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...equation import Equation
from ...errors import OperandError
from ...pattern import IndexPattern
from .views import View

__all__ = ["Constant", "Network", "Operand", "network"]


@dataclass(frozen=True)
class Constant:
    """A number, as a tensor with ``ndim`` dimensions of size 1, of the dtype of the caller's first tensor."""

    value: float
    ndim: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Ones."""
        return (1,) * self.ndim


Operand = View | IndexPattern | Constant
"""What a network contracts."""


@dataclass(frozen=True)
class Network:
    """An equation with operands that are known by their shapes and patterns alone.

    Args:
        equation: what is contracted.
        operands: one for each input of the equation.

    Example:
        >>> equation = Equation.parse("i,koi,k->o")
        >>> conv = Network(equation, (View(0, (5,)), IndexPattern(5, 3), View(1, (3,))))
        >>> print(conv)
        a,bca,b->c (tensor 0 of (5,), IndexPattern(5, 3), tensor 1 of (3,)) -> (3,)
        >>> [operand.shape for operand in conv.bind([torch.ones(5), torch.ones(3)])]
        [torch.Size([5]), (3, 3, 5), torch.Size([3])]
    """

    equation: Equation
    operands: tuple[Operand, ...]

    @cached_property
    def sizes(self) -> dict[int, int]:
        """The size of each label; raises OperandError where operands disagree."""
        return self.equation.sizes([operand.shape for operand in self.operands])

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of the output."""
        return tuple(self.sizes[label] for label in self.equation.output)

    @cached_property
    def text(self) -> str:
        """The equation as text."""
        return str(self.equation)

    @cached_property
    def patterns(self) -> tuple[IndexPattern, ...]:
        """The operands that are patterns."""
        return tuple(operand for operand in self.operands if isinstance(operand, IndexPattern))

    def __str__(self) -> str:
        shown = ", ".join(_shown(operand) for operand in self.operands)
        return f"{self.text} ({shown}) -> {self.shape}"

    def bind(self, tensors: Sequence[Tensor | IndexPattern]) -> list[Tensor | IndexPattern]:
        """The operands, for an einsum that takes index patterns as they are.

        Args:
            tensors: the caller's tensors, by position; what stands where no view looks is ignored.

        Returns:
            Tensors and patterns; views that are equal are one tensor.
        """
        bound: list[Tensor | IndexPattern] = []
        seen: dict[View, Tensor] = {}
        for operand in self.operands:
            if isinstance(operand, View):
                tensor = seen.get(operand)
                if tensor is None:
                    given = tensors[operand.position]
                    assert isinstance(given, Tensor)
                    tensor = seen[operand] = operand.apply(given)
                bound.append(tensor)
            elif isinstance(operand, IndexPattern):
                bound.append(operand)
            else:
                like = next((x for x in tensors if isinstance(x, Tensor)), torch.empty(0))
                bound.append(torch.full(operand.shape, operand.value, dtype=like.dtype, device=like.device))
        return bound


def network(inputs: Sequence[Sequence[Hashable]], output: Sequence[Hashable], *operands: Operand) -> Network:
    """A network whose labels are given by name.

    Args:
        inputs: the names of the labels of each operand.
        output: the names of the labels of the output.
        operands: the operands.

    Raises:
        OperandError: a number of operands that isn't that of the inputs, or sizes that disagree.

    Example:
        >>> print(network([["row", "column"]], ["row"], View(0, (2, 3))))
        ab->a (tensor 0 of (2, 3)) -> (2,)
    """
    if len(inputs) != len(operands):
        raise OperandError(f"{len(inputs)} inputs are named, but {len(operands)} operands are given")
    number: dict[Hashable, int] = {}
    for names in inputs:
        for name in names:
            number.setdefault(name, len(number))
    equation = Equation(
        tuple(tuple(number[name] for name in names) for names in inputs),
        tuple(number[name] for name in output),
    )
    made = Network(equation, operands)
    made.sizes  # noqa: B018 (sizes that disagree are refused here, where they are given)
    return made


def _shown(operand: Operand) -> str:
    if isinstance(operand, View):
        steps = "".join(f".{step}" for step in operand.steps)
        return f"tensor {operand.position} of {operand.base}{steps}"
    return repr(operand) if isinstance(operand, IndexPattern) else f"{operand.value:g}"
