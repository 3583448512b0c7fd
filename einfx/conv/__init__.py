"""Convolutions as einsums: expressions over symbolic index patterns, simplified and computed fast.

A convolution is a contraction with a tensor of zeros and ones for each dimension, an index pattern. It stays
symbolic: :mod:`.expressions` builds contractions with it, :func:`simplify` rewrites them,
:func:`einfx.einsum` computes them without ever building it, and the functionals are what that comes to for
common operations.

Example:
    >>> import torch
    >>> from einfx import einsum
    >>> from einfx.conv import IndexPattern, convNd, unfoldNd
    >>> x, weight = torch.randn(2, 3, 8), torch.randn(4, 3, 3)
    >>> pattern = IndexPattern(8, 3, stride=2, padding=1)
    >>> out = einsum("nci,koi,dck->ndo", x, pattern, weight)
    >>> torch.allclose(out, convNd(x, weight, stride=2, padding=1), atol=1e-5)
    True
    >>> averaged = einsum("nci,koi->nck", x, pattern) / pattern.output_size
    >>> mean = unfoldNd(x, 3, stride=2, padding=1, reduce="mean")
    >>> torch.allclose(averaged.flatten(1), mean[:, 0], atol=1e-6)
    True

How a contraction with patterns comes to its result, in the order in which a call goes through it:

========================  ==========================================================================
where                     what is there
========================  ==========================================================================
``contraction.py``        from tensors and patterns to the result; calls are planned once and kept
``planned.py``            contractions that are planned ahead, to be printed or called often
``symbolic/``             contractions as data, and their simplification by the structure of patterns
``planning/``             the search for a tree of steps, and for blocks within a memory limit
``steps/``                one step: which native convolution it is, or which operations on windows
``windows/``              what does the work: windows, their sums, their moments
``limited.py``            gradients within a memory limit
``symbolic_sizes.py``     contractions whose sizes are symbols
========================  ==========================================================================

Beside these:

========================  ==========================================================================
where                     what is there
========================  ==========================================================================
``functional.py``         functionals, with ``native.py``, ``parameters.py`` and ``checks.py``; as
                          operators of torch in ``operators.py``
``expressions/``          common operations as contractions
``modules/``              modules; in ``convert.py`` a model's convolutions are turned into them
``semirings/``            contractions over other semirings
``capture/``              convolutions of a graph that become one contraction
``gradients.py``          what lowered graphs call, with ``guards.py`` and ``scriptable.py``
========================  ==========================================================================
"""

from ..pattern import IndexPattern
from ..recognition import index_pattern, recognise
from . import contraction as contraction  # what einsum does with patterns
from . import expressions
from .convert import Conversion, convert
from .functional import conv_transposeNd, convNd, foldNd, kfac_reduceNd, kfcNd, unfoldNd
from .modules import ConvNd, ConvTransposeNd, FoldNd, UnfoldNd
from .planned import PatternExpression
from .planning.plan import ConvPlan
from .symbolic.simplify import simplify

__all__ = [
    "ConvNd",
    "ConvPlan",
    "ConvTransposeNd",
    "Conversion",
    "FoldNd",
    "IndexPattern",
    "PatternExpression",
    "UnfoldNd",
    "convNd",
    "conv_transposeNd",
    "convert",
    "expressions",
    "foldNd",
    "index_pattern",
    "kfac_reduceNd",
    "kfcNd",
    "recognise",
    "simplify",
    "unfoldNd",
]
