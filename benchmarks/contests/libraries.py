"""Other libraries, where they are installed."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

__all__ = ["library"]


@cache
def library(name: str) -> Any:
    """A module of a library, or None where it can't be imported."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
