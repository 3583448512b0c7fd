"""The forms in which convolutions are computed: as expressions, natively, by other libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import einfx
from einfx.conv import expressions

from ..contests.libraries import library
from ..contests.row import Call
from .layers import Layer

__all__ = [
    "BACKWARD",
    "EINCONV",
    "EXPRESSION",
    "SINGD",
    "einconv_expression",
    "expression",
    "native",
    "native_vjp",
    "singd_patches",
]

EXPRESSION = "expression"
EINCONV = "einconv"
SINGD = "singd"
BACKWARD = "aten.convolution_backward"

_FORWARD: dict[tuple[int, bool], Callable[..., Tensor]] = {
    (1, False): F.conv1d,
    (2, False): F.conv2d,
    (3, False): F.conv3d,
    (1, True): F.conv_transpose1d,
    (2, True): F.conv_transpose2d,
    (3, True): F.conv_transpose3d,
}


def expression(name: str, *arguments: Any, **keywords: Any) -> Call:
    """An expression of einfx, built, simplified and contracted in every call.

    Args:
        name: which of ``einfx.conv.expressions``.
        arguments: what its ``einsum_expression`` takes.
        keywords: more of that.
    """
    return _built(getattr(expressions, name), einfx.einsum, arguments, keywords)


def einconv_expression(name: str, *arguments: Any, **keywords: Any) -> Call | None:
    """The same of einconv, contracted by ``torch.einsum``, as it does itself."""
    module = library(f"einconv.expressions.{name}")
    return None if module is None else _built(module, torch.einsum, arguments, keywords)


def _built(
    module: Any, contract: Callable[..., Tensor], arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> Call:
    def call() -> Tensor:
        equation, operands, shape = module.einsum_expression(*arguments, **keywords)
        return contract(equation, *operands).reshape(shape)

    return call


def native(layer: Layer) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Torch's own convolution; None where there is none of so many dimensions."""
    function = _FORWARD.get((layer.dimensions, layer.transposed))
    return None if function is None else lambda x, weight: function(x, weight, **layer.numbers())


def native_vjp(layer: Layer, x: Tensor, weight: Tensor, v: Tensor, position: int) -> Call | None:
    """Torch's own VJP, called without the rest of autograd.

    Args:
        layer: the convolution.
        x: its input.
        weight: its kernel.
        v: the vector, in the shape of its output.
        position: with respect to which: 0 for the input, 1 for the kernel.
    """
    n = layer.dimensions
    if (n, layer.transposed) not in _FORWARD:
        return None
    stride, padding, dilation, extra = (
        [number] * n for number in (layer.stride, layer.padding, 1, layer.output_padding)
    )
    mask = [position == 0, position == 1, False]
    geometry = (stride, padding, dilation, layer.transposed, extra, layer.groups)
    backward = torch.ops.aten.convolution_backward
    return lambda: backward(v, x, weight, None, *geometry, mask)[position]


def singd_patches(layer: Layer, x: Tensor) -> Call | None:
    """Averaged patches as singd extracts them, with the pattern tensors of einconv."""
    module = library("singd.optim.utils")
    if module is None or library("einconv") is None:
        return None
    extract = module._extract_averaged_patches
    return lambda: extract(x, layer.kernel, layer.stride, layer.padding, 1, layer.groups)
