"""What one row of a benchmark is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "OURS",
    "AtLeast",
    "Call",
    "Contest",
    "Row",
    "Smaller",
    "Target",
    "Within",
    "with_gradients",
]

OURS = "einfx"

Call = Callable[[], Any]
"""One computation: gives a tensor, or a tuple of them."""


@dataclass(frozen=True)
class Contest:
    """What a row compares, on operands of one size.

    Attributes:
        calls: by contestant, ``OURS`` among them, computations of the same result; None where a peer is not
            installed.
        expected: that result by other means, in float64.
        limits: computations of something else, which einfx is measured against.
    """

    calls: Mapping[str, Call | None]
    expected: Call
    limits: Mapping[str, Call | None]

    def present(self) -> dict[str, Call]:
        """Everything that can be run, limits too."""
        return {name: call for name, call in {**self.calls, **self.limits}.items() if call is not None}

    def absent(self) -> list[str]:
        """What can't be."""
        return [name for name, call in {**self.calls, **self.limits}.items() if call is None]


@dataclass(frozen=True)
class AtLeast:
    """A target: this many times the speed of another, reached by einfx or by another form of it."""

    times: float
    than: str
    who: str = OURS


@dataclass(frozen=True)
class Smaller:
    """A target: a lower peak of memory than another's."""

    than: str


@dataclass(frozen=True)
class Within:
    """A target: a peak of so many bytes at most."""

    bytes: int


Target = AtLeast | Smaller | Within


@dataclass(frozen=True)
class Row:
    """One line of the benchmark.

    Attributes:
        name: what it's called on the command line and in the results.
        note: what is computed, and at which sizes.
        build: makes the contest of some size, the same every time.
        size: the size that is timed.
        tiny: a size at which every contestant can be checked by brute force.
        targets: what has to be reached.
        slow: contestants that take so long that they're timed in few rounds, beside einfx alone and
            forms of it that have a target there.
        untimed: contestants whose memory is measured, but not their time.
        memory: whether peaks of memory are measured.
        memory_size: the size at which they are; None for the one that is timed.
        unmeasured: contestants whose memory isn't.
        tolerance: by how much contestants may deviate from float64, relative and absolute. Gradients where
            scores are near -1e5 deviate by as much as float32 rounds those.
        exact: whether results at the size that is timed are compared with what is expected, rather than
            with einfx's; then the tolerance is relative to the largest entry.
    """

    name: str
    note: str
    build: Callable[[int], Contest]
    size: int
    tiny: int
    targets: tuple[Target, ...] = ()
    slow: frozenset[str] = frozenset()
    untimed: frozenset[str] = frozenset()
    memory: bool = False
    memory_size: int | None = None
    unmeasured: frozenset[str] = frozenset()
    tolerance: float = 2e-5
    exact: bool = False


def with_gradients(compute: Callable[..., Tensor], operands: tuple[Tensor, ...], seed: int = 0) -> Call:
    """Forward and backward: the gradients of all operands, for a random gradient of the result.

    Args:
        compute: gives one floating-point result.
        operands: what it takes; all are differentiated. Parameters, which ``compute`` may hold, are taken as
            they are.
        seed: of the result's gradient, so that all contestants have the same.
    """
    leaves = [x if x.requires_grad else x.detach().requires_grad_() for x in operands]
    grads: list[Tensor] = []

    def call() -> tuple[Tensor, ...]:
        result = compute(*leaves)
        if not grads:
            generator = torch.Generator().manual_seed(seed)
            grads.append(torch.rand(result.shape, generator=generator, dtype=torch.float64).to(result.dtype))
        return torch.autograd.grad(result, leaves, grads)

    return call
