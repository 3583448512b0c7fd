"""Contests: rows in which einfx and others compute the same, timed in one run, with targets."""

from .result import Result
from .row import Row
from .running import run

__all__ = ["Result", "Row", "run"]
