"""One step of a plan, and what it is lowered to: a native convolution, or operations on windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from ...costs.cost import StepCost
from ...machine import item_bytes
from ..symbolic.network import Network
from ..symbolic.rules import unbroadcast
from ..symbolic.simplify import simplified
from .builder import window_programs
from .cost import native_cost
from .lowering import Native, lowered
from .program import WindowProgram

__all__ = ["ConvStep", "Lowering", "lowerings"]

CLEARLY = 0.8
"""Windows are preferred to a native convolution where they are predicted to take less than this part of its
time: a prediction isn't a measurement, and native kernels hold their speed."""


@dataclass(frozen=True)
class Lowering:
    """A way to compute a step.

    Args:
        method: what computes it.
        cost: what it costs; the workspace includes the result.
        shape: of the result.
    """

    method: Native | WindowProgram
    cost: StepCost
    shape: tuple[int, ...]

    def run(self, tensors: Sequence[Tensor], like: Tensor | None = None) -> Tensor:
        """Compute it.

        Args:
            tensors: the operands of the step, by position; what stands where a pattern is, is ignored.
            like: a tensor of the dtype and on the device in which patterns are built, where no operand is.
        """
        if isinstance(self.method, Native):
            return self.method.run(tensors).reshape(self.shape)
        return self.method.run(tensors, like).reshape(self.shape)

    def __str__(self) -> str:
        return str(self.method)


@dataclass(frozen=True)
class ConvStep:
    """One step of a plan.

    Args:
        operands: the numbers of the values that it reads, one for each operand of its network; that of a
            pattern stands for itself.
        network: what it contracts: views of its own operands by their position, the first of those that are
            the same value, and patterns.
        lowering: how.
    """

    operands: tuple[int, ...]
    network: Network
    lowering: Lowering

    @property
    def kind(self) -> str:
        """What it is lowered to, such as ``"conv2d"`` or ``"windows + GEMM"``."""
        return str(self.lowering)


@lru_cache(maxsize=16384)
def lowerings(network: Network, dtype: torch.dtype, device: str) -> tuple[Lowering, ...]:
    """The ways to compute a contraction in one step, the best first.

    Args:
        network: the contraction.
        dtype: of its tensors.
        device: where it runs, as text.

    Example:
        >>> from ...pattern import IndexPattern
        >>> from ..symbolic.network import network
        >>> from ..symbolic.views import View
        >>> made = network(["ncij", "koi", "lpj"], "nckl", View(0, (8, 3, 9, 9)), *[IndexPattern(9, 3)] * 2)
        >>> str(lowerings(made, torch.float32, "cpu")[0])
        'sums of slices'
    """
    small = simplified(network)
    written = item_bytes(dtype) * prod(network.shape)
    found: list[Lowering] = []
    if dtype.is_floating_point or dtype.is_complex:
        for form in (simplified(network, (unbroadcast,)), small):
            native = lowered(form)
            if native is not None:
                cost = native_cost(native, dtype, device)
                scaled = len(native.factors) > 0 or native.scale != 1.0
                cost = cost._replace(workspace_bytes=cost.workspace_bytes + written * (1 + scaled))
                found.append(Lowering(native, cost, network.shape))
    # Of two natives the one that is not simplified is as fast, and pads in place.
    best = min(found, key=lambda lowering: lowering.cost.seconds, default=None)
    for form in (network, small):
        # A result that isn't laid out as it is shaped is copied.
        copied = 0 if form.shape == network.shape else written
        for program in window_programs(form, dtype, device):
            cost = program.cost._replace(workspace_bytes=program.cost.workspace_bytes + copied)
            found.append(Lowering(program, cost, network.shape))

    def seconds(lowering: Lowering) -> float:
        native = isinstance(lowering.method, Native)
        return lowering.cost.seconds * (CLEARLY if native and best is not None else 1.0)

    return tuple(sorted(dict.fromkeys(found), key=seconds))
