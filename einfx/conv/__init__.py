"""Convolutions as einsums: expressions over symbolic index patterns, simplified and computed fast.

A convolution is a contraction with a tensor of zeros and ones for each dimension, an index pattern. It stays
symbolic: :mod:`.expressions` builds contractions with it, :func:`simplify` rewrites them, :func:`contract`
computes them without ever building it, and the functionals are what that comes to for common operations.

Example:
    >>> import torch
    >>> from einfx.conv import IndexPattern, contract, convNd, unfoldNd
    >>> x, weight = torch.randn(2, 3, 8), torch.randn(4, 3, 3)
    >>> pattern = IndexPattern(8, 3, stride=2, padding=1)
    >>> out = contract("nci,koi,dck->ndo", x, pattern, weight)
    >>> torch.allclose(out, convNd(x, weight, stride=2, padding=1), atol=1e-5)
    True
    >>> averaged = contract("nci,koi->nck", x, pattern) / pattern.output_size
    >>> mean = unfoldNd(x, 3, stride=2, padding=1, reduce="mean")
    >>> torch.allclose(averaged.flatten(1), mean[:, 0], atol=1e-6)
    True
"""

from ..pattern import IndexPattern
from ..recognition import index_pattern, recognise
from . import expressions
from .contraction import contract
from .convert import Conversion, convert
from .functional import conv_transposeNd, convNd, foldNd, kfac_reduceNd, kfcNd, unfoldNd
from .modules import ConvNd, ConvTransposeNd, FoldNd, UnfoldNd
from .planned import PatternExpression
from .planning import ConvPlan
from .simplify import simplify

__all__ = [
    "ConvNd",
    "ConvPlan",
    "ConvTransposeNd",
    "Conversion",
    "FoldNd",
    "IndexPattern",
    "PatternExpression",
    "UnfoldNd",
    "contract",
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
