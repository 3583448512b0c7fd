"""The interface of opt-einsum-torch over einfx: einsums larger than the memory of a GPU, or of a CPU.

Operands may be larger than the device: blocks of them are copied there while earlier ones are computed. All
that einfx's einsum takes is taken here, an ellipsis, broadcasting, complex numbers and integers among it; the
result lies on the CPU, and has gradients. There needn't be a GPU:

    >>> import numpy, torch
    >>> a, b = numpy.ones((3, 500), dtype=numpy.float32), torch.ones(500, 4)
    >>> einsum("ij,jk->ik", a, b, cuda_device="cpu", cuda_mem_limit=0.1)[0]
    tensor([500., 500., 500., 500.])

Unlike the peer's, a result of tensors that require gradients has one too, and so it's ``result.detach()``
that becomes a NumPy array then.
"""

from __future__ import annotations

from .einsum import einsum
from .planner import EinsumPlanner

__version__ = "0.1.0"

__all__ = ["EinsumPlanner", "einsum"]
