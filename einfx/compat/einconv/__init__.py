"""The interface of einconv over einfx: convolutions and what belongs to them as einsum expressions.

Names, signatures, the order of operands and shapes are those of einconv's main branch. Expressions have
patterns as tensors, for any einsum; ``einfx.conv.expressions`` has them as symbols, which cost nothing.
Functionals and modules run on native kernels and views:

    >>> program = '''
    ... import einfx.compat
    ... einfx.compat.install("einconv")  # before anything imports it
    ... import einconv, torch
    ... print(einconv.index_pattern(3, 2)._pattern_hyperparams)
    ... '''
    >>> import subprocess, sys
    >>> print(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout)
    {'input_size': 3, 'kernel_size': 2, 'stride': 1, 'padding': 0, 'dilation': 1}

Beyond einconv: inputs without a batch, padding modes, transposed convolutions, symbolic tracing, errors which
name the sizes. Its internals ``simplifications.opt`` and ``simplifications.symbolic`` aren't here.
"""

from .conv_index_pattern import index_pattern
from .simplifications import simplify

__version__ = "0.1.0"

__all__ = ["index_pattern", "simplify"]
