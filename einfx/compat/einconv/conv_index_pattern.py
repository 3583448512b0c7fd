"""Index patterns as tensors that know their hyper-parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import recognition
from ...pattern import IndexPattern
from .pattern_tensor import as_pattern_tensor
from .utils import cpu

__all__ = ["index_pattern", "index_pattern_logical"]


def index_pattern(
    input_size: int,
    kernel_size: int,
    stride: int = 1,
    padding: int | str = 0,
    dilation: int = 1,
    device: torch.device = cpu,
    dtype: torch.dtype = torch.bool,
) -> Tensor:
    """Which input each position of a kernel meets for each output, along one dimension.

    Args:
        input_size: elements of the input.
        kernel_size: elements of the kernel.
        stride: inputs between neighbouring outputs.
        padding: zeros on either side, ``"same"`` or ``"valid"``.
        dilation: inputs between neighbouring elements of the kernel.
        device: where to build it.
        dtype: of its zeros and ones.

    Returns:
        A tensor, shape: (kernel_size, output_size, input_size), with the five numbers in its attribute
        ``_pattern_hyperparams``.

    Raises:
        OperandError: numbers that aren't positive, an unknown padding, or a kernel that is too large.

    Example:
        >>> index_pattern(3, 2, dtype=torch.int64).tolist()
        [[[1, 0, 0], [0, 1, 0]], [[0, 1, 0], [0, 0, 1]]]
    """
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
        # Of a tensor made in inference mode nothing tells whether it was written to.
        pattern = IndexPattern(input_size, kernel_size, stride, padding, dilation).tensor(dtype, device)
    else:
        pattern = recognition.index_pattern(input_size, kernel_size, stride, padding, dilation, device, dtype)
        symbol = recognition.recognise(pattern)
        assert symbol is not None
        pattern = as_pattern_tensor(pattern, symbol)
    pattern._pattern_hyperparams = {  # type: ignore[attr-defined]
        "input_size": input_size,
        "kernel_size": kernel_size,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
    }
    return pattern


def index_pattern_logical(
    input_size: int,
    kernel_size: int,
    stride: int = 1,
    padding: int | str = 0,
    dilation: int = 1,
    device: torch.device = cpu,
    dtype: torch.dtype = torch.bool,
) -> Tensor:
    """The same as :func:`index_pattern`, which einconv computes in two ways.

    Args:
        input_size: as are all others, see :func:`index_pattern`.
        kernel_size: elements of the kernel.
        stride: inputs between neighbouring outputs.
        padding: zeros on either side, ``"same"`` or ``"valid"``.
        dilation: inputs between neighbouring elements of the kernel.
        device: where to build it.
        dtype: of its zeros and ones.

    Returns:
        A tensor, shape: (kernel_size, output_size, input_size).

    Raises:
        OperandError: as :func:`index_pattern` does.

    Example:
        >>> torch.equal(index_pattern_logical(5, 3, padding="same"), index_pattern(5, 3, padding="same"))
        True
    """
    return index_pattern(input_size, kernel_size, stride, padding, dilation, device, dtype)
