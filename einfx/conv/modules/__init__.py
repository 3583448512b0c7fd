"""Convolutions, unfolding and folding of any number of dimensions as modules."""

from .conv import ConvNd
from .conv_transpose import ConvTransposeNd
from .fold import FoldNd
from .unfold import UnfoldNd

__all__ = ["ConvNd", "ConvTransposeNd", "FoldNd", "UnfoldNd"]
