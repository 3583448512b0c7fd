"""explain(): what einfx does, or did, to a model or a contraction."""

from __future__ import annotations

from typing import Any

import torch

from .errors import UsageError
from .expression import Expression
from .optimize import optimize
from .optimized import OptimizedModule
from .planning import Plan
from .report import Report
from .slicing import SlicedPlan

__all__ = ["explain"]


def explain(subject: Any, *example_inputs: Any) -> Report | Plan | SlicedPlan:
    """Print what einfx did to an optimised module, would do to a model, or how it computes a contraction.

    Args:
        subject: an optimised module; a model, with its ``example_inputs``; an expression of
            :func:`einfx.contract_expression` or a plan of :func:`einfx.contract_path`.
        *example_inputs: positional arguments of a model that isn't optimised yet.

    Returns:
        The report, with ``to_markdown()`` and ``to_dict()``; the plan of a contraction.

    Raises:
        UsageError: ``subject`` is none of these.

    Example:
        >>> import torch, einfx
        >>> inputs = torch.ones(2, 3), torch.ones(3, 4)
        >>> report = einfx.explain(lambda a, b: torch.einsum("ij,jk", a, b), *inputs)  # doctest: +ELLIPSIS
        einfx: ...
        >>> report.flops_after
        48
    """
    report: Report | Plan | SlicedPlan
    if isinstance(subject, OptimizedModule):
        report = subject.report
    elif isinstance(subject, (Plan, SlicedPlan)):
        report = subject
    elif isinstance(subject, Expression):
        report = subject.plan
    elif isinstance(subject, torch.nn.Module) or callable(subject):
        report = optimize(subject, example_inputs).report
    else:
        raise UsageError(
            "explain takes a model, an optimised module, an expression or a plan, "
            f"not {type(subject).__name__}"
        )
    print(report)
    return report
