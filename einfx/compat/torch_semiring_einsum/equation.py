"""Equations that are read once and used often."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Sequence
from string import whitespace

from torch import Tensor

from ... import equation as einfx_equation
from ...errors import EquationError, OperandError, UsageError
from .block_size import AUTOMATIC_BLOCK_SIZE, AutomaticBlockSize

__all__ = ["AUTOMATIC_BLOCK_SIZE", "AutomaticBlockSize", "Equation", "ReduceInfo", "compile_equation"]


class ReduceInfo:
    """Which variables a sum keeps and which it sums.

    Args:
        output_variables: those it keeps.
        reduced_variables: those it sums, in the order of their first appearance.

    Terms have the dimensions of both, in this order.
    """

    def __init__(self, output_variables: Sequence[int], reduced_variables: Sequence[int]) -> None:
        self.output_variables = list(output_variables)
        self.reduced_variables = list(reduced_variables)
        first = len(self.output_variables)
        self.reduced_dims = tuple(range(first, first + len(self.reduced_variables)))


class Equation:
    """An equation as :func:`compile_equation` gives it.

    Args:
        source: its text.
        variable_locations: for each variable all (operand, dimension) that carry it.
        input_variables: for each operand the variable of every dimension: numbers from 0 up, in the order
            of their first appearance.
        output_variables: the variable of every dimension of the output.
        num_variables: how many variables there are.

    Raises:
        EquationError: the output repeats a variable or has one that no operand has.

    Example:
        >>> equation = compile_equation("ik,kj->ij")
        >>> equation, equation.input_variables, equation.output_variables, equation.num_variables
        (Equation('ik,kj->ij'), [[0, 1], [1, 2]], [0, 2], 3)
        >>> equation.variable_locations
        [[(0, 0)], [(0, 1), (1, 0)], [(1, 1)]]
    """

    def __init__(
        self,
        source: str,
        variable_locations: list[list[tuple[int, int]]],
        input_variables: list[list[int]],
        output_variables: list[int],
        num_variables: int,
    ) -> None:
        self.source = source
        self.variable_locations = variable_locations
        self.input_variables = input_variables
        self.output_variables = output_variables
        self.num_variables = num_variables
        self.compiled = self._compiled()
        self.text = str(self.compiled)

    def __repr__(self) -> str:
        return f"Equation({self.source!r})"

    def _compiled(self) -> einfx_equation.Equation:
        """The same as einfx has it."""
        known = set(itertools.chain.from_iterable(self.input_variables))
        for variable in self.output_variables:
            if variable not in known:
                raise EquationError(f"{self.source!r}: an output variable is in no operand")
            if self.output_variables.count(variable) > 1:
                raise EquationError(f"{self.source!r}: a variable appears more than once in the output")
        inputs = tuple(tuple(variables) for variables in self.input_variables)
        return einfx_equation.Equation(inputs, tuple(self.output_variables))

    @property
    def reduce_input_to_output(self) -> ReduceInfo:
        """What the sum from the operands to the output keeps and what it sums."""
        variables = dict.fromkeys(itertools.chain.from_iterable(self.input_variables))
        return ReduceInfo(self.output_variables, [x for x in variables if x not in self.output_variables])

    def all_variables(self) -> range:
        """All variables, in the order of their first appearance."""
        return range(self.num_variables)

    def get_sizes(self, args: Sequence[Tensor], variables: Iterable[int]) -> list[int]:
        """The sizes that variables have in operands.

        Example:
            >>> import torch
            >>> compile_equation("ik,kj->ij").get_sizes((torch.ones(2, 3), torch.ones(3, 4)), [2, 0])
            [4, 2]
        """
        places = (self.variable_locations[variable][0] for variable in variables)
        return [args[operand].shape[dim] for operand, dim in places]

    def validate_sizes(self, args: Sequence[Tensor]) -> None:
        """Refuse operands that don't fit.

        Raises:
            OperandError: more or fewer operands than the equation has, an operand with more or fewer
                dimensions, or different sizes of one variable; a size of 1 doesn't broadcast.
            UsageError: an operand is no tensor.

        Example:
            >>> import torch
            >>> compile_equation("ik,kj->ij").validate_sizes((torch.ones(2, 3), torch.ones(3, 4)))
        """
        if len(args) != len(self.input_variables):
            raise OperandError(
                f"einsum {self.source!r} takes {len(self.input_variables)} operand(s), but {len(args)} "
                "were given"
            )
        first: dict[int, tuple[int, int]] = {}
        for position, (arg, variables) in enumerate(zip(args, self.input_variables, strict=True)):
            if not isinstance(arg, Tensor):
                kind = type(arg).__name__
                raise UsageError(f"einsum {self.source!r}: operand {position} is a {kind}, not a tensor")
            if arg.ndim != len(variables):
                raise OperandError(
                    f"einsum {self.source!r}: operand {position} has shape {tuple(arg.shape)}, {arg.ndim} "
                    f"dimension(s), but the equation gives it {len(variables)} variable(s)"
                )
            for dim, variable in enumerate(variables):
                operand, other = first.setdefault(variable, (position, dim))
                if arg.shape[dim] != args[operand].shape[other]:
                    raise OperandError(
                        f"einsum {self.source!r}: dimension {dim} of operand {position}, of shape "
                        f"{tuple(arg.shape)}, has the same variable as dimension {other} of operand "
                        f"{operand}, of shape {tuple(args[operand].shape)}, and must have its size; sizes "
                        "of 1 don't broadcast here, so expand them"
                    )

    def prepare_for_forward(self) -> None:
        """Nothing: an equation needs no preparation."""

    def prepare_for_backward(self) -> None:
        """Nothing: an equation needs no preparation."""

    def prepare_for_log_backward(self) -> None:
        """Nothing: an equation needs no preparation."""


def compile_equation(
    equation: str | None = None,
    *,
    inputs: Sequence[Sequence[Hashable]] | None = None,
    output: Sequence[Hashable] | None = None,
) -> Equation:
    """Read an equation, for the functions of this package.

    Args:
        equation: its text, with ``->``: any characters but spaces are variables; commas separate operands.
        inputs: instead of a text, the variables of every operand: any objects that can be told apart.
        output: then, the variables of the output.

    Returns:
        The equation.

    Raises:
        EquationError: the text has no ``->`` or more than one, an ellipsis, or an output with a variable
            twice or one that no operand has.
        UsageError: neither a text, nor both ``inputs`` and ``output``.

    Example:
        >>> compile_equation("bik,bkj->bij").output_variables
        [0, 1, 3]
        >>> compile_equation(inputs=[["row", 7], [7]], output=["row"]).num_variables
        2
    """
    if equation is None:
        if inputs is None or output is None:
            raise UsageError("compile_equation takes the text of an equation, or both inputs and output")
        parts: Sequence[Sequence[Hashable]] = inputs
        shown = f"{','.join(map(_shown, inputs))}->{_shown(output)}"
        return _compile(shown, parts, output)
    if inputs is not None or output is not None:
        raise UsageError("compile_equation takes the text of an equation or inputs and output, not both")
    if not isinstance(equation, str):
        raise UsageError(f"an equation is text such as 'ij,jk->ik', not {type(equation).__name__}")
    text = "".join(character for character in equation if character not in whitespace)
    left, *right = text.split("->")
    if len(right) != 1:
        raise EquationError(f"{equation!r} needs one '->' between its operands and its output")
    if "." in text:
        raise EquationError(f"{equation!r} has an ellipsis; give every dimension a variable of its own")
    if "," in right[0]:
        raise EquationError(f"{equation!r} has more than one output")
    return _compile(equation, left.split(","), right[0])


def _compile(source: str, inputs: Sequence[Sequence[Hashable]], output: Sequence[Hashable]) -> Equation:
    number: dict[Hashable, int] = {}
    locations: list[list[tuple[int, int]]] = []
    input_variables: list[list[int]] = []
    for operand, labels in enumerate(inputs):
        input_variables.append([])
        for dim, label in enumerate(labels):
            variable = number.setdefault(label, len(number))
            if variable == len(locations):
                locations.append([])
            locations[variable].append((operand, dim))
            input_variables[-1].append(variable)
    for label in output:
        if label not in number:
            raise EquationError(f"{source!r}: output variable {label!r} is in no operand")
    return Equation(source, locations, input_variables, [number[x] for x in output], len(number))


def _shown(labels: Sequence[Hashable]) -> str:
    return "[" + " ".join(map(str, labels)) + "]"
