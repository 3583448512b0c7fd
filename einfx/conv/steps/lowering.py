"""Which native convolution a contraction with index patterns is, if it is one.

Two tensors and one pattern for each spatial dimension make a convolution, or its gradient with respect to the
input or to the kernel, by which labels of the patterns the tensors and the output carry. All other labels are
batch, groups or channels, by the same token. Only labels count: the order of operands and dimensions doesn't.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import prod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...kernels.batching import tracked
from ...pattern import IndexPattern
from ..native import convolve, convolve_transposed, plainly_laid_out
from ..symbolic.network import Constant, Network
from ..symbolic.views import View
from ..windows.margins import with_margins

__all__ = ["Arrangement", "Native", "Roles", "lowered", "roles_of"]

Kind = Literal["forward", "input_vjp", "weight_vjp"]


class _Spatial(NamedTuple):
    """One spatial dimension: its pattern, and its labels (None where nothing else carries them)."""

    pattern: IndexPattern
    kernel: int
    output: int
    input: int


@dataclass(frozen=True)
class Arrangement:
    """A tensor in the dimensions that a native kernel takes: an order of dimensions, then a shape."""

    view: View
    order: tuple[int, ...]
    shape: tuple[int, ...]

    def apply(self, tensor: Tensor) -> Tensor:
        """The caller's tensor, arranged; a copy only where its layout asks for one."""
        if self.as_it_is:
            return tensor
        seen = self.view.apply(tensor)
        if not self.in_order:
            seen = seen.permute(self.order)
        return seen.reshape(self.shape)

    @cached_property
    def as_it_is(self) -> bool:
        """Whether nothing changes."""
        return self.in_order and not self.view.steps and self.view.base == self.shape

    @cached_property
    def in_order(self) -> bool:
        """Whether the dimensions stay in their order."""
        return self.order == tuple(range(len(self.order)))


@dataclass(frozen=True)
class Native:
    """A contraction as one native convolution.

    Args:
        kind: which one.
        data: the input of a convolution (of an input VJP: the vector), shape: (batch, channels, *sizes).
        kernel: the kernel (of a weight VJP: the vector).
        patterns: the pattern of each spatial dimension.
        groups: the number of groups.
        sizes: what the result is split into.
        order: in which order the output has these.
        scale: what the result is multiplied by.
        factors: tensors of one element that the result is multiplied by, by position.

    Example:
        >>> from ..symbolic.network import network
        >>> from ..symbolic.views import View
        >>> operands = View(0, (2, 3, 8)), IndexPattern(8, 3), View(1, (4, 3, 3))
        >>> native = lowered(network(["nci", "koi", "dck"], "ndo", *operands))
        >>> native.kind, native.patterns
        ('forward', (IndexPattern(8, 3),))
        >>> native.run([torch.ones(2, 3, 8), torch.ones(4, 3, 3)]).shape
        torch.Size([2, 4, 6])
    """

    kind: Kind
    data: Arrangement
    kernel: Arrangement
    patterns: tuple[IndexPattern, ...]
    groups: int
    sizes: tuple[int, ...]
    order: tuple[int, ...]
    scale: float = 1.0
    factors: tuple[int, ...] = ()

    @cached_property
    def in_order(self) -> bool:
        """Whether the output has its dimensions in the order of the native result."""
        return self.order == tuple(range(len(self.order)))

    def __str__(self) -> str:
        words = {"forward": "", "input_vjp": " input VJP", "weight_vjp": " weight VJP"}
        name = f"conv{len(self.patterns)}d{words[self.kind]}"
        return f"{name} of {self.groups} groups" if self.groups > 1 else name

    def run(self, tensors: Sequence[Tensor]) -> Tensor:
        """Compute it.

        Args:
            tensors: the caller's tensors.
        """
        out = self._kernel(
            self.data.apply(tensors[self.data.view.position]),
            self.kernel.apply(tensors[self.kernel.view.position]),
        )
        if self._scattered:
            out = out.reshape(self.sizes)
        if not self.in_order:
            out = out.permute(self.order)
        for factor in self.factors:
            out = out * tensors[factor].reshape(())
        return out if self.scale == 1.0 else out * self.scale

    @cached_property
    def _scattered(self) -> bool:
        """Whether the output has other dimensions than the native result."""
        counts = tuple(getattr(pattern, _MADE[self.kind]) for pattern in self.patterns)
        channels = self.kernel.shape[0] if self.kind == "forward" else self.kernel.shape[1]
        if self.kind == "input_vjp":
            return self.sizes != (self.data.shape[0], channels * self.groups, *counts)
        first, second = self.data.shape[0], channels
        if self.kind == "weight_vjp":
            first, second = channels, self.data.shape[1] // self.groups
        return self.sizes != (first, second, *counts)

    @cached_property
    def _kernel(self) -> Callable[[Tensor, Tensor], Tensor]:
        """What is called, with its numbers read from the patterns once."""
        patterns, groups = self.patterns, self.groups
        if self.kind == "weight_vjp":
            return lambda data, kernel: _weight_vjp(data, kernel, patterns, groups)
        if self.kind == "input_vjp":
            return lambda data, kernel: convolve_transposed(data, kernel, patterns, groups)
        even = all(pattern.left == pattern.right >= 0 for pattern in patterns)
        if not even or len(patterns) > 3:
            return lambda data, kernel: convolve(data, kernel, patterns, groups)
        native = _NATIVE[len(patterns) - 1]
        strides = tuple(pattern.stride for pattern in patterns)
        sides = tuple(pattern.left for pattern in patterns)
        dilations = tuple(pattern.dilation for pattern in patterns)
        return lambda data, kernel: native(
            plainly_laid_out(data, len(strides)), kernel, None, strides, sides, dilations, groups
        )


