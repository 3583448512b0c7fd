"""The interface of torch_semiring_einsum over einfx.

The functions have that package's names and signatures, those of its main branch included; what they compute
comes from einfx's contractions: along a path, by matrix products, differentiable over every semiring. A
``block_size`` bounds memory as it does there.

    >>> import torch
    >>> equation = compile_equation("bik,bkj->bij")
    >>> a, b = torch.rand(10, 3, 5).log(), torch.rand(10, 5, 7).log()
    >>> log_einsum(equation, a, b).shape
    torch.Size([10, 3, 7])
"""

from __future__ import annotations

from . import utils
from .boolean_forward import boolean_einsum_forward
from .equation import AUTOMATIC_BLOCK_SIZE, AutomaticBlockSize, Equation, compile_equation
from .extend import semiring_einsum_forward
from .function import combine
from .log_backward import log_einsum_backward
from .log_differentiable import log_einsum
from .log_forward import log_einsum_forward
from .log_viterbi_forward import log_viterbi_einsum_forward
from .max_tropical_forward import max_tropical_einsum_forward
from .min_tropical_forward import min_tropical_einsum_forward
from .real_backward import real_einsum_backward
from .real_differentiable import einsum
from .real_forward import real_einsum_forward

__version__ = "1.2.0"

__all__ = [
    "AUTOMATIC_BLOCK_SIZE",
    "AutomaticBlockSize",
    "Equation",
    "boolean_einsum_forward",
    "combine",
    "compile_equation",
    "einsum",
    "log_einsum",
    "log_einsum_backward",
    "log_einsum_forward",
    "log_viterbi_einsum_forward",
    "max_tropical_einsum_forward",
    "min_tropical_einsum_forward",
    "real_einsum_backward",
    "real_einsum_forward",
    "semiring_einsum_forward",
    "utils",
]
