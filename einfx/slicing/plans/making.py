"""Making plans in blocks: for a limit, from slices that were found elsewhere, for gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...equation import LETTERS, Equation
from ...errors import PlanError
from ...layout import contiguous_strides
from ...machine import accumulation_dtype
from ...options import Options
from ...paths.choices import hashable, paths_from
from ...planning import plan
from ...plans import Plan, deriving
from ..schedules.flops import count_flops
from ..schedules.loads import HERE, Remote
from ..schedules.plain import kept_labels, plain
from ..schedules.tree import ContractionTree, Cut, schedule
from ..search.find_schedule import Sliced
from .contraction import is_sliceable, sliced_plan
from .parts import algebra_of, demand_of, examples, found_fields, has_gradients
from .plan import SlicedPlan

__all__ = ["examples_like", "letters_of", "plan_of_slices", "plan_within"]


def examples_like(given: Sequence[Any], sizes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    """Tensors without data which lie as given tensors do; what is given as a shape is contiguous.

    Args:
        given: tensors, or shapes.
        sizes: their shapes.
        dtype: of the tensors returned.

    Example:
        >>> [x.stride() for x in examples_like((torch.ones(3, 2).T, (2, 3)), ((2, 3), (2, 3)), torch.float64)]
        [(1, 2), (3, 1)]
    """
    strides = [
        x.stride() if isinstance(x, Tensor) else contiguous_strides(size)
        for x, size in zip(given, sizes, strict=True)
    ]
    return examples(tuple(sizes), tuple(strides), dtype)


def plan_within(
    equation: Equation,
    operands: Sequence[Tensor],
    device: str,
    optimize: Any,
    options: Options,
    letters: Sequence[str] | None = None,
) -> SlicedPlan:
    """The plan that a contraction within a limit runs.

    Args:
        equation: what is contracted.
        operands: tensors like those; they may be without data.
        device: where it is computed.
        optimize: as in :func:`einfx.einsum`.
        options: over which semiring, and within which limit.
        letters: what the labels are called.

    Raises:
        MemoryLimitError: there's none.

    Example:
        >>> a, b = torch.empty(8, 4000), torch.empty(4000, 8)
        >>> options = Options.read(memory_limit="20 KiB")
        >>> plan_within(Equation.parse("ij,jk->ik"), (a, b), "cpu", "auto", options).peak_bytes
        256
    """
    simple, examined = plain(equation, operands)
    shapes = tuple(tuple(x.shape) for x in examined)
    strides = tuple(x.stride() for x in examined)
    dtype, semiring, limit = operands[0].dtype, algebra_of(options), options.memory_limit
    assert limit is not None
    wide, remote, converted = accumulation_dtype(dtype), HERE, 0
    if wide != dtype:
        # Operands are converted block by block; the result is gathered, and converted when it's done.
        remote = Remote((True,) * len(shapes), (True,), whole=True)
        converted = dtype.itemsize * prod(simple.output_shape(shapes))
    frozen = hashable(optimize)
    rest = frozen, max(limit - converted, 0), wide, device, semiring, (), torch.get_num_threads(), (), remote
    made = sliced_plan(simple, shapes, strides, *rest)
    fastest = made.tree.path
    if len(shapes) > 1:
        best = plan(simple, shapes, dtype=dtype, device=device, optimize=optimize, options=semiring)
        fastest = tuple(step.operands for step in best.steps)
    found = _plan_of(made, fastest, equation, operands, device, options, letters)
    return replace(found, peak_bytes=found.peak_bytes + converted) if converted else found


def plan_of_slices(
    equation: Equation,
    operands: Sequence[Tensor],
    device: str,
    tree: Any,
    letters: Sequence[str] | None = None,
) -> SlicedPlan | None:
    """The plan of a cotengra tree with sliced indices, which are looped around everything in blocks of 1.

    Args:
        equation: what is contracted.
        operands: tensors like those; they may be without data.
        device: where it is computed.
        tree: a cotengra tree, or anything else.
        letters: what the labels are called.

    Returns:
        The plan; None where nothing is sliced, or it is no tree.

    Raises:
        PlanError: the tree is of another contraction.
    """
    sliced = list(getattr(tree, "sliced_inds", None) or ())
    if not sliced or not hasattr(tree, "get_path"):
        return None
    known = [tuple(term) for term in getattr(tree, "inputs", ())]
    if [len(term) for term in known] != [len(labels) for labels in equation.inputs]:
        raise PlanError(
            f"optimize is a cotengra tree of {len(known)} operand(s) with {[len(x) for x in known]} indices; "
            f"einsum {str(equation)!r} is another contraction"
        )
    number: dict[Any, int] = {}
    for term, labels in zip(known, equation.inputs, strict=True):
        for index, label in zip(term, labels, strict=True):
            if number.setdefault(index, label) != label:
                raise PlanError(
                    f"optimize is a cotengra tree of another contraction than einsum {str(equation)!r}: its "
                    f"index {index!r} stands for two labels"
                )
    simple, examined = plain(equation, operands)
    kept = kept_labels(equation, operands)
    sizes = simple.sizes([x.shape for x in examined])
    path = paths_from(simple, [tuple(x.shape) for x in examined], tree)[0]
    order = ContractionTree(simple, tuple(sizes[label] for label in simple.labels), tuple(map(tuple, path)))
    looped = [kept.index(number[index]) for index in sliced]
    cuts = tuple(Cut(order.root, label, 1) for label in looped if sizes[label] > 1)
    program = schedule(order, cuts)
    options = Options.read()
    strides = tuple(x.stride() for x in examined)
    found = demand_of(program, operands[0].dtype, device, options, strides)
    made = Sliced(program, found, order, cuts)
    return _plan_of(made, order.path, equation, operands, device, options, letters)


def letters_of(text: str, equation: Equation) -> tuple[str, ...]:
    """What the labels of an equation are called in its text; those of an ellipsis get other letters.

    Args:
        text: as the user wrote it.
        equation: what was read from it.

    Example:
        >>> letters_of("...x, xy", Equation.parse("...x, xy", (2, 2)))
        ('a', 'x', 'y')
    """
    letters: dict[int, str] = {}
    parts = text.partition("->")[0].replace(" ", "").split(",")
    for part, labels in zip(parts, equation.inputs, strict=True):
        before, dots, after = part.partition("...")
        letters.update(zip(labels, before, strict=False))
        letters.update(zip(reversed(labels), reversed(after if dots else ""), strict=False))
    spare = (letter for letter in LETTERS if letter not in letters.values())
    return tuple(letters.get(label) or next(spare, "?") for label in equation.labels)


def _plan_of(
    made: Sliced,
    fastest: Sequence[tuple[int, ...]],
    equation: Equation,
    operands: Sequence[Tensor],
    device: str,
    options: Options,
    letters: Sequence[str] | None,
) -> SlicedPlan:
    shapes = tuple(tuple(x.shape) for x in operands)
    whole = schedule(ContractionTree(made.tree.equation, made.tree.sizes, tuple(fastest)))
    terms = prod(equation.sizes(shapes).values())
    return SlicedPlan(
        equation=equation,
        letters=tuple(letters or letters_of(str(equation), equation)),
        shapes=shapes,
        strides=tuple(x.stride() for x in operands),
        dtype=operands[0].dtype,
        device=device,
        options=options,
        needs_grad=(),
        naive_flops=terms * max(1, len(shapes) - 1 + bool(equation.summed)),
        unlimited_flops=count_flops(whole, options),
        **found_fields(made, kept_labels(equation, operands), options),
    )


@deriving
def _vjp(chosen: Plan, needs_grad: Sequence[bool] | None) -> SlicedPlan:
    """The plan of gradients along the path of a plan of steps."""
    strides = tuple(contiguous_strides(shape) for shape in chosen.shapes)
    operands = examples(chosen.shapes, strides, chosen.dtype)
    options = chosen.options.unlimited()
    limited = replace(options, memory_limit=0)
    if not has_gradients(chosen.dtype, options) or not is_sliceable(operands, limited):
        raise PlanError(
            f"{str(chosen.equation)!r} over {chosen.options.semiring.name!r} in {chosen.dtype} has no plan "
            "of gradients; einfx.einsum differentiates it, where it can be"
        )
    simple, examined = plain(chosen.equation, operands)
    sizes = simple.sizes([x.shape for x in examined])
    steps = tuple(step.operands for step in chosen.steps)
    tree = ContractionTree(simple, tuple(sizes[label] for label in simple.labels), steps)
    program = schedule(tree)
    found = demand_of(program, chosen.dtype, chosen.device, options, tuple(x.stride() for x in examined))
    made = Sliced(program, found, tree, ())
    return _plan_of(made, steps, chosen.equation, operands, chosen.device, options, None).vjp(needs_grad)