_MADE = {"forward": "output_size", "input_vjp": "input_size", "weight_vjp": "kernel_size"}
_NATIVE = (torch.conv1d, torch.conv2d, torch.conv3d)


@lru_cache(maxsize=4096)
def lowered(network: Network) -> Native | None:
    """The native convolution that a network is.

    Args:
        network: a contraction; it needn't be simplified.

    Returns:
        None where it's no convolution, or one of a kind that torch has not.
    """
    views: list[tuple[View, tuple[int, ...]]] = []
    spatial: list[_Spatial] = []
    scale = 1.0
    factors: list[int] = []
    # A tensor of one element has no part in a convolution, unless something else has its labels.
    counts = Counter(label for labels in network.equation.inputs for label in labels)
    carried = {label for label, count in counts.items() if count > 1}.union(network.equation.output)
    for operand, labels in zip(network.operands, network.equation.inputs, strict=True):
        if len(set(labels)) < len(labels):
            return None
        if isinstance(operand, View):
            if operand.shape != tuple(network.sizes[label] for label in labels):
                return None
            if prod(operand.shape) == 1 and not operand.steps and not carried.intersection(labels):
                factors.append(operand.position)
            else:
                views.append((operand, labels))
        elif isinstance(operand, IndexPattern):
            spatial.append(_Spatial(operand, *labels))
        elif isinstance(operand, Constant):
            scale *= operand.value
    shared = [label for one in spatial for label in (one.kernel, one.output, one.input)]
    if len(views) != 2 or not spatial or len(set(shared)) < len(shared):
        return None
    for data, kernel in (views, views[::-1]):
        for kind in _kinds(network, set(data[1]), set(kernel[1]), spatial):
            native = _arranged(network, kind, data, kernel, spatial, scale)
            if native is not None:
                return replace(native, factors=tuple(factors))
    return None


