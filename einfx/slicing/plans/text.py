"""Plans in blocks as text, to be kept in a file and read back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from ...equation import Equation
from ...errors import PlanError
from ...options import Options
from ..schedules.schedule import Schedule

if TYPE_CHECKING:
    from .plan import SlicedPlan

__all__ = ["plan_text", "read_fields"]

_FIGURES = ("flops", "peak_bytes", "seconds", "naive_flops", "unlimited_flops")


def plan_text(plan: SlicedPlan) -> str:
    """A plan as one line of JSON, which :func:`read_fields` reads.

    Args:
        plan: the plan.

    Raises:
        UsageError: its semiring isn't registered, so that it has no name to write.
    """
    data = {
        "equation": [plan.equation.inputs, plan.equation.output],
        "letters": plan.letters,
        "shapes": plan.shapes,
        "strides": plan.strides,
        "dtype": str(plan.dtype).removeprefix("torch."),
        "device": plan.device,
        "options": plan.options.keywords(),
        "path": plan.path,
        "steps": plan.steps,
        "cuts": plan.cuts,
        "repeated": plan.repeated,
        "needs_grad": plan.needs_grad,
        "schedule": json.loads(plan.schedule.to_text()),
        **{name: getattr(plan, name) for name in _FIGURES},
    }
    return json.dumps(data)


def read_fields(text: str) -> dict[str, Any]:
    """The fields of the plan that :func:`plan_text` wrote.

    Args:
        text: one line of JSON.

    Raises:
        PlanError: it isn't the text of a plan in blocks.
    """
    try:
        data = json.loads(text)
        inputs, output = data["equation"]
        return {
            "equation": Equation(_nested(inputs), tuple(output)),
            "letters": tuple(data["letters"]),
            "shapes": _nested(data["shapes"]),
            "strides": _nested(data["strides"]),
            "dtype": getattr(torch, data["dtype"]),
            "device": data["device"],
            "options": Options.read(**data["options"]),
            "steps": _nested(data["steps"]),
            "cuts": _nested(data["cuts"]),
            "repeated": tuple(data["repeated"]),
            "needs_grad": tuple(data["needs_grad"]),
            "schedule": Schedule.from_text(json.dumps(data["schedule"])),
            **{name: data[name] for name in _FIGURES},
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PlanError(f"this isn't the text of a plan in blocks: {error}") from error


def _nested(data: Any) -> tuple[Any, ...]:
    return tuple(tuple(part) for part in data)
