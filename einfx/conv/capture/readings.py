"""What a call of a convolution, an unfolding or a pooling says, as a contraction with index patterns.

A :class:`Reading` is data: an equation, the numbers of each pattern but the size of what it slides over, and
the reshapes around the contraction. What it comes to for given sizes is told by :meth:`Window.pattern`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import fx

from ...equation import Equation
from ...pattern import IndexPattern

__all__ = [
    "Reading",
    "Step",
    "Window",
    "averaged",
    "convolution",
    "folded",
    "pooled",
    "transposed",
    "unfolded",
]

Source = fx.Node | str
"""A tensor of a graph: a node, or the dotted name of an attribute of the module that owns the graph."""


class Step(NamedTuple):
    """A method of a tensor that only changes its shape, with its arguments."""

    method: str
    arguments: tuple[int | tuple[int, ...], ...]


@dataclass(frozen=True)
class Window:
    """One spatial dimension of a call: the numbers of its pattern, but for the size that it slides over.

    Args:
        dim: the dimension of the data, after its steps, that the pattern meets.
        kernel_size: elements of the kernel.
        stride: inputs between neighbouring outputs.
        padding: zeros on the left and on the right.
        dilation: inputs between neighbouring elements of the kernel.
        extra: of a transposed convolution, the elements added on the right of its output; the data has the
            outputs of its pattern.
        input_size: of a fold, the size of the result; the data has the outputs of its pattern.
    """

    dim: int
    kernel_size: int
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    dilation: int = 1
    extra: int | None = None
    input_size: int | None = None

    @property
    def span(self) -> int:
        """Elements from the first to the last that a kernel covers."""
        return self.dilation * (self.kernel_size - 1) + 1

    @property
    def sides(self) -> tuple[int, int]:
        """The padding of the pattern, which has one output for each element of a transposed one's data."""
        if self.extra is None or self.extra < self.stride:
            return self.padding
        return (self.padding[0], self.padding[1] - self.extra)

    def pattern(self, size: int) -> IndexPattern:
        """The pattern over data of a size along this dimension.

        Raises:
            OperandError: there is none, the data being too small.

        Example:
            >>> Window(2, 3, stride=2, padding=(1, 1)).pattern(8)
            IndexPattern(8, 3, stride=2, padding=1)
            >>> Window(2, 3, stride=2, padding=(1, 1), extra=1).pattern(4)
            IndexPattern(8, 3, stride=2, padding=1)
        """
        if self.input_size is not None:
            size = self.input_size
        elif self.extra is not None:
            size = (size - 1) * self.stride - sum(self.padding) + self.span + self.extra
        return IndexPattern(size, self.kernel_size, self.stride, self.sides, self.dilation)


@dataclass(frozen=True)
class Reading:
    """A call as a contraction: of the data, a pattern for each window, and the weight where there is one.

    Args:
        equation: what is contracted; operands are the data, the patterns, and the weight.
        data: what windows slide over.
        windows: the spatial dimensions.
        weight: the kernel, if there is one.
        bias: what is added for each channel, if anything.
        boundary: the sides and the mode with which the data is padded first, as F.pad takes them.
        data_steps: reshapes of the data.
        weight_steps: reshapes of the weight.
        result_steps: reshapes of the result.
        divisor: a number that the result is divided by.
        averaged: dimensions of the data by whose sizes the result is divided.
        groups: in how many groups the channels of a convolution are split.
    """

    equation: Equation
    data: fx.Node
    windows: tuple[Window, ...] = ()
    weight: Source | None = None
    bias: Source | None = None
    boundary: tuple[tuple[int, ...], str] | None = None
    data_steps: tuple[Step, ...] = ()
    weight_steps: tuple[Step, ...] = ()
    result_steps: tuple[Step, ...] = ()
    divisor: int = 1
    averaged: tuple[int, ...] = ()
    groups: int = 1