def _kinds(network: Network, data: set[int], kernel: set[int], spatial: list[_Spatial]) -> Iterator[Kind]:
    """The kinds for which the labels of all patterns are where they should be, and nowhere else."""
    output = set(network.equation.output)
    kinds: tuple[tuple[Kind, tuple[str, str, str]], ...] = (
        ("forward", ("input", "kernel", "output")),
        ("input_vjp", ("output", "kernel", "input")),
        ("weight_vjp", ("input", "output", "kernel")),
    )
    for kind, fields in kinds:
        fits = True
        for one in spatial:
            for field, there in zip(fields, (data, kernel, output), strict=True):
                label = getattr(one, field)
                others = [labels for labels in (data, kernel, output) if labels is not there]
                absent = network.sizes[label] == 1 and label not in there
                fits &= (label in there or absent) and not any(label in labels for labels in others)
        if fits:
            yield kind


class Roles(NamedTuple):
    """The labels of a contraction of two tensors that are on no pattern, by what they do.

    Attributes:
        groups: of both tensors and the output.
        summed: of both tensors alone.
        first: of the first tensor and the output.
        second: of the second tensor and the output.
    """

    groups: list[int]
    summed: list[int]
    first: list[int]
    second: list[int]


def roles_of(
    first: Sequence[int], second: Sequence[int], output: Sequence[int], spatial: Collection[int]
) -> Roles | None:
    """What labels do in a contraction of two tensors, those of its patterns left out.

    Args:
        first: the labels of one tensor.
        second: the labels of the other.
        output: the labels of the result.
        spatial: the labels of patterns.

    Returns:
        None where one tensor alone has a label, for which a convolution has no place.

    Example:
        >>> roles_of((0, 1, 2), (3, 1, 4), (0, 3, 5), {2, 4, 5})
        Roles(groups=[], summed=[1], first=[0], second=[3])
    """
    parts: dict[tuple[bool, bool, bool], list[int]] = {}
    for label in dict.fromkeys((*first, *second, *output)):
        if label not in spatial:
            where = (label in first, label in second, label in output)
            parts.setdefault(where, []).append(label)
    places = ((True, True, True), (True, True, False), (True, False, True), (False, True, True))
    roles = Roles(*(parts.pop(where, []) for where in places))
    return None if parts else roles


def _arranged(
    network: Network,
    kind: Kind,
    data: tuple[View, tuple[int, ...]],
    kernel: tuple[View, tuple[int, ...]],
    spatial: list[_Spatial],
    scale: float,
) -> Native | None:
    """The arrangement of both tensors and of the result; None where a label has no part in a convolution."""
    shared = {label for one in spatial for label in (one.kernel, one.output, one.input)}
    output = network.equation.output
    roles = roles_of(data[1], kernel[1], output, shared)
    if roles is None:
        return None
    groups, summed, first, second = roles
    # Of the batch alone torch may have none.
    channels = [*groups, *second, *(first if kind == "weight_vjp" else summed)]
    if any(network.sizes[label] == 0 for label in channels):
        return None
    spatial = sorted(spatial, key=lambda one: _place(data[1], one, kind))
    inputs, outputs = [one.input for one in spatial], [one.output for one in spatial]
    kernels = [one.kernel for one in spatial]
    data_parts: list[list[int]]
    kernel_parts: list[list[int]]
    if kind == "weight_vjp":
        # Channels of the input are in it and in the result; the batch is what is summed.
        data_parts = [summed, [*groups, *first], *([x] for x in inputs)]
        kernel_parts = [summed, [*groups, *second], *([x] for x in outputs)]
        result = [*groups, *second, *first, *kernels]
    else:
        here, there = (inputs, outputs) if kind == "forward" else (outputs, inputs)
        data_parts = [first, [*groups, *summed], *([x] for x in here)]
        # The kernel's first dimension has the channels of a convolution's output, whichever way it goes.
        leading = second if kind == "forward" else summed
        trailing = summed if kind == "forward" else second
        kernel_parts = [[*groups, *leading], trailing, *([x] for x in kernels)]
        result = [*first, *groups, *second, *there]
    sizes = network.sizes
    present = [label for label in result if label in output]
    return Native(
        kind,
        _arrangement(data, data_parts, sizes),
        _arrangement(kernel, kernel_parts, sizes),
        tuple(one.pattern for one in spatial),
        prod(sizes[label] for label in groups),
        tuple(sizes[label] for label in present),
        tuple(present.index(label) for label in output),
        scale,
    )


