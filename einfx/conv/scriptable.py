"""Index patterns by functions of torch alone, for TorchScript: windows of a tensor, zeros and ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["pattern_tensor", "pattern_windows"]


def pattern_windows(
    x: Tensor, dim: int, kernel_size: int, stride: int, padding: list[int], dilation: int
) -> Tensor:
    """Windows along a dimension, as a view of the tensor or of a padded copy.

    Args:
        x: any tensor.
        dim: the dimension, from 0.
        kernel_size: positions in a window.
        stride: elements between neighbouring windows.
        padding: zeros on the left and on the right; negative numbers cut.
        dilation: elements between neighbouring positions.

    Returns:
        A tensor with outputs and kernel positions in the place of the dimension.

    Example:
        >>> pattern_windows(torch.arange(4), 0, 2, 1, [0, 0], 1).tolist()
        [[0, 1], [1, 2], [2, 3]]
    """
    left, right = padding[0], padding[1]
    if left > 0 or right > 0:
        none = [0, 0] * (x.dim() - 1 - dim)
        x = F.pad(x, none + [max(left, 0), max(right, 0)])  # noqa: RUF005 (for TorchScript)
    if left < 0 or right < 0:
        start = max(-left, 0)
        x = x.narrow(dim, start, x.size(dim) - start - max(-right, 0))
    windows = x.unfold(dim, dilation * (kernel_size - 1) + 1, stride)
    return windows[..., ::dilation].movedim(-1, dim + 1)


def pattern_tensor(
    input_size: int, kernel_size: int, stride: int, padding: list[int], dilation: int, like: Tensor
) -> Tensor:
    """A pattern as a tensor, of the dtype and on the device of another one.

    Args:
        input_size: elements of the input.
        kernel_size: elements of the kernel.
        stride: inputs between neighbouring outputs.
        padding: zeros on the left and on the right.
        dilation: inputs between neighbouring elements of the kernel.
        like: any tensor.

    Returns:
        A tensor, shape: (kernel, output, input).

    Example:
        >>> pattern_tensor(3, 2, 1, [0, 0], 1, torch.ones(1)).tolist()
        [[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]]
    """
    outputs = (input_size + padding[0] + padding[1] - dilation * (kernel_size - 1) - 1) // stride + 1
    kernels = torch.arange(kernel_size, device=like.device).view(-1, 1, 1)
    starts = torch.arange(outputs, device=like.device).view(-1, 1)
    inputs = torch.arange(input_size, device=like.device)
    return (inputs == dilation * kernels + stride * starts - padding[0]).to(like.dtype)
