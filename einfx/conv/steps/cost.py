"""What the steps of a convolution cost: native kernels, copies and sums of windows, folds.

The figures extend those of :mod:`einfx.machine`. Native kernels are measured as fractions of a large matrix
product's rate: channels are padded to the vectors of the machine, data is brought into a blocked layout and
back, and a transposed convolution with a stride pays for every element that it writes.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod

import torch

from ...costs.cost import StepCost, choose_kernel
from ...equation import Equation
from ...kernels import windows_native
from ...machine import Machine, item_bytes, machine_for
from ...pattern import IndexPattern
from ...planning import plan
from .lowering import Native

__all__ = ["GATHERED_SECONDS", "contraction_cost", "fold_cost", "native_cost", "sum_cost", "window_cost"]

Shapes = tuple[tuple[int, ...], ...]

REORDERED = 10e9
"""Bytes per second at which one core brings data into the blocked layout of a native kernel and back."""

DEPTHWISE = 7.5e9
"""The same for depthwise convolutions, whose arithmetic hides behind it."""

COPIED = 6e9
"""Bytes of windows per second that one core writes where there is C code for it."""

GATHERED_SECONDS = (0.0, 1e-9, 15e-9)
"""What an element of windows costs that are contracted as a view: alone, with another operand, with more."""

SCATTERED_SECONDS = {False: 1.7e-9, True: 4.5e-9}
"""What an element of a transposed convolution with a stride costs, where the kernel is larger than the
stride, and where it isn't."""

SLOW_DEPTHWISE = 2.4e9
"""Floating-point operations per second of the gradient of a depthwise kernel larger than five a side."""

CALL_SECONDS = 6e-6
"""What calling a native kernel costs, and what choosing its implementation."""

WIDTH = 16
"""Channels are computed so many at a time."""


@lru_cache(maxsize=16384)
def native_cost(native: Native, dtype: torch.dtype, device: str) -> StepCost:
    """What a native convolution costs.

    Args:
        native: the convolution.
        dtype: of its tensors.
        device: where it runs, as text.

    Returns:
        Its cost; the workspace counts padded copies, rearranged tensors and blocked layouts.

    Example:
        >>> from ..symbolic.network import network
        >>> from ..symbolic.views import View
        >>> from .lowering import lowered
        >>> x, pattern, w = View(0, (8, 64, 32, 32)), IndexPattern(32, 3, padding=1), View(1, (64, 64, 3, 3))
        >>> native = lowered(network(["ncij", "koi", "lpj", "dckl"], "ndop", x, pattern, pattern, w))
        >>> native_cost(native, torch.float32, "cpu").flops
        603979776
    """
    machine = machine_for(device)
    item = item_bytes(dtype)
    kernel = [pattern.kernel_size for pattern in native.patterns]
    inputs = [pattern.input_size for pattern in native.patterns]
    outputs = [pattern.output_size for pattern in native.patterns]
    batch = native.data.shape[0]
    ins, outs = _channels(native)
    x, y = batch * ins * prod(inputs), batch * outs * prod(outputs)
    group_ins, group_outs = ins // native.groups, outs // native.groups
    positions = batch * prod(outputs) * prod(kernel) * native.groups
    flops = 2 * positions * group_ins * group_outs
    moved = item * (x + y + prod(native.kernel.shape))
    copies = sum(
        item * prod(one.shape) for one in (native.data, native.kernel) if not one.in_order or one.view.steps
    )
    uneven = any(pattern.left != pattern.right or pattern.left < 0 for pattern in native.patterns)
    margins = (
        item * batch * ins * prod(p.input_size + max(p.left, 0) + max(p.right, 0) for p in native.patterns)
    )
    seconds = CALL_SECONDS + machine.op_seconds + machine.stream(2 * copies)
    workspace = copies
    if uneven:
        seconds += machine.stream(2 * margins)
        workspace += margins
    kinds = len(native.patterns)
    if kinds > 3:
        seconds *= prod(kernel[: kinds - 3])
        workspace += item * (x + y)
    seconds += _arithmetic(native, dtype, machine, flops, positions, group_ins, group_outs, x, y)
    if device == "cpu":
        # Patches of all of the batch: of float32 only where there is little of something.
        little = batch == 1 or min(group_ins, group_outs) < 4
        if dtype == torch.float32:
            workspace += _blocked(native, item, x, y)
        if native.data.shape[1] == 1 or native.kernel.shape[1] == 1:
            # One channel lies as if channels were last, and torch brings the others into that order.
            workspace += item * (x + y)
        if dtype != torch.float32 or little:
            workspace += item * batch * ins * prod(kernel) * prod(outputs)
    return StepCost(flops, moved, seconds, workspace)


