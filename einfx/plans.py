"""A plan: a contraction as an ordered list of steps. Data that can be printed, stored and read back.

    >>> whole = Equation.parse("ij,jk->ik")
    >>> p = Plan(whole, ((2, 3), (3, 4)), torch.float32, (Step((0, 1), whole),), 48, 32, 1e-6, 48)
    >>> Plan.from_text(p.to_text()) == p
    True

Plans are made by :mod:`.planning`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from .costs.cost import Kernel, choose_kernel
from .costs.semiring_cost import SemiringKernel, choose_step
from .equation import Equation
from .errors import PlanError
from .operands import check_operand
from .options import REAL, Options

__all__ = ["Plan", "Shapes", "Step", "deriving", "linear_path", "refuse_others", "size_text"]

Shapes = tuple[tuple[int, ...], ...]

_Derive = Callable[["Plan", Sequence[bool] | None], Any]
_DERIVING: list[_Derive] = []


def deriving(function: _Derive) -> _Derive:
    """Make a function, of a room above this, what derives plans of gradients."""
    _DERIVING[:] = [function]
    return function


@dataclass(frozen=True)
class Step:
    """One contraction of a plan.

    Args:
        operands: the numbers of the values that it reads: one or two, over semirings also more.
        equation: how it contracts them.
    """

    operands: tuple[int, ...]
    equation: Equation


@dataclass(frozen=True)
class Plan:
    """An ordered list of contractions with what they are predicted to cost.

    Args:
        equation: the whole contraction.
        shapes: of its operands, for which it was planned.
        dtype: of its operands.
        steps: what to compute, in this order.
        flops: multiplications and additions of all steps.
        peak_bytes: the most that is allocated beside the operands at any time, the result included.
        seconds: predicted time.
        naive_flops: multiplications and additions of a single sum over all labels.
        device: where it is computed, as text.
        options: over which semiring, and within which limit.

    Example:
        >>> from einfx.planning import plan
        >>> p = plan(Equation.parse("ij,jk,kl->il"), [(10, 20), (20, 30), (30, 5)])
        >>> [str(step.equation) for step in p.steps], p.flops, p.naive_flops
        (['ab,bc->ac', 'ab,bc->ac'], 8000, 90000)
    """

    equation: Equation
    shapes: Shapes
    dtype: torch.dtype
    steps: tuple[Step, ...]
    flops: int
    peak_bytes: int
    seconds: float
    naive_flops: int
    device: str = field(default="cpu")
    options: Options = REAL

    @cached_property
    def value_shapes(self) -> Shapes:
        """The shape of every value: operands first, then the result of each step."""
        shapes = list(self.shapes)
        for step in self.steps:
            shapes.append(step.equation.output_shape([shapes[i] for i in step.operands]))
        return tuple(shapes)

    @cached_property
    def path(self) -> tuple[tuple[int, ...], ...]:
        """The steps in opt_einsum's linear convention: positions in a list that shrinks."""
        return linear_path(len(self.shapes), [step.operands for step in self.steps])

    def vjp(self, needs_grad: Sequence[bool] | None = None) -> Any:
        """The plan of gradients along the same path, a program without loops.

        Args:
            needs_grad: for each operand whether its gradient is computed; by default all are.

        Returns:
            The :class:`einfx.SlicedPlan`; its ``run`` takes the operands, then the gradient of the result,
            and over every semiring but the real numbers the result.

        Raises:
            PlanError: a semiring, a dtype or an option that gradients in one sweep aren't there for.

        Example:
            >>> import einfx
            >>> plan = einfx.contract_path("ij,jk->ik", (2, 3), (3, 4))
            >>> a, b, gradient = torch.ones(2, 3), torch.ones(3, 4), torch.ones(2, 4)
            >>> [x.shape for x in plan.vjp().run(a, b, gradient)]
            [torch.Size([2, 3]), torch.Size([3, 4])]
        """
        return _DERIVING[0](self, needs_grad)

    def step_options(self, step: Step) -> Options:
        """The options of one step: which of its operands are linear ones of the whole contraction."""
        linear = self.options.linear_operands
        return self.options.linear(*[i for i, x in enumerate(step.operands) if x in linear])

    def kernel(self, number: int) -> Kernel | SemiringKernel:
        """What computes a step, its operands being contiguous."""
        step = self.steps[number]
        shapes = [self.value_shapes[x] for x in step.operands]
        if self.options.is_plain:
            return choose_kernel(step.equation, shapes, self.dtype, self.device)
        return choose_step(step.equation, shapes, self.dtype, self.device, self.options)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.equation, self.shapes, self.steps, self.dtype, self.device))

    def __reduce__(self) -> tuple[Any, ...]:
        return Plan.from_text, (self.to_text(),)

    def __str__(self) -> str:
        shapes = ", ".join("x".join(map(str, s)) or "scalar" for s in self.shapes)
        over = "" if self.options.is_plain else f" over {self.options.semiring.name}"
        lines = [
            f"{self.equation}{over}  ({shapes}; {str(self.dtype).removeprefix('torch.')} on {self.device})",
            f"FLOPs {self.flops:.3e} (naive {self.naive_flops:.3e}), peak {size_text(self.peak_bytes)}, "
            f"predicted {self.seconds * 1e6:,.1f} us",
        ]
        rows = [("value", "operands", "step", "kernel", "FLOPs", "bytes")]
        for i, step in enumerate(self.steps):
            kernel = self.kernel(i)
            rows.append(
                (
                    str(len(self.shapes) + i),
                    ", ".join(map(str, step.operands)),
                    str(step.equation),
                    kernel.name,
                    f"{kernel.cost.flops:.3e}",
                    size_text(kernel.cost.bytes),
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for row in rows:
            lines.append("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip())
        return "\n".join(lines)

    def to_text(self) -> str:
        """The plan as one line of JSON, which :meth:`from_text` reads."""
        return json.dumps(
            {
                "equation": [self.equation.inputs, self.equation.output],
                "shapes": self.shapes,
                "dtype": str(self.dtype).removeprefix("torch."),
                "device": self.device,
                "steps": [[s.operands, s.equation.inputs, s.equation.output] for s in self.steps],
                "flops": self.flops,
                "peak_bytes": self.peak_bytes,
                "seconds": self.seconds,
                "naive_flops": self.naive_flops,
                "options": self.options.keywords(),
            }
        )

    @classmethod
    def from_text(cls, text: str) -> Plan:
        """Read what :meth:`to_text` wrote.

        Raises:
            PlanError: the text isn't that of a plan.
        """
        try:
            data = json.loads(text)
            inputs, output = data["equation"]
            return cls(
                equation=_equation(inputs, output),
                shapes=tuple(map(tuple, data["shapes"])),
                dtype=getattr(torch, data["dtype"]),
                steps=tuple(
                    Step(tuple(operands), _equation(step_inputs, step_output))
                    for operands, step_inputs, step_output in data["steps"]
                ),
                flops=data["flops"],
                peak_bytes=data["peak_bytes"],
                seconds=data["seconds"],
                naive_flops=data["naive_flops"],
                device=data["device"],
                options=Options.read(**data["options"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"this isn't the text of a plan: {error}") from error


def linear_path(count: int, steps: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Steps between numbered values in opt_einsum's convention: positions in a list that shrinks.

    Args:
        count: the number of operands.
        steps: for each the values that it joins; step i gives value count+i.

    Example:
        >>> linear_path(3, [(1, 2), (0, 3)])
        ((1, 2), (0, 1))
    """
    alive = list(range(count))
    path = []
    for number, step in enumerate(steps, count):
        chosen = tuple(sorted(alive.index(x) for x in step))
        path.append(chosen)
        for position in reversed(chosen):
            del alive[position]
        alive.append(number)
    return tuple(path)


def refuse_others(text: str, shapes: Shapes, dtype: torch.dtype, operands: Sequence[Any]) -> None:
    """Refuse operands that a plan isn't for.

    Args:
        text: the equation of the plan.
        shapes: for which it is.
        dtype: for which it is.
        operands: tensors.

    Raises:
        PlanError: it says which operand, and what to do.
        OperandError: something that isn't a tensor.
    """
    remedy = "plan again with einfx.contract_path, or give optimize=plan.path, which is right for any sizes"
    if len(operands) != len(shapes):
        raise PlanError(
            f"the plan of {text!r} is for {len(shapes)} operand(s), but {len(operands)} were given: {remedy}"
        )
    for position, (operand, shape) in enumerate(zip(operands, shapes, strict=True)):
        check_operand(f"the plan of {text!r}", position, operand)
        found = tuple(operand.shape)
        if found != shape or operand.dtype != dtype:
            what = f"shape {shape}" if found != shape else f"{dtype}"
            is_of = f"{found}" if found != shape else f"{operand.dtype}"
            raise PlanError(
                f"the plan of {text!r} is for an operand {position} of {what}, not of {is_of}: {remedy}"
            )


def _equation(inputs: Sequence[Sequence[int]], output: Sequence[int]) -> Equation:
    return Equation(tuple(map(tuple, inputs)), tuple(output))


def size_text(count: float) -> str:
    """A number of bytes for people.

    Example:
        >>> size_text(3 << 19)
        '1.5 MiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
