"""A network while it is rewritten: labels and operands in lists, and the changes that rules make to them."""

from __future__ import annotations

from collections.abc import Iterator

from ...equation import Equation
from ...pattern import Axis, IndexPattern
from .network import Constant, Network, Operand
from .views import Merge, Slice, Split, Squeeze, Step, View

__all__ = ["AXES", "Draft"]

AXES: tuple[Axis, ...] = ("kernel", "output", "input")


class Draft:
    """A network that can be changed in place.

    Args:
        network: what to start from.

    Attributes:
        inputs: the labels of each operand.
        operands: the operands.
        output: the labels of the output.
        sizes: the size of each label.
    """

    def __init__(self, network: Network) -> None:
        self.inputs = [list(labels) for labels in network.equation.inputs]
        self.operands: list[Operand] = list(network.operands)
        self.output = list(network.equation.output)
        self.sizes = dict(network.sizes)

    def network(self) -> Network:
        """What has become of it, with the steps of views in their shortest form."""
        if not self.operands:
            self.add(Constant(1), [])
        operands = tuple(
            View(operand.position, operand.base, tidied(operand.steps))
            if isinstance(operand, View)
            else operand
            for operand in self.operands
        )
        return Network(Equation(tuple(map(tuple, self.inputs)), tuple(self.output)), operands)

    def patterns(self) -> Iterator[tuple[int, IndexPattern, tuple[int, int, int]]]:
        """Every pattern that has three different labels, with its position and those labels."""
        for position, operand in enumerate(self.operands):
            labels = self.inputs[position]
            if isinstance(operand, IndexPattern) and len(set(labels)) == 3:
                yield position, operand, (labels[0], labels[1], labels[2])

    def carriers(self, label: int, besides: int) -> list[int]:
        """The positions of the other operands with a label."""
        return [p for p, labels in enumerate(self.inputs) if label in labels and p != besides]

    def carried(self, label: int, besides: int) -> bool:
        """Whether another operand has the label."""
        return bool(self.carriers(label, besides))

    def only_views(self, label: int, besides: int) -> bool:
        """Whether there are other operands with the label, and all of them are views."""
        found = self.carriers(label, besides)
        return bool(found) and all(isinstance(self.operands[p], View) for p in found)

    def fresh(self, size: int) -> int:
        """A new label of a size."""
        label = max(self.sizes, default=-1) + 1
        self.sizes[label] = size
        return label

    def add(self, operand: Operand, labels: list[int]) -> None:
        """Append an operand."""
        self.operands.append(operand)
        self.inputs.append(labels)

    def remove(self, position: int) -> None:
        """Drop an operand."""
        del self.operands[position], self.inputs[position]

    def scale(self, factor: int) -> None:
        """Multiply the result by a number."""
        if factor == 1:
            return
        for position, operand in enumerate(self.operands):
            if isinstance(operand, Constant):
                self.operands[position] = Constant(operand.value * factor, operand.ndim)
                return
        self.add(Constant(factor), [])

    def rename(self, old: int, new: int, besides: int) -> bool:
        """Give every other operand's ``old`` the name ``new``; whether there was one."""
        found = self.carriers(old, besides)
        for position in found:
            self.inputs[position] = [new if label == old else label for label in self.inputs[position]]
        return bool(found)

    def replace(self, label: int, besides: int, steps: list[Step], labels: list[int]) -> None:
        """Do the same to a dimension of every other operand, all of them views.

        Args:
            label: the label of the dimension.
            besides: the operand to leave alone.
            steps: what to do, for dimension 0.
            labels: the labels of what the dimension has become.
        """
        for position in self.carriers(label, besides):
            for dim in reversed(range(len(self.inputs[position]))):
                if self.inputs[position][dim] == label:
                    view = self.operands[position]
                    assert isinstance(view, View)
                    self.operands[position] = view.then(*(_moved(step, dim) for step in steps))
                    self.inputs[position][dim : dim + 1] = labels

    def narrow(self, label: int, start: int, length: int, step: int = 1, besides: int = -1) -> None:
        """Keep a range of a label in every operand but one; patterns among them stay patterns."""
        for position in self.carriers(label, besides):
            operand = self.operands[position]
            for dim, there in enumerate(self.inputs[position]):
                if there == label and isinstance(operand, View):
                    operand = operand.then(Slice(dim, start, length, step))
                elif there == label and isinstance(operand, IndexPattern):
                    operand = operand.narrow(AXES[dim], start, length, step)
            self.operands[position] = operand
        self.sizes[label] = length


def _moved(step: Step, dim: int) -> Step:
    values = {name: getattr(step, name) for name in step.__dataclass_fields__}  # type: ignore[attr-defined]
    return type(step)(**{**values, "dim": values["dim"] + dim})


def tidied(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Steps that do the same, without those that undo one another.

    Example:
        >>> tidied((Split(1, (1, 6)), Squeeze(1)))
        ()
        >>> tidied((Split(1, (2, 3)), Merge(1), Slice(0, 1, 2)))
        (Slice(dim=0, start=1, length=2, step=1),)
    """
    done: list[Step] = []
    for step in steps:
        if isinstance(step, Split) and len(step.sizes) == 1:
            continue
        done.append(step)
        while len(done) > 1 and (pair := _pair(done[-2], done[-1])) is not None:
            done[-2:] = pair
            if len(pair) == 2:
                # A squeeze went before a split: it may meet the step before that one.
                done[:-1] = tidied(tuple(done[:-1]))
                break
    return tuple(done)


def _pair(first: Step, second: Step) -> list[Step] | None:
    """What two neighbouring steps become, or None where nothing is to gain."""
    if not isinstance(first, Split):
        return None
    end = first.dim + len(first.sizes)
    if isinstance(second, Merge) and second.dim == first.dim and len(first.sizes) == 2:
        return []
    if not isinstance(second, Squeeze):
        return None
    if second.dim < first.dim:
        return [second, Split(first.dim - 1, first.sizes)]
    if second.dim >= end:
        return [Squeeze(second.dim - len(first.sizes) + 1), first]
    kept = [size for i, size in enumerate(first.sizes) if first.dim + i != second.dim]
    return [Split(first.dim, tuple(kept))] if len(kept) > 1 else []
