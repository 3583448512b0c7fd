"""An average of a convolution as a convolution alone: of what is averaged before, or with a larger kernel.

Averaging windows is a convolution itself, with a kernel that is constant. A kernel of one element changes
places with it. Of any other the two together are one convolution, whose kernel is the sum of the first one's
over all places in the window, and whose stride is that of the average.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch.nn.functional as F
from torch import fx, nn

from ...graphs.nodes import Value, set_value, value_of
from ...graphs.scaling import Scale
from ...machine import Machine, machine_for
from ...pattern import IndexPattern
from ..planning import plan_network
from ..symbolic.network import network
from ..symbolic.views import View
from ..windows.pooling import ELEMENT_SECONDS, applies_to, average_windows
from .pieces import Piece
from .readings import Reading
from .regions import Region
from .writing import FormWriter, shape_of

__all__ = ["AveragedFirst", "LargerKernel", "averages_of", "pooling_seconds"]


@dataclass(frozen=True)
class _Average:
    """A convolution and the average of it, which nothing else follows in a region."""

    convolution: fx.Node
    reading: Reading
    average: fx.Node
    pooling: Reading

    @property
    def positions(self) -> tuple[int, ...]:
        """The spatial sizes of the result."""
        value = value_of(self.average)
        assert value is not None
        return value.shape[len(value.shape) - len(self.reading.windows) :]


@dataclass(frozen=True)
class AveragedFirst(_Average):
    """The convolution, of a kernel of one element, of averages of its input."""

    def seconds(self, owner: nn.Module, like: Value) -> float:
        """The predicted time.

        Args:
            owner: the module whose attributes the graph names.
            like: a value of the dtype and device.
        """
        machine, item = machine_for(like.device), like.dtype.itemsize
        shape = shape_of(self.reading.data, owner)
        averaged = (*shape[: len(shape) - len(self.positions)], *self.positions)
        if self._by_slices(like):
            pooling = 6 * machine.op_seconds + 2 * machine.stream(item * (prod(shape) + prod(averaged)))
        else:
            pooling = pooling_seconds(machine, prod(shape))
        patterns = [IndexPattern(size, 1) for size in self.positions]
        return pooling + _native_seconds(self, owner, like, patterns, [1] * len(patterns))

    def write(self, writer: FormWriter) -> fx.Node:
        """Write both calls at the insertion point, in the other order."""
        data = self.reading.data
        value, whole = value_of(data), value_of(self.average)
        assert value is not None
        assert whole is not None
        if self._by_slices(value):
            kernel = [window.kernel_size for window in self.pooling.windows]
            average = writer.call(average_windows, data, kernel, float(self.pooling.divisor))
        else:
            average = writer.copy(self.average, {self.convolution: data})
        lead = len(value.shape) - len(self.positions)
        set_value(average, (*value.shape[:lead], *self.positions), data)
        convolution = writer.copy(self.convolution, {data: average})
        set_value(convolution, whole.shape, self.average)
        return convolution

    def _by_slices(self, like: Value) -> bool:
        windows = self.pooling.windows
        kernels = tuple(window.kernel_size for window in windows)
        plain = all(window.padding == (0, 0) for window in windows)
        strides = tuple(window.stride for window in windows)
        return plain and like.device.type == "cpu" and applies_to(like.dtype, kernels, strides)


@dataclass(frozen=True)
class LargerKernel(_Average):
    """One convolution by the kernel that a window sums at all of its places."""

    def seconds(self, owner: nn.Module, like: Value) -> float:
        """The predicted time, of making the kernel too.

        Args:
            owner: the module whose attributes the graph names.
            like: a value of the dtype and device.
        """
        machine = machine_for(like.device)
        assert self.reading.weight is not None
        shape = shape_of(self.reading.weight, owner)
        kernels = [
            own.kernel_size + other.kernel_size - 1
            for own, other in zip(self.reading.windows, self.pooling.windows, strict=True)
        ]
        sizes = shape_of(self.reading.data, owner)[-len(kernels) :]
        patterns = [
            IndexPattern(size, kernel, other.stride, own.padding)
            for size, kernel, own, other in zip(
                sizes, kernels, self.reading.windows, self.pooling.windows, strict=True
            )
        ]
        made = like.dtype.itemsize * prod(shape[:2]) * prod(kernels)
        making = 3 * machine.op_seconds + 6 * machine.stream(made)
        return making + _native_seconds(self, owner, like, patterns, kernels)

    def write(self, writer: FormWriter) -> fx.Node:
        """Write the kernel and the convolution at the insertion point."""
        reading, windows = self.reading, self.pooling.windows
        assert reading.weight is not None
        n = len(windows)
        weight = writer.source(reading.weight)
        sides = tuple(side for window in reversed(windows) for side in (window.kernel_size - 1,) * 2)
        padded = writer.call(F.pad, weight, sides)
        kernel = tuple(window.kernel_size for window in windows)
        spread = writer.call(getattr(F, f"avg_pool{n}d"), padded, kernel, 1)
        value = value_of(weight)
        if value is not None:
            grown = [size + 2 * (k - 1) for size, k in zip(value.shape[2:], kernel, strict=True)]
            set_value(padded, (*value.shape[:2], *grown), weight)
            grown = [size + k - 1 for size, k in zip(value.shape[2:], kernel, strict=True)]
            set_value(spread, (*value.shape[:2], *grown), weight)
        scale = Scale(prod(kernel), self.pooling.divisor)
        made = writer.scaled(spread, scale)
        bias = None if reading.bias is None else writer.source(reading.bias)
        convolution = writer.call(
            getattr(F, f"conv{n}d"),
            reading.data,
            made,
            bias,
            tuple(window.stride for window in windows),
            tuple(window.padding[0] for window in reading.windows),
            1,
            reading.groups,
        )
        whole = value_of(self.average)
        assert whole is not None
        set_value(convolution, whole.shape, self.average)
        return convolution


def pooling_seconds(machine: Machine, elements: int) -> float:
    """The predicted time of torch's own average over windows."""
    if machine.gpu:
        return machine.op_seconds + machine.stream(8 * elements)
    return machine.op_seconds + elements * ELEMENT_SECONDS / machine.threads


