"""Plans in blocks for people: in the letters of the equation, with the place where most is in use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ...plans import size_text
from ..schedules.schedule import Adjoint, Allocate, Contract, Free, Load, Loop, Schedule, Statement, Store

if TYPE_CHECKING:
    from .plan import PlannedLoop, SlicedPlan

__all__ = ["described"]


def described(plan: SlicedPlan) -> str:
    """What a plan takes, and its program.

    Args:
        plan: the plan.

    Example:
        >>> import einfx
        >>> print(einfx.contract_path("ij,jk->ik", (4, 4000), (4000, 5), memory_limit=100))
        ij,jk->ik  (4x4000, 4000x5; float32 on cpu)
        FLOPs 1.600e+05 (1.00 times the 1.600e+05 without a limit, naive 1.600e+05), predicted ... us
        peak 80 B of 100 B
        y[ik] = x0[ij] x1[jk]    <- peak
    """
    over = "" if plan.options.semiring.name == "real" else f" over {plan.options.semiring.name}"
    what = "gradients of " if plan.needs_grad else ""
    shapes = ", ".join("x".join(map(str, shape)) or "scalar" for shape in plan.shapes)
    dtype = str(plan.dtype).removeprefix("torch.")
    times = plan.flops / max(plan.unlimited_flops, 1)
    limit = "" if plan.memory_limit is None else f" of {size_text(plan.memory_limit)}"
    lines = [
        f"{what}{plan.text}{over}  ({shapes}; {dtype} on {plan.device})",
        f"FLOPs {plan.flops:.3e} ({times:.2f} times the {plan.unlimited_flops:.3e} without a limit, naive "
        f"{plan.naive_flops:.3e}), predicted {plan.seconds * 1e6:,.1f} us",
        f"peak {size_text(plan.peak_bytes)}{limit}",
        *(_loop_text(loop, len(plan.shapes)) for loop in plan.loops),
    ]
    return "\n".join([*lines, *_program(plan)])


def _loop_text(loop: PlannedLoop, count: int) -> str:
    everything = len(loop.around) == count
    names = "everything" if everything else " ".join(f"x{i}" for i in loop.around)
    return f"{loop.label} in {loop.blocks} blocks of {loop.block} around {names}"


def _program(plan: SlicedPlan) -> list[str]:
    letters = [plan.letters[label] for label in plan.kept]
    names, moments = _names(plan), iter(plan.demand.moments)
    shown: list[tuple[str, int]] = []
    for line, depth in _walk(plan.schedule.statements):
        taken = 0 if isinstance(line, Loop) else next(moments).bytes
        zeros = isinstance(line, Allocate) and (line.filled or line.gradient)
        if zeros or not (isinstance(line, Allocate) and line.value in plan.schedule.outputs):
            shown.append(("    " * depth + _shown(line, names, letters, plan.schedule), taken))
    most = max(taken for _, taken in shown)
    peak = next(number for number, (_, taken) in enumerate(shown) if taken == most)
    return [text + "    <- peak" * (number == peak) for number, (text, _) in enumerate(shown)]


def _walk(statements: Sequence[Statement], depth: int = 0) -> Iterator[tuple[Statement, int]]:
    for line in statements:
        yield line, depth
        if isinstance(line, Loop):
            yield from _walk(line.body, depth + 1)


def _names(plan: SlicedPlan) -> dict[int, str]:
    """What values are called: x0 an operand, y the result, t5 an intermediate, dx0 a gradient."""
    count = len(plan.shapes)
    names = {i: f"x{i}" for i in range(count)}
    if not plan.needs_grad:
        return {**names, plan.schedule.outputs[0]: "y"}
    names |= {count: "dy", count + 1: "y"} if plan.schedule.count > count + 1 else {count: "dy"}
    wanted = [i for i, needed in enumerate(plan.needs_grad) if needed]
    names |= {value: f"dx{i}" for value, i in zip(plan.schedule.outputs, wanted, strict=True)}
    for line, _ in _walk(plan.schedule.statements):
        if isinstance(line, Allocate) and line.gradient and line.value not in names:
            names[line.value] = f"d{line.value}"
    return names


def _shown(line: Statement, names: Mapping[int, str], letters: Sequence[str], program: Schedule) -> str:
    def value(number: int) -> str:
        labels = "".join(letters[label] for label in program.labels[number])
        return f"{names.get(number, f't{number}')}[{labels}]"

    match line:
        case Allocate(number, filled, gradient):
            return f"allocate {value(number)}" + " of zeros" * (filled or gradient)
        case Free(number):
            return f"free {value(number)}"
        case Contract(target, operands, accumulate):
            return f"{value(target)} {'+' * accumulate}= {' '.join(map(value, operands))}"
        case Adjoint(_, operands, gradient, gradients):
            wanted = " ".join(value(x) for x in gradients if x >= 0)
            return f"{wanted} += gradients by {value(gradient)} of {' '.join(map(value, operands))}"
        case Load(target, source):
            return f"load {value(target)} from {value(source)}"
        case Store(target, source, accumulate):
            return f"{'add' if accumulate else 'store'} {value(source)} to {value(target)}"
        case Loop(label, block, _):
            return f"for {letters[label]} in {-(-program.sizes[label] // block)} blocks of {block}:"