def _channels(native: Native) -> tuple[int, int]:
    """The channels of the convolution's input and of its output."""
    if native.kind == "forward":
        return native.data.shape[1], native.kernel.shape[0]
    if native.kind == "input_vjp":
        return native.kernel.shape[1] * native.groups, native.data.shape[1]
    return native.data.shape[1], native.kernel.shape[1]


def _arithmetic(
    native: Native,
    dtype: torch.dtype,
    machine: Machine,
    flops: int,
    positions: int,
    ins: int,
    outs: int,
    x: int,
    y: int,
) -> float:
    """Seconds of the arithmetic and of bringing data into the layout for it."""
    item = item_bytes(dtype)
    if machine.gpu:
        return (
            2 * machine.op_seconds + flops / (0.5 * machine.rate(dtype)) + machine.stream(3 * item * (x + y))
        )
    threads = machine.threads
    moved = item * (x + y)
    strided = any(pattern.stride > 1 for pattern in native.patterns)
    if dtype not in (torch.float32, torch.bfloat16):
        # Patches and a matrix product for each element of the batch.
        patches = 2 * item * positions * ins
        times = (4 if native.kind == "weight_vjp" else 3) if dtype.is_complex else 1
        return times * (flops / (0.6 * machine.rate(dtype)) + patches / (8e9 * threads))
    if native.groups > 1 and ins == outs == 1:
        if native.kind == "weight_vjp" and max(p.kernel_size for p in native.patterns) > 5:
            return flops / (SLOW_DEPTHWISE * threads) + moved / (DEPTHWISE * threads)
        return flops / (0.9 * machine.rate(dtype)) + moved / (DEPTHWISE * threads)
    plain = all(pattern.kernel_size == pattern.stride == 1 for pattern in native.patterns)
    if plain and native.kind == "forward" and native.groups == 1:
        return flops / (0.9 * machine.rate(dtype)) + moved / (40e9 * threads)
    narrow = WIDTH if native.kind == "input_vjp" or native.groups > 1 else 4
    if native.kind == "forward" and native.groups > 1:
        narrow = 4
    first, second = (ins, outs) if native.kind != "input_vjp" else (outs, ins)
    padded = 2 * positions * _padded(first, narrow) * _padded(second, WIDTH)
    seconds = padded / machine.rate(dtype) + moved / (REORDERED * threads)
    if native.kind == "input_vjp" and strided:
        apart = all(pattern.kernel_size <= pattern.stride for pattern in native.patterns)
        seconds += SCATTERED_SECONDS[apart] * x / threads
    return seconds if native.kind == "forward" else 1.1 * seconds


