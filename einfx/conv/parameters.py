"""The hyper-parameters of convolutions over several dimensions, read and checked in one place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from ..errors import OperandError
from ..padding import Padding, integer, paddings, positive
from ..pattern import IndexPattern, pattern_of_shape
from .checks import check_rank

__all__ = [
    "Numbers",
    "Paddings",
    "conv_patterns",
    "hashable",
    "output_paddings",
    "per_dimension",
    "per_dimension_padding",
    "spatial_dimensions",
    "spatial_sizes",
    "transposed_patterns",
]

Numbers = int | Sequence[int]
"""One number for all dimensions, or one for each."""

Paddings = int | str | Sequence[int | str] | Sequence[tuple[int, int]]
"""As :data:`Numbers`, or ``"same"`` or ``"valid"``, or a pair (left, right) for each dimension."""


def hashable(value: Any) -> Any:
    """An argument as a key of a cache: sequences as tuples."""
    return tuple(hashable(x) for x in value) if isinstance(value, (list, tuple)) else value


def per_dimension(name: str, value: Numbers, dimensions: int) -> tuple[int, ...]:
    """One number for each dimension.

    Args:
        name: the name of the argument, for the error.
        value: a number, or one for each dimension.
        dimensions: how many dimensions there are.

    Raises:
        OperandError: another number of numbers, or no integers.

    Example:
        >>> per_dimension("stride", 2, 3)
        (2, 2, 2)
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != dimensions:
            raise OperandError(
                f"expected {name} to be a single integer value or a list of {dimensions} values to match the "
                f"convolution dimensions, but got {name}={list(value)}"
            )
        return tuple(integer(name, x) for x in value)
    return (integer(name, value),) * dimensions


def per_dimension_padding(value: Paddings, dimensions: int) -> tuple[Padding, ...]:
    """One padding for each dimension; raises OperandError as :func:`per_dimension` does."""
    if isinstance(value, str):
        return (value,) * dimensions
    if isinstance(value, Sequence) and any(isinstance(x, Sequence) for x in value):
        if len(value) != dimensions:
            raise OperandError(
                f"expected padding to be a list of {dimensions} values to match the convolution dimensions, "
                f"but got padding={list(value)}"
            )
        return tuple(tuple(x) if isinstance(x, (tuple, list)) else x for x in value)  # type: ignore[misc]
    return per_dimension("padding", value, dimensions)  # type: ignore[arg-type]


def conv_patterns(
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: Numbers,
    padding: Paddings,
    dilation: Numbers,
) -> tuple[IndexPattern, ...]:
    """The pattern of each dimension of a convolution.

    Args:
        input_size: the size of each dimension.
        kernel_size: the size of the kernel along each dimension.
        stride: one number, or one for each dimension.
        padding: as stride, or ``"same"``, ``"valid"``, or pairs.
        dilation: as stride.

    Raises:
        OperandError: as :class:`IndexPattern` does.

    Example:
        >>> conv_patterns((8, 9), (3, 3), 1, (1, 0), 1)
        (IndexPattern(8, 3, padding=1), IndexPattern(9, 3))
    """
    return _conv_patterns(input_size, kernel_size, hashable(stride), hashable(padding), hashable(dilation))


@lru_cache(maxsize=4096)
def _conv_patterns(
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: Numbers,
    padding: Paddings,
    dilation: Numbers,
) -> tuple[IndexPattern, ...]:
    n = len(input_size)
    strides, dilations = per_dimension("stride", stride, n), per_dimension("dilation", dilation, n)
    return tuple(
        IndexPattern(*numbers)
        for numbers in zip(
            input_size, kernel_size, strides, per_dimension_padding(padding, n), dilations, strict=True
        )
    )


def transposed_patterns(
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: Numbers,
    padding: Paddings,
    output_padding: Numbers,
    dilation: Numbers,
) -> tuple[IndexPattern, ...]:
    """The pattern of each dimension of a transposed convolution: that of the convolution it transposes.

    Its outputs are the transposed convolution's inputs.

    Args:
        input_size: the size of each dimension of the transposed convolution's input.
        kernel_size: the size of the kernel along each dimension.
        stride: of the convolution that is transposed, as are the next one and the last.
        padding: one number, or one for each dimension.
        output_padding: elements added on the right of the transposed convolution's output.
        dilation: as stride.

    Raises:
        OperandError: an output padding as large as stride and dilation, or an output without elements.

    Example:
        >>> transposed_patterns((4,), (3,), 2, 1, 1, 1)
        (IndexPattern(8, 3, stride=2, padding=1),)
    """
    return _transposed_patterns(
        input_size,
        kernel_size,
        hashable(stride),
        hashable(padding),
        hashable(output_padding),
        hashable(dilation),
    )


