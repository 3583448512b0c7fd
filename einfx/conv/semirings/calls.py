"""From a call of einsum over a semiring, with index patterns among its operands, to the problem it poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ...dispatch import as_written, read_equation
from ...errors import OperandError
from ...options import Options
from ...pattern import IndexPattern
from ...semiring_dispatch import prepared
from ..symbolic.network import Constant, Network, Operand
from ..symbolic.simplify import simplified
from ..symbolic.views import View
from .margins import count_of_ones
from .problem import Met, Problem

__all__ = ["read_problem"]


def read_problem(
    token: Any, operands: Sequence[Tensor | IndexPattern], options: Options, as_given: bool
) -> tuple[Problem, list[Any], tuple[int, ...]]:
    """The problem that a call poses.

    Args:
        token: as :func:`.contraction.contract_semiring` takes it.
        operands: tensors and patterns.
        options: over which semiring, and how.
        as_given: whether labels stay what they are in the equation, so that an argmax can speak of them.

    Returns:
        The problem; the shape of its result, which may come without labels of size 1, or with others merged;
        and where labels stay, those that are summed.

    Raises:
        EquationError: the equation can't be read.
        OperandError: operands that don't fit it, or no tensor among them.
    """
    positions = [p for p, operand in enumerate(operands) if not isinstance(operand, IndexPattern)]
    if not positions:
        raise OperandError("a contraction of index patterns alone has no dtype: make one of them a tensor")
    for position in options.linear_operands:
        if not 0 <= position < len(operands):
            raise OperandError(
                f"einsum {token!r}: linear_operands names operand {position}, but there are {len(operands)}"
            )
    call = f"einsum {token!r}" if isinstance(token, str) else "einsum"
    tensors = dict(
        zip(positions, prepared(call, [operands[p] for p in positions], options.linear()), strict=True)
    )
    shapes = [tuple(operand.shape) for operand in operands]
    equation = read_equation(token, [len(shape) for shape in shapes])
    try:
        sizes: dict[int, Any] = equation.sizes(shapes)
    except OperandError as error:
        raise as_written(token, error) from None
    shape = [sizes[label] for label in equation.output]
    symbols: tuple[Operand, ...] = tuple(
        operand if isinstance(operand, IndexPattern) else View(position, shapes[position])
        for position, operand in enumerate(operands)
    )
    network = Network(equation, symbols)
    # An argmax speaks of labels as they are; sizes that are symbols can't be simplified.
    if not as_given and all(type(size) is int for size in sizes.values()):
        network = simplified(network)
        sizes = network.sizes
    inputs, fresh = [list(labels) for labels in network.equation.inputs], max(sizes, default=0) + 1
    like = tensors[positions[0]]
    problem = Problem((), (), (), (), network.equation.output, dict(sizes), {})
    for operand, labels in zip(network.operands, inputs, strict=True):
        if isinstance(operand, IndexPattern):
            for dim, size in enumerate(operand.shape):
                # A pattern of one position along a label that is longer: the same for all of the label.
                if size != sizes[labels[dim]]:
                    problem.sizes[fresh], labels[dim] = size, fresh
                    fresh += 1
            met = (operand, (labels[0], labels[1], labels[2]))
            problem = replace(problem, patterns=(*problem.patterns, Met(*met, met)))
            continue
        linear = False
        if isinstance(operand, Constant):
            # A number of times one, added up: what simplification has summed already.
            tensor = count_of_ones(options.semiring, like, int(operand.value)).reshape(operand.shape)
        else:
            tensor = operand.apply(tensors[operand.position])
            linear = operand.position in options.linear_operands
        tensor = tensor.expand([sizes[label] for label in labels])
        problem = replace(
            problem,
            tensors=(*problem.tensors, tensor),
            labels=(*problem.labels, tuple(labels)),
            linear=(*problem.linear, linear),
        )
    return problem.diagonal(), shape, equation.summed if as_given else ()
