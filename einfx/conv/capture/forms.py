"""Linear programs as one contraction, put together piece by piece.

A :class:`Form` is a contraction of leaves and windows whose result may have merged dimensions: a dimension
is a group of labels. So unfolding, flattening, permuting, contracting and averaging all stay one contraction,
and a merge is only carried out at the end, if it still shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from ...equation import Equation
from ...graphs.scaling import Scale
from .readings import Source, Step, Window

__all__ = [
    "Apart",
    "Bias",
    "Dimension",
    "Form",
    "Leaf",
    "Size",
    "SizeOf",
    "Slid",
    "Slide",
    "contracted",
    "leaf",
    "stepped",
]


ONE = Scale(1, 1)


class Apart(Exception):
    """Two pieces aren't one contraction; the message says why."""


@dataclass(frozen=True)
class Leaf:
    """A tensor from outside: padded first, then reshaped.

    Args:
        source: a node, or the name of an attribute.
        boundary: the sides and the mode with which it is padded, as F.pad takes them.
        splits: dimensions that are split, the last first, each with the sizes of its parts.
        merged: whether its first two dimensions are merged.
    """

    source: Source
    boundary: tuple[tuple[int, ...], str] | None = None
    splits: tuple[tuple[int, tuple[Size | None, ...]], ...] = ()
    merged: bool = False


@dataclass(frozen=True)
class SizeOf:
    """The size of a dimension of a leaf, before it is reshaped."""

    leaf: Leaf
    dim: int


@dataclass(frozen=True)
class Slid:
    """The number of outputs of a window over a size, or of inputs where the window is transposed."""

    size: Size
    window: Window
    kernel: Size


Size = int | SizeOf | Slid


@dataclass(frozen=True)
class Dimension:
    """A dimension of a form, as a size in a reshape."""

    dim: int


@dataclass(frozen=True)
class Slide:
    """An index pattern, with the size that its window slides over and the size of its kernel."""

    window: Window
    size: Size
    kernel: Size


@dataclass(frozen=True)
class Bias:
    """What is added for each channel: a source, times a factor."""

    source: Source
    scale: Scale
    trailing: int


@dataclass(frozen=True)
class Form:
    """A contraction whose result's dimensions are groups of labels, times a number.

    Args:
        operands: what is contracted.
        inputs: the labels of each operand.
        output: the labels of each dimension of the result.
        sizes: the size of labels, where it is known.
        scale: what the result is multiplied by.
        divisors: sizes by which it is divided.
        bias: what is added at last.
    """

    operands: tuple[Leaf | Slide, ...]
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[tuple[int, ...], ...]
    sizes: Mapping[int, Size]
    scale: Scale = ONE
    divisors: tuple[Size, ...] = ()
    bias: Bias | None = None

    @property
    def equation(self) -> Equation:
        """The contraction, its result with all of its labels apart."""
        return Equation(self.inputs, tuple(label for group in self.output for label in group))

    def scaled(self, scale: Scale) -> Form:
        """The form times a number."""
        bias = self.bias and replace(self.bias, scale=self.bias.scale.times(scale))
        return replace(self, scale=self.scale.times(scale), bias=bias)

    def flattened(self, start: int, end: int) -> Form:
        """Dimensions from ``start`` to ``end`` as one."""
        if self.bias is not None:
            raise Apart("a bias is added before it is flattened")
        merged = tuple(label for group in self.output[start : end + 1] for label in group)
        return replace(self, output=(*self.output[:start], merged, *self.output[end + 1 :]))

    def viewed(self, sizes: Sequence[Size | Dimension | None]) -> Form:
        """The form with its dimensions merged and split, where labels say that this is right for every size.

        Args:
            sizes: of each dimension: a number, a size that is known elsewhere, a dimension of the form that
                is kept, or None for whatever is left.

        Raises:
            Apart: a dimension would have to be split that is one label, or sizes aren't known to be equal.
        """
        if self.bias is not None:
            raise Apart("a bias is added before it is reshaped")
        labels = [label for group in self.output for label in group]
        free = sizes.index(None) if None in sizes else len(sizes)
        first = [self._taken(size, labels, last=False) for size in sizes[:free]]
        rest = [self._taken(size, labels, last=True) for size in reversed(sizes[free + 1 :])]
        middle = [tuple(labels)] if free < len(sizes) else []
        if labels and not middle:
            raise Apart("it is reshaped to sizes that aren't known to be its own")
        return replace(self, output=(*first, *middle, *reversed(rest)))

    def _taken(self, size: Size | Dimension | None, labels: list[int], *, last: bool) -> tuple[int, ...]:
        """Take the labels that make a size from an end of a list."""
        taken: list[int] = []
        ends = labels[::-1] if last else labels
        if isinstance(size, Dimension):
            group = self.output[size.dim]
            taken = list(group[::-1] if last else group)
        elif isinstance(size, int):
            product = 1
            for label in ends:
                known = self.sizes.get(label)
                if product == size or not isinstance(known, int):
                    break
                product *= known
                taken.append(label)
            if product != size:
                raise Apart("it is reshaped to sizes that aren't known to be its own")
        elif ends and self.sizes.get(ends[0]) == size:
            taken = ends[:1]
        else:
            raise Apart("it is reshaped to sizes that aren't known to be its own")
        if ends[: len(taken)] != taken:
            raise Apart("a reshape mixes its dimensions")
        labels[:] = labels[: len(labels) - len(taken)] if last else labels[len(taken) :]
        return tuple(taken[::-1] if last else taken)