def _place(labels: tuple[int, ...], one: _Spatial, kind: Kind) -> int:
    """Where a spatial dimension stands in the data, so that its order is kept."""
    label = one.output if kind == "input_vjp" else one.input
    return labels.index(label) if label in labels else len(labels)


def _arrangement(
    operand: tuple[View, tuple[int, ...]], parts: list[list[int]], sizes: dict[int, int]
) -> Arrangement:
    view, labels = operand
    order = tuple(labels.index(label) for part in parts for label in part if label in labels)
    return Arrangement(view, order, tuple(prod(sizes[label] for label in part) for part in parts))


def _weight_vjp(x: Tensor, v: Tensor, patterns: tuple[IndexPattern, ...], groups: int) -> Tensor:
    """The gradient of a kernel, by torch's own backward pass of a convolution.

    Args:
        x: the input, shape: (batch, in_channels, *input_sizes).
        v: the vector, shape: (batch, out_channels, *output_sizes).
        patterns: one for each spatial dimension.
        groups: the number of groups.
    """
    if x.is_complex():
        # Torch has this for real numbers only, and the product has no conjugates.
        real = _weight_vjp(x.real, v.real, patterns, groups) - _weight_vjp(x.imag, v.imag, patterns, groups)
        imag = _weight_vjp(x.real, v.imag, patterns, groups) + _weight_vjp(x.imag, v.real, patterns, groups)
        return torch.complex(real, imag)
    kernel = [pattern.kernel_size for pattern in patterns]
    shape = (v.shape[1], x.shape[1] // groups, *kernel)
    # Only its shape is read, but by second derivatives; so there is nothing to write to memory first.
    weight = x.new_zeros(shape) if len(patterns) > 3 or tracked(x, v) else x.new_empty(shape)
    if len(patterns) <= 3:
        x = plainly_laid_out(x, len(patterns))
        sides = [_sides(pattern) for pattern in patterns]
        if any(left != right or left < 0 for left, right in sides):
            x = with_margins(x, 2, sides)
            sides = [(0, 0)] * len(patterns)
        gradient: Tensor = torch.ops.aten.convolution_backward(
            v,
            x,
            weight,
            None,
            [pattern.stride for pattern in patterns],
            [left for left, _ in sides],
            [pattern.dilation for pattern in patterns],
            False,
            [0] * len(patterns),
            groups,
            [False, True, False],
        )[1]
        return gradient
    first, rest = patterns[0], patterns[1:]
    if not first.ones:
        # Nothing meets: zeros, which like other results depend on what they came from, by sums of nothing.
        return weight + (x[:0].sum() + v[:0].sum())
    rows, vectors = x.movedim(2, 0), v.movedim(2, 0)
    slices = []
    for part in first.slices():
        if part.length:
            read, met = rows[part.inputs].flatten(0, 1), vectors[part.outputs].flatten(0, 1)
            slices.append(_weight_vjp(read, met, rest, groups))
        else:
            slices.append(weight.select(2, part.kernel))
    return torch.stack(slices, 2)


def _sides(pattern: IndexPattern) -> tuple[int, int]:
    """The padding with which torch computes exactly the outputs of a pattern."""
    left, right = pattern.left, pattern.right
    # A plain padding on both sides that gives as many outputs spares a padded copy.
    if left >= 0 and left != right:
        both = (pattern.input_size + 2 * left - pattern.kernel_span) // pattern.stride + 1
        right = left if both == pattern.output_size else right
    return left, right
