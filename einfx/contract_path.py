"""How a contraction would be computed: ``contract_path``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .algebra import Semiring
from .dispatch import as_written
from .equation import Equation
from .errors import MemoryLimitError, OperandError
from .given_plans import read_plan
from .operands import as_tensor, is_array, shape_of
from .options import read_device, read_dtype, read_keywords
from .paths.choices import refuse_unusable
from .pattern import IndexPattern
from .pattern_functions import taker_of
from .planning import plan
from .slicing import examples_like, is_sliceable, letters_of, plan_of_slices, plan_within

__all__ = ["contract_path"]


def contract_path(
    equation: Any,
    *shapes: Any,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    optimize: Any = "auto",
    semiring: str | Semiring = "real",
    memory_limit: int | str | None = None,
) -> Any:
    """How a contraction would be computed.

    Args:
        equation: text, as in :func:`einfx.einsum`.
        shapes: the shape of each operand, or a tensor or a NumPy array like it; an index pattern is itself.
            Under a limit it counts how a tensor lies; shapes stand for contiguous ones. All are planned as
            if they were where it is computed, also those in mapped files, which einsum loads in blocks.
        dtype: of the operands; by default that of the first tensor given, or float32.
        device: where it is computed; by default that of the first tensor given, or the CPU.
        optimize: as in :func:`einfx.einsum`; of a plan for other sizes the path is taken.
        semiring: as in :func:`einfx.einsum`.
        memory_limit: as in :func:`einfx.einsum`.

    Returns:
        The plan, with ``path``, ``flops``, ``naive_flops``, ``peak_bytes``, ``seconds``. ``print`` shows it,
        ``to_text()`` keeps it, ``vjp()`` derives the plan of gradients, ``einsum(..., optimize=plan)`` runs
        it.
        Without a limit it is a :class:`einfx.Plan`: steps, each with its kernel and its cost. With a limit it
        is a :class:`einfx.SlicedPlan`: the program of loops over blocks that :func:`einfx.einsum` runs, also
        with ``loops`` and ``slices``. (Semirings that can't be cut into blocks keep a limit by the size of
        the blocks inside of each step: for those it is a :class:`einfx.Plan` too.) With index patterns it is
        an :class:`einfx.conv.planning.ConvPlan`, or one of blocks, which has the same figures.

    Raises:
        EquationError: the equation can't be read.
        OperandError: the shapes don't fit it.
        PlanError: ``optimize`` can't be used.
        MemoryLimitError: no plan stays within the limit; it says which limit would be enough.

    Example:
        >>> p = contract_path("ij,jk,kl->il", (10, 20), (20, 30), (30, 5))
        >>> p.path, p.flops
        (((1, 2), (0, 1)), 8000)

        Within a limit, labels are looped over in blocks, where they need to be:

        >>> print(contract_path("ij,jk,kl->il", (64, 99), (99, 5000), (5000, 64), memory_limit="20 KiB"))
        ij,jk,kl->il  (64x99, 99x5000, 5000x64; float32 on cpu)
        FLOPs ... (1.00 times the ... without a limit, naive ...), predicted ... us
        peak ... KiB of 20 KiB
        ...
    """
    shapes = tuple(as_tensor(x, f"operand {i}") if is_array(x) else x for i, x in enumerate(shapes))
    example = next((x for x in shapes if isinstance(x, Tensor)), None)
    if example is not None:
        dtype = example.dtype if dtype is None else dtype
        device = example.device if device is None else device
    dtype = torch.float32 if dtype is None else read_dtype(dtype)
    device = torch.device("cpu") if device is None else read_device(device)
    options = read_keywords(semiring, memory_limit=memory_limit)
    if isinstance(optimize, str) and optimize.startswith("{"):
        optimize = read_plan(optimize)
    refuse_unusable(optimize)
    if any(isinstance(x, IndexPattern) for x in shapes):
        return taker_of(contract_path)(equation, shapes, dtype, device, optimize, options)
    sizes = [shape_of("contract_path", x) for x in shapes]
    parsed = Equation.parse(equation, [len(s) for s in sizes])
    try:
        parsed.sizes(sizes)
    except OperandError as error:
        raise as_written(equation, error) from None
    kind = device.type
    operands = examples_like(shapes, sizes, dtype)
    letters = letters_of(equation, parsed)
    if options.memory_limit is None:
        limited = replace(options, memory_limit=0)
        sliced = is_sliceable(operands, limited) and plan_of_slices(parsed, operands, kind, optimize, letters)
        if sliced:
            return sliced
    elif operands and is_sliceable(operands, options):
        try:
            return plan_within(parsed, operands, kind, optimize, options, letters)
        except MemoryLimitError as error:
            raise as_written(equation, error) from None
    return plan(parsed, sizes, dtype=dtype, device=device, optimize=optimize, options=options)
