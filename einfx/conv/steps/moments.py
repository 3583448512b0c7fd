"""A tensor that meets itself, and windows that do, as the last operation of a contraction by windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

from ...equation import Equation
from ...layout import contiguous_strides
from .cost import contraction_cost, window_cost
from .operations import Moment, WindowMoment, Windows
from .tape import Tape

__all__ = ["WindowRoles", "moment", "window_moment", "window_roles"]

BLOCK_BYTES = 32 << 20
"""So much of the windows is built at once, or those of one element of the batch where these are more."""

Place = tuple[int, int, int]
"""A dimension of the source of windows, and its label in the first and in the second operand."""


class WindowRoles(NamedTuple):
    """What the dimensions are of windows that meet themselves.

    Attributes:
        batch: dimensions that are summed, as all positions of the windows are.
        groups: dimensions that both operands and the output have.
        channels: dimensions that each operand has for itself.
        kernels: the labels of the kernel positions, in the first and in the second operand.
    """

    batch: list[Place]
    groups: list[Place]
    channels: list[Place]
    kernels: list[tuple[int, int]]

    @property
    def made(self) -> list[int]:
        """The labels of the result: groups, then what the first operand has, then what the second has."""
        labels = [a for _, a, _ in self.groups]
        labels += [a for _, a, _ in self.channels] + [a for a, _ in self.kernels]
        return labels + [b for _, _, b in self.channels] + [b for _, b in self.kernels]


def window_roles(
    windows: Windows, inputs: Sequence[tuple[int, ...]], output: Sequence[int]
) -> WindowRoles | None:
    """The roles of windows that meet themselves, where both positions and the batch are summed.

    Args:
        windows: what makes them, channels first.
        inputs: the labels of both operands.
        output: the labels of the result.

    Returns:
        None where they meet in another way.
    """
    first, second = inputs
    n, start = len(windows.patterns), len(windows.channels)
    lead = len(windows.batch) + start
    dims = (*windows.channels, *[-1] * n, *windows.batch, *[-1] * n)
    batch: list[Place] = []
    groups: list[Place] = []
    channels: list[Place] = []
    for place, (dim, a, b) in enumerate(zip(dims, first, second, strict=True)):
        is_output = place >= start + n + len(windows.batch)
        is_kernel = start <= place < start + n
        if a == b and a not in output and not is_kernel:
            if not is_output:
                batch.append((dim, a, b))
        elif a == b and a in output and dim >= 0:
            groups.append((dim, a, b))
        elif a != b and a in output and b in output and not is_output:
            if not is_kernel:
                channels.append((dim, a, b))
        else:
            return None
    if len({*first}) < lead + 2 * n or len(batch) + len(groups) + len(channels) < lead:
        return None
    kernels = list(zip(first[start : start + n], second[start : start + n], strict=True))
    roles = WindowRoles(batch, groups, channels, kernels)
    return roles if sorted(roles.made) == sorted(output) else None


def window_moment(
    tape: Tape,
    sizes: Mapping[int, int],
    register: int,
    roles: WindowRoles,
    output: Sequence[int],
    scale: float,
) -> int:
    """Write down windows that meet themselves: they are built block by block.

    Args:
        tape: where the operation is written down.
        sizes: the size of each label.
        register: the windows.
        roles: of their dimensions.
        output: the labels of the result.
        scale: what the result is multiplied by.

    Returns:
        The register of the result.
    """
    windows = tape.maker(register)
    assert isinstance(windows, Windows)
    source = tape.reads(register)[0]
    in_batch = prod(sizes[a] for _, a, _ in roles.batch)
    side = prod(sizes[a] for _, a, _ in roles.channels) * prod(sizes[a] for a, _ in roles.kernels)
    count = prod(sizes[a] for _, a, _ in roles.groups)
    summed = in_batch * prod(pattern.output_size for pattern in windows.patterns)
    built = tape.item * count * side * summed
    shapes = ((count, side, summed),) * 2
    strides = (contiguous_strides(shapes[0]),) * 2
    square = Equation(((0, 1, 2), (0, 3, 2)), (0, 1, 3))
    product = contraction_cost(square, shapes, strides, tape.dtype, tape.device)
    copies = window_cost(prod(tape.shapes[source]), windows.patterns, tape.dtype, tape.device, True)
    total = copies + product
    blocks = min(built, max(built // max(in_batch, 1), BLOCK_BYTES))
    made = roles.made
    return tape.emit(
        WindowMoment(
            source,
            tuple(dim for dim, _, _ in roles.batch),
            tuple(dim for dim, _, _ in roles.groups),
            tuple(dim for dim, _, _ in roles.channels),
            windows.spatial,
            windows.patterns,
            tuple(made.index(x) for x in output),
            scale,
        ),
        (source,),
        tuple(sizes[x] for x in output),
        total._replace(workspace_bytes=blocks + copies.workspace_bytes),
    )


def moment(
    tape: Tape,
    register: int,
    equation: Equation,
    shape: tuple[int, ...],
    factors: tuple[int, ...],
    scale: float,
) -> int:
    """Write down a tensor that meets itself.

    Args:
        tape: where the operation is written down.
        register: the tensor.
        equation: how it meets itself.
        shape: of the result.
        factors: registers of one element that multiply the result.
        scale: what the result is multiplied by as well.

    Returns:
        The register of the result.
    """
    twice = (tape.shapes[register],) * 2, (tape.strides[register],) * 2
    cost = contraction_cost(equation, *twice, tape.dtype, tape.device)
    return tape.emit(Moment(register, equation, factors, scale), (register, *factors), shape, cost)