@lru_cache(maxsize=4096)
def _transposed_patterns(
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: Numbers,
    padding: Paddings,
    output_padding: Numbers,
    dilation: Numbers,
) -> tuple[IndexPattern, ...]:
    n = len(input_size)
    sides = per_dimension_padding(padding, n)
    if any(isinstance(side, str) for side in sides):
        raise OperandError(f"padding={padding!r} is not supported for transposed convolutions: give numbers")
    patterns = []
    for size, kernel, s, p, extra, d in zip(
        input_size,
        kernel_size,
        per_dimension("stride", stride, n),
        sides,
        per_dimension("output_padding", output_padding, n),
        per_dimension("dilation", dilation, n),
        strict=True,
    ):
        size, kernel = positive("input_size", size), positive("kernel_size", kernel)
        s, d = positive("stride", s), positive("dilation", d)
        if not 0 <= extra < max(s, d):
            raise OperandError(
                "output padding must be smaller than either stride or dilation, and not negative, but got "
                f"output_padding={extra} with stride={s} and dilation={d}"
            )
        left, right = paddings(kernel, s, p, d)
        inputs = (size - 1) * s - left - right + d * (kernel - 1) + 1 + extra
        if inputs < 1:
            raise OperandError(
                f"output size is too small: input_size={size}, kernel_size={kernel}, stride={s}, "
                f"padding={p}, output_padding={extra} and dilation={d} give {inputs} elements"
            )
        patterns.append(pattern_of_shape(kernel, size, inputs, stride=s, left=left, dilation=d))
    return tuple(patterns)


def output_paddings(
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: Numbers,
    padding: Paddings,
    output_padding: Numbers,
    output_size: Numbers | None,
    dilation: Numbers,
) -> tuple[int, ...]:
    """The output padding of a transposed convolution, or the one that leads to an ``output_size`` if given.

    Raises:
        OperandError: no output padding leads to it.

    Example:
        >>> output_paddings((4,), (3,), 2, 1, 0, 8, 1)
        (1,)
    """
    n = len(input_size)
    if output_size is None:
        return per_dimension("output_padding", output_padding, n)
    least = transposed_patterns(input_size, kernel_size, stride, padding, 0, dilation)
    sizes = per_dimension("output_size", output_size, n)
    for pattern, size in zip(least, sizes, strict=True):
        most = pattern.input_size + max(pattern.stride, pattern.dilation) - 1
        if not pattern.input_size <= size <= most:
            raise OperandError(
                f"requested output_size={list(sizes)}, but along one dimension it is from "
                f"{pattern.input_size} to {most} for input_size={list(input_size)}"
            )
    return tuple(size - pattern.input_size for pattern, size in zip(least, sizes, strict=True))


def spatial_dimensions(name: str, shape: Sequence[int], kernel_size: Numbers) -> int:
    """The number of spatial dimensions: the length of the kernel's size, else what a batched tensor has.

    Raises:
        OperandError: no such tensor has this rank.
    """
    n = len(kernel_size) if isinstance(kernel_size, Sequence) else len(shape) - 2
    if isinstance(kernel_size, str) or (isinstance(kernel_size, Sequence) and n < 1):
        raise OperandError(
            f"kernel_size should be an integer, or one for each dimension, but kernel_size={kernel_size!r}"
        )
    if n < 1:
        raise OperandError(f"expected {name} of (batch, channels, *sizes), but got size {list(shape)}")
    check_rank(name, shape, n)
    return n


def spatial_sizes(x: Tensor, dimensions: int) -> tuple[int, ...]:
    """The sizes of the last dimensions as numbers, which a compiled program is made for."""
    return tuple([int(x.shape[dim]) for dim in range(x.ndim - dimensions, x.ndim)])
