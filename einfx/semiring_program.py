"""Running a plan over a semiring, with or without the places of what its sums select."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .costs.semiring_cost import choose_step
from .equation import Equation
from .errors import UsageError
from .kernels.scriptable import SCRIPTABLE, contract_semiring
from .kernels.steps import PreparedStep, contract_step, prepare
from .machine import accumulation_dtype
from .modes import is_captured
from .options import Options
from .plans import Plan, Step
from .semiring_planning import DEFAULT_BUDGET_BYTES, LEAST_WORKSPACE_BYTES

__all__ = ["SemiringProgram"]

Labels = tuple[int, ...]


class SemiringProgram:
    """A plan with its steps prepared for the plan's shapes.

    Attributes:
        plan: what is computed.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._dtype = accumulation_dtype(plan.dtype)
        # The blocked kernel saves nothing but operands and result by itself.
        self._saves_more = len(plan.steps) > 1 or plan.kernel(0).name == "matmul"
        self._steps: list[tuple[tuple[int, ...], PreparedStep, int]] = []
        for step in plan.steps:
            shapes = tuple(plan.value_shapes[x] for x in step.operands)
            made = prepare(step.equation, shapes, self._dtype, plan.device, plan.step_options(step))
            self._steps.append((step.operands, made, self._budget(step)))

    def __call__(self, operands: Sequence[Tensor]) -> Tensor:
        """The value of the plan; under a limit autograd saves the operands and computes the rest again.

        Args:
            operands: of the plan's dtype and shapes.

        Returns:
            A contiguous tensor of the plan's dtype.
        """
        if self._saves_more and self.plan.options.is_limited and _is_recorded(operands):
            result: Tensor = checkpoint(lambda *tensors: self._run(tensors), *operands, use_reentrant=False)
            return result
        return self._run(operands)

    def _run(self, operands: Sequence[Tensor]) -> Tensor:
        values: list[Tensor | None] = [*operands]
        if self._dtype != self.plan.dtype:
            values = [x.to(self._dtype) for x in operands]
        for read, step, budget_bytes in self._steps:
            taken = [x for i in read if (x := values[i]) is not None]
            for i in read:
                values[i] = None
            values.append(step.run(taken, budget_bytes))
            del taken
        result = values[-1]
        assert result is not None
        return result.to(self.plan.dtype).contiguous()

    def _budget(self, step: Step) -> int:
        """What the temporaries of a step may take: the limit less the values that einfx made and keeps."""
        plan, count = self.plan, len(self.plan.shapes)
        if plan.options.memory_limit is None:
            return DEFAULT_BUDGET_BYTES
        number = plan.steps.index(step)
        later = [x for other in plan.steps[number:] for x in other.operands]
        kept = [x for x in range(count, count + number) if x in later]
        elements = sum(math.prod(plan.value_shapes[x]) for x in (*kept, count + number))
        return max(plan.options.memory_limit - elements * self._dtype.itemsize, LEAST_WORKSPACE_BYTES)

    def traced(self, operands: Sequence[Tensor]) -> Tensor:
        """The value under torch.jit.trace, which must record what depends on numbers as such.

        Raises:
            UsageError: a semiring that TorchScript has no code for.
        """
        semiring = self.plan.options.semiring
        if semiring.name not in SCRIPTABLE:
            raise UsageError(
                f"torch.jit.trace: semiring {semiring.name!r} can't be part of TorchScript, which has "
                f"{', '.join(SCRIPTABLE)}"
            )
        values = dict(enumerate(operands))
        for number, step in enumerate(self.plan.steps, len(operands)):
            own = self.plan.step_options(step)
            values[number] = _scripted()(
                str(step.equation),
                [values.pop(x) for x in step.operands],
                semiring.name,
                list(own.linear_operands),
                semiring.zero_annihilates,
                own.grad_of_neg_inf,
            )
        return values[len(operands) + len(self.plan.steps) - 1]

    def with_places(self, operands: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The value over a semiring whose addition selects, and where its terms come from.

        Returns:
            The value, and int64 indices (*output, S) of the S summed labels, in the order of their first
            appearance. Of equal terms each step takes the first.
        """
        plan = self.plan
        inputs = plan.equation.inputs
        values = {i: _Placed(x.to(self._dtype), inputs[i], {}) for i, x in enumerate(operands)}
        for number, step in enumerate(plan.steps, len(operands)):
            taken = [values.pop(x) for x in step.operands]
            values[number] = _placed(plan.options, step.equation, taken, self._budget(step))
        last = values[len(operands) + len(plan.steps) - 1]
        shape = last.tensor.shape
        first = torch.zeros((), dtype=torch.int64, device=last.tensor.device).expand(shape)
        places = [last.places.get(x, first) for x in plan.equation.summed]
        none = torch.empty((*shape, 0), dtype=torch.int64, device=last.tensor.device)
        return last.tensor.to(plan.dtype).contiguous(), torch.stack(places, -1) if places else none


def _is_recorded(operands: Sequence[Tensor]) -> bool:
    """Whether autograd alone records this: torch.func and torch.compile don't take checkpoints."""
    if is_captured() or torch._C._are_functorch_transforms_active():
        return False
    return torch.is_grad_enabled() and any(x.requires_grad for x in operands)


@cache
def _scripted() -> Callable[..., Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted: Callable[..., Tensor] = torch.jit.script(contract_semiring)
        return scripted


class _Placed(NamedTuple):
    """A value, the labels of its dimensions in the whole equation, and the places of what was summed."""

    tensor: Tensor
    labels: Labels
    places: dict[int, Tensor]
    """For each label that was summed for it where the selected term has it, of the value's shape.

    Without those that are of size 1 in it: they may be longer in another value, whose places count.
    """


def _placed(options: Options, equation: Equation, taken: Sequence[_Placed], budget_bytes: int) -> _Placed:
    """One step; what only one of two operands has and the result lacks is summed before, apart."""
    tensors = [value.tensor for value in taken]
    shapes = [tuple(x.shape) for x in tensors]
    own = choose_step(equation, shapes, tensors[0].dtype, tensors[0].device, options).presummed
    if any(own):
        reduced, inputs = [], []
        for value, labels, gone in zip(taken, equation.inputs, own, strict=True):
            kept = tuple(x for x in dict.fromkeys(labels) if x not in gone) if gone else labels
            small = Equation((labels,), kept)
            reduced.append(_placed(options, small, [value], budget_bytes) if gone else value)
            inputs.append(kept)
        return _placed(options, Equation(tuple(inputs), equation.output), reduced, budget_bytes)
    result, indices = contract_step(equation, tensors, options, budget_bytes=budget_bytes, return_argmax=True)
    name: dict[int, int] = {}
    for labels, value in zip(equation.inputs, taken, strict=True):
        name.update(zip(labels, value.labels, strict=True))
    output = tuple(name[x] for x in equation.output)
    sizes = equation.sizes(shapes)
    places = {name[x]: indices[..., i] for i, x in enumerate(equation.summed) if sizes[x] != 1}
    for value in taken:
        if value.places:
            where = tuple(
                _index(label, size, output, places, result)
                for label, size in zip(value.labels, value.tensor.shape, strict=True)
            )
            for label, place in value.places.items():
                places[label] = (place[where] if where else place).expand(result.shape)
    return _Placed(result, output, places)


def _index(label: int, size: int, output: Labels, places: dict[int, Tensor], result: Tensor) -> Tensor:
    """Where in a dimension of an operand each element of the result comes from; it broadcasts to those."""
    if size == 1:
        return torch.zeros((), dtype=torch.int64, device=result.device)
    if label in places:
        return places[label]
    shape = [-1 if x == label else 1 for x in output]
    return torch.arange(size, device=result.device).reshape(shape)
