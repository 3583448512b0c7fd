"""Contractions over semirings beside other libraries, and beside real contractions as the limit."""

from .report import section
from .rows import ROWS

__all__ = ["ROWS", "section"]
