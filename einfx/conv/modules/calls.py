"""What the modules compute, as functions with torch's arguments; shapes are checked before."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..expressions import conv_transposeNd_forward, convNd_fold, convNd_forward, convNd_unfold
from ..parameters import Numbers, Paddings, conv_patterns, hashable, per_dimension
from . import portable

__all__ = ["convNd", "conv_transposeNd", "foldNd", "unfoldNd"]


def convNd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Paddings = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> Tensor:
    """A convolution: see :mod:`einfx.conv.expressions.convNd_forward`, whose errors it raises."""
    n = weight.ndim - 2
    stride, padding, dilation = hashable(stride), hashable(padding), hashable(dilation)
    convNd_forward.symbolic(tuple(x.shape), tuple(weight.shape), stride, padding, dilation, groups, False)
    sides = _sides(tuple(x.shape[-n:]), tuple(weight.shape[2:]), stride, padding, dilation)
    return portable.convolution(
        x,
        weight,
        bias,
        list(per_dimension("stride", stride, n)),
        sides,
        list(per_dimension("dilation", dilation, n)),
        groups,
    )


def conv_transposeNd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
) -> Tensor:
    """A transposed convolution: see :mod:`einfx.conv.expressions.conv_transposeNd_forward`."""
    n = weight.ndim - 2
    stride, padding, dilation = hashable(stride), hashable(padding), hashable(dilation)
    extra = hashable(output_padding)
    conv_transposeNd_forward.symbolic(
        tuple(x.shape), tuple(weight.shape), stride, padding, extra, groups, dilation, False
    )
    return portable.transposed_convolution(
        x,
        weight,
        bias,
        list(per_dimension("stride", stride, n)),
        list(per_dimension("padding", padding, n)),
        list(per_dimension("output_padding", extra, n)),
        groups,
        list(per_dimension("dilation", dilation, n)),
    )


def unfoldNd(
    x: Tensor,
    kernel_size: Numbers,
    dilation: Numbers = 1,
    padding: Paddings = 0,
    stride: Numbers = 1,
) -> Tensor:
    """Patches: see :mod:`einfx.conv.expressions.convNd_unfold`, whose errors it raises."""
    n = len(kernel_size) if isinstance(kernel_size, Sequence) else x.ndim - 2
    stride, padding, dilation = hashable(stride), hashable(padding), hashable(dilation)
    convNd_unfold.symbolic(tuple(x.shape), hashable(kernel_size), stride, padding, dilation, False)
    kernel = per_dimension("kernel_size", kernel_size, n)
    sides = _sides(tuple(x.shape[-n:]), kernel, stride, padding, dilation)
    return portable.unfold(
        x,
        list(kernel),
        list(per_dimension("dilation", dilation, n)),
        sides,
        list(per_dimension("stride", stride, n)),
    )


def foldNd(
    x: Tensor,
    output_size: Numbers,
    kernel_size: Numbers,
    dilation: Numbers = 1,
    padding: Numbers = 0,
    stride: Numbers = 1,
) -> Tensor:
    """Patches added up: see :mod:`einfx.conv.expressions.convNd_fold`, whose errors it raises."""
    lengths = [len(value) for value in (output_size, kernel_size) if isinstance(value, Sequence)]
    n = lengths[0] if lengths else 2
    stride, padding, dilation = hashable(stride), hashable(padding), hashable(dilation)
    convNd_fold.symbolic(
        tuple(x.shape), hashable(output_size), hashable(kernel_size), stride, padding, dilation, False
    )
    return portable.fold(
        x,
        list(per_dimension("output_size", output_size, n)),
        list(per_dimension("kernel_size", kernel_size, n)),
        list(per_dimension("dilation", dilation, n)),
        list(per_dimension("padding", padding, n)),
        list(per_dimension("stride", stride, n)),
    )


def _sides(
    sizes: tuple[int, ...], kernel: tuple[int, ...], stride: Numbers, padding: Paddings, dilation: Numbers
) -> list[int]:
    patterns = conv_patterns(sizes, kernel, stride, padding, dilation)
    return [side for pattern in reversed(patterns) for side in (pattern.left, pattern.right)]
