"""Convolutions and the operations around them beside torch's own and other libraries'."""

from . import building
from .report import missed, section
from .rows import ROWS

__all__ = ["ROWS", "SHARE", "building", "missed", "section"]

SHARE = 0.4
"""Which part of the time for a row each of these gets: they are many."""
