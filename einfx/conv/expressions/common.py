"""What the expressions share: names of labels, grouped channels, the way from a network to an expression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...errors import OperandError
from ...pattern import IndexPattern
from ..checks import check_groups, check_rank, check_tensors, shape_of
from ..parameters import hashable
from ..symbolic.network import Constant, Network
from ..symbolic.simplify import simplified
from ..symbolic.views import Split, View

__all__ = [
    "Expression",
    "Grouped",
    "Symbolic",
    "batch_names",
    "expression",
    "finish",
    "pattern_names",
    "spatial",
]

Expression = tuple[str, list[Tensor | IndexPattern], tuple[int, ...]]
"""An equation, its operands, and the shape to which the result is reshaped."""

Symbolic = tuple[Network, tuple[int, ...]]
"""A network, and the shape to which its result is reshaped."""


class Grouped:
    """An operand of shape (batch, channels, *sizes), with its channels split in groups; the batch may lack.

    Args:
        name: what errors call it.
        position: which of the caller's tensors it is.
        shape: its shape.
        dimensions: the number of ``sizes``.
        groups: in how many groups its channels are split.
        operation: what is done with it, for errors.

    Raises:
        OperandError: another rank, or channels that the groups don't divide.
    """

    def __init__(
        self,
        name: str,
        position: int,
        shape: tuple[int, ...],
        dimensions: int,
        groups: int,
        operation: str = "conv",
    ) -> None:
        self.batched = check_rank(name, shape, dimensions, operation)
        self.batch = shape[:1] if self.batched else ()
        self.channels = shape[len(self.batch)]
        self.sizes = shape[len(self.batch) + 1 :]
        group = check_groups(f"{name} channels", self.channels, groups)
        self.groups = (groups, group)
        self.view = View(position, shape, (Split(len(self.batch), self.groups),))


def spatial(letter: str, dimensions: int, mark: str = "") -> list[str]:
    """The names of a label along every dimension: ``i0, i1, …``."""
    return [f"{letter}{dimension}{mark}" for dimension in range(dimensions)]


def batch_names(batched: bool) -> list[str]:
    """The name of the batch's label, where there is a batch."""
    return ["n"] if batched else []


def pattern_names(dimensions: int, kernel: str = "", output: str = "", input: str = "") -> list[list[str]]:
    """The names of the labels of the pattern of every dimension: kernel, output, input.

    Args:
        dimensions: how many there are.
        kernel: what to append to the kernel's.
        output: what to append to the output's.
        input: what to append to the input's.
    """
    return [[f"k{d}{kernel}", f"o{d}{output}", f"i{d}{input}"] for d in range(dimensions)]


def finish(made: Network, shape: tuple[int, ...], simplify: bool) -> Symbolic:
    """The network, simplified on request, with the shape of its result."""
    return (simplified(made) if simplify else made), shape


def expression(symbolic: Callable[..., Symbolic], tensors: dict[str, Tensor], *arguments: Any) -> Expression:
    """The expression of a network over tensors.

    Args:
        symbolic: makes the network from the shapes of the tensors and the other arguments, with a cache.
        tensors: in the order in which the network's views count them, by the names that errors call them.
        arguments: what ``symbolic`` takes besides, lists among them.

    Raises:
        OperandError: no tensors, several dtypes, or one that can't hold a number of the network.
    """
    shapes = [shape_of(name, tensor) for name, tensor in tensors.items()]
    network, shape = symbolic(*shapes, *map(hashable, arguments))
    given = tuple(tensors.values())
    if len(given) > 1:
        check_tensors(*tensors.items())
    for operand in network.operands:
        if isinstance(operand, Constant):
            _check_scale(operand.value, given[0].dtype)
    return network.text, network.bind(given), shape


def _check_scale(value: float, dtype: torch.dtype) -> None:
    """Raises OperandError where a scale of the network, as a tensor of its own, would be another number."""
    if not (dtype.is_floating_point or dtype.is_complex):
        raise OperandError(f"Kronecker factors of {dtype} aren't integers: convert input to a floating dtype")
    if value < torch.finfo(dtype).tiny:
        raise OperandError(
            f"the scale of this factor, {value:.3g}, is too small for {dtype}: convert input to "
            "torch.float32, or use the functional, which averages before it multiplies"
        )
