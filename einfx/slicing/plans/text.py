"""Plans in blocks as text, to be kept in a file and read back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from ...equation import Equation
from ...errors import PlanError
from ...options import Options
from ...plans import linear_path
from ..schedules.schedule import Schedule

if TYPE_CHECKING:
    from .plan import SlicedPlan

__all__ = ["broken", "plan_text", "read_fields"]

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
        PlanError: it isn't the text of a plan in blocks, or what it says of the plan can't be.
    """
    try:
        data = json.loads(text)
        inputs, output = data["equation"]
        path = _nested(data["path"])
        fields = {
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
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise PlanError(f"this isn't the text of a plan in blocks: {error}") from error
    for name, expected, is_right in _checks(fields):
        if not is_right:
            raise broken(fields["equation"], f'its "{name}" is {json.dumps(data[name])}, not {expected}')
    right = linear_path(len(fields["equation"].inputs), fields["steps"])
    if path != right:
        raise broken(
            fields["equation"],
            f'its "path" is {json.dumps(data["path"])}, but its "steps" are the path {json.dumps(right)}',
        )
    return fields


def broken(equation: Equation, why: str) -> PlanError:
    """The error about a text of a plan of which something was changed.

    Args:
        equation: what the plan is of.
        why: what is wrong.
    """
    return PlanError(
        f"this plan of {str(equation)!r} is broken: {why}; make it again by einfx.contract_path and to_text()"
    )


def _nested(data: Any) -> tuple[Any, ...]:
    return tuple(tuple(part) for part in data)


def _checks(fields: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """What the fields of a plan hold, one after the other: a name, what is expected, whether it's that.

    Each may rely on those before it.
    """
    equation, schedule = fields["equation"], fields["schedule"]
    count, ranks = len(equation.inputs), [len(labels) for labels in equation.inputs]
    letters = fields["letters"]
    yield (
        "letters",
        f"{len(equation.labels)} letters, one for each label",
        len(letters) == len(equation.labels) and all(isinstance(x, str) and x for x in letters),
    )
    for name in ("shapes", "strides"):
        parts = fields[name]
        is_right = [len(part) for part in parts] == ranks and all(_is_number(x) for y in parts for x in y)
        yield name, f"{count} lists of {ranks} whole numbers, one for each dimension of an operand", is_right
    yield "dtype", "the name of a dtype of torch", isinstance(fields["dtype"], torch.dtype)
    yield "device", "the name of a device", _is_device(fields["device"])
    yield "steps", f"steps that join values until one of {count} operand(s) is left", _joins(count, fields)
    values = count + len(fields["steps"])
    yield (
        "cuts",
        "triples: a value, a label, the length of a block",
        all(
            len(cut) == 3
            and all(map(_is_number, cut))
            and (cut[0] < values and cut[1] < len(letters) and cut[2] > 0)
            for cut in fields["cuts"]
        ),
    )
    again = [-1 - x if _is_number(x, -values) and x < 0 else x for x in fields["repeated"]]
    yield "repeated", f"values below {values}", all(_is_number(x) and x < values for x in again)
    wanted, outputs = fields["needs_grad"], len(schedule.outputs)
    is_right = all(isinstance(x, bool) for x in wanted) and len(wanted) in (0, count)
    is_right = is_right and outputs == (sum(wanted) if wanted else 1)
    given = (count + 1, count + 2) if wanted else (count,)
    expected = (
        f"a truth value for each of {count} operand(s), as its program has {outputs} result(s), or none"
    )
    yield "needs_grad", expected, is_right and schedule.count in given
    for name in _FIGURES:
        figure = fields[name]
        is_right = isinstance(figure, (int, float)) and not isinstance(figure, bool) and figure >= 0
        yield name, "a number", is_right


def _is_number(value: Any, least: int = 0) -> bool:
    """Whether a value is a whole number that torch can count to, and not less than another."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 63


def _is_device(name: Any) -> bool:
    try:
        return isinstance(name, str) and bool(torch.device(name).type)
    except RuntimeError:
        return False


def _joins(count: int, fields: Mapping[str, Any]) -> bool:
    """Whether steps make one value of so many operands, each used once."""
    alive = set(range(count))
    for made, step in enumerate(fields["steps"], count):
        if not step or not all(map(_is_number, step)) or len({*step}) < len(step) or not alive >= {*step}:
            return False
        alive = (alive - {*step}) | {made}
    return len(alive) == 1