_numbers = count()


def fresh(number: int) -> tuple[int, ...]:
    """Labels that no other form has."""
    return tuple(next(_numbers) for _ in range(number))


def leaf(source: Leaf, rank: int) -> Form:
    """A tensor by itself."""
    labels = fresh(rank)
    sizes: dict[int, Size] = {label: SizeOf(source, dim) for dim, label in enumerate(labels)}
    return Form((source,), (labels,), tuple((label,) for label in labels), sizes)


def is_leaf(form: Form) -> bool:
    """Whether a form is a tensor by itself, with all of its dimensions."""
    return (
        len(form.operands) == 1
        and isinstance(form.operands[0], Leaf)
        and form.output == tuple((label,) for label in form.inputs[0])
        and form.scale.is_one
        and not form.divisors
        and form.bias is None
    )


def stepped(form: Form, steps: Sequence[Step]) -> Form:
    """A form behind reshapes; only of a tensor by itself are dimensions split.

    Raises:
        Apart: another form's dimension is split.
    """
    for step in steps:
        if step.method == "flatten" and is_leaf(form):
            form = _merged(form)
        elif step.method == "flatten":
            start, end = step.arguments
            assert isinstance(start, int)
            assert isinstance(end, int)
            form = form.flattened(start, end)
        elif step.method == "unflatten":
            dim, sizes = step.arguments
            assert isinstance(dim, int)
            assert isinstance(sizes, tuple)
            form = _split(form, dim, [None if size == -1 else size for size in sizes])
        else:
            (at,) = step.arguments
            assert isinstance(at, int)
            form = replace(form, output=(*form.output[:at], (), *form.output[at:]))
    return form


def _merged(form: Form) -> Form:
    """A tensor whose first two dimensions are one: a depthwise kernel's."""
    source = form.operands[0]
    assert isinstance(source, Leaf)
    labels = form.inputs[0]
    merged = replace(source, merged=True)
    kept = labels[1:]
    sizes = {label: size for label, size in form.sizes.items() if label in labels[2:]}
    return replace(form, operands=(merged,), inputs=(kept,), output=tuple((x,) for x in kept), sizes=sizes)


def _split(form: Form, dim: int, sizes: Sequence[Size | None]) -> Form:
    """A tensor with one dimension split."""
    if not is_leaf(form):
        raise Apart("a dimension of it would have to be split")
    source = form.operands[0]
    assert isinstance(source, Leaf)
    labels, parts = form.inputs[0], fresh(len(sizes))
    split = replace(source, splits=(*source.splits, (dim, tuple(sizes))))
    made = (*labels[:dim], *parts, *labels[dim + 1 :])
    known = {label: size for label, size in form.sizes.items() if label != labels[dim]}
    known.update({label: size for label, size in zip(parts, sizes, strict=True) if size is not None})
    return replace(form, operands=(split,), inputs=(made,), output=tuple((x,) for x in made), sizes=known)


