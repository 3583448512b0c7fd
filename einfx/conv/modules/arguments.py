"""The arguments of modules, checked when they are made."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...padding import positive
from ..checks import check_groups
from ..parameters import Numbers, per_dimension

__all__ = ["conv_arguments", "dimensions", "native_class", "positive_numbers", "recording"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def positive_numbers(name: str, value: Numbers, dimensions: int) -> tuple[int, ...]:
    """One number for each dimension; raises OperandError where one isn't positive.

    Example:
        >>> positive_numbers("stride", 2, 3)
        (2, 2, 2)
    """
    return tuple(positive(name, number) for number in per_dimension(name, value, dimensions))


def conv_arguments(
    dimensions: int,
    channels: tuple[int, int, int],
    kernel_size: Numbers,
    stride: Numbers,
    dilation: Numbers,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Kernel sizes, strides and dilations, one for each dimension.

    Args:
        dimensions: how many there are.
        channels: those of the input, those of the output, and the number of groups.
        kernel_size: elements of the kernel.
        stride: that of the convolution.
        dilation: that of the convolution.

    Raises:
        OperandError: numbers that aren't positive, or channels that the groups don't divide.

    Example:
        >>> conv_arguments(2, (4, 6, 2), 3, 1, (1, 2))
        ((3, 3), (1, 1), (1, 2))
    """
    in_channels, out_channels, groups = channels
    check_groups("in_channels", positive("in_channels", in_channels), groups)
    check_groups("out_channels", positive("out_channels", out_channels), groups)
    return (
        positive_numbers("kernel_size", kernel_size, dimensions),
        positive_numbers("stride", stride, dimensions),
        positive_numbers("dilation", dilation, dimensions),
    )


def native_class(dimensions: int, classes: tuple[type[ModuleT], ...]) -> type[ModuleT]:
    """The class of torch.nn of a number of dimensions; raises UsageError where torch has none.

    Example:
        >>> native_class(2, (nn.Conv1d, nn.Conv2d, nn.Conv3d)).__name__
        'Conv2d'
    """
    if dimensions > len(classes):
        names = ", ".join(f"torch.nn.{cls.__name__}" for cls in classes)
        raise UsageError(f"no module of torch.nn has {dimensions} dimensions: there are {names}")
    return classes[dimensions - 1]


def dimensions(*values: Numbers | str) -> int:
    """How many dimensions arguments have by their lengths; 0 where all of them are single numbers.

    Example:
        >>> dimensions(3, "same", (1, 2)), dimensions(3, 1)
        (2, 0)
    """
    return next((len(value) for value in values if not isinstance(value, (int, str))), 0)


def recording(x: Tensor) -> bool:
    """Whether torch compiles, exports or traces, and sizes may be symbolic: then operations are torch's own.

    Example:
        >>> recording(torch.ones(2))
        False
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return True
    return isinstance(x, Tensor) and x.ndim > 0 and not isinstance(x.shape[0], int)
