"""Contractions over semirings beside other libraries, and beside real contractions as the limit."""

from .result import Result
from .rows import ROWS
from .running import run

__all__ = ["ROWS", "Result", "run"]
