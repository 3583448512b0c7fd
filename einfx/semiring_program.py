"""Running a plan over a semiring, with or without the places of what its sums select."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .equation import Equation
from .errors import UsageError
from .kernels.scriptable import contract_semiring
from .kernels.steps import contract_step, step_kernel
from .options import Options
from .plans import Plan, Step
from .semiring_cost import product_dtype
from .semiring_planning import DEFAULT_BUDGET_BYTES, LEAST_WORKSPACE_BYTES

__all__ = ["own_options", "run_plan", "run_plan_traced", "run_plan_with_places"]

Labels = tuple[int, ...]

SCRIPTABLE = ("log", "max_plus", "min_plus", "max_times", "max_min", "boolean")
"""Semirings that have TorchScript code."""


def run_plan(plan: Plan, operands: Sequence[Tensor]) -> Tensor:
    """The value of a plan; under a limit autograd saves the operands and computes the rest again.

    Args:
        plan: of a contraction over a semiring.
        operands: of the plan's dtype and shapes, or shapes that fit its equation.

    Returns:
        A contiguous tensor of the plan's dtype.
    """
    if plan.options.is_limited and len(plan.steps) > 1 and _is_recorded(operands):
        result: Tensor = checkpoint(lambda *tensors: _run(plan, tensors), *operands, use_reentrant=False)
        return result
    return _run(plan, operands)


def _is_recorded(operands: Sequence[Tensor]) -> bool:
    """Whether autograd alone records this: torch.func and torch.compile don't take checkpoints."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return torch.is_grad_enabled() and any(x.requires_grad for x in operands)


def _run(plan: Plan, operands: Sequence[Tensor]) -> Tensor:
    dtype = product_dtype(plan.dtype)
    values = {i: x.to(dtype) for i, x in enumerate(operands)}
    for number, step in enumerate(plan.steps, len(operands)):
        taken = [values.pop(x) for x in step.operands]
        values[number] = contract_step(
            step.equation,
            taken,
            own_options(plan, step),
            budget_bytes=_budget(plan, step, taken, len(operands), values),
        )
        del taken
    return values[len(operands) + len(plan.steps) - 1].to(plan.dtype).contiguous()


def own_options(plan: Plan, step: Step) -> Options:
    """The options of one step: which of its operands are linear ones of the whole contraction."""
    linear = plan.options.linear_operands
    return plan.options.linear(*[i for i, x in enumerate(step.operands) if x in linear])


def _budget(plan: Plan, step: Step, taken: Sequence[Tensor], count: int, values: dict[int, Tensor]) -> int:
    """What the temporaries of a step may take: the limit less the values that einfx made and keeps."""
    limit = plan.options.memory_limit
    if limit is None:
        return DEFAULT_BUDGET_BYTES
    made = [x for i, x in values.items() if i >= count]
    made += [x for i, x in zip(step.operands, taken, strict=True) if i >= count]
    shape = step.equation.output_shape([tuple(x.shape) for x in taken])
    written = taken[0].itemsize
    for size in shape:
        written *= size
    kept = sum(x.numel() * x.itemsize for x in made) + written
    return max(limit - kept, LEAST_WORKSPACE_BYTES)


def run_plan_traced(plan: Plan, operands: Sequence[Tensor]) -> Tensor:
    """The value of a plan under torch.jit.trace, which must record what depends on numbers as such.

    Raises:
        UsageError: a semiring that TorchScript has no code for.
    """
    semiring = plan.options.semiring
    if semiring.name not in SCRIPTABLE:
        raise UsageError(
            f"torch.jit.trace: semiring {semiring.name!r} can't be part of TorchScript, which has "
            f"{', '.join(SCRIPTABLE)}"
        )
    values = dict(enumerate(operands))
    for number, step in enumerate(plan.steps, len(operands)):
        own = own_options(plan, step)
        values[number] = _scripted()(
            str(step.equation),
            [values.pop(x) for x in step.operands],
            semiring.name,
            list(own.linear_operands),
            semiring.zero_annihilates,
            own.grad_of_neg_inf,
        )
    return values[len(operands) + len(plan.steps) - 1]


@cache
def _scripted() -> Callable[..., Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted: Callable[..., Tensor] = torch.jit.script(contract_semiring)
        return scripted


def run_plan_with_places(plan: Plan, operands: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The value of a plan over a semiring whose addition selects, and where its terms come from.

    Returns:
        The value, and int64 indices (*output, S) of the S summed labels, in the order of their first
        appearance. Of equal terms each step takes the first.
    """
    dtype = product_dtype(plan.dtype)
    inputs = plan.equation.inputs
    values = {i: _Placed(x.to(dtype), inputs[i], {}) for i, x in enumerate(operands)}
    for number, step in enumerate(plan.steps, len(operands)):
        taken = [values.pop(x) for x in step.operands]
        values[number] = _placed(plan.options, step.equation, taken)
    last = values[len(operands) + len(plan.steps) - 1]
    shape = last.tensor.shape
    places = [last.places[x] for x in plan.equation.summed]
    none = torch.empty((*shape, 0), dtype=torch.int64, device=last.tensor.device)
    return last.tensor.to(plan.dtype).contiguous(), torch.stack(places, -1) if places else none


class _Placed(NamedTuple):
    """A value, the labels of its dimensions in the whole equation, and the places of what was summed."""

    tensor: Tensor
    labels: Labels
    places: dict[int, Tensor]
    """For each label that was summed for it where the selected term has it, of the value's shape."""


def _placed(options: Options, equation: Equation, taken: Sequence[_Placed]) -> _Placed:
    """One step; what only one of two operands has and the result lacks is summed before, apart."""
    tensors = [value.tensor for value in taken]
    own = step_kernel(equation, tensors, options).presummed
    if any(own):
        reduced, inputs = [], []
        for value, labels, gone in zip(taken, equation.inputs, own, strict=True):
            kept = tuple(x for x in dict.fromkeys(labels) if x not in gone) if gone else labels
            reduced.append(_placed(options, Equation((labels,), kept), [value]) if gone else value)
            inputs.append(kept)
        return _placed(options, Equation(tuple(inputs), equation.output), reduced)
    result, indices = contract_step(equation, tensors, options, return_argmax=True)
    name: dict[int, int] = {}
    for labels, value in zip(equation.inputs, taken, strict=True):
        name.update(zip(labels, value.labels, strict=True))
    output = tuple(name[x] for x in equation.output)
    places = {name[x]: indices[..., i] for i, x in enumerate(equation.summed)}
    for value in taken:
        if value.places:
            where = [
                _index(label, size, output, places, result)
                for label, size in zip(value.labels, value.tensor.shape, strict=True)
            ]
            for label, place in value.places.items():
                places[label] = (
                    place[tuple(where)].expand(result.shape) if where else place.expand(result.shape)
                )
    return _Placed(result, output, places)


def _index(label: int, size: int, output: Labels, places: dict[int, Tensor], result: Tensor) -> Tensor:
    """Where in a dimension of an operand each element of the result comes from; it broadcasts to those."""
    if size == 1:
        return torch.zeros((), dtype=torch.int64, device=result.device)
    if label in places:
        return places[label]
    shape = [-1 if x == label else 1 for x in output]
    return torch.arange(size, device=result.device).reshape(shape)
