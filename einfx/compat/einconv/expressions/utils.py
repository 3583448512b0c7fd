"""What expressions are written with: patterns for all dimensions, and equations with long names."""

from __future__ import annotations

import string

import torch
from torch import Tensor

from ....errors import EquationError
from ..conv_index_pattern import index_pattern
from ..utils import _tuple, cpu, get_conv_input_size

__all__ = [
    "create_conv_index_patterns",
    "create_conv_transpose_index_patterns",
    "get_letters",
    "translate_to_torch",
]


def create_conv_index_patterns(
    N: int,
    input_size: int | tuple[int, ...],
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] = 1,
    padding: int | str | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    device: torch.device = cpu,
    dtype: torch.dtype = torch.bool,
) -> list[Tensor]:
    """The pattern of each dimension of a convolution.

    Args:
        N: the number of dimensions.
        input_size: the sizes of the input: a number, or one for each dimension.
        kernel_size: elements of the kernel: a number, or one for each dimension.
        stride: inputs between neighbouring outputs: a number, or one for each dimension.
        padding: zeros on either side: a number, one for each dimension, ``"same"`` or ``"valid"``.
        dilation: inputs between neighbouring elements of the kernel.
        device: where to build them.
        dtype: of their zeros and ones.

    Raises:
        OperandError: hyper-parameters that don't fit one another.

    Example:
        >>> [tuple(p.shape) for p in create_conv_index_patterns(2, (5, 6), 3)]
        [(3, 3, 5), (3, 4, 6)]
    """
    sizes, kernel = _tuple(input_size, N), _tuple(kernel_size, N)
    strides, dilations = _tuple(stride, N), _tuple(dilation, N)
    sides = (padding,) * N if isinstance(padding, str) else _tuple(padding, N)
    return [
        index_pattern(sizes[n], kernel[n], strides[n], sides[n], dilations[n], device, dtype)
        for n in range(N)
    ]


def create_conv_transpose_index_patterns(
    N: int,
    output_size: int | tuple[int, ...],
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    output_padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    device: torch.device = cpu,
    dtype: torch.dtype = torch.bool,
) -> list[Tensor]:
    """The pattern of each dimension of a transposed convolution: that of the convolution it transposes.

    Args:
        N: the number of dimensions.
        output_size: the sizes of the transposed convolution's input.
        kernel_size: elements of the kernel: a number, or one for each dimension.
        stride: that of the convolution which is transposed, as are padding and dilation.
        padding: elements cut from either side of the output: a number, or one for each dimension.
        output_padding: elements added on the right of the output.
        dilation: outputs between neighbouring elements of the kernel.
        device: where to build them.
        dtype: of their zeros and ones.

    Raises:
        OperandError: hyper-parameters that don't fit one another.

    Example:
        >>> [tuple(p.shape) for p in create_conv_transpose_index_patterns(1, 4, 3, stride=2)]
        [(3, 4, 9)]
    """
    columns = (
        _tuple(value, N) for value in (output_size, kernel_size, stride, padding, output_padding, dilation)
    )
    sizes = tuple(get_conv_input_size(*numbers) for numbers in zip(*columns, strict=True))
    return create_conv_index_patterns(N, sizes, kernel_size, stride, padding, dilation, device, dtype)


def translate_to_torch(einops_equation: str) -> str:
    """An equation with long names, separated by spaces, as one with letters.

    Args:
        einops_equation: the equation.

    Returns:
        The same equation for einsum; names that are a small letter are kept.

    Raises:
        EquationError: an operand without a name, or more names than there are letters.

    Example:
        >>> translate_to_torch("row a, a column -> row column")
        'ba,ac->bc'
    """
    left, arrow, right = einops_equation.partition("->")
    parts = [part.split() for part in left.split(",")]
    if not all(parts):
        raise EquationError(f"einsum {einops_equation!r} has an operand without a name")
    names = list(dict.fromkeys(name for part in parts for name in part))
    kept = {name for name in names if len(name) == 1 and name.islower()}
    renamed = [name for name in names if name not in kept]
    letter = dict(zip(renamed, get_letters(len(renamed), kept), strict=True)) | {name: name for name in kept}
    try:
        inputs = ["".join(letter[name] for name in part) for part in parts]
        output = "".join(letter[name] for name in right.split())
    except KeyError as error:
        raise EquationError(
            f"einsum {einops_equation!r} has {error} in the output, but no operand has it"
        ) from None
    return ",".join(inputs) + arrow + output


def get_letters(num_letters: int, blocked: set[str] | None = None) -> list[str]:
    """Different small letters.

    Args:
        num_letters: how many.
        blocked: letters that aren't to be among them.

    Raises:
        EquationError: there aren't so many.

    Example:
        >>> get_letters(2, {"a"})
        ['b', 'c']
    """
    free = [letter for letter in string.ascii_lowercase if letter not in (blocked or ())]
    if num_letters > len(free):
        raise EquationError(f"{num_letters} letters are asked for, but only {len(free)} are free")
    return free[:num_letters]
