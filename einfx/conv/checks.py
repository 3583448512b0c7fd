"""What is wrong with the operands of a convolution, in the words of torch, and with which sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import OperandError
from ..padding import integer

__all__ = [
    "check_batch",
    "check_bias",
    "check_blocks",
    "check_channels",
    "check_groups",
    "check_rank",
    "check_sizes",
    "check_tensors",
    "check_weight",
    "shape_of",
]


def shape_of(name: str, value: object) -> tuple[int, ...]:
    """The shape of a tensor; raises OperandError, which names it, where it is none.

    Example:
        >>> shape_of("input", torch.ones(2, 3))
        (2, 3)
    """
    if not isinstance(value, Tensor):
        raise _no_tensor(name, value)
    return tuple(value.shape)


def check_tensors(*named: tuple[str, Any]) -> None:
    """Raises OperandError where an operand is no tensor of numbers side by side, or some don't go together.

    They are on one device, and of one dtype unless something casts them.

    Args:
        named: the name of each operand, and what it is; None for one that isn't there.

    Example:
        >>> check_tensors(("input", torch.ones(2)), ("weight", torch.ones(2)), ("bias", None))
    """
    for name, value in named:
        # A tracer's stand-in for a tensor is none either, but goes for one.
        if not isinstance(value, Tensor) and not hasattr(value, "__torch_function__"):
            if value is None and name == "bias":
                continue
            raise _no_tensor(name, value)
        if isinstance(value, Tensor):
            _check_numbers(name, value, named[0])
        if value.dtype is not named[0][1].dtype and not torch.is_autocast_enabled(value.device.type):
            raise OperandError(
                f"{named[0][0]} type ({named[0][1].dtype}) and {name} type ({value.dtype}) should be the "
                "same: convert one of them"
            )


def _check_numbers(name: str, value: Tensor, first: tuple[str, Any]) -> None:
    """Torch takes no notice of a tensor without data beside others, and returns whatever memory holds."""
    if value.is_nested or value.layout is not torch.strided:
        kind = "nested" if value.is_nested else f"not strided ({value.layout})"
        raise OperandError(f"{name} is {kind}: convert it by .to_dense() or .to_padded_tensor(0.0)")
    if isinstance(first[1], Tensor) and value.device != first[1].device:
        raise OperandError(
            f"{first[0]} is on {first[1].device}, but {name} on {value.device}: move them to one device"
        )


def check_weight(shape: Sequence[int], groups: int) -> int:
    """The number of spatial dimensions that a weight has.

    Raises:
        OperandError: it has none, nothing at all along its first dimension, or groups that aren't positive.
    """
    if len(shape) < 3:
        raise OperandError(
            f"weight should have at least three dimensions, but got weight of size {list(shape)}"
        )
    if shape[0] < 1:
        raise OperandError(
            f"given groups={groups}, expected weight to be at least 1 at dimension 0, but got weight of size "
            f"{list(shape)}"
        )
    return len(shape) - 2


def check_bias(bias: Tensor, out_channels: int, weight: Sequence[int]) -> None:
    """Raises OperandError where a bias hasn't one number for each output channel."""
    if bias.ndim != 1 or bias.shape[0] != out_channels:
        raise OperandError(
            f"given weight of size {list(weight)}, expected bias to be 1-dimensional with {out_channels} "
            f"elements, but got bias of size {list(bias.shape)}"
        )


def check_rank(name: str, shape: Sequence[int], dimensions: int, operation: str = "conv") -> bool:
    """Whether a tensor of (batch, channels, ``dimensions`` sizes) has its batch.

    Raises:
        OperandError: neither a batched nor an unbatched tensor has this rank.
    """
    if len(shape) not in (dimensions + 1, dimensions + 2):
        raise OperandError(
            f"expected {dimensions + 1}D (unbatched) or {dimensions + 2}D (batched) input to {operation}"
            f"{dimensions}d, but got {name} of size {list(shape)}"
        )
    return len(shape) == dimensions + 2


def check_groups(name: str, channels: int, groups: int) -> int:
    """The channels of each group; raises OperandError where ``groups`` doesn't divide them."""
    groups = integer("groups", groups)
    if groups < 1:
        raise OperandError(f"non-positive groups is not supported: groups={groups}")
    if channels % groups:
        raise OperandError(f"{name} must be divisible by groups: {name}={channels}, groups={groups}")
    return channels // groups


def check_channels(name: str, channels: int, expected: int, groups: int, weight: Sequence[int]) -> None:
    """Raises OperandError where an operand of a convolution hasn't the channels that the weight asks for."""
    if channels != expected:
        raise OperandError(
            f"given groups={groups}, weight of size {list(weight)}, expected {name} to have {expected} "
            f"channels, but got {channels} channels instead"
        )


def check_batch(name: str, batch: Sequence[int], other: str, expected: Sequence[int]) -> None:
    """Raises OperandError where two operands have other batches, or only one of them has any."""
    if tuple(batch) != tuple(expected):
        have, want = (f"a batch of {b[0]}" if b else "no batch" for b in (batch, expected))
        raise OperandError(f"expected {name} to have {want}, as {other} has, but it has {have}")


def check_sizes(name: str, sizes: Sequence[int], expected: Sequence[int]) -> None:
    """Raises OperandError where the spatial sizes of an operand aren't those of the convolution."""
    if tuple(sizes) != tuple(expected):
        raise OperandError(
            f"expected {name} to have the spatial sizes {list(expected)} that its hyper-parameters give, "
            f"but got {list(sizes)}"
        )


def check_blocks(shape: Sequence[int], elements: int, outputs: Sequence[int]) -> None:
    """Raises OperandError where patches to be folded haven't the shape that their hyper-parameters give.

    Args:
        shape: of the patches, (batch, channels * kernel elements, output elements), or without the batch.
        elements: those of the kernel.
        outputs: the positions of the kernel along each dimension.
    """
    if len(shape) not in (2, 3):
        raise OperandError(
            f"expected 2D (unbatched) or 3D (batched) patches, but got input of size {list(shape)}"
        )
    rows, columns = shape[-2:]
    if rows % elements:
        raise OperandError(
            f"expected size of input's dimension {len(shape) - 2} to be divisible by the product of "
            f"kernel_size, which has {elements} elements, but got input of size {list(shape)}"
        )
    blocks = 1
    for output in outputs:
        blocks *= output
    if columns != blocks:
        product = " * ".join(map(str, outputs))
        raise OperandError(
            f"expected size of input's dimension {len(shape) - 1} to match the calculated number of sliding "
            f"blocks {product} = {blocks}, but got input of size {list(shape)}"
        )


def _no_tensor(name: str, value: object) -> OperandError:
    return OperandError(f"{name} should be a Tensor, but got {type(value).__name__}")