def _blocked(native: Native, item: int, x: int, y: int) -> int:
    """Bytes of both tensors and the kernel in a layout with channels padded to whole vectors."""
    ins, outs = _channels(native)
    depthwise = native.groups > 1 and ins == outs == native.groups
    if native.groups > 1 and not depthwise and (ins // native.groups) % 8:
        return item * (x + y)
    wide = [_padded(c, WIDTH if c > 4 else 1) / max(c, 1) for c in (ins, outs)]
    return int(item * (x * wide[0] + y * wide[1] + prod(native.kernel.shape) * wide[0] * wide[1]))


def _padded(size: int, block: int) -> int:
    return -(-size // block) * block


@lru_cache(maxsize=16384)
def window_cost(
    elements: int,
    patterns: tuple[IndexPattern, ...],
    dtype: torch.dtype,
    device: str,
    copied: bool,
) -> StepCost:
    """What windows cost, as a view (of a padded copy, where they reach over an end) or as a copy.

    Args:
        elements: of the tensor.
        patterns: of its spatial dimensions.
        dtype: its dtype.
        device: where it is.
        copied: whether windows are copied.
    """
    machine, item = machine_for(device), item_bytes(dtype)
    rows = elements // max(prod(pattern.input_size for pattern in patterns), 1)
    padded = any(not pattern.unpadded for pattern in patterns)
    seconds, moved, workspace = 4 * len(patterns) * machine.view_seconds, 0, 0
    if padded:
        margins = rows * prod(pattern.input_size + 2 * max(pattern.left, 0) for pattern in patterns)
        moved = item * (elements + margins)
        workspace = item * margins
        seconds += 2 * machine.op_seconds + machine.stream(moved, workspace)
    if copied:
        made = rows * prod(pattern.kernel_size * pattern.output_size for pattern in patterns)
        last = patterns[-1]
        if device == "cpu" and windows_native.describe() != "not built":
            seconds += machine.op_seconds + item * made / (COPIED * machine.threads)
        else:
            seconds += machine.copy(made, dtype, run=last.output_size if last.stride == 1 else 4)
        moved += 2 * item * made
    return StepCost(0, moved, seconds, workspace)


@lru_cache(maxsize=16384)
def sum_cost(elements: int, patterns: tuple[IndexPattern, ...], dtype: torch.dtype, device: str) -> StepCost:
    """What windows summed over their positions cost: every element is read once.

    Args:
        elements: of the tensor.
        patterns: of its spatial dimensions.
        dtype: its dtype.
        device: where it is.
    """
    machine, item = machine_for(device), item_bytes(dtype)
    seconds, moved, flops, workspace = 0.0, 0, 0, 0
    left = elements
    for pattern in patterns:
        slices = min(pattern.kernel_size, pattern.output_size)
        reads = 1 if pattern.kernel_size <= pattern.output_size else slices
        seconds += (2 * slices + 4) * machine.op_seconds + 1.3 * reads * machine.stream(item * left)
        moved += item * left * reads
        flops += left
        left = left // pattern.input_size * pattern.kernel_size
        # Sums of each kernel position, of the ends of windows, and all of them together.
        workspace = max(workspace, 4 * item * left)
    if dtype in (torch.float16, torch.bfloat16):
        workspace = 2 * workspace + 4 * elements
    return StepCost(flops, moved, seconds, workspace)


@lru_cache(maxsize=16384)
def fold_cost(rows: int, patterns: tuple[IndexPattern, ...], dtype: torch.dtype, device: str) -> StepCost:
    """What adding up windows costs.

    Args:
        rows: elements of the dimensions that stay.
        patterns: of those that don't.
        dtype: of the windows.
        device: where they are.
    """
    machine, item = machine_for(device), item_bytes(dtype)
    made = rows * prod(pattern.kernel_size * pattern.output_size for pattern in patterns)
    slices = prod(min(pattern.kernel_size, pattern.output_size) for pattern in patterns)
    written = rows * prod(pattern.input_size for pattern in patterns)
    seconds = (
        (4 + 3 * slices) * machine.op_seconds
        + 3 * machine.stream(item * made)
        + machine.stream(item * written)
    )
    return StepCost(made, item * (3 * made + written), seconds, 0)


@lru_cache(maxsize=16384)
def contraction_cost(
    equation: Equation, shapes: Shapes, strides: Shapes, dtype: torch.dtype, device: str
) -> StepCost:
    """What a contraction without patterns costs.

    Args:
        equation: what is contracted.
        shapes: of its operands.
        strides: of its operands, in elements.
        dtype: of its operands.
        device: where it runs.
    """
    if len(shapes) <= 2:
        return choose_kernel(equation, shapes, dtype, device, strides=strides).cost
    chosen = plan(equation, shapes, dtype=dtype, device=device)
    return StepCost(chosen.flops, 0, chosen.seconds, chosen.peak_bytes)
