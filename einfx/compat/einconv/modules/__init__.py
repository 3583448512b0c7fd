"""Convolutions and unfolding as modules."""

from .conv import ConvNd
from .unfold import UnfoldNd

__all__ = ["ConvNd", "UnfoldNd"]
