"""Which patterns of a contraction go along with which of its tensors, once these have met."""

from __future__ import annotations

from math import prod

from ...pattern import IndexPattern
from ..symbolic.network import Constant, Network
from ..symbolic.views import View

__all__ = ["Meetings"]


class Meetings:
    """The operands of a network, by what they are, and where patterns belong.

    A pattern goes along with the first tensors that meet two of its labels where nothing else does.

    Args:
        network: whose operands they are.

    Attributes:
        patterns: the numbers of the patterns.
        numbers: those of tensors of one element and of numbers. They join in the last step, which multiplies
            the smallest of its operands and the result.
        tensors: those of all others.
    """

    def __init__(self, network: Network) -> None:
        self._inputs, self._output = network.equation.inputs, network.equation.output
        self.patterns = [p for p, x in enumerate(network.operands) if isinstance(x, IndexPattern)]
        self.numbers = [
            p
            for p, x in enumerate(network.operands)
            if isinstance(x, Constant) or (isinstance(x, View) and prod(x.shape) == 1 and x.shape != ())
            if all(network.sizes[label] == 1 for label in self._inputs[p])
        ]
        self.tensors = [
            p for p in range(len(network.operands)) if p not in self.patterns and p not in self.numbers
        ]
        self._absorbed: dict[frozenset[int], frozenset[int]] = {}

    def absorbed(self, tensors: frozenset[int]) -> frozenset[int]:
        """The patterns that go along once some tensors have met."""
        known = self._absorbed.get(tensors)
        if known is None:
            known = self._absorbed[tensors] = frozenset().union(*self.layers(tensors, frozenset()))
        return known

    def layers(self, tensors: frozenset[int], taken: frozenset[int]) -> list[frozenset[int]]:
        """The patterns that go along with some tensors: at once, then those that these make ready, and so on.

        Args:
            tensors: what has met.
            taken: the patterns that are gone already.
        """
        found: list[frozenset[int]] = []
        while True:
            labels = {x for p in (*tensors, *taken) for x in self._inputs[p]}
            layer = frozenset(
                p for p in self.patterns if p not in taken and self._ready(p, tensors, taken, labels)
            )
            if not layer:
                break
            found.append(layer)
            taken |= layer
        if len(tensors) == len(self.tensors):
            rest = frozenset((*self.patterns, *self.numbers)) - taken
            found = [*found[:-1], found[-1] | rest] if found else [rest]
        return [layer for layer in found if layer]

    def _ready(self, pattern: int, tensors: frozenset[int], taken: frozenset[int], labels: set[int]) -> bool:
        """Whether nothing else meets two labels of a pattern, one of them at least being there."""
        others = [p for p in (*self.tensors, *self.patterns) if p not in tensors and p not in taken]
        outside = {x for p in others if p != pattern for x in self._inputs[p]}.union(self._output)
        mine = self._inputs[pattern]
        closed = [x for x in mine if x in labels and x not in outside]
        private = [x for x in mine if x not in labels and x not in outside]
        if len(closed) >= 2:
            return True
        if not closed or not private:
            return False
        # Only one side may take such a pattern: that with the input, or any where no tensor has the input.
        read = mine[2]
        return read in closed or not any(read in self._inputs[p] for p in self.tensors)

    def connected(self, first: frozenset[int], second: frozenset[int]) -> bool:
        """Whether tensors share a label, or a pattern that goes along with both."""
        labels = [
            {x for p in (*tensors, *self.absorbed(tensors)) for x in self._inputs[p]}
            for tensors in (first, second)
        ]
        joining = self.absorbed(first | second) - self.absorbed(first) - self.absorbed(second)
        return bool(labels[0] & labels[1]) or bool(joining)
