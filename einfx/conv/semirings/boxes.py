"""Parts of index patterns in which every position is a one: what is left of a contraction without padding.

A box is a range of outputs and a range of kernel positions that all meet an input. Within it a tensor is seen
through windows as a plain view, and no zero takes part in anything.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from math import gcd
from typing import Literal, NamedTuple

from ...kernel_slices import KernelSlice
from ...pattern import IndexPattern, pattern_of_shape

__all__ = ["Box", "Phase", "boxes", "phases"]


class Box(NamedTuple):
    """A range of outputs and one of kernel positions, each as its start and its length."""

    outputs: tuple[int, int]
    kernels: tuple[int, int]


class Phase(NamedTuple):
    """The inputs ``start::step`` of a pattern, and the kernel positions ``kernel_start::kernel_step`` there.

    Args:
        kernel_start: the first kernel position.
        kernel_step: kernel positions from one to the next.
        kernel_length: how many there are.
        input_start: the first input.
        input_step: inputs from one to the next.
        input_length: how many there are.
        pattern: where these kernel positions, in reverse order, and these inputs meet the outputs, which are
            the inputs of this pattern.
    """

    kernel_start: int
    kernel_step: int
    kernel_length: int
    input_start: int
    input_step: int
    input_length: int
    pattern: IndexPattern


@lru_cache(maxsize=4096)
def boxes(pattern: IndexPattern, by: Literal["kernel", "output"]) -> tuple[Box, ...]:
    """Boxes that hold every one of a pattern once.

    Args:
        pattern: any pattern.
        by: the axis along which the boxes follow one another without overlapping.

    Returns:
        The boxes in order; none where the pattern holds no one.

    Example:
        >>> for box in boxes(IndexPattern(8, 3, padding=1), "output"):
        ...     print(box)
        Box(outputs=(0, 1), kernels=(1, 2))
        Box(outputs=(1, 6), kernels=(0, 3))
        Box(outputs=(7, 1), kernels=(0, 2))
    """
    parts = pattern.slices() if by == "kernel" else pattern.swapped().slices()
    found = []
    for (start, stop), group in groupby(parts, _range):
        positions = [part.kernel for part in group]
        if stop > start:
            along, across = (positions[0], len(positions)), (start, stop - start)
            found.append(Box(across, along) if by == "kernel" else Box(along, across))
    return tuple(found)


def _range(part: KernelSlice) -> tuple[int, int]:
    return part.output_start, part.output_stop


@lru_cache(maxsize=4096)
def phases(pattern: IndexPattern) -> tuple[Phase, ...]:
    """The adjoint of a pattern as patterns: transposed convolutions are convolutions of every phase.

    Kernel positions that are ``stride / gcd(stride, dilation)`` apart meet inputs that are whole strides
    apart: ``i = stride * j + start`` with ``o = j - k' * dilation / gcd - shift``, which read backwards is a
    pattern of its own, with the outputs for inputs.

    Returns:
        A phase for every set of kernel positions that meets the same inputs, where there are such inputs.

    Example:
        >>> for phase in phases(IndexPattern(8, 3, stride=2, padding=1)):
        ...     print(phase[:3], phase[3:6], phase.pattern)
        (0, 2, 2) (1, 2, 4) IndexPattern(4, 2, padding=(0, 1))
        (1, 2, 1) (0, 2, 4) IndexPattern(4, 1)
    """
    kernel, output, inputs = pattern.shape
    common = gcd(pattern.stride, pattern.dilation)
    step, dilation = pattern.stride // common, pattern.dilation // common
    found = []
    for first in range(min(kernel, step)):
        shift, start = divmod(pattern.dilation * first - pattern.left, pattern.stride)
        if start >= inputs:
            continue
        positions = (kernel - first - 1) // step + 1
        length = (inputs - start - 1) // pattern.stride + 1
        reading = pattern_of_shape(
            positions,
            length,
            output,
            stride=1,
            left=dilation * (positions - 1) + shift,
            dilation=dilation,
        )
        found.append(Phase(first, step, positions, start, pattern.stride, length, reading))
    return tuple(found)
