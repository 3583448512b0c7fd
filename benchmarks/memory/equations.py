"""Random contractions whose intermediates take hundreds of megabytes."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

import einfx

__all__ = ["LEAST_BYTES", "MOST_BYTES", "Case", "case"]

LEAST_BYTES, MOST_BYTES = 100 << 20, 2 << 30
"""Unlimited peaks, as planned."""

MOST_FLOPS = 3e10
MOST_OPERAND_BYTES = 400 << 20


class Case(NamedTuple):
    """One contraction.

    Attributes:
        equation: its text.
        shapes: of its operands, float32.
        peak_bytes: what its plan takes without a limit.
    """

    equation: str
    shapes: tuple[tuple[int, ...], ...]
    peak_bytes: int


def case(seed: int) -> Case:
    """A contraction of 2 to 12 operands, with hyperedges, sums of one operand, and shared output labels."""
    pick = random.Random(seed)
    while True:
        count = pick.randint(2, 12)
        letters = "abcdefghijklmnopqrst"[: pick.randint(3, count + 4)]
        widest = pick.randint(2, 4)
        parts = [
            "".join(pick.sample(letters, pick.randint(1, min(widest, len(letters))))) for _ in range(count)
        ]
        used = sorted(set("".join(parts)))
        output = "".join(pick.sample(used, pick.randint(0, min(3, len(used)))))
        size = {letter: pick.choice((4, 8, 16, 24, 32, 48, 64, 96, 128, 256)) for letter in letters}
        shapes = tuple(tuple(size[x] for x in part) for part in parts)
        if 4 * sum(map(math.prod, shapes)) > MOST_OPERAND_BYTES:
            continue
        equation = f"{','.join(parts)}->{output}"
        plan = einfx.contract_path(equation, *shapes)
        if LEAST_BYTES <= plan.peak_bytes <= MOST_BYTES and plan.flops <= MOST_FLOPS:
            return Case(equation, shapes, plan.peak_bytes)