def contracted(
    inputs: Sequence[Sequence[int]], output: Sequence[int], forms: Sequence[Form]
) -> tuple[Form, dict[int, tuple[int, ...]]]:
    """Forms contracted along labels of their dimensions.

    Args:
        inputs: a label for each dimension of each form.
        output: the labels that are kept, a dimension for each.
        forms: what is contracted.

    Returns:
        The form, and the labels that each of the given ones has become.

    Raises:
        Apart: a bias is inside, a diagonal is taken, or dimensions that are merged in different ways meet.
    """
    if any(form.bias is not None for form in forms):
        raise Apart("a bias is added in between")
    if any(len(set(labels)) < len(labels) for labels in inputs):
        raise Apart("a diagonal is taken in between")
    # What is a tensor by itself can still be split: it takes the labels of what it meets.
    order = sorted(range(len(forms)), key=lambda i: is_leaf(forms[i]))
    bound: dict[int, tuple[int, ...]] = {}
    made = list(forms)
    renamed: dict[int, int] = {}
    sizes: dict[int, Size] = {}

    def name(label: int) -> int:
        while label in renamed:
            label = renamed[label]
        return label

    for i in order:
        for dim in reversed(range(len(inputs[i]))):
            group = bound.get(inputs[i][dim])
            if group is not None and len(group) != len(made[i].output[dim]) == 1:
                made[i] = _split(made[i], dim, _known(group, sizes))
        at = 0
        for label in inputs[i]:
            there = bound.get(label)
            width = 1 if there is None or not is_leaf(made[i]) else len(there)
            groups = made[i].output[at : at + width]
            at += width
            group = tuple(x for part in groups for x in part)
            if there is None:
                bound[label] = group
            else:
                _meet(tuple(name(x) for x in there), group, sizes, made[i].sizes, renamed)
        sizes.update({name(x): size for x, size in made[i].sizes.items() if name(x) not in sizes})
    bound = {label: tuple(name(x) for x in group) for label, group in bound.items()}
    scale = ONE
    for form in made:
        scale = scale.times(form.scale)
    return (
        Form(
            tuple(operand for form in made for operand in form.operands),
            tuple(tuple(name(x) for x in labels) for form in made for labels in form.inputs),
            tuple(bound[label] for label in output),
            sizes,
            scale,
            tuple(size for form in made for size in form.divisors),
        ),
        bound,
    )


def _known(group: tuple[int, ...], sizes: Mapping[int, Size]) -> list[Size | None]:
    """Sizes to split a dimension with: all but one must be known, preferably all that are numbers."""
    if not group:
        raise Apart("a dimension of size 1 meets another")
    found: list[Size | None] = [sizes.get(label) for label in group]
    unknown = [i for i, size in enumerate(found) if size is None]
    if len(unknown) > 1:
        raise Apart("the sizes are unknown in which a dimension would have to be split")
    free = unknown or [i for i, size in enumerate(found) if not isinstance(size, int)]
    if free:
        found[free[0]] = None
    return found


def _meet(
    there: tuple[int, ...],
    here: tuple[int, ...],
    known: Mapping[int, Size],
    sizes: Mapping[int, Size],
    renamed: dict[int, int],
) -> None:
    """Let two groups of labels be one."""
    if len(there) != len(here):
        raise Apart("dimensions that are merged in different ways meet")
    # Where the products are equal and all sizes but one, that one is too.
    unequal = sum(
        known.get(a) is None or known.get(a) != sizes.get(b) for a, b in zip(there, here, strict=True)
    )
    if len(there) > 1 and unequal > 1:
        raise Apart("dimensions that are merged from others meet")
    for a, b in zip(there, here, strict=True):
        if a != b:
            renamed[b] = a
