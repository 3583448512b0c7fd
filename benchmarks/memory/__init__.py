"""Contractions under a limit: whether their peaks stay within it, and what that costs in time."""

from . import random_equations
from .sections import HEADINGS, PARTS

__all__ = ["HEADINGS", "PARTS", "random_equations"]
