"""Contractions with symbolic index patterns, computed without building the patterns.

A contraction that is a convolution goes to torch's own. In any other, a pattern is a view of the tensors
that have its input: windows. Where nothing else carries their position, windows are summed and never built;
where the output has the input, windows of the result are added up. Only a pattern that meets another
pattern is built.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contract import einsum, read_call
from ..dispatch import read_equation
from ..equation import Equation
from ..errors import OperandError, UsageError
from ..pattern import IndexPattern, taking_patterns
from .network import Network, Operand
from .planning import plan_network
from .views import View

__all__ = ["contract"]


def contract(equation: str | Equation, *operands: Tensor | IndexPattern, optimize: Any = "auto") -> Tensor:
    """Contract tensors and symbolic index patterns.

    Args:
        equation: what is contracted.
        operands: tensors, and patterns, each of three dimensions: kernel, output, input.
        optimize: as in :func:`.planning.plan_network`.

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
    network = Network(parsed, symbols)
    plan = plan_network(network, tensors[0].dtype, tensors[0].device, optimize=optimize)
    return plan.run(operands, tensors[0])


@taking_patterns(einsum, torch.functional.einsum)
def _einsum(equation: Any, *operands: Any, **options: Any) -> Tensor:
    """What an einsum comes to where patterns are among its operands."""
    if options:
        raise UsageError(f"einsum takes no {next(iter(options))} beside index patterns")
    token, tensors = read_call(equation, operands)
    return contract(read_equation(token, [operand.ndim for operand in tensors]), *tensors)
