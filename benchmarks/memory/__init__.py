"""Contractions under a limit: whether their peaks stay within it, and what that costs in time."""

from . import curves, disk, example, models, plots, random_equations, slicing_quality
from .report import curves_section, disk_section, example_section, line, models_section, section

__all__ = [
    "curves",
    "curves_section",
    "disk",
    "disk_section",
    "example",
    "example_section",
    "line",
    "models",
    "models_section",
    "plots",
    "random_equations",
    "section",
    "slicing_quality",
]
