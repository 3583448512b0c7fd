"""Hypothesis strategies that make whole programs: contractions in chains and trees, and all around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st

from tests.builder import Builder, Operation
from tests.operations import (
    ARRANGE,
    CONTRACT,
    MUTATE,
    SCALE,
    SMOOTH,
    cast,
    divide,
    einsum,
    scale,
    transpose,
    view,
)
from tests.pattern_operations import convolution, patterned
from tests.program import Program

__all__ = ["FLAVOURS", "Flavour", "programs"]


@dataclass(frozen=True)
class Flavour:
    """What programs are made of: operations as often as they're listed, over inputs of these dtypes."""

    operations: tuple[Operation, ...]
    dtypes: tuple[torch.dtype, ...] = (torch.float64,)
    lines: tuple[int, int] = (2, 9)


MIXED = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.int32)

FLAVOURS = {
    "contractions": Flavour(CONTRACT * 4 + SCALE * 2 + ARRANGE + SMOOTH),
    "scalars": Flavour(CONTRACT * 2 + SCALE * 4 + ARRANGE + SMOOTH),
    "views": Flavour(CONTRACT * 2 + SCALE + ARRANGE * 5 + SMOOTH),
    "mutations": Flavour(CONTRACT * 2 + SCALE * 2 + ARRANGE * 2 + SMOOTH + MUTATE * 8),
    "dtypes": Flavour(CONTRACT * 2 + SCALE * 2 + ARRANGE + SMOOTH + (cast,), MIXED),
    "patterns": Flavour(
        (convolution,) * 8 + (patterned,) * 2 + CONTRACT + SCALE * 2 + ARRANGE + SMOOTH, lines=(2, 7)
    ),
    "complex": Flavour(CONTRACT * 2 + SCALE * 2 + ARRANGE + SMOOTH, (torch.complex128, torch.float64)),
}
_ROUNDS = (divide,)
_KEEP_EXACT = (scale, transpose, view)


@st.composite
def programs(draw: Callable[[st.SearchStrategy[Any]], Any], flavour: str = "contractions") -> Program:
    """Programs that run in eager mode, of one of the ``FLAVOURS``."""
    kind = FLAVOURS[flavour]
    b = Builder(draw, kind.dtypes)
    for _ in range(b.between(*kind.lines)):
        operation = b.pick(kind.operations)
        text = operation(b)
        if text is None:
            continue
        if operation in MUTATE:
            if b.act(text):
                assume(b.moderate)
            continue
        operands = [name for name in b.values if name in text]
        b.assign(text, exact=operation in _KEEP_EXACT and all(name in b.exact for name in operands))
    if not b.lines:
        text = einsum(b)
        assume(text is not None and b.assign(text))
    return b.finish()
