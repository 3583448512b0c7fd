"""The padding of a convolution along one dimension, in the words of torch."""

from __future__ import annotations

import operator

from .errors import OperandError

__all__ = ["Padding", "integer", "paddings", "positive"]

Padding = int | str | tuple[int, int]
"""Elements on both sides, ``"same"``, ``"valid"``, or elements on the left and on the right."""


def paddings(kernel_size: int, stride: int, padding: Padding, dilation: int) -> tuple[int, int]:
    """The elements of padding on the left and on the right.

    Args:
        kernel_size: elements of the kernel.
        stride: inputs between neighbouring outputs.
        padding: as :class:`einfx.pattern.IndexPattern` takes it.
        dilation: inputs between neighbouring elements of the kernel.

    Raises:
        OperandError: the padding isn't known, is negative, or is ``"same"`` with a stride.

    Example:
        >>> paddings(4, 1, "same", 1)
        (1, 2)
    """
    if isinstance(padding, str):
        if padding == "valid":
            return (0, 0)
        if padding != "same":
            raise OperandError(f"invalid padding string: padding={padding!r}; it is one of 'valid', 'same'")
        if stride != 1:
            raise OperandError(f"padding='same' is not supported for strided convolutions: stride={stride}")
        total = dilation * (kernel_size - 1)
        return (total // 2, total - total // 2)
    if isinstance(padding, (tuple, list)):
        if len(padding) != 2:
            raise OperandError(
                f"padding={tuple(padding)} along one dimension should be a number, or a pair of numbers for "
                "the left and the right"
            )
        return (integer("padding", padding[0]), integer("padding", padding[1]))
    both = integer("padding", padding)
    if both < 0:
        raise OperandError(f"negative padding is not supported: padding={both}; to crop, give it as a pair")
    return (both, both)


def integer(name: str, value: object) -> int:
    """An argument as an integer; raises OperandError, which names it, where it is none."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise OperandError(f"{name} should be an integer, but {name}={value!r}") from None


def positive(name: str, value: object) -> int:
    """An argument as an integer of at least 1; raises OperandError, which names it, where it is none."""
    number = integer(name, value)
    if number < 1:
        raise OperandError(f"non-positive {name} is not supported: {name}={number}")
    return number
