"""A schedule: a contraction as loops over blocks of labels, with every buffer it needs, as data.

A schedule is a short program. Its values are numbered, the operands first; a value has a dimension for each
of its labels. A loop cuts a label into blocks: inside of it, every value that was there before and has the
label stands for its current block, and what is allocated inside is as long as a block. So one contraction
may sum into a part of a buffer, and a label may be looped over the whole program or only where it is used.
An operand or an output may lie elsewhere than where is computed: then blocks of it are loaded and stored.

    >>> labels = (0, 1), (1, 2), (0, 2)
    >>> lines = Allocate(2, True), Loop(1, 256, (Contract(2, (0, 1), True),))
    >>> print(Schedule(labels, (4, 600, 5), 2, (2,), lines))
    0 [ab], 1 [bc] -> 2 [ac]; a 4, b 600, c 5
    allocate 2 [ac] of zeros
    for b in blocks of 256:
        2 += 0 * 1
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...equation import label_text
from ...errors import PlanError

__all__ = ["Adjoint", "Allocate", "Contract", "Free", "Load", "Loop", "Schedule", "Statement", "Store"]

Labels = tuple[int, ...]


@dataclass(frozen=True)
class Allocate:
    """Make the buffer of a value, with a dimension of the length of a block for each label that is looped.

    Args:
        value: whose buffer it is.
        filled: whether it starts as the semiring's zero, to be added to.
        gradient: whether it is a gradient, which starts as 0 over every semiring.
    """

    value: int
    filled: bool = False
    gradient: bool = False


@dataclass(frozen=True)
class Free:
    """Give the buffer of a value back."""

    value: int


@dataclass(frozen=True)
class Contract:
    """Contract values into another one.

    Args:
        target: the value that is written.
        operands: the values; one or two as a rule.
        accumulate: whether the result is added to what the target holds.
    """

    target: int
    operands: tuple[int, ...]
    accumulate: bool = False


@dataclass(frozen=True)
class Adjoint:
    """Add to the gradients of operands what a contraction of them passes on of its result's gradient.

    Args:
        target: the value that was contracted, whole; -1 where the semiring's gradients don't need it.
        operands: what was contracted.
        gradient: the gradient of the target.
        gradients: for each operand the value that holds its gradient, -1 where none is wanted.
    """

    target: int
    operands: tuple[int, ...]
    gradient: int
    gradients: tuple[int, ...]


@dataclass(frozen=True)
class Load:
    """Copy the current block of an operand that lies elsewhere into a buffer.

    Args:
        target: whose buffer it is; it has the labels of the operand.
        source: the operand.
    """

    target: int
    source: int


@dataclass(frozen=True)
class Store:
    """Copy a buffer to the current block of an output that lies elsewhere.

    Args:
        target: the output.
        source: whose buffer it is; it has the labels of the output.
        accumulate: whether it is added to what the output holds.
    """

    target: int
    source: int
    accumulate: bool = False


@dataclass(frozen=True)
class Loop:
    """Do something for one block of a label after the other.

    Args:
        label: which.
        block: the length of a block; the last one may be shorter.
        body: what is done.
    """

    label: int
    block: int
    body: tuple[Statement, ...]


Statement = Allocate | Free | Contract | Adjoint | Load | Store | Loop
"""A line of a schedule."""


@dataclass(frozen=True)
class Schedule:
    """A contraction as a program of loops.

    Args:
        labels: the labels of the dimensions of every value, the operands first.
        sizes: the size of every label.
        count: how many operands there are.
        outputs: the values that are returned.
        statements: the program. It allocates the outputs and doesn't free them.
    """

    labels: tuple[Labels, ...]
    sizes: tuple[int, ...]
    count: int
    outputs: tuple[int, ...]
    statements: tuple[Statement, ...]

    def shape(self, value: int, blocks: Mapping[int, int] | None = None) -> tuple[int, ...]:
        """The shape of a value, its labels in blocks of these lengths."""
        lengths = blocks or {}
        return tuple([lengths.get(label, self.sizes[label]) for label in self.labels[value]])

    @cached_property
    def loops(self) -> tuple[Loop, ...]:
        """Every loop, outer ones first."""
        return tuple(line for line, _ in _walk(self.statements) if isinstance(line, Loop))

    @cached_property
    def loads(self) -> tuple[Load, ...]:
        """The lines that load."""
        return tuple(line for line, _ in _walk(self.statements) if isinstance(line, Load))

    @cached_property
    def loaded(self) -> frozenset[int]:
        """The operands that lie elsewhere."""
        return frozenset(line.source for line in self.loads)

    @cached_property
    def given(self) -> frozenset[int]:
        """The operands, and the values that blocks of them are loaded into."""
        return frozenset((*range(self.count), *(line.target for line in self.loads)))

    @cached_property
    def stored(self) -> frozenset[int]:
        """The outputs that lie elsewhere."""
        return frozenset(line.target for line, _ in _walk(self.statements) if isinstance(line, Store))

    @cached_property
    def is_adjoint(self) -> bool:
        """Whether gradients are computed."""
        return any(isinstance(line, Adjoint) for line, _ in _walk(self.statements))

    @property
    def slices(self) -> int:
        """How many blocks the outermost loops go through."""
        return sum(-(-self.sizes[x.label] // x.block) for x in self.statements if isinstance(x, Loop)) or 1

    def __str__(self) -> str:
        names = [label_text(labels) for labels in self.labels]
        operands = ", ".join(f"{i} [{names[i]}]" for i in range(self.count))
        results = ", ".join(f"{i} [{names[i]}]" for i in self.outputs)
        sizes = ", ".join(f"{label_text((label,))} {size}" for label, size in enumerate(self.sizes))
        lines = [f"{operands} -> {results}; {sizes}"]
        for line, depth in _walk(self.statements):
            lines.append("    " * depth + _shown(line, names))
        return "\n".join(lines)

    def to_text(self) -> str:
        """The schedule as one line of JSON, which :meth:`from_text` reads."""
        program = [_as_data(line) for line in self.statements]
        return json.dumps([self.labels, self.sizes, self.count, self.outputs, program])

    @classmethod
    def from_text(cls, text: str) -> Schedule:
        """Read what :meth:`to_text` wrote.

        Raises:
            PlanError: the text isn't that of a schedule.
        """
        try:
            labels, sizes, count, outputs, program = json.loads(text)
            statements = tuple(_from_data(line) for line in program)
            return cls(tuple(map(tuple, labels)), tuple(sizes), count, tuple(outputs), statements)
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"this isn't the text of a schedule: {error}") from error


def _walk(statements: Sequence[Statement], depth: int = 0) -> Iterator[tuple[Statement, int]]:
    for line in statements:
        yield line, depth
        if isinstance(line, Loop):
            yield from _walk(line.body, depth + 1)


def _shown(line: Statement, names: Sequence[str]) -> str:
    match line:
        case Allocate(value, filled, gradient):
            return f"allocate {value} [{names[value]}]" + " of zeros" * (filled or gradient)
        case Free(value):
            return f"free {value}"
        case Contract(target, operands, accumulate):
            return f"{target} {'+' * accumulate}= {' * '.join(map(str, operands))}"
        case Load(target, source):
            return f"load {target} from {source}"
        case Store(target, source, accumulate):
            return f"{'add' if accumulate else 'store'} {source} to {target}"
        case Adjoint(_, operands, gradient, gradients):
            wanted = [
                f"{mine} from {gradient} through {operand}"
                for mine, operand in zip(gradients, operands, strict=True)
                if mine >= 0
            ]
            return f"gradient {', '.join(wanted)} of {' * '.join(map(str, operands))}"
        case Loop(label, block, _):
            return f"for {label_text((label,))} in blocks of {block}:"


_KINDS: dict[str, Any] = {
    "allocate": Allocate,
    "free": Free,
    "contract": Contract,
    "adjoint": Adjoint,
    "load": Load,
    "store": Store,
}


def _as_data(line: Statement) -> list[Any]:
    if isinstance(line, Loop):
        return ["loop", line.label, line.block, [_as_data(inner) for inner in line.body]]
    name = next(name for name, kind in _KINDS.items() if isinstance(line, kind))
    return [name, *vars(line).values()]


def _from_data(data: Sequence[Any]) -> Statement:
    name, *rest = data
    if name == "loop":
        label, block, body = rest
        return Loop(label, block, tuple(_from_data(line) for line in body))
    made: Statement = _KINDS[name](*[tuple(x) if isinstance(x, list) else x for x in rest])
    return made
