"""Contractions under a limit: whether their peaks stay within it, and what that costs in time."""

from . import example, random_equations
from .report import example_section, line, section

__all__ = ["example", "example_section", "line", "random_equations", "section"]
