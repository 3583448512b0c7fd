"""What plans in blocks are made from: programs, what these take, what an equation is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...equation import Equation
from ...layout import contiguous_strides
from ...machine import accumulation_dtype
from ...options import Options
from ...plans import Shapes
from ..running.local_gradients import sums_in_blocks
from ..running.memory import Demand, demand
from ..schedules.derivatives import derivative
from ..schedules.flops import count_flops
from ..schedules.schedule import Schedule
from ..schedules.tree import ContractionTree, Cut, schedule
from ..search.find_schedule import Sliced

__all__ = [
    "algebra_of",
    "demand_of",
    "examples",
    "found_fields",
    "has_gradients",
    "program_of",
    "written",
]


def found_fields(made: Sliced, kept: Sequence[int], options: Options) -> dict[str, Any]:
    """The fields of a plan that a program which was found says; ``kept`` as :attr:`SlicedPlan.kept`."""
    return {
        "steps": tuple(tuple(step) for step in made.tree.path),
        "cuts": tuple((cut.value, kept[cut.label], cut.block) for cut in made.cuts),
        "repeated": tuple(sorted(made.repeated)),
        "schedule": made.schedule,
        "flops": count_flops(made.schedule, options),
        "peak_bytes": made.bytes,
        "seconds": made.demand.seconds,
    }


def examples(shapes: Shapes, strides: Shapes, dtype: torch.dtype) -> list[Tensor]:
    """Tensors without data that lie as operands do."""
    pairs = zip(shapes, strides, strict=True)
    return [torch.empty_strided(shape, own, dtype=dtype, device="meta") for shape, own in pairs]


def written(equation: Equation, letters: Sequence[str]) -> str:
    """An equation in the letters of its user."""
    inputs = ",".join("".join(letters[x] for x in labels) for labels in equation.inputs)
    return f"{inputs}->{''.join(letters[x] for x in equation.output)}"


def program_of(
    tree: ContractionTree,
    cuts: Sequence[Cut],
    repeated: Sequence[int],
    needs_grad: Sequence[bool],
    options: Options,
) -> Schedule:
    """The program of a tree with cuts, or of its gradients.

    Args:
        tree: the order of contraction.
        cuts: the loops.
        repeated: as :class:`SlicedPlan` has them.
        needs_grad: for each operand whether its gradient is computed; empty for the contraction itself.
        options: over which semiring.
    """
    return derivative(schedule(tree, cuts, repeated), options, needs_grad)[0]


def has_gradients(dtype: torch.dtype, options: Options) -> bool:
    """Whether there are plans of gradients: sums are differentiable by parts, numbers aren't integers."""
    return sums_in_blocks(options) and (dtype.is_floating_point or dtype.is_complex)


def algebra_of(options: Options) -> Options:
    """The options of every step: without the limit, and without a product of matrices of the user's own.

    What that one takes, nobody knows but its owner.
    """
    free = options.unlimited()
    return (
        free if free.semiring.matmul is None else replace(free, semiring=replace(free.semiring, matmul=None))
    )


@lru_cache(maxsize=1024)
def demand_of(
    program: Schedule, dtype: torch.dtype, device: str, options: Options, strides: Shapes
) -> Demand:
    """What a program takes, whose first operands lie as given, and all others contiguously.

    Args:
        program: the program.
        dtype: of the operands.
        device: where it runs.
        options: of the contraction.
        strides: of the first operands, in elements.
    """
    extra = [contiguous_strides(program.shape(value)) for value in range(len(strides), program.count)]
    wide = accumulation_dtype(dtype)
    return demand(program, wide, device, algebra_of(options), [*strides, *extra])
