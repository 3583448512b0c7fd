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
