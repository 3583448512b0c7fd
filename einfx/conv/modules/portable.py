"""Convolutions of any number of dimensions as compilers take them: TorchScript, torch.compile, torch.export.

The numbers are those of :mod:`einfx.conv.functional`, in torch's own functions and for sizes that may be
symbolic. Up to three dimensions are torch's. Of more, the last three are left to it: windows of the others
become channels of a convolution, and kernel positions along the others channels of a transposed one.

Lists of numbers have one for each dimension. Padding of a convolution has two, for the left and the right,
and begins with the last dimension, as in ``torch.nn.functional.pad``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["convolution", "fold", "transposed_convolution", "unfold"]


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """A convolution.

    Args:
        x: shape: (batch, in_channels, *sizes), or without the batch.
        weight: shape: (out_channels, in_channels / groups, *kernel sizes).
        bias: shape: (out_channels,).
        stride: inputs between neighbouring outputs.
        padding: zeros on either side.
        dilation: inputs between neighbouring elements of the kernel.
        groups: in how many groups the channels are split.

    Returns:
        A tensor, shape: (batch, out_channels, *output sizes), or without the batch.

    Example:
        >>> import torch
        >>> x, weight = torch.ones(1, 1, 4, 4, 4, 4), torch.ones(1, 1, 3, 3, 3, 3)
        >>> convolution(x, weight, None, [1] * 4, [0] * 8, [1] * 4, 1).flatten().unique()
        tensor([81.])
    """
    n = len(stride)
    both: list[int] = []
    even = n <= 3
    for i in range(n):
        left, right = padding[2 * (n - 1 - i)], padding[2 * (n - 1 - i) + 1]
        even = even and left == right
        both.append(left)
    if not even:
        x = F.pad(x, padding)
        both = [0] * n
    if n == 1:
        return F.conv1d(x, weight, bias, stride, both, dilation, groups)
    if n == 2:
        return F.conv2d(x, weight, bias, stride, both, dilation, groups)
    if n == 3:
        return F.conv3d(x, weight, bias, stride, both, dilation, groups)
    batched = x.dim() == n + 2
    if not batched:
        x = x.unsqueeze(0)
    for i in range(n - 3):
        # Windows to the end, so that the other dimensions keep their places.
        x = _windows(x, 2 + i, weight.size(2 + i), stride[i], dilation[i])
    # (batch, channels, *outputs, 3 sizes, *kernel) -> (batch, *outputs, channels, *kernel, 3 sizes)
    order = [0]
    for i in range(n - 3):
        order.append(2 + i)
    order.append(1)
    for i in range(n - 3):
        order.append(n + 2 + i)
    for i in range(3):
        order.append(n - 1 + i)
    x = x.permute(order)
    lead = x.shape[: n - 2]
    x = x.flatten(n - 2, 2 * n - 5).flatten(0, n - 3)
    y = F.conv3d(x, weight.flatten(1, n - 2), bias, stride[-3:], 0, dilation[-3:], groups)
    out: Tensor = y.unflatten(0, lead).movedim(n - 2, 1)
    return out if batched else out.squeeze(0)


def transposed_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    groups: int,
    dilation: list[int],
) -> Tensor:
    """A transposed convolution.

    Args:
        x: shape: (batch, in_channels, *sizes), or without the batch.
        weight: shape: (in_channels, out_channels / groups, *kernel sizes).
        bias: shape: (out_channels,).
        stride: outputs between what neighbouring inputs add.
        padding: elements cut from both sides, one number for each dimension.
        output_padding: elements added on the right.
        groups: in how many groups the channels are split.
        dilation: outputs between neighbouring elements of the kernel.

    Returns:
        A tensor, shape: (batch, out_channels, *output sizes), or without the batch.

    Example:
        >>> import torch
        >>> x, weight = torch.ones(1, 1, 2, 2, 2, 2), torch.ones(1, 1, 3, 3, 3, 3)
        >>> ones = [1] * 4
        >>> transposed_convolution(x, weight, None, ones, [0] * 4, [0] * 4, 1, ones).amax()
        tensor(16.)
    """
    n = len(stride)
    if n == 1:
        return F.conv_transpose1d(x, weight, bias, stride, padding, output_padding, groups, dilation)
    if n == 2:
        return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)
    if n == 3:
        return F.conv_transpose3d(x, weight, bias, stride, padding, output_padding, groups, dilation)
    batched = x.dim() == n + 2
    if not batched:
        x = x.unsqueeze(0)
    x = x.movedim(1, n - 2)
    lead = x.shape[: n - 2]
    kernel: list[int] = []
    for i in range(n - 3):
        kernel.append(weight.size(2 + i))
    channels = weight.size(1) * groups
    y = F.conv_transpose3d(
        x.flatten(0, n - 3),
        weight.flatten(1, n - 2),
        None,
        stride[-3:],
        padding[-3:],
        output_padding[-3:],
        groups,
        dilation[-3:],
    )
    # (batch, *sizes, channels, *kernel, 3 sizes) -> (batch, channels, *kernel, *sizes, 3 sizes)
    y = y.unflatten(1, [channels] + kernel).unflatten(0, lead)  # noqa: RUF005
    order = [0, n - 2]
    for i in range(n - 3):
        order.append(n - 1 + i)
    for i in range(n - 3):
        order.append(1 + i)
    for i in range(3):
        order.append(2 * n - 4 + i)
    sizes: list[int] = []
    for i in range(n - 3):
        span = (lead[1 + i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
        sizes.append(span - 2 * padding[i] + output_padding[i])
    y = _overlap_add(y.permute(order), sizes, stride, padding, dilation)
    if bias is not None:
        y = y + bias.to(y.dtype).view([channels] + [1] * n)
    return y if batched else y.squeeze(0)


def unfold(
    x: Tensor, kernel_size: list[int], dilation: list[int], padding: list[int], stride: list[int]
) -> Tensor:
    """Patches of an input.

    Args:
        x: shape: (batch, channels, *sizes), or without the batch.
        kernel_size: elements of a patch.
        dilation: inputs between neighbouring elements of a patch.
        padding: zeros on either side.
        stride: inputs between neighbouring patches.

    Returns:
        A tensor, shape: (batch, channels * kernel elements, patches), or without the batch.

    Example:
        >>> import torch
        >>> unfold(torch.arange(4).view(1, 4), [2], [1], [0, 0], [1])
        tensor([[0, 1, 2],
                [1, 2, 3]])
    """
    n = len(kernel_size)
    first = x.dim() - n
    x = F.pad(x, padding)
    for i in range(n):
        x = _windows(x, first + i, kernel_size[i], stride[i], dilation[i])
    for i in range(n):
        x = x.movedim(first + n + i, first + i)
    return x.flatten(first + n).flatten(first - 1, first + n - 1)


def fold(
    x: Tensor,
    output_size: list[int],
    kernel_size: list[int],
    dilation: list[int],
    padding: list[int],
    stride: list[int],
) -> Tensor:
    """Patches added up where :func:`unfold` takes them from.

    Args:
        x: shape: (batch, channels * kernel elements, patches), or without the batch.
        output_size: the size of each dimension of the result.
        kernel_size: elements of a patch.
        dilation: elements of the result between neighbouring elements of a patch.
        padding: elements cut from both sides, one number for each dimension.
        stride: elements of the result between neighbouring patches.

    Returns:
        A tensor, shape: (batch, channels, *output_size), or without the batch.

    Example:
        >>> import torch
        >>> fold(torch.ones(2, 3), [4], [2], [1], [0], [1])
        tensor([[1., 2., 2., 1.]])
    """
    n = len(kernel_size)
    if n == 2:
        return F.fold(x, output_size, kernel_size, dilation, padding, stride)  # type: ignore[arg-type]
    batched = x.dim() == 3
    if not batched:
        x = x.unsqueeze(0)
    patches: list[int] = []
    elements = 1
    for i in range(n):
        span = dilation[i] * (kernel_size[i] - 1) + 1
        patches.append((output_size[i] + 2 * padding[i] - span) // stride[i] + 1)
        elements = elements * kernel_size[i]
    x = x.unflatten(2, patches).unflatten(1, [x.size(1) // elements] + kernel_size)  # noqa: RUF005
    x = _overlap_add(x, output_size, stride, padding, dilation)
    return x if batched else x.squeeze(0)


def _windows(x: Tensor, dim: int, size: int, stride: int, dilation: int) -> Tensor:
    """A dimension as windows, with the positions in a window as the last dimension: a view."""
    return x.unfold(dim, dilation * (size - 1) + 1, stride)[..., ::dilation]


def _overlap_add(
    x: Tensor, sizes: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> Tensor:
    """(batch, channels, *kernel, *patches, *rest) added up to (batch, channels, *sizes, *rest)."""
    n = len(sizes)
    channels = x.size(1)
    for i in range(n):
        x = x.movedim(2 + n - i, 3)
        batch, inner, kernel, patches = x.size(0), x.size(1), x.size(2), x.size(3)
        rest = x.shape[4:]
        columns = x.reshape(batch, inner * kernel, -1)
        # What follows is a second dimension, which a kernel of one element leaves alone.
        whole = (patches - 1) * stride[i] + dilation[i] * (kernel - 1) + 1
        across = columns.size(2) // patches
        y = F.fold(columns, (whole, across), (kernel, 1), (dilation[i], 1), 0, (stride[i], 1))
        y = F.pad(y, [0, 0, -padding[i], sizes[i] + padding[i] - whole])
        y = y.flatten(1, 2)
        x = y.unflatten(2, rest) if len(rest) > 0 else y.squeeze(2)
    out: Tensor = x.unflatten(1, [channels] + sizes)  # noqa: RUF005
    return out