class Labels:
    """Numbers labels by name, in the order in which they are first asked for."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, int], int] = {}

    def __call__(self, name: str, count: int = 1) -> tuple[int, ...]:
        """The labels of a name: one, or one for each spatial dimension."""
        return tuple(self._numbers.setdefault((name, i), len(self._numbers)) for i in range(count))


def convolution(
    data: fx.Node,
    weight: Source,
    bias: Source | None,
    windows: Sequence[Window],
    *,
    batched: bool,
    groups: int = 1,
    depthwise: bool = False,
) -> Reading:
    """What a convolution computes.

    Args:
        data: shape: (batch, in_channels, *input_sizes), or without the batch.
        weight: shape: (out_channels, in_channels / groups, *kernel_sizes).
        bias: shape: (out_channels,).
        windows: one for each spatial dimension.
        batched: whether the data has a batch.
        groups: the number of groups.
        depthwise: whether each group has one channel, of the input and of the output.

    Example:
        >>> x, w = (fx.Graph().placeholder(name) for name in "xw")
        >>> str(convolution(x, w, None, [Window(2, 3)], batched=True).equation)
        'abc,dec,fbd->afe'
    """
    return _convolution(data, weight, bias, windows, batched, groups, depthwise, ("i", "o"), ("d", "c"))


def transposed(
    data: fx.Node,
    weight: Source,
    bias: Source | None,
    windows: Sequence[Window],
    *,
    batched: bool,
    groups: int = 1,
    depthwise: bool = False,
) -> Reading:
    """A transposed convolution, with the patterns of the convolution that it transposes.

    Args:
        data: shape: (batch, in_channels, *sizes), or without the batch.
        weight: shape: (in_channels, out_channels / groups, *kernel_sizes).
        bias: shape: (out_channels,).
        windows: one for each spatial dimension.
        batched: whether the data has a batch.
        groups: the number of groups.
        depthwise: whether each group has one channel, of the input and of the output.
    """
    return _convolution(data, weight, bias, windows, batched, groups, depthwise, ("o", "i"), ("c", "d"))


def _convolution(
    data: fx.Node,
    weight: Source,
    bias: Source | None,
    windows: Sequence[Window],
    batched: bool,
    groups: int,
    depthwise: bool,
    ends: tuple[str, str],
    channels: tuple[str, str],
) -> Reading:
    """Either kind: ``ends`` has the labels that the data and the result slide along."""
    at, count, n = int(batched), len(windows), Labels()
    batch = n("n") if batched else ()
    group = n("g") if groups > 1 else ()
    taken = () if depthwise else n("c")
    given = n(ends[0], count)
    kernels, results = n("k", count), n(ends[1], count)
    made = () if depthwise else n("d")
    lead = {"c": taken, "d": made}
    equation = Equation(
        (
            (*batch, *group, *taken, *given),
            *_patterns(kernels, given if ends[0] == "o" else results, results if ends[0] == "o" else given),
            (*group, *lead[channels[0]], *lead[channels[1]], *kernels),
        ),
        (*batch, *group, *made, *results),
    )
    data_steps: tuple[Step, ...] = ()
    weight_steps: tuple[Step, ...] = ()
    result_steps: tuple[Step, ...] = ()
    if depthwise:
        weight_steps = (Step("flatten", (0, 1)),)
    elif groups > 1:
        data_steps = (Step("unflatten", (at, (groups, -1))),)
        weight_steps = (Step("unflatten", (0, (groups, -1))),)
        result_steps = (Step("flatten", (at, at + 1)),)
    shift = int(groups > 1 and not depthwise)
    moved = tuple(replace(window, dim=window.dim + shift) for window in windows)
    return Reading(
        equation,
        data,
        moved,
        weight,
        bias,
        data_steps=data_steps,
        weight_steps=weight_steps,
        result_steps=result_steps,
        groups=groups,
    )


def unfolded(data: fx.Node, windows: Sequence[Window], *, batched: bool) -> Reading:
    """The patches that windows see, shape: (batch, channels * kernel elements, output elements)."""
    at, count, n = int(batched), len(windows), Labels()
    batch, channel, inputs = n("n") if batched else (), n("c"), n("i", count)
    kernels, outputs = n("k", count), n("o", count)
    equation = Equation(
        ((*batch, *channel, *inputs), *_patterns(kernels, outputs, inputs)),
        (*batch, *channel, *kernels, *outputs),
    )
    steps = [Step("flatten", (at + 1 + count, at + 2 * count))] if count > 1 else []
    steps.append(Step("flatten", (at, at + count)))
    return Reading(equation, data, tuple(windows), result_steps=tuple(steps))


def folded(data: fx.Node, windows: Sequence[Window], *, batched: bool) -> Reading:
    """Patches added up where they came from, shape: (batch, channels, *sizes).

    Args:
        data: shape: (batch, channels * kernel elements, output elements), or without the batch.
        windows: one for each spatial dimension, with its ``input_size``.
        batched: whether the data has a batch.
    """
    at, count, n = int(batched), len(windows), Labels()
    batch, channel = n("n") if batched else (), n("c")
    kernels, outputs, inputs = n("k", count), n("o", count), n("i", count)
    equation = Equation(
        ((*batch, *channel, *kernels, *outputs), *_patterns(kernels, outputs, inputs)),
        (*batch, *channel, *inputs),
    )
    sizes = tuple(window.kernel_size for window in windows)
    steps = [Step("unflatten", (at, (-1, *sizes)))]
    if count > 1:
        positions = tuple(window.pattern(0).output_size for window in windows)
        steps.append(Step("unflatten", (at + 1 + count, positions)))
    return Reading(equation, data, tuple(windows), data_steps=tuple(steps))


def pooled(data: fx.Node, windows: Sequence[Window], *, batched: bool, divisor: int) -> Reading:
    """Windows summed over their kernel and divided by a number, shape: (batch, channels, *output_sizes)."""
    count, n = len(windows), Labels()
    batch, channel, inputs = n("n") if batched else (), n("c"), n("i", count)
    kernels, outputs = n("k", count), n("o", count)
    equation = Equation(
        ((*batch, *channel, *inputs), *_patterns(kernels, outputs, inputs)), (*batch, *channel, *outputs)
    )
    return Reading(equation, data, tuple(windows), divisor=divisor)


def averaged(data: fx.Node, rank: int, dims: Sequence[int], *, keepdim: bool) -> Reading:
    """The mean over some dimensions of a tensor of a rank; where it keeps them, they have size 1."""
    kept = tuple(dim for dim in range(rank) if dim not in dims)
    steps = tuple(Step("unsqueeze", (dim,)) for dim in sorted(dims)) if keepdim else ()
    equation = Equation((tuple(range(rank)),), kept)
    return Reading(equation, data, result_steps=steps, averaged=tuple(sorted(dims)))


def _patterns(
    kernels: tuple[int, ...], outputs: tuple[int, ...], inputs: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    return tuple(zip(kernels, outputs, inputs, strict=True))
