"""Sizes of convolutions, and parameters of modules."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import Module

from ...errors import OperandError
from ...padding import paddings

__all__ = [
    "_tuple",
    "compare_attributes",
    "cpu",
    "get_conv_input_size",
    "get_conv_output_size",
    "get_conv_paddings",
    "sync_parameters",
]

cpu = torch.device("cpu")
"""The device of patterns unless another is asked for."""


def _tuple(conv_hyperparameter: int | tuple[int, ...], N: int) -> tuple[int, ...]:
    """A hyper-parameter for each dimension.

    Args:
        conv_hyperparameter: a number for all of them, or a tuple with one for each.
        N: the number of dimensions.

    Raises:
        OperandError: neither a number nor a tuple of ``N`` integers.

    Example:
        >>> _tuple(3, 2), _tuple((1, 2), 2)
        ((3, 3), (1, 2))
    """
    if isinstance(conv_hyperparameter, int):
        return (conv_hyperparameter,) * N
    if (
        not isinstance(conv_hyperparameter, tuple)
        or len(conv_hyperparameter) != N
        or not all(isinstance(number, int) for number in conv_hyperparameter)
    ):
        raise OperandError(
            f"a hyper-parameter of a convolution over {N} dimension(s) is an integer or a tuple of {N} "
            f"integers, not {conv_hyperparameter!r}"
        )
    return conv_hyperparameter


def sync_parameters(module1: Module, module2: Module) -> None:
    """Give one module the values of another one's parameters.

    Args:
        module1: the module with the values.
        module2: the module whose parameters get them.

    Raises:
        OperandError: parameters of other names, shapes, dtypes or devices; then nothing is changed.

    Example:
        >>> a, b = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
        >>> sync_parameters(a, b)
        >>> torch.equal(a.weight, b.weight), a.weight is b.weight
        (True, False)
    """
    source, target = dict(module1.named_parameters()), dict(module2.named_parameters())
    if source.keys() != target.keys():
        raise OperandError(f"parameters have different names: {sorted(source)} and {sorted(target)}")
    for name, parameter in source.items():
        compare_attributes(parameter, target[name], ["shape", "dtype", "device"])
    for name, parameter in source.items():
        target[name].data = parameter.data.clone()


def compare_attributes(obj1: Any, obj2: Any, attributes: list[str]) -> None:
    """Check that two objects agree.

    Args:
        obj1: one of them.
        obj2: the other one.
        attributes: the names of the attributes that should be equal.

    Raises:
        OperandError: one of them isn't.

    Example:
        >>> compare_attributes(torch.ones(2), torch.zeros(2), ["shape", "dtype"])
    """
    for name in attributes:
        first, second = getattr(obj1, name), getattr(obj2, name)
        if first != second:
            raise OperandError(f"{name!r} differs: {first} and {second}")


def get_conv_paddings(kernel_size: int, stride: int, padding: int | str, dilation: int) -> tuple[int, int]:
    """The elements of padding on the left and on the right.

    Args:
        kernel_size: elements of the kernel.
        stride: inputs between neighbouring outputs.
        padding: a number, ``"same"`` or ``"valid"``.
        dilation: inputs between neighbouring elements of the kernel.

    Raises:
        OperandError: an unknown padding, or ``"same"`` with a stride.

    Example:
        >>> get_conv_paddings(4, 1, "same", 1)
        (1, 2)
    """
    return paddings(kernel_size, stride, padding, dilation)


def get_conv_output_size(
    input_size: int, kernel_size: int, stride: int, padding: int | str, dilation: int
) -> int:
    """The size of a convolution's output; below 1 where the kernel is larger than the padded input.

    Args:
        input_size: elements of the input.
        kernel_size: elements of the kernel.
        stride: inputs between neighbouring outputs.
        padding: a number, ``"same"`` or ``"valid"``.
        dilation: inputs between neighbouring elements of the kernel.

    Raises:
        OperandError: as :func:`get_conv_paddings` does.

    Example:
        >>> get_conv_output_size(10, 3, 2, 1, 1)
        5
    """
    padded = input_size + sum(get_conv_paddings(kernel_size, stride, padding, dilation))
    return (padded - dilation * (kernel_size - 1) - 1) // stride + 1


def get_conv_input_size(
    output_size: int, kernel_size: int, stride: int, padding: int, output_padding: int, dilation: int
) -> int:
    """The size of a convolution's input, which is the output of the transposed convolution.

    Args:
        output_size: elements of the convolution's output.
        kernel_size: elements of the kernel.
        stride: inputs between neighbouring outputs.
        padding: zeros on either side.
        output_padding: elements on the right of the input that no kernel reaches.
        dilation: inputs between neighbouring elements of the kernel.

    Example:
        >>> get_conv_input_size(5, 3, 2, 1, 1, 1)
        10
    """
    return (output_size - 1) * stride + dilation * (kernel_size - 1) + 1 + output_padding - 2 * padding
