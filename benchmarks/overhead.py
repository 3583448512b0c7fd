"""What a call costs beside the arithmetic: repeated contractions of tiny matrices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce

import opt_einsum
import torch
from torch import Tensor

from .timing import Measurement, interleave

__all__ = ["BY_HAND", "EXTRA_SECONDS", "Overhead", "run"]

COUNTS = (2, 3, 5, 10)
SIZE = 4
LABELS = "abcdefghijk"
BY_HAND = "by hand"
EXTRA_SECONDS = 10e-6
"""What a call of three operands may cost on top of the same products written by hand."""


@dataclass(frozen=True)
class Overhead:
    """Times of one number of operands.

    Attributes:
        operands: how many matrices were multiplied.
        measurement: times of each way to do it.
    """

    operands: int
    measurement: Measurement

    def extra_seconds(self) -> float:
        """What ``einfx.einsum`` takes beyond the products written by hand."""
        return self.measurement.time("einfx.einsum").median - self.measurement.time(BY_HAND).median

    def misses_target(self) -> bool:
        """Whether the call costs too much; the target is for three operands."""
        return self.operands == 3 and self.extra_seconds() > EXTRA_SECONDS


def run(counts: Sequence[int] = COUNTS, budget_seconds: float = 1.0) -> list[Overhead]:
    """Time chains of matrix products.

    Args:
        counts: numbers of matrices.
        budget_seconds: time for each number.

    Returns:
        One result for each number.
    """
    generator = torch.Generator().manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = []
    try:
        for count in counts:
            matrices = [torch.randn(SIZE, SIZE, generator=generator) for _ in range(count)]
            results.append(Overhead(count, interleave(_calls(matrices), budget_seconds)))
    finally:
        torch.set_num_threads(threads)
    return results


def _calls(matrices: list[Tensor]) -> dict[str, Callable[[], object]]:
    import einfx

    count = len(matrices)
    inputs = ",".join(LABELS[position : position + 2] for position in range(count))
    equation = f"{inputs}->{LABELS[0]}{LABELS[count]}"
    shapes = [matrix.shape for matrix in matrices]
    return {
        BY_HAND: partial(reduce, torch.mm, matrices),
        "torch.einsum": lambda: torch.einsum(equation, *matrices),
        "opt_einsum.contract": lambda: opt_einsum.contract(equation, *matrices),
        "opt_einsum expression": partial(opt_einsum.contract_expression(equation, *shapes), *matrices),
        "einfx.einsum": lambda: einfx.einsum(equation, *matrices),
        "einfx expression": partial(einfx.contract_expression(equation, *shapes), *matrices),
    }
