"""What convolutions and the operations around them are, in float64 and by other means than einfx's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .forms import native
from .layers import Layer

__all__ = ["convolution", "kfac_reduce", "kfc", "mean_patches", "patches", "vjp", "windows"]


def convolution(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """The convolution of float64 operands: torch's own, or a sum over windows where it has none."""
    function = native(layer)
    if function is not None:
        return function(x, weight)
    kernel = range(2 + layer.dimensions, 2 + 2 * layer.dimensions)
    seen, over = [1, *kernel], [1, *range(2, weight.dim())]
    out: Tensor = torch.tensordot(windows(layer, x), weight, (seen, over))
    return out.movedim(-1, 1)


def vjp(layer: Layer, x: Tensor, weight: Tensor, v: Tensor, position: int) -> Tensor:
    """The derivative of :func:`convolution` by operand ``position``, times ``v``."""
    leaves = [x.double().requires_grad_(), weight.double().requires_grad_()]
    result: Tensor
    (result,) = torch.autograd.grad(convolution(layer, *leaves), leaves[position], v.double())
    return result


def windows(layer: Layer, x: Tensor) -> Tensor:
    """What each output sees, shape: (batch, channels, *output_sizes, *kernel_sizes)."""
    x = F.pad(x, (layer.padding,) * 2 * layer.dimensions)
    for dim in range(layer.dimensions):
        x = x.unfold(2 + dim, layer.kernel, layer.stride)
    return x


def patches(layer: Layer, x: Tensor) -> Tensor:
    """Columns of patches in float64, shape: (batch, channels * kernel elements, output elements)."""
    return F.unfold(x.double(), layer.kernel, padding=layer.padding, stride=layer.stride)


def mean_patches(layer: Layer, x: Tensor) -> Tensor:
    """Averaged over positions, shape: (batch, groups, side)."""
    return patches(layer, x).mean(-1).view(len(x), layer.groups, layer.side)


def kfac_reduce(layer: Layer, x: Tensor) -> Tensor:
    """The second moment of averaged patches, shape: (groups, side, side)."""
    mean = mean_patches(layer, x)
    return torch.einsum("ngp,ngq->gpq", mean, mean) / len(x)


def kfc(layer: Layer, x: Tensor) -> Tensor:
    """The second moment of patches, summed over positions, shape: (groups, side, side)."""
    columns = patches(layer, x).unflatten(1, (layer.groups, layer.side))
    return torch.einsum("ngpo,ngqo->gpq", columns, columns) / len(x)
