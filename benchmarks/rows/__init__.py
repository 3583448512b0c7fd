"""The fixed rows, by field."""

from ..row import Row
from . import curvature, equivariant, general, pathological, tensor_networks

__all__ = ["PATHOLOGICAL", "PROGRAMS"]

PROGRAMS: tuple[Row, ...] = (*equivariant.ROWS, *curvature.ROWS, *tensor_networks.ROWS, *general.ROWS)
"""Rows that count in the geometric means."""

PATHOLOGICAL: tuple[Row, ...] = pathological.ROWS
"""Pairs on which torch.einsum is known to be slow, each with a target of its own."""
