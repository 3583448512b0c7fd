"""Gradients of native convolutions as functions of their own, for graphs and for TorchScript."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OperandError

__all__ = ["input_gradient", "weight_gradient"]


def weight_gradient(
    x: Tensor,
    v: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """The gradient of a convolution's kernel.

    Args:
        x: the input, shape: (batch, in_channels, *input sizes).
        v: the gradient of the output, shape: (batch, out_channels, *output sizes).
        kernel_size: elements of the kernel.
        stride: inputs between neighbouring outputs.
        padding: zeros on either side.
        dilation: inputs between neighbouring elements of the kernel.
        groups: in how many groups the channels are split.

    Returns:
        A tensor, shape: (out_channels, in_channels / groups, *kernel_size).

    Raises:
        OperandError: a gradient that is of no output of this convolution.

    Example:
        >>> weight_gradient(torch.ones(1, 1, 4), torch.ones(1, 1, 3), [2], [1], [0], [1], 1)
        tensor([[[3., 3.]]])
    """
    for i in range(len(kernel_size)):
        _check_output(x.size(2 + i), v.size(2 + i), kernel_size[i], stride[i], padding[i], dilation[i])
    weight = x.new_empty([v.size(1), x.size(1) // groups] + kernel_size)  # noqa: RUF005 (for TorchScript)
    none = [0] * len(stride)
    _, gradient, _ = torch.ops.aten.convolution_backward(
        v, x, weight, None, stride, padding, dilation, False, none, groups, [False, True, False]
    )
    result: Tensor = gradient
    return result


def input_gradient(
    v: Tensor,
    weight: Tensor,
    input_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """The gradient of a convolution's input, for input sizes that are only known in the call.

    Args:
        v: the gradient of the output, shape: (batch, out_channels, *output sizes).
        weight: the kernel, shape: (out_channels, in_channels / groups, *kernel sizes).
        input_size: the sizes of the input.
        stride: inputs between neighbouring outputs.
        padding: zeros on either side.
        dilation: inputs between neighbouring elements of the kernel.
        groups: in how many groups the channels are split.

    Returns:
        A tensor, shape: (batch, in_channels, *input_size).

    Raises:
        OperandError: a gradient that is of no output of this convolution.

    Example:
        >>> input_gradient(torch.ones(1, 1, 2), torch.ones(1, 1, 2), [5], [2], [0], [1], 1)
        tensor([[[1., 1., 1., 1., 0.]]])
    """
    extra: list[int] = []
    for i in range(len(input_size)):
        kernel, outputs = weight.size(2 + i), v.size(2 + i)
        _check_output(input_size[i], outputs, kernel, stride[i], padding[i], dilation[i])
        whole = (outputs - 1) * stride[i] + dilation[i] * (kernel - 1) + 1
        extra.append(input_size[i] + 2 * padding[i] - whole)
    if len(stride) == 1:
        return F.conv_transpose1d(v, weight, None, stride, padding, extra, groups, dilation)
    if len(stride) == 2:
        return F.conv_transpose2d(v, weight, None, stride, padding, extra, groups, dilation)
    return F.conv_transpose3d(v, weight, None, stride, padding, extra, groups, dilation)


def _check_output(inputs: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
    made = (inputs + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    if made != outputs:
        raise OperandError(
            f"a kernel of size {kernel} has {made} positions on an input of size {inputs}, with stride "
            f"{stride}, padding {padding} and dilation {dilation}, but the gradient has {outputs}"
        )
