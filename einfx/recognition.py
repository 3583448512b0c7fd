"""Tensors that are index patterns: made to remember it, or recognised by their values."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from .errors import OperandError
from .operands import check_operand
from .padding import Padding
from .pattern import IndexPattern, pattern_of_shape

__all__ = ["index_pattern", "recognise"]

_REMEMBERED = "_einfx_index_pattern"


def index_pattern(
    input_size: int,
    kernel_size: int,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.bool,
) -> Tensor:
    """The tensor of an :class:`IndexPattern`, which remembers from which numbers it was made.

    Args:
        input_size: as are the four that follow, see :class:`IndexPattern`.
        kernel_size: elements of the kernel.
        stride: inputs between neighbouring outputs.
        padding: zeros on either side.
        dilation: inputs between neighbouring elements of the kernel.
        device: where to build it.
        dtype: the dtype of its zeros and ones.

    Returns:
        A tensor, shape: (kernel, output, input). :func:`recognise` tells what it is, as it does for copies
        and conversions, by their values.

    Raises:
        OperandError: as :class:`IndexPattern` does.

    Example:
        >>> pattern = index_pattern(7, 3, padding="same")
        >>> recognise(pattern), recognise(pattern.to(torch.float64))
        (IndexPattern(7, 3, padding=1), IndexPattern(7, 3, padding=1))
    """
    pattern = IndexPattern(input_size, kernel_size, stride, padding, dilation)
    tensor = pattern.tensor(dtype, device)
    # With the version: a tensor that was written to since is looked at again. Nothing counts writes in
    # inference mode, so there values say what a tensor is.
    if not tensor.is_inference():
        setattr(tensor, _REMEMBERED, (pattern, tensor._version))
    return tensor


def recognise(tensor: Tensor) -> IndexPattern | None:
    """The index pattern that a tensor is, by what it remembers or else by its values.

    Args:
        tensor: any tensor; one that is not of three dimensions is no pattern.

    Returns:
        A pattern with this tensor, or None where there is none, the values can't be read (a meta tensor), or
        the tensor holds no one, so that any large padding would explain it.

    Raises:
        OperandError: something that isn't a tensor, or one whose elements don't lie side by side.

    Example:
        >>> recognise(IndexPattern(9, 4, stride=3, padding=2).tensor(torch.float32))
        IndexPattern(9, 4, stride=3, padding=2)
        >>> recognise(torch.ones(2, 2, 2)) is None
        True
    """
    if not isinstance(tensor, Tensor):
        shown = f"{tensor!r}, which is an index pattern already"
        if not isinstance(tensor, IndexPattern):
            shown = f"a {type(tensor).__name__}; convert it by torch.as_tensor"
        raise OperandError(f"recognise takes a torch.Tensor, not {shown}")
    check_operand("recognise", 0, tensor)
    remembered = None if tensor.is_inference() else getattr(tensor, _REMEMBERED, None)
    if remembered is not None and remembered[1] == tensor._version:
        pattern: IndexPattern = remembered[0]
        return pattern
    if tensor.ndim != 3 or tensor.numel() == 0 or tensor.device.type == "meta":
        return None
    mask = tensor.detach() != 0
    points = mask.nonzero().tolist()
    # One input at most for each output and kernel position, and ones only.
    if not 0 < len(points) <= tensor.shape[0] * tensor.shape[1]:
        return None
    if tensor.dtype != torch.bool and not bool((tensor.detach()[mask] == 1).all()):
        return None
    kernel, output, inputs = tensor.shape
    for stride, dilation in _steps(points, kernel, output):
        left = dilation * points[0][0] + stride * points[0][1] - points[0][2]
        pattern = pattern_of_shape(kernel, output, inputs, stride=stride, left=left, dilation=dilation)
        if pattern.ones == len(points) and all(dilation * k + stride * o - left == i for k, o, i in points):
            return pattern
    return None


def _steps(points: list[list[int]], kernel: int, output: int) -> list[tuple[int, int]]:
    """Candidates for stride and dilation from the positions of ones, sorted by kernel, output, input."""
    strides = [(b[2] - a[2]) // (b[1] - a[1]) for a, b in pairwise(points) if a[0] == b[0] and a[1] != b[1]][
        :1
    ]
    by_output = sorted(points, key=lambda point: (point[1], point[0]))
    dilations = [
        (b[2] - a[2]) // (b[0] - a[0]) for a, b in pairwise(by_output) if a[1] == b[1] and a[0] != b[0]
    ][:1]
    # Where padding hides one of them, small numbers are tried; any that explains the tensor is right.
    tried = list(range(1, 17))
    strides = strides or ([1] if output == 1 else tried)
    dilations = dilations or ([1] if kernel == 1 else tried)
    return [(s, d) for s in strides for d in dilations if s > 0 and d > 0]
