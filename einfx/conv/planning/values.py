"""What operands come to, step by step: values, what they cost, and the plan of the last of them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from ...equation import Equation
from ...machine import item_bytes
from ..steps.step import ConvStep, Lowering, lowerings
from ..symbolic.network import Network, Operand
from ..symbolic.views import View
from .plan import ConvPlan, costed

__all__ = ["Part", "Value", "Values"]


@dataclass(frozen=True)
class Value:
    """What some operands come to.

    Args:
        labels: its labels, in order.
        seconds: what making it costs.
        parts: what it is made of: numbers of operands, and values.
    """

    labels: tuple[int, ...]
    seconds: float
    parts: tuple[Part, ...]


Part = Value | int
"""What a step reads: a value, or an operand of the network by its number."""


class Values:
    """The values of one network.

    Args:
        network: whose operands they are made of.
        dtype: of its tensors.
        device: where it is computed, as text.
        limit: the most bytes that a step may take, or else it takes the least; any number where None.
    """

    def __init__(self, network: Network, dtype: torch.dtype, device: str, limit: int | None = None) -> None:
        self.network, self.dtype, self.device, self.limit = network, dtype, device, limit
        self._inputs = network.equation.inputs

    def labels(self, part: Part) -> tuple[int, ...]:
        """The labels of an operand or of a value."""
        return self._inputs[part] if isinstance(part, int) else part.labels

    def made(self, parts: tuple[Part, ...], labels: tuple[int, ...]) -> Value:
        """What parts come to in one step."""
        before = sum(part.seconds for part in parts if isinstance(part, Value))
        return Value(labels, before + self._best(parts, labels).cost.seconds, parts)

    def _best(self, parts: tuple[Part, ...], labels: tuple[int, ...]) -> Lowering:
        """How a step is computed."""
        ways = lowerings(self._step_network(parts, labels), self.dtype, self.device)
        if self.limit is None:
            return ways[0]
        for way in ways:
            if way.cost.workspace_bytes <= self.limit:
                return way
        return min(ways, key=lambda way: way.cost.workspace_bytes)

    def _step_network(self, parts: tuple[Part, ...], labels: tuple[int, ...]) -> Network:
        """The network of a step."""
        operands: list[Operand] = []
        first: dict[Any, int] = {}
        for position, part in enumerate(parts):
            if isinstance(part, int):
                operand = self.network.operands[part]
                if isinstance(operand, View):
                    operand = View(first.setdefault(operand, position), operand.shape)
                operands.append(operand)
            else:
                shape = tuple(self._size(part, label) for label in part.labels)
                operands.append(View(first.setdefault(id(part), position), shape))
        equation = Equation(tuple(self.labels(part) for part in parts), labels)
        return Network(equation, tuple(operands))

    def _size(self, part: Part, label: int) -> int:
        """The size of a label in a value: 1 where all that it is made of broadcasts."""
        if isinstance(part, int):
            shape = self.network.operands[part].shape
            found = [n for n, there in zip(shape, self._inputs[part], strict=True) if there == label]
        else:
            found = [self._size(inner, label) for inner in part.parts if label in self.labels(inner)]
        return next((n for n in found if n != 1), 1)

    def bytes(self, part: Part) -> int:
        """The bytes of a value."""
        return item_bytes(self.dtype) * prod(self._size(part, label) for label in self.labels(part))

    def plan(self, tree: Value) -> ConvPlan:
        """The plan of a tree."""
        count = len(self.network.operands)
        steps: list[ConvStep] = []
        numbers: dict[int, int] = {}

        def number(part: Part) -> int:
            if isinstance(part, int):
                return part
            if id(part) not in numbers:
                operands = tuple(number(inner) for inner in part.parts)
                network = self._step_network(part.parts, part.labels)
                steps.append(ConvStep(operands, network, self._best(part.parts, part.labels)))
                numbers[id(part)] = count + len(steps) - 1
            return numbers[id(part)]

        number(tree)
        return costed(self.network, self.dtype, self.device, tuple(steps))
