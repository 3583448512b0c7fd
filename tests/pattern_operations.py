"""Einsums with index patterns among their operands, as generated programs have them."""

from __future__ import annotations

import torch

from tests.builder import Builder
from tests.operations import ALPHABETS, label_for
from tests.program import BATCH

__all__ = ["convolution", "patterned"]


def _pattern(b: Builder, size: int) -> tuple[str, tuple[int, int, int]] | None:
    """The text of a pattern over inputs of a size, and its shape; a size that isn't that of the batch."""
    if size == BATCH:
        return None
    kernel, stride, dilation = b.pick((1, 2, 2, 3)), b.pick((1, 1, 1, 2)), b.pick((1, 1, 1, 2))
    left, right = b.pick(((0, 0), (0, 0), (1, 1), (1, 1), (2, 2), (1, 0), (0, 2), (-1, 1)))
    whole = size + left + right - dilation * (kernel - 1) - 1
    if whole < 0 or whole // stride + 1 == BATCH:
        return None
    text = f"einfx.IndexPattern({size}, {kernel}, {stride}, ({left}, {right}), {dilation})"
    return text, (kernel, whole // stride + 1, size)


def patterned(b: Builder) -> str | None:
    """An einsum of one to three tensors and one or two patterns, whose labels meet as they may."""
    names = [b.name(lambda t: 0 < t.ndim <= 4) for _ in range(b.pick((2, 2, 2, 1, 3)))]
    sizes: list[int] = []
    operands: list[tuple[str, list[int]]] = []
    for name in names:
        if name is None:
            return None
        operands.append((name, [label_for(b, sizes, size) for size in b.values[name].shape]))
        free = [label for label in operands[0][1] if sizes[label] != BATCH and b.chance(90)]
        if free and len(operands) <= 2 and (made := _pattern(b, sizes[b.pick(free)])) is not None:
            text, (kernel, outputs, inputs) = made
            read = [label for label in free if sizes[label] == inputs]
            start = len(sizes)
            sizes += [kernel, outputs]
            operands.append((text, [start, start + 1, b.pick(read)]))
    if not any("IndexPattern" in text for text, _ in operands):
        return None
    return _written(b, operands)


def convolution(b: Builder) -> str | None:
    """A convolution of one to three dimensions, or a gradient of one, with groups and factors beside."""
    name = b.name(lambda t: 1 <= t.ndim <= 5)
    if name is None:
        return None
    shape = list(b.values[name].shape)
    spatial = [dim for dim in range(len(shape)) if shape[dim] != BATCH and b.chance(70)][-3:]
    sizes = list(shape)
    operands = [(name, list(range(len(shape))))]
    role = b.pick((2, 2, 1))
    other: list[int] = []
    result: list[int] = []
    for dim in spatial:
        made = _pattern(b, shape[dim]) if role == 2 else _pattern_of_outputs(b, shape[dim])
        if made is None:
            return None
        text, pattern_shape = made
        start = len(sizes)
        axes = [start, start + 1, start + 2]
        sizes += pattern_shape
        axes[role] = dim
        operands.append((text, axes))
        free = [axis for axis in range(3) if axis != role]
        weight_axis = b.pick((0, 0, 0, 1)) if role == 2 else 0
        other.append(axes[weight_axis])
        result += [axes[axis] for axis in free if axis != weight_axis]
    if not other:
        return None
    for dim in range(len(shape)):
        if dim not in spatial:
            # A channel that is summed, one of a group, or a batch.
            kind = b.pick(("summed", "summed", "group", "batch"))
            if kind != "batch" and shape[dim] != BATCH:
                other.append(dim)
            if kind != "summed" or shape[dim] == BATCH:
                result.append(dim)
    if b.chance(70):
        sizes.append(b.pick((2, 3)))
        other.append(len(sizes) - 1)
        result.append(len(sizes) - 1)
    other = [other[i] for i in b.shuffled(len(other))]
    result = [result[i] for i in b.shuffled(len(result))]
    weight = f"tensor({tuple(sizes[label] for label in other)}, torch.float64, seed={b.between(1, 99)})"
    factor = b.name(lambda t: t.ndim == 0 and t.dtype is torch.float64)
    if factor is not None and b.chance(50):
        weight = f"{weight} * {factor}"
    operands.insert(b.between(0, len(operands)), (weight, other))
    return _written(b, operands, result)


def _pattern_of_outputs(b: Builder, size: int) -> tuple[str, tuple[int, int, int]] | None:
    """The text of a pattern with so many outputs, and its shape."""
    for inputs in (size, size + 1, 2 * size, 2 * size + 1):
        made = _pattern(b, inputs)
        if made is not None and made[1][1] == size:
            return made
    return None


def _written(
    b: Builder, operands: list[tuple[str, list[int]]], output: list[int] | None = None
) -> str | None:
    used = sorted({label for _, labels in operands for label in labels})
    alphabet = b.pick(ALPHABETS)
    if used[-1] >= len(alphabet):
        return None
    summed = {label for label in used if sum(label in labels for _, labels in operands) > 1}
    likely = [label for label in used if b.chance(25 if label in summed else 75)][:4]
    order = b.shuffled(len(likely))
    words = ["".join(alphabet[label] for label in labels) for _, labels in operands]
    output = [likely[i] for i in order] if output is None else output
    result = "".join(alphabet[label] for label in output)
    texts = ", ".join(text for text, _ in operands)
    return f'einfx.einsum("{",".join(words)}->{result}", {texts})'
