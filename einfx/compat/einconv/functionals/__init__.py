"""Convolutions and unfolding as functions."""

from .conv import convNd
from .unfold import unfoldNd
from .unfold_transpose import unfoldNd_transpose

__all__ = ["convNd", "unfoldNd", "unfoldNd_transpose"]
