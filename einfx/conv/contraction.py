"""Contractions with symbolic index patterns, computed without building the patterns.

A contraction that is a convolution goes to torch's own. In any other, a pattern is a view of the tensors
that have its input: windows. Where nothing else carries their position, windows are summed and never built;
where the output has the input, windows of the result are added up. Only a pattern that meets another
pattern is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..contract import einsum, read_call
from ..dispatch import read_equation
from ..equation import Equation
from ..errors import OperandError, UsageError
from ..pattern import IndexPattern, taking_patterns
from .lowering import Native, lowered
from .network import Network, Operand
from .second_moment import second_moment
from .simplify import simplified
from .views import View
from .window_sums import sum_along
from .windows import add_along, view_along

__all__ = ["contract"]


def contract(equation: str | Equation, *operands: Tensor | IndexPattern) -> Tensor:
    """Contract tensors and symbolic index patterns.

    Args:
        equation: what is contracted.
        operands: tensors, and patterns, each of three dimensions: kernel, output, input.

    Returns:
        The result, as :func:`einfx.einsum` gives it for the patterns as tensors, but for what is summed
        against zeros of a pattern: that is left out, as in a native convolution, also where it isn't finite.

    Raises:
        EquationError: the equation can't be read.
        OperandError: operands that don't fit it, or no tensor among them.

    Example:
        >>> import torch
        >>> x, weight = torch.randn(2, 3, 8), torch.randn(4, 3, 3)
        >>> out = contract("nci,koi,dck->ndo", x, IndexPattern(8, 3, padding=1), weight)
        >>> torch.allclose(out, torch.nn.functional.conv1d(x, weight, padding=1), atol=1e-5)
        True
    """
    # A tensor that is given twice is one tensor, of which nothing is computed twice.
    first: dict[int, int] = {}
    symbols: tuple[Operand, ...] = tuple(
        operand
        if isinstance(operand, IndexPattern)
        else View(first.setdefault(id(operand), position), tuple(operand.shape))
        for position, operand in enumerate(operands)
    )
    tensors = [operand for operand in operands if isinstance(operand, Tensor)]
    if not tensors:
        raise OperandError("a contraction of index patterns alone has no dtype: make one of them a tensor")
    ranks = tuple(len(symbol.shape) for symbol in symbols)
    parsed = Equation.parse(equation, ranks) if isinstance(equation, str) else equation
    plan, shape = _plan(parsed, symbols)
    if isinstance(plan, Native) and all(x.is_floating_point() or x.is_complex() for x in tensors):
        return plan.run(operands).reshape(shape)  # type: ignore[arg-type]
    small = simplified(Network(parsed, symbols)) if isinstance(plan, Native) else plan
    return _by_windows(small, operands, tensors[0]).reshape(shape)


@taking_patterns(einsum, torch.functional.einsum)
def _einsum(equation: Any, *operands: Any, **options: Any) -> Tensor:
    """What an einsum comes to where patterns are among its operands."""
    if options:
        raise UsageError(f"einsum takes no {next(iter(options))} beside index patterns")
    token, tensors = read_call(equation, operands)
    return contract(read_equation(token, [operand.ndim for operand in tensors]), *tensors)


@lru_cache(maxsize=4096)
def _plan(equation: Equation, symbols: tuple[Operand, ...]) -> tuple[Native | Network, tuple[int, ...]]:
    """A native convolution, or the simplified network; and the shape of the result."""
    network = Network(equation, symbols)
    native = lowered(network)
    if native is not None:
        return native, network.shape
    small = simplified(network)
    return lowered(small) or small, network.shape


def _by_windows(network: Network, operands: Sequence[Tensor | IndexPattern], like: Tensor) -> Tensor:
    """The result, pattern by pattern, then by an einsum of what is left."""
    tensors: list[Any] = network.bind(operands)
    inputs = [list(labels) for labels in network.equation.inputs]
    output = list(network.equation.output)
    folds: list[tuple[IndexPattern, int, int, int]] = []
    made: dict[Any, tuple[Tensor, Tensor]] = {}
    while (position := _next(tensors)) is not None:
        pattern, (kernel, outputs, read) = tensors[position], inputs[position]
        others = [p for p in range(len(tensors)) if p != position and read in inputs[p]]
        if not others and read not in output:
            # Nothing reads it: as if there were a tensor of ones.
            tensors.append(like.new_ones(pattern.input_size))
            inputs.append([read])
            others = [len(tensors) - 1]
        simple = len({kernel, outputs, read}) == 3 and not any(
            isinstance(tensors[p], IndexPattern) or inputs[p].count(read) > 1 for p in others
        )
        if simple and others and read not in output:
            _see_windows(tensors, inputs, output, position, others, made)
        elif simple and not others and read in output and not {kernel, outputs} & set(output):
            folds.append((pattern, kernel, outputs, read))
            at = output.index(read)
            output[at : at + 1] = [kernel, outputs]
            del tensors[position], inputs[position]
            # A label that nothing else carries is one more dimension of ones.
            for label in (kernel, outputs):
                if not any(label in labels for labels in inputs):
                    size = pattern.kernel_size if label == kernel else pattern.output_size
                    tensors.append(like.new_ones(size))
                    inputs.append([label])
        else:
            tensors[position] = pattern.tensor(like.dtype, like.device)
    moment = second_moment(tensors, inputs, output)
    if moment is None:
        result: Tensor = einsum(str(Equation(tuple(map(tuple, inputs)), tuple(output))), *tensors)
    else:
        result = moment
    for pattern, kernel, _outputs, read in reversed(folds):
        dim = output.index(kernel)
        result = add_along(result, dim, pattern)
        output[dim : dim + 2] = [read]
    return result


def _next(tensors: list[Any]) -> int | None:
    return next((p for p, tensor in enumerate(tensors) if isinstance(tensor, IndexPattern)), None)


def _see_windows(
    tensors: list[Any],
    inputs: list[list[int]],
    output: list[int],
    position: int,
    others: list[int],
    made: dict[Any, tuple[Tensor, Tensor]],
) -> None:
    """Take a pattern away: the tensors that have its input get its kernel and its output instead.

    Args:
        tensors: the operands.
        inputs: their labels.
        output: the labels of the output.
        position: where the pattern is.
        others: where the tensors are.
        made: what came of tensors before, which it keeps alive.
    """
    pattern, (kernel, outputs, read) = tensors[position], inputs[position]
    elsewhere = [labels for p, labels in enumerate(inputs) if p != position]
    for p in others:
        dim = inputs[p].index(read)
        alone = len(others) == 1 and not any(outputs in labels for labels in (*elsewhere, output))
        labels = [kernel] if alone else [outputs, kernel]
        inputs[p] = [*inputs[p][:dim], *labels, *inputs[p][dim + 1 :]]
        # A factor that is there twice, as in a second moment, is seen through windows once.
        key = (id(tensors[p]), dim, pattern, alone)
        if key not in made:
            made[key] = (tensors[p], (sum_along if alone else view_along)(tensors[p], dim, pattern))
        tensors[p] = made[key][1]
    del tensors[position], inputs[position]
