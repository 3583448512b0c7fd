"""Contractions that are planned once and called often, some of their operands being constant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from .algebra import Semiring
from .dispatch import as_written, contract
from .equation import Equation
from .errors import EquationError, MemoryLimitError, OperandError, UsageError
from .given_plans import UNBOUNDED, given_plan
from .operands import as_tensor, check_operand, is_array, shape_of
from .options import KEYWORDS, Options, read_device, read_dtype, read_keywords
from .pattern import IndexPattern
from .pattern_functions import taker_of
from .planning import plan
from .plans import Plan, Step
from .semiring_dispatch import contract_over
from .slicing import SlicedPlan, examples_like, is_sliceable, letters_of, plan_within
from .stripped import contract_stripped

__all__ = ["Expression", "contract_expression"]


class Expression:
    """A planned contraction; call it with the operands that aren't constant, in their order.

    Attributes:
        plan: how all operands are contracted.
    """

    def __init__(
        self, plan: Plan | SlicedPlan, constants: Mapping[int, Tensor], strip_exponent: bool = False
    ) -> None:
        self.plan = plan
        self._stripped = strip_exponent
        self._varying = [i for i in range(len(plan.shapes)) if i not in constants]
        self._converted: dict[Any, list[Tensor]] = {}
        self._equation: Equation | None
        self._path: Any
        self._answer: Tensor | None
        if isinstance(plan, SlicedPlan) or strip_exponent:
            # What a constant is contracted to would take memory beyond the limit, or leave the range of
            # floats: it stays as it is.
            self._equation, self._path, self._answer = plan.equation, plan, None
            self._folded = [constants[i].detach() for i in sorted(constants)]
            self._order = sorted(
                range(len(plan.shapes)), key=[*self._varying, *sorted(constants)].__getitem__
            )
            self._options = plan.options
            if isinstance(plan, SlicedPlan):
                limit = UNBOUNDED if plan.memory_limit is None else plan.memory_limit
                self._options = replace(plan.options, memory_limit=limit)
            return
        self._fold(plan, constants)

    def _fold(self, plan: Plan, constants: Mapping[int, Tensor]) -> None:
        """Compute what depends on constants alone, and find the path of the rest."""
        count = len(plan.shapes)
        options = plan.options
        values: dict[int, Tensor] = {i: x.detach() for i, x in constants.items()}
        labels = dict(enumerate(plan.equation.inputs))
        waiting: list[Step] = []
        with torch.no_grad():
            for i, step in enumerate(plan.steps):
                labels[count + i] = _output_labels(step, labels)
                if all(x in values for x in step.operands):
                    folded = [values.pop(x) for x in step.operands]
                    values[count + i] = _contract(step.equation, folded, "auto", plan.step_options(step))
                else:
                    waiting.append(Step((*step.operands, count + i), step.equation))
        self._folded = [values[i] for i in sorted(values)] if waiting else []
        self._answer = None if waiting else values[count + len(plan.steps) - 1]
        alive = [*self._varying, *sorted(values)]
        self._equation = Equation(tuple(labels[i] for i in alive), plan.equation.output) if waiting else None
        path = []
        for step in waiting:
            *operands, result = step.operands
            chosen = sorted(alive.index(x) for x in operands)
            path.append(tuple(chosen))
            for position in reversed(chosen):
                del alive[position]
            alive.append(result)
        self._path = tuple(path)
        everyone = [*self._varying, *sorted(values)]
        self._options = options.linear(*[i for i, x in enumerate(everyone) if x in options.linear_operands])

    def __call__(self, *operands: Tensor) -> Any:
        """Contract; operands may have other shapes than planned for, as long as they fit the equation.

        Returns:
            The contraction; where its exponent is stripped mantissa and exponent.

        Raises:
            OperandError: another number of operands than aren't constant, or shapes that don't fit.
        """
        if len(operands) != len(self._varying):
            raise OperandError(
                f"this expression of {str(self.plan.equation)!r} takes {len(self._varying)} operand(s), but "
                f"{len(operands)} were given"
            )
        for position, operand in zip(self._varying, operands, strict=True):
            if not isinstance(operand, Tensor):
                check_operand(f"this expression of {str(self.plan.equation)!r}", position, operand)
        if self._equation is None:
            assert self._answer is not None
            return self._answer
        folded = self._converted_to(operands[0]) if operands and self._folded else self._folded
        if isinstance(self.plan, SlicedPlan) or self._stripped:
            return self._whole((*operands, *folded))
        return _contract(self._equation, (*operands, *folded), self._path, self._options)

    def _whole(self, given: Sequence[Tensor]) -> Any:
        """The contraction in the blocks that were planned; operands of other shapes along the same path."""
        plan = self.plan
        everyone = [given[i] for i in self._order]
        pairs = zip(everyone, plan.shapes, strict=True)
        fits = all(x.shape == shape and x.dtype == plan.dtype for x, shape in pairs)
        chosen = plan if fits and isinstance(plan, SlicedPlan) else plan.path
        if self._stripped:
            return contract_stripped(plan.equation, everyone, chosen, self._options)
        return _contract(plan.equation, everyone, chosen, self._options)

    def __repr__(self) -> str:
        return f"<einfx expression\n{self.plan}>"

    def _converted_to(self, like: Tensor) -> list[Tensor]:
        """The constants with the dtype and on the device of an operand."""
        key = (like.dtype, like.device)
        known = self._converted.get(key)
        if known is None:
            known = self._converted[key] = [
                x.to(like.device, x.dtype if x.is_complex() and not like.is_complex() else like.dtype)
                for x in self._folded
            ]
        return known


def contract_expression(
    equation: str,
    *shapes: Any,
    constants: Mapping[int, Tensor] | Sequence[int] = (),
    optimize: Any = "auto",
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    semiring: str | Semiring = "real",
    strip_exponent: bool = False,
    **options: Any,
) -> Expression | Any:
    """Plan a contraction once, to call it often.

    Args:
        equation: text, as in :func:`einfx.einsum`.
        shapes: the shape of each operand, or a tensor or a NumPy array like it. Calls may use other shapes;
            the order of contraction stays. Index patterns are themselves, and constant.
        constants: operands that never change. Either a mapping from positions to tensors (``shapes`` may then
            leave these out), or a sequence of positions at which ``shapes`` has the tensors. What depends on
            constants alone is computed here, once, without a graph for gradients; don't change them later.
            Under a limit nothing is computed ahead, as that would have to be kept.
        optimize: as in :func:`einfx.einsum`; a plan in blocks, or its text, is the one that is run.
        dtype: to plan for; by default that of the first tensor given here, or float32.
        device: to plan for; by default that of the first tensor given here, or the CPU.
        semiring: as in :func:`einfx.einsum`.
        strip_exponent: as in :func:`einfx.einsum`; then nothing is computed ahead either.
        options: further keywords of :func:`einfx.einsum` that belong to the semiring or limit memory.

    Returns:
        A function of the operands that aren't constant.

    Raises:
        EquationError, OperandError, PlanError: as :func:`einfx.einsum`.
        UsageError: a constant without a tensor; an option that the semiring has no use for.

    Example:
        >>> a, b = torch.ones(2, 3), torch.ones(3, 4)
        >>> expression = contract_expression("ij,jk,kl->il", a, b, (4, 5), constants=[0, 1])
        >>> expression(torch.ones(4, 5))[0]
        tensor([12., 12., 12., 12., 12.])
    """
    if not isinstance(equation, str):
        raise EquationError(f"an equation is text such as 'ij,jk->ik', not {type(equation).__name__}")
    for name in options:
        if name not in KEYWORDS:
            raise UsageError(
                f"contract_expression has no keyword {name!r}: help(einfx.contract_expression) lists those "
                "that it has"
            )
    given, known = _with_constants(equation, shapes, constants)
    example = next((x for x in given if isinstance(x, Tensor)), None)
    if example is not None:
        dtype = example.dtype if dtype is None else dtype
        device = example.device if device is None else device
    dtype = torch.float32 if dtype is None else read_dtype(dtype)
    device = torch.device("cpu") if device is None else read_device(device)
    words = read_keywords(semiring, **options)
    if any(isinstance(x, IndexPattern) for x in given):
        if strip_exponent:
            raise UsageError(
                "strip_exponent=True takes tensors; give those of index patterns: pattern.tensor(dtype)"
            )
        made = taker_of(contract_expression)
        return made(equation, given, known, dtype, device, optimize, words)
    sizes = [shape_of("contract_expression", x) for x in given]
    parsed = Equation.parse(equation, [len(s) for s in sizes])
    try:
        parsed.sizes(sizes)
    except OperandError as error:
        raise as_written(equation, error) from None
    examples = examples_like(given, sizes, dtype)
    ahead = () if strip_exponent else tuple(known)
    planned = _planned(equation, parsed, examples, device.type, optimize, words, ahead)
    return Expression(planned, known, strip_exponent)


def _with_constants(
    equation: str, shapes: Sequence[Any], constants: Any
) -> tuple[list[Any], dict[int, Tensor]]:
    """What was given for each operand, and those that are constant.

    Raises:
        UsageError: a constant that isn't there, or without a tensor.
    """
    given = [as_tensor(x, f"operand {i} of {equation!r}") if is_array(x) else x for i, x in enumerate(shapes)]
    mapping = constants if isinstance(constants, Mapping) else None
    if isinstance(constants, str) or not isinstance(constants, Iterable):
        raise UsageError(
            f"constants={constants!r}: it is a sequence of positions, such as [0], at which there are "
            "tensors, or a mapping from positions to tensors"
        )
    count = len(given) if mapping is None else equation.count(",") + 1
    positions = list(constants)
    for i in positions:
        lowest = -count if mapping is None else 0
        if not isinstance(i, Integral) or isinstance(i, bool) or not lowest <= int(i) < count:
            raise UsageError(f"constants names operand {i!r} of {equation!r}, which has {count} operand(s)")
    if mapping is not None:
        known = {int(i): mapping[i] for i in positions}
        known = {i: as_tensor(x, f"operand {i}") if is_array(x) else x for i, x in known.items()}
        if len(given) + len(known) == count:
            rest = iter(given)
            given = [known[i] if i in known else next(rest) for i in range(count)]
    else:
        known = {int(i) % count: given[i] for i in positions}
    for i, value in known.items():
        if not isinstance(value, (Tensor, IndexPattern)):
            raise UsageError(
                f"operand {i} of {equation!r} is constant, so give its tensor, not {value!r}: "
                f"contract_expression(..., constants={{{i}: tensor}})"
            )
        if isinstance(value, Tensor):
            check_operand(f"contract_expression {equation!r}", i, value)
    return given, known


def _planned(
    text: str,
    equation: Equation,
    examples: Sequence[Tensor],
    device: str,
    optimize: Any,
    options: Options,
    constants: Sequence[int],
) -> Plan | SlicedPlan:
    """The plan for operands like these, which are without data."""
    if not isinstance(optimize, str) or optimize.startswith("{"):
        optimize, given = given_plan(text, examples, optimize, options.words())
        options = replace(options, memory_limit=given[5])
    if isinstance(optimize, SlicedPlan):
        return optimize
    if examples and options.memory_limit is not None and is_sliceable(examples, options):
        try:
            return plan_within(equation, examples, device, optimize, options, letters_of(text, equation))
        except MemoryLimitError as error:
            raise as_written(text, error) from None
    return plan(
        equation,
        [tuple(x.shape) for x in examples],
        dtype=examples[0].dtype if examples else torch.float32,
        device=device,
        optimize=optimize,
        constants=tuple(sorted(constants)),
        options=options,
    )


def _contract(equation: Equation, operands: Sequence[Tensor], optimize: Any, options: Options) -> Tensor:
    if options.is_plain:
        return contract(equation, operands, optimize)
    return contract_over(equation, operands, optimize, options)  # type: ignore[no-any-return]


def _output_labels(step: Step, labels: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
    """The labels, numbered as in the whole equation, of a step's result."""
    names: dict[int, int] = {}
    for operand, own in zip(step.operands, step.equation.inputs, strict=True):
        names.update(zip(own, labels[operand], strict=True))
    return tuple(names[x] for x in step.equation.output)
