"""What a contraction computes: an equation over integer labels.

An :class:`Equation` is the canonical form of the text of an einsum. Labels are integers numbered in the
order of their first appearance, so that equal contractions are equal objects whatever letters they were
written in; letters come back only when an equation is printed.

    >>> Equation.parse("ij,jk->ik") == Equation.parse("xy , yz -> xz")
    True
    >>> str(Equation.parse("...x,xy", ranks=(3, 2)))
    'abc,cd->abd'
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from .errors import EquationError, OperandError

__all__ = ["LETTERS", "Equation"]

LETTERS = string.ascii_lowercase + string.ascii_uppercase
"""The letters that torch.einsum accepts, in the order in which labels are printed."""

_FIRST_SYMBOL = "\u00c0"
"""From here on opt_einsum and its like take any character for a label, once the letters are used up."""

Labels = tuple[int, ...]


@dataclass(frozen=True)
class Equation:
    """Which labels each operand carries, and which of them the output keeps.

    Args:
        inputs: for each operand the label of every dimension; a label may repeat within an operand (its
            diagonal is taken) and is summed when ``output`` lacks it.
        output: the labels of the output, each once.

    The labels are renumbered in the order of their first appearance in ``inputs``.

    Raises:
        EquationError: ``output`` repeats a label or names one that no operand has.

    Example:
        >>> Equation(((7, 3), (3, 5)), (7, 5))
        Equation('ab,bc->ac')
    """

    inputs: tuple[Labels, ...]
    output: Labels

    def __post_init__(self) -> None:
        number: dict[int, int] = {}
        for labels in self.inputs:
            for label in labels:
                number.setdefault(label, len(number))
        missing = [label for label in self.output if label not in number]
        if missing:
            raise EquationError(f"output label {missing[0]} is in no operand of {self.inputs}->{self.output}")
        if len(set(self.output)) != len(self.output):
            raise EquationError(f"the output of {self.inputs}->{self.output} names a label more than once")
        object.__setattr__(self, "inputs", tuple(tuple(number[x] for x in labels) for labels in self.inputs))
        object.__setattr__(self, "output", tuple(number[x] for x in self.output))

    @classmethod
    def parse(cls, text: str, ranks: Sequence[int] | None = None) -> Equation:
        """Read the text of an einsum.

        Args:
            text: as torch.einsum and opt_einsum accept it: spaces anywhere, an implicit output (the
                labels that appear once, in alphabetical order, after those of an ellipsis), an ellipsis
                per operand, any letter as a label.
            ranks: the number of dimensions of each operand; needed where ``text`` has an ellipsis,
                checked where it's given.

        Raises:
            EquationError: the text can't be read.
            OperandError: an operand has more or fewer dimensions than labels, or there are more or fewer
                operands than the text names.

        Example:
            >>> Equation.parse("i...,i...", ranks=(3, 2))
            Equation('abc,ac->bc')
        """
        return _parse(text, None if ranks is None else tuple(ranks))

    @classmethod
    def from_sublists(
        cls, inputs: Sequence[Sequence[Any]], output: Sequence[Any] | None, ranks: Sequence[int] | None = None
    ) -> Equation:
        """Read the interleaved form ``einsum(a, [0, 1], b, [1, 2], [0, 2])``.

        Args:
            inputs: for each operand its labels: integers or other hashables, ``Ellipsis`` among them.
            output: the labels of the output; None where the call gave none.
            ranks: as in :meth:`parse`.

        Raises:
            EquationError: labels that can't be told apart or ordered.
            OperandError: as :meth:`parse`.

        Example:
            >>> Equation.from_sublists([[0, 1], [1, 2]], None)
            Equation('ab,bc->ac')
        """
        shown = ",".join(str(list(labels)) for labels in inputs)
        shown += "" if output is None else f"->{list(output)}"
        return _resolve(
            shown, [list(labels) for labels in inputs], None if output is None else list(output), ranks
        )

    @cached_property
    def labels(self) -> Labels:
        """Every label, ascending."""
        return tuple(range(1 + max((x for labels in self.inputs for x in labels), default=-1)))

    @cached_property
    def summed(self) -> Labels:
        """The labels that the output lacks, ascending."""
        return tuple(label for label in self.labels if label not in self.output)

    @cached_property
    def _text(self) -> str:
        return f"{','.join(map(label_text, self.inputs))}->{label_text(self.output)}"

    @cached_property
    def printable_by_torch(self) -> bool:
        """Whether 52 letters are enough to write it for torch.einsum."""
        return len(self.labels) <= len(LETTERS)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Equation({self._text!r})"

    def sizes(self, shapes: Sequence[Sequence[int]]) -> dict[int, int]:
        """The size of every label, after broadcasting dimensions of size 1.

        Args:
            shapes: the shape of each operand.

        Returns:
            Label to number of elements. A dimension of size 1 takes the size that other dimensions
            with its label have, as in torch.einsum.

        Raises:
            OperandError: a wrong number of operands or dimensions, or two sizes other than 1 that differ.

        Example:
            >>> Equation.parse("ij,jk->ik").sizes([(2, 3), (1, 5)])
            {0: 2, 1: 3, 2: 5}
        """
        if len(shapes) != len(self.inputs):
            raise OperandError(
                f"einsum {str(self)!r} takes {len(self.inputs)} operand(s), but {len(shapes)} were given"
            )
        sizes: dict[int, int] = {}
        for position, (labels, shape) in enumerate(zip(self.inputs, shapes, strict=True)):
            if len(labels) != len(shape):
                raise OperandError(
                    f"einsum {str(self)!r}: operand {position} has shape {tuple(shape)}, {len(shape)} "
                    f"dimension(s), but the equation gives it {len(labels)} label(s) "
                    f"({label_text(labels)!r})"
                )
            if len(set(labels)) < len(labels):
                self._check_diagonals(position, shape)
            for label, size in zip(labels, shape, strict=True):
                known = sizes.setdefault(label, size)
                if known == size or size == 1:
                    continue
                if known != 1:
                    shown = ", ".join(str(tuple(s)) for s in shapes)
                    raise OperandError(
                        f"einsum {str(self)!r}: label {label_text((label,))!r} has size {size} in operand "
                        f"{position}, but {known} before it (shapes: {shown}); sizes of one label must be "
                        "equal, or 1 to broadcast"
                    )
                sizes[label] = size
        return sizes

    def _check_diagonals(self, position: int, shape: Sequence[int]) -> None:
        labels = self.inputs[position]
        for i, label in enumerate(labels):
            first = shape[labels.index(label)]
            if shape[i] != first:
                raise OperandError(
                    f"einsum {str(self)!r}: label {label_text((label,))!r} is repeated in operand "
                    f"{position}, whose shape {tuple(shape)} gives it the sizes {first} and {shape[i]}; a "
                    "diagonal needs equal sizes"
                )

    def output_shape(self, shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """The shape of the output for operands of these shapes; raises as :meth:`sizes` does."""
        sizes = self.sizes(shapes)
        return tuple(sizes[label] for label in self.output)

    def substitute(self, position: int, producer: Equation) -> Equation:
        """The equation of this contraction with operand ``position`` computed by ``producer`` in place.

        The producer's operands take the place of the operand. Einsum's laws (products distribute over
        sums, sums over different labels commute) make this exact in any commutative semiring.

        Raises:
            EquationError: the producer's output has another rank than the operand.

        Example:
            >>> Equation.parse("ab,bc->ac").substitute(1, Equation.parse("bx,xc->bc"))
            Equation('ab,bc,cd->ad')
        """
        target = self.inputs[position]
        if len(target) != len(producer.output):
            raise EquationError(
                f"operand {position} of {str(self)!r} has {len(target)} dimension(s), but {str(producer)!r} "
                f"gives {len(producer.output)}"
            )
        offset = len(self.labels)
        rename = {label: offset + label for label in producer.labels}
        rename.update(zip(producer.output, target, strict=True))
        inner = tuple(tuple(rename[x] for x in labels) for labels in producer.inputs)
        return Equation((*self.inputs[:position], *inner, *self.inputs[position + 1 :]), self.output)

    def pair(self, left: int, right: int) -> tuple[Equation, Equation]:
        """Split off the contraction of two operands (or, with ``left == right``, the reduction of one).

        Returns:
            The equation of the two operands alone, whose output keeps the labels that something else
            needs (in the order of their appearance; in the order of this output where nothing else is
            left), and the equation that remains, in which the result is the last operand.

        Example:
            >>> Equation.parse("ab,bc,cd->ad").pair(1, 2)
            (Equation('ab,bc->ac'), Equation('ab,bc->ac'))
        """
        chosen = sorted({left, right})
        rest = tuple(labels for i, labels in enumerate(self.inputs) if i not in chosen)
        needed = set(self.output).union(*rest)
        taken = tuple(self.inputs[i] for i in chosen)
        kept = tuple(x for x in dict.fromkeys(x for labels in taken for x in labels) if x in needed)
        if not rest:
            kept = self.output
        return Equation(taken, kept), Equation((*rest, kept), self.output)


def label_text(labels: Sequence[int]) -> str:
    """Labels as letters; past 52 as further Unicode letters, which only people and opt_einsum read."""
    return "".join(LETTERS[x] if x < len(LETTERS) else chr(0x4E00 + x - len(LETTERS)) for x in labels)


@lru_cache(maxsize=4096)
def _parse(text: str, ranks: tuple[int, ...] | None) -> Equation:
    if not isinstance(text, str):
        raise EquationError(f"an equation is text such as 'ij,jk->ik', not {type(text).__name__}")
    left, arrow, right = text.partition("->")
    inputs = [_tokens(part, text) for part in left.split(",")]
    return _resolve(text, inputs, _tokens(right, text) if arrow else None, ranks)


def _tokens(part: str, text: str) -> list[Hashable]:
    tokens: list[Hashable] = []
    part = part.replace(" ", "")
    position = 0
    while position < len(part):
        if part.startswith("...", position):
            tokens.append(Ellipsis)
            position += 3
        elif part[position].isalpha() or part[position] >= _FIRST_SYMBOL:
            tokens.append(part[position])
            position += 1
        else:
            raise EquationError(
                f"einsum {text!r}: character {part[position]!r} is neither a letter, ',', '->', a space nor "
                "part of an ellipsis '...'"
            )
    return tokens


def _resolve(
    text: str,
    inputs: list[list[Hashable]],
    output: list[Hashable] | None,
    ranks: Sequence[int] | None,
) -> Equation:
    if ranks is not None and len(ranks) != len(inputs):
        raise OperandError(f"einsum {text!r} takes {len(inputs)} operand(s), but {len(ranks)} were given")
    for tokens in [*inputs, output or []]:
        if tokens.count(Ellipsis) > 1:
            raise EquationError(f"einsum {text!r}: an operand or the output has more than one ellipsis")
    widths = _ellipsis_widths(text, inputs, ranks)
    widest = max(widths, default=0)
    number: dict[Hashable, int] = {("...", -i): i for i in range(widest)}
    resolved = []
    for tokens, width in zip(inputs, widths, strict=True):
        labels: list[int] = []
        for token in tokens:
            if token is Ellipsis:
                labels.extend(range(widest - width, widest))
            else:
                labels.append(number.setdefault(token, len(number)))
        resolved.append(tuple(labels))
    if output is None:
        counts = Counter(token for tokens in inputs for token in tokens if token is not Ellipsis)
        try:
            once: list[Hashable] = sorted(t for t, count in counts.items() if count == 1)  # type: ignore[type-var]
        except TypeError as error:
            raise EquationError(
                f"einsum {text!r}: these labels have no order, so the output can't be left out"
            ) from error
        output = [Ellipsis, *once]
    resolved_output: list[int] = []
    for token in output:
        if token is Ellipsis:
            resolved_output.extend(range(widest))
        elif token not in number:
            raise EquationError(f"einsum {text!r}: output label {token!r} is in no operand")
        elif number[token] in resolved_output:
            raise EquationError(
                f"einsum {text!r}: output label {token!r} appears more than once in the output"
            )
        else:
            resolved_output.append(number[token])
    return Equation(tuple(resolved), tuple(resolved_output))


def _ellipsis_widths(text: str, inputs: list[list[Hashable]], ranks: Sequence[int] | None) -> list[int]:
    widths = []
    for position, tokens in enumerate(inputs):
        named = sum(token is not Ellipsis for token in tokens)
        has_ellipsis = len(tokens) > named
        if has_ellipsis and ranks is None:
            raise EquationError(f"einsum {text!r}: an ellipsis can be read only where ranks are known")
        width = 0 if ranks is None else ranks[position] - named
        if width < 0 or (width and not has_ellipsis):
            raise OperandError(
                f"einsum {text!r}: operand {position} has {named + width} dimension(s), but the equation "
                f"gives it {'at least ' if has_ellipsis else ''}{named} label(s)"
            )
        widths.append(width)
    return widths
