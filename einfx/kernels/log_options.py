"""What a log-semiring product means beside its operands, and into which blocks its memory budget cuts it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from ..errors import UsageError

__all__ = ["BUDGET_BYTES", "Block", "LogOptions", "Sizes", "blocks", "cuts", "sizes_of"]

BUDGET_BYTES = 1 << 30
"""What temporaries may take by default."""

SHORT = 64
"""Blocks get no narrower than this before the summed dimension is cut: real products of less are slow."""

Sizes = tuple[int, int, int, int]
"""Batch, rows, depth and columns."""

Block = tuple[slice, slice, slice, slice]
"""Ranges of matrices of the batch, of rows, of the summed dimension, and of columns."""


class LogOptions(NamedTuple):
    """Options of a product, as plain numbers and text: operators take them one by one.

    Attributes:
        zero_annihilates: whether -inf wins over +inf and nan.
        grad_of_neg_inf: as text, since nan as a number would defeat comparisons.
        linear: the sum of 1 if a is given in linear space, and 2 if b is.
        budget_bytes: for temporaries.
    """

    zero_annihilates: bool = False
    grad_of_neg_inf: str = "nan"
    linear: int = 0
    budget_bytes: int = BUDGET_BYTES

    @classmethod
    def read(
        cls,
        zero_annihilates: bool,
        grad_of_neg_inf: float | str,
        linear_operands: Sequence[int],
        budget_bytes: int | None,
    ) -> LogOptions:
        """Check what a caller says.

        Raises:
            UsageError: one of them is something else than a product takes.

        Example:
            >>> LogOptions.read(False, 0, (1,), None).linear
            2
        """
        if isinstance(grad_of_neg_inf, str) and grad_of_neg_inf != "uniform":
            raise UsageError(f"grad_of_neg_inf is a number or 'uniform', not {grad_of_neg_inf!r}")
        if any(position not in (0, 1) for position in linear_operands):
            raise UsageError(
                f"linear_operands={tuple(linear_operands)} of a product of two: positions are 0 and 1"
            )
        if budget_bytes is not None and budget_bytes < 0:
            raise UsageError(f"budget_bytes={budget_bytes}: it is a number of bytes, or None for 1 GiB")
        linear = sum({1 << position for position in linear_operands})
        budget = BUDGET_BYTES if budget_bytes is None else budget_bytes
        return cls(bool(zero_annihilates), str(grad_of_neg_inf), linear, budget)

    def is_linear(self, position: int) -> bool:
        """Whether this operand is given in linear space."""
        return bool(self.linear >> position & 1)

    def share_of_empty(self, depth: int) -> float:
        """The derivative of a sum that is -inf with respect to each of its terms."""
        return 1 / depth if self.grad_of_neg_inf == "uniform" else float(self.grad_of_neg_inf)


def cuts(sizes: Sizes, weights: tuple[int, int, int], budget_bytes: int, narrowest: int = SHORT) -> Sizes:
    """The largest blocks whose temporaries fit a budget.

    Args:
        sizes: batch, rows, depth and columns.
        weights: bytes for an element of the first operand's block, the second's, and the output's.
        budget_bytes: for all of them.
        narrowest: down to how many rows and columns, before the summed dimension is cut.

    Returns:
        Sizes of a block. The batch is cut first, then rows and columns, then the summed dimension.

    Example:
        >>> cuts((1, 1024, 1024, 1024), (12, 8, 8), 1 << 24)
        (1, 512, 1024, 512)
    """
    batch, rows, depth, columns = (max(1, size) for size in sizes)
    while True:
        taken = rows * depth * weights[0] + depth * columns * weights[1] + rows * columns * weights[2]
        if batch * taken <= budget_bytes or (batch, rows, depth, columns) == (1, 1, 1, 1):
            return batch, rows, depth, columns
        longest = max(rows, columns)
        if batch > 1:
            batch = min(-(-batch // 2), max(1, budget_bytes // taken))
        elif longest > narrowest or (depth <= SHORT and longest > 1):
            if rows >= columns:
                rows = -(-rows // 2)
            else:
                columns = -(-columns // 2)
        else:
            depth = -(-depth // 2)


def blocks(sizes: Sizes, lengths: Sizes) -> Iterator[Block]:
    """All blocks of these lengths, those of one output block next to each other."""
    batch, rows, depth, columns = (
        [slice(start, min(start + length, size)) for start in range(0, size, length)]
        for size, length in zip(sizes, lengths, strict=True)
    )
    for n, i, j, k in itertools.product(batch, rows, columns, depth):
        yield n, i, k, j


def sizes_of(a: Tensor, b: Tensor) -> Sizes:
    """Batch, rows, depth and columns of a product."""
    return a.shape[0], a.shape[1], a.shape[2], b.shape[2]
