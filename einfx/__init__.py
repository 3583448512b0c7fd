"""einfx: an optimizing compiler for einsum programs in PyTorch."""

from __future__ import annotations

from . import algorithms as algorithms
from . import conv as conv
from .algebra import Semiring
from .contract import einsum
from .contract_path import contract_path
from .equation import Equation
from .errors import EinfxError
from .explain import explain
from .expression import contract_expression
from .optimize import optimize
from .optimized import OptimizedModule
from .passes.jitable import jitable
from .pattern import IndexPattern
from .planning import Plan
from .report import Report
from .semiring import register_semiring, semirings
from .slicing import SlicedPlan
from .tensordot import tensordot

__version__ = "0.1.0"

__all__ = [
    "EinfxError",
    "Equation",
    "IndexPattern",
    "OptimizedModule",
    "Plan",
    "Report",
    "Semiring",
    "SlicedPlan",
    "contract_expression",
    "contract_path",
    "einsum",
    "explain",
    "jitable",
    "optimize",
    "register_semiring",
    "semirings",
    "tensordot",
]