def averages_of(region: Region) -> list[AveragedFirst | LargerKernel]:
    """What a region can be that is a convolution and an average of it.

    Args:
        region: any region.

    Returns:
        None, one or two ways of computing it.
    """
    if len(region.pieces) != 2:
        return []
    first, second = region.pieces
    if not isinstance(first.what, Reading) or not isinstance(second.what, Reading):
        return []
    reading, pooling = first.what, second.what
    if reading.weight is None or not pooling.windows or pooling.weight is not None or pooling.result_steps:
        return []
    if pooling.data is not first.node or reading.boundary is not None or not _is_even(reading):
        return []
    plain = all(window.padding == (0, 0) for window in pooling.windows)
    constant = plain and pooling.divisor == prod(window.kernel_size for window in pooling.windows)
    if reading.bias is not None and not constant:
        return []
    found: list[AveragedFirst | LargerKernel] = []
    parts = first.node, reading, second.node, pooling
    if _is_single(first, reading):
        found.append(AveragedFirst(*parts))
    if plain and len(reading.windows) <= 3:
        found.append(LargerKernel(*parts))
    return found


def _is_even(reading: Reading) -> bool:
    """Whether a convolution reads every element, with as much padding on either side."""
    return all(
        window.extra is None
        and window.stride == window.dilation == 1
        and window.padding[0] == window.padding[1]
        for window in reading.windows
    )


def _is_single(piece: Piece, reading: Reading) -> bool:
    """Whether a kernel has one element in every call, and is at every place of the input."""
    weight = reading.weight
    fixed = isinstance(weight, str) or (isinstance(weight, fx.Node) and weight.op == "get_attr")
    return fixed and all(w.kernel_size == 1 and w.padding == (0, 0) for w in reading.windows)


def _native_seconds(
    average: _Average, owner: nn.Module, like: Value, patterns: list[IndexPattern], kernels: list[int]
) -> float:
    """The predicted time of a native convolution with the channels of one and the patterns given."""
    n, groups = len(patterns), average.reading.groups
    assert average.reading.weight is not None
    shape = shape_of(average.reading.data, owner)
    outs, ins = shape_of(average.reading.weight, owner)[:2]
    batch = prod(shape[: len(shape) - n - 1])
    spatial = [pattern.input_size for pattern in patterns]
    data = View(0, (batch, groups, ins, *spatial))
    weight = View(1, (groups, outs // groups, ins, *kernels))
    letters = [(f"k{i}", f"o{i}", f"i{i}") for i in range(n)]
    made = network(
        [
            ["n", "g", "c", *(x[2] for x in letters)],
            *letters,
            ["g", "d", "c", *(x[0] for x in letters)],
        ],
        ["n", "g", "d", *(x[1] for x in letters)],
        data,
        *patterns,
        weight,
    )
    return plan_network(made, like.dtype, like.device.type).seconds
