"""What the positions of a kernel read: strided slices, in which padding doesn't appear."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["KernelSlice", "kernel_slices"]


class KernelSlice(NamedTuple):
    """What one kernel position reads: a range of outputs, and the strided slice of the input that it meets.

    Both ranges have the same number of elements, 0 where the position only ever meets padding.
    """

    kernel: int
    output_start: int
    output_stop: int
    input_start: int
    input_stop: int
    input_step: int

    @property
    def length(self) -> int:
        """The number of outputs, and of inputs."""
        return self.output_stop - self.output_start

    @property
    def outputs(self) -> slice:
        """The outputs, to index a tensor with."""
        return slice(self.output_start, self.output_stop)

    @property
    def inputs(self) -> slice:
        """The inputs, to index a tensor with."""
        return slice(self.input_start, self.input_stop, self.input_step)


def kernel_slices(
    shape: tuple[int, int, int], *, stride: int, left: int, dilation: int
) -> tuple[KernelSlice, ...]:
    """For every kernel position, the outputs for which it meets the input, and the inputs it meets.

    Args:
        shape: elements of the kernel, of the output and of the input.
        stride: inputs between neighbouring outputs.
        left: zeros to the left of the input.
        dilation: inputs between neighbouring elements of the kernel.
    """
    kernels, outputs, inputs = shape
    parts = []
    for kernel in range(kernels):
        origin = dilation * kernel - left
        start = max(0, -(origin // stride))
        stop = min(outputs, (inputs - 1 - origin) // stride + 1)
        if stop <= start:
            parts.append(KernelSlice(kernel, 0, 0, 0, 0, stride))
            continue
        first = origin + stride * start
        last = origin + stride * (stop - 1)
        parts.append(KernelSlice(kernel, start, stop, first, last + 1, stride))
    return tuple(parts)
