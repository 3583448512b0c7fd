"""Simplification of contractions by the structure of their index patterns, on symbols alone.

A pattern whose windows share no input is a view of the other operands, whatever the tensors hold:
down-sampling is a slice, a dense convolution a reshape, both of them ragged a window. Such patterns
disappear; the others become as small as they can. The rules are in :mod:`.rules`, from Dangel
2023, "Convolutions through the lens of tensor networks", and from the formula of the pattern.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from ...equation import Equation
from ...errors import EquationError, OperandError, UsageError
from ...operands import check_operand
from ...pattern import IndexPattern
from ...recognition import index_pattern, recognise
from .draft import Draft
from .network import Network, Operand
from .rules import DEFAULT, Rule
from .views import View

__all__ = ["simplified", "simplify"]


@lru_cache(maxsize=4096)
def simplified(network: Network, rules: tuple[Rule, ...] = DEFAULT) -> Network:
    """The network after every rule has been applied wherever it applies.

    Args:
        network: any network.
        rules: the rules, in the order in which they are tried.

    Returns:
        A network of the same result, up to a reshape: labels of size 1 go, labels may be split or merged.

    Example:
        >>> from einfx.conv.symbolic.network import network
        >>> operands = View(0, (3, 8)), IndexPattern(8, 2, 2), View(1, (4, 3, 2))
        >>> dense = network(["ci", "koi", "dck"], "do", *operands)
        >>> print(simplified(dense))
        abc,dac->db (tensor 0 of (3, 8).Split(dim=1, sizes=(4, 2)), tensor 1 of (4, 3, 2)) -> (4, 4)
    """
    draft = Draft(network)
    while any(rule(draft) for rule in rules):
        pass
    return draft.network()


def simplify(
    equation: str | Equation,
    operands: Sequence[Tensor | IndexPattern],
    rules: tuple[Rule, ...] = DEFAULT,
) -> tuple[str | Equation, list[Tensor | IndexPattern]]:
    """A contraction that is cheaper by what its patterns are.

    Args:
        equation: what is contracted, as text or as an equation.
        operands: tensors and symbolic patterns. A tensor that :func:`einfx.recognition.index_pattern` made,
            or one of booleans or integers that has the values of a pattern, counts as the pattern.
        rules: the rules to apply.

    Returns:
        The equation, in the form in which it was given, and its operands: views of the tensors, and patterns
        (as tensors where one was given as a tensor). The result has the same values as before; labels
        of size 1 are gone from it, and others may be split or merged, so reshape it to the shape it had.

    Raises:
        EquationError: the equation can't be read.
        OperandError: operands that don't fit it, or are neither tensors nor patterns.
        UsageError: rules that can't be applied.

    Example:
        >>> import torch
        >>> x, weight = torch.randn(5, 12), torch.randn(7, 5, 1)
        >>> strided = IndexPattern(12, 1, stride=3)
        >>> equation, small = simplify("ci,koi,dck->do", [x, strided, weight])
        >>> equation, [tuple(operand.shape) for operand in small]
        ('ab,ca->cb', [(5, 4), (7, 5)])
    """
    operands, rules = _read(equation, operands, rules)
    symbols: list[Operand] = []
    like: Tensor | None = None
    for position, operand in enumerate(operands):
        pattern = operand if isinstance(operand, IndexPattern) else recognise_operand(operand)
        if pattern is not None and isinstance(operand, Tensor):
            like = operand if like is None else like
        symbols.append(View(position, tuple(operand.shape)) if pattern is None else pattern)
    ranks = [len(operand.shape) for operand in symbols]
    parsed = Equation.parse(equation, ranks) if isinstance(equation, str) else equation
    if len(parsed.inputs) != len(symbols):
        raise OperandError(
            f"einsum {str(parsed)!r} takes {len(parsed.inputs)} operand(s), not {len(symbols)}"
        )
    small = simplified(Network(parsed, tuple(symbols)), rules)
    bound = small.bind(operands)
    if like is not None:
        bound = [
            _as_tensor(operand, like) if isinstance(operand, IndexPattern) else operand for operand in bound
        ]
    return (small.text if isinstance(equation, str) else small.equation), bound


def _read(equation: object, operands: object, rules: object) -> tuple[list[Any], tuple[Rule, ...]]:
    """The operands and the rules, where they and the equation are what :func:`simplify` takes."""
    if not isinstance(equation, (str, Equation)):
        raise EquationError(
            f"simplify takes an equation as text, such as 'nci,koi->nco', or an einfx.Equation, not "
            f"{equation!r}"
        )
    if isinstance(operands, Tensor) or not isinstance(operands, Iterable):
        given = "one tensor" if isinstance(operands, Tensor) else repr(operands)
        raise OperandError(
            f"simplify of {str(equation)!r} takes its operands as a list of tensors and index patterns, "
            f"such as [x, pattern, weight], not {given}"
        )
    found = list(operands)
    for position, operand in enumerate(found):
        if not isinstance(operand, IndexPattern):
            check_operand(f"simplify of {str(equation)!r}", position, operand)
    if not isinstance(rules, Iterable) or not all(map(callable, chosen := tuple(rules))):
        raise UsageError(f"simplify takes rules of einfx.conv.symbolic.rules as a tuple, not {rules!r}")
    return found, chosen


def recognise_operand(operand: Tensor) -> IndexPattern | None:
    """The pattern that an operand is, without reading the values of any but boolean tensors."""
    remembers = operand.ndim == 3 and (operand.dtype.is_floating_point or operand.dtype.is_complex)
    if remembers and not hasattr(operand, "_einfx_index_pattern"):
        return None
    return recognise(operand) if operand.ndim == 3 else None


def _as_tensor(pattern: IndexPattern, like: Tensor) -> Tensor:
    pair = (pattern.left, pattern.right)
    numbers = (pattern.input_size, pattern.kernel_size, pattern.stride, pair, pattern.dilation)
    return index_pattern(*numbers, device=like.device, dtype=like.dtype)
