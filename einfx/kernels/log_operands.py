"""The operands of a log-semiring product, shifted by their maxima and exponentiated; their real product.

One product of what comes out gives all sums that don't underflow. In linear space, the operand divided by
its maximum takes the place of exponentials, and no logarithm is taken but that of the maximum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from . import log_native
from .log_options import LogOptions
from .log_scaling import Range, above_zero, exponentials, log_of_positive, proportions, top

__all__ = ["Operands", "Shifted", "cleaned", "divided", "finished"]


@dataclass(frozen=True)
class Shifted:
    """One operand.

    Attributes:
        given: (B, M, N), as it is.
        clean: with what adds nothing in the place of nan and +inf.
        linear: whether it is given in linear space.
        top: maxima along the summed dimension, which has size 1; of absolute values in linear space.
        weights: exponentials of the distances to the maxima, or quotients; None unless asked for.
        scaled: the same times a power of 2; None unless asked for.
    """

    given: Tensor
    clean: Tensor
    linear: bool
    top: Tensor
    weights: Tensor | None
    scaled: Tensor | None

    @classmethod
    def of(cls, x: Tensor, dim: int, limits: Range, *, linear: bool, scaled: bool, keep: bool) -> Shifted:
        """Shift an operand along dimension ``dim``; without ``keep``, for the next product only."""
        clean, scale = x, 2.0**limits.power if scaled else None
        while True:
            if log_native.takes(clean):
                weights, larger, largest, special = log_native.shift(
                    clean,
                    dim,
                    limits.window,
                    linear=linear,
                    scale=scale,
                    plain=keep or not scaled,
                    place=None if keep and not scaled else "rows" if dim == 2 else "columns",
                )
            else:
                weights, larger, largest, special = _shift(clean, dim, limits, linear, scale)
            if not special:
                return cls(x, clean, linear, largest, weights, larger)
            clean = cleaned(x, linear)

    @cached_property
    def log_top(self) -> Tensor:
        """The maxima as logarithms."""
        return self.top.log() if self.linear else self.top

    @property
    def special(self) -> bool:
        """Whether there is nan or +inf."""
        return self.clean is not self.given


def _shift(
    x: Tensor, dim: int, limits: Range, linear: bool, scale: float | None
) -> tuple[Tensor, Tensor | None, Tensor, bool]:
    """As :func:`.log_native.shift`, of any dtype and device."""
    largest = top(x.abs() if linear else x, dim)
    # Comparisons with nan are false.
    special = not bool((largest < math.inf).all())
    shifted = proportions if linear else exponentials
    weights = x if special else shifted(x, largest, limits.window)
    return weights, None if scale is None else weights * scale, largest, special


def cleaned(x: Tensor, linear: bool) -> Tensor:
    """The operand with what adds nothing in the place of nan and +inf; itself where it has none."""
    if x.numel() == 0 or float((x.abs() if linear else x).amax()) < math.inf:
        return x
    return x.masked_fill(~x.isfinite(), 0) if linear else x.masked_fill(~(x < math.inf), -math.inf)


@dataclass(frozen=True)
class Operands:
    """Both operands of a product."""

    left: Shifted
    right: Shifted
    limits: Range

    @classmethod
    def of(cls, a: Tensor, b: Tensor, options: LogOptions, *, keep: bool) -> Operands:
        """Shift both; the smaller one is scaled.

        Args:
            a: (B, I, K), float32 or float64.
            b: (B, K, J), of the same dtype.
            options: what they mean.
            keep: whether the weights of both are wanted, rather than what the next product takes alone.
        """
        limits = Range.of(a.dtype, a.shape[2])
        first = a.numel() < b.numel()
        linear = options.is_linear(0), options.is_linear(1)
        left = Shifted.of(a, 2, limits, linear=linear[0], scaled=first, keep=keep)
        right = Shifted.of(b, 1, limits, linear=linear[1], scaled=not first, keep=keep)
        return cls(left, right, limits)

    @property
    def special(self) -> bool:
        """Whether there is nan or +inf in one of them."""
        return self.left.special or self.right.special

    @property
    def clean(self) -> tuple[Tensor, Tensor]:
        """Both without nan and +inf."""
        return self.left.clean, self.right.clean

    def product(self) -> Tensor:
        """Sums of products, (B, I, J), times the power of 2."""
        left, right = (
            side.weights if side.scaled is None else side.scaled for side in (self.left, self.right)
        )
        assert left is not None
        assert right is not None
        return torch.bmm(left, right)

    def sums(self) -> Tensor:
        """Sums of products, (B, I, J), 0 where they aren't safe."""
        sums = self.product().mul_(2.0**-self.limits.power)
        if self.left.linear or self.right.linear:
            return sums.masked_fill_(sums.abs() <= self.limits.floor, 0)
        return torch.threshold_(sums, self.limits.floor, 0)

    def kept(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The weights of both, and the maxima."""
        assert self.left.weights is not None
        assert self.right.weights is not None
        return self.left.weights, self.right.weights, self.left.top, self.right.top


def finished(operands: Operands, keep: bool) -> tuple[Tensor, Tensor | None, int]:
    """Multiply, and take logarithms.

    Args:
        operands: both.
        keep: whether the sums are wanted too.

    Returns:
        Logarithms (B, I, J), -inf where the sum isn't safe; sums, 0 there; and how many are 0.
    """
    left, right, limits = operands.left.log_top, operands.right.log_top, operands.limits
    product = operands.product()
    if log_native.takes(product):
        logs = torch.empty_like(product) if keep else product
        lost = log_native.finish(product, logs, (left, right), limits.floor, limits.power)
        return logs, product if keep else None, lost
    sums = product.mul_(2.0**-limits.power)
    if float(sums.amin()) > limits.floor:
        logs = sums.log() if keep else sums.log_()
        return logs.add_(left).add_(right), sums if keep else None, 0
    if operands.left.linear or operands.right.linear:
        negative = sums < -limits.floor
        sums.masked_fill_(sums.abs() <= limits.floor, 0)
        logs = sums.log().add_(left).add_(right).masked_fill_(negative, math.nan)
    else:
        torch.threshold_(sums, limits.floor, 0)
        logs = log_of_positive(sums).add_(above_zero(sums)).add_(left).add_(right)
    return logs, sums if keep else None, int((sums == 0).count_nonzero())


def divided(x: Tensor | None, sums: Tensor, *, in_place: bool = False) -> tuple[Tensor, int]:
    """``x / sums``, and 0 where a sum is 0; and how many are.

    Args:
        x: (B, I, J); None stands for ones.
        sums: (B, I, J), contiguous.
        in_place: whether to put the quotients into ``x``; otherwise, the next call may overwrite them.
    """
    if x is None:
        x = sums.new_ones(1).expand(sums.shape)
    if log_native.takes(x, sums):
        return log_native.divide(x, sums, in_place=in_place)
    zero = sums == 0
    return (x / sums).masked_fill_(zero, 0), int(zero.count_nonzero())
