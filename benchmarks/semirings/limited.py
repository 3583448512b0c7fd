"""Rows of contractions under a limit of memory."""

from __future__ import annotations

from functools import partial

import torch

import einfx

from ..contests.row import OURS, Call, Contest, Row, Within
from .operands import pair
from .oracle import exact
from .peers import SEMIRING_EINSUM, semiring_einsum

__all__ = ["LIMITED"]

EQUATION = "ik,kj->ij"
UNLIMITED = "einfx, no limit"
LIMIT = 64 << 20
SLACK = 6 << 20
"""What measuring a process may add: pages of stacks, code and tables that a call touches first."""


def _limited(n: int, semiring: str) -> Contest:
    given = pair(n)
    limit = LIMIT * n * n >> 20  # 64 MiB at 1024
    peer = semiring_einsum(EQUATION, semiring, limit)

    def of_peer() -> object:
        assert peer is not None
        result = peer(*given)
        return result[0] if semiring == "max_plus" else result

    calls: dict[str, Call | None] = {
        OURS: lambda: einfx.einsum(EQUATION, *given, semiring=semiring, memory_limit=limit),
        UNLIMITED: lambda: einfx.einsum(EQUATION, *given, semiring=semiring),
        SEMIRING_EINSUM: None if peer is None else of_peer,
    }
    return Contest(calls, exact(EQUATION, semiring, *given), {"torch.mm": lambda: torch.mm(*given)})


LIMITED = tuple(
    Row(
        f"{semiring} 1024 in 64 MiB",
        "matrix product with memory_limit of 64 MiB; torch_semiring_einsum is asked for 64 MiB too",
        partial(_limited, semiring=semiring),
        1024,
        128,
        (Within(LIMIT + SLACK),),
        untimed=frozenset({SEMIRING_EINSUM}),
        memory=True,
    )
    for semiring in ("log", "max_plus")
)
