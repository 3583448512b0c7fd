"""Convolutions and the operations around them as einsums, one module for each.

Each has an ``einsum_expression`` that returns ``(equation, operands, shape)``. The operands are views of the
given tensors and symbolic :class:`einfx.pattern.IndexPattern` objects; contracting them, and reshaping the
result to ``shape``, computes the operation. Expressions are built and simplified once for each set of shapes
and hyper-parameters.

Example:
    >>> import torch
    >>> from einfx.conv.expressions import convNd_forward
    >>> x, weight = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    >>> equation, operands, shape = convNd_forward.einsum_expression(x, weight, padding=1)
    >>> dense = [x if isinstance(x, torch.Tensor) else x.tensor(torch.float32) for x in operands]
    >>> expected = torch.nn.functional.conv2d(x, weight, padding=1)
    >>> torch.allclose(torch.einsum(equation, *dense).reshape(shape), expected, atol=1e-4)
    True
"""

from . import (
    conv_transposeNd_forward,
    conv_transposeNd_input_vjp,
    conv_transposeNd_kfac_reduce,
    conv_transposeNd_kfc,
    conv_transposeNd_unfold,
    conv_transposeNd_weight_vjp,
    convNd_fold,
    convNd_forward,
    convNd_input_vjp,
    convNd_kfac_reduce,
    convNd_kfc,
    convNd_unfold,
    convNd_weight_vjp,
)

__all__ = [
    "convNd_fold",
    "convNd_forward",
    "convNd_input_vjp",
    "convNd_kfac_reduce",
    "convNd_kfc",
    "convNd_unfold",
    "convNd_weight_vjp",
    "conv_transposeNd_forward",
    "conv_transposeNd_input_vjp",
    "conv_transposeNd_kfac_reduce",
    "conv_transposeNd_kfc",
    "conv_transposeNd_unfold",
    "conv_transposeNd_weight_vjp",
]
