"""Times every row with every contestant, forward and forward with backward."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .contestants import EAGER, OURS, PEER, Contestant, Optimizer, contestants, prepare
from .row import Row
from .rows import PATHOLOGICAL, PROGRAMS
from .timing import Measurement, Spread, geometric_mean, interleave

__all__ = ["Programs", "RowResult", "run"]

ERROR_LIMIT = 1e-12
"""Relative error in float64 up to which results count as equal."""

LEAST_OF_BEST = 0.95
LEAST_OVER_EAGER = 2.2
LEAST_OVER_PEER = 1.4


@dataclass(frozen=True)
class RowResult:
    """What one row gave on one number of threads.

    Attributes:
        row: the row.
        threads: number of threads.
        contestants: how each contestant fared at optimising.
        forward: times without gradients.
        backward: times of forward and backward together; None where nothing requires gradients.
        direct: times of direct calls of ``torch.einsum`` and ``einfx.einsum``; None for larger programs.
    """

    row: Row
    threads: int
    contestants: dict[str, Contestant]
    forward: Measurement
    backward: Measurement | None
    direct: Measurement | None

    def speed_over(self, other: str, measurement: Measurement | None = None) -> Spread | None:
        """How many times faster einfx is, or None where either has no result."""
        measurement = self.forward if measurement is None else measurement
        if {other, OURS} <= set(measurement.seconds):
            return measurement.ratio(other, OURS)
        return None

    def speed_over_best(self) -> float | None:
        """Einfx against the faster of the others."""
        ratios = [ratio.median for other in (EAGER, PEER) if (ratio := self.speed_over(other)) is not None]
        return min(ratios, default=None)

    def wrong(self) -> list[str]:
        """Contestants whose results are not eager's."""
        return [
            name
            for name, one in self.contestants.items()
            if one.model is not None and one.error > ERROR_LIMIT
        ]


@dataclass
class Programs:
    """The results of all rows."""

    results: list[RowResult] = field(default_factory=list)

    def threads(self) -> list[int]:
        """The numbers of threads measured."""
        return sorted({result.threads for result in self.results})

    def counted(self, threads: int) -> list[RowResult]:
        """Rows that count in the geometric means."""
        return [result for result in self.results if result.threads == threads and result.row.target is None]

    def mean_over(self, other: str, threads: int, leave_out_largest: bool = False) -> float:
        """Geometric mean of the speed over another contestant, over the rows that it can do."""
        ratios = [result.speed_over(other) for result in self.counted(threads)]
        speeds = sorted(ratio.median for ratio in ratios if ratio is not None)
        return geometric_mean(speeds[:-1] if leave_out_largest else speeds)

    def missed(self) -> Iterator[str]:
        """One line for each target that was missed."""
        for threads in self.threads():
            for other, least in ((EAGER, LEAST_OVER_EAGER), (PEER, LEAST_OVER_PEER)):
                mean = self.mean_over(other, threads)
                if not mean >= least:
                    yield f"{threads} threads: geometric mean over {other} is {mean:.2f}, target {least}"
        for result in self.results:
            yield from _missed_by(result)


def _missed_by(result: RowResult) -> Iterator[str]:
    where = f"{result.row.name}, {result.threads} threads"
    ours = result.contestants[OURS]
    if ours.model is None:
        yield f"{where}: {ours.failure}"
        return
    if ours.error > ERROR_LIMIT:
        yield f"{where}: error {ours.error:.1e} in float64, limit {ERROR_LIMIT:.0e}"
    best = result.speed_over_best()
    if best is not None and best < LEAST_OF_BEST:
        yield f"{where}: {best:.2f} of the best of the others, target {LEAST_OF_BEST}"
    if result.row.target is not None:
        speeds = {"optimised": result.forward, "called": result.direct}
        for how, measurement in speeds.items():
            if measurement is not None:
                ratio = measurement.ratio(EAGER, OURS).median
                if ratio < result.row.target:
                    yield f"{where}, {how}: {ratio:.2f} times eager, target {result.row.target}"


def run(
    threads: Sequence[int] = (1, 2),
    rows: str = "",
    budget_seconds: float = 2.0,
    progress: Callable[[RowResult], None] | None = None,
) -> Programs:
    """Time the rows whose names match.

    Args:
        threads: numbers of threads to use.
        rows: regular expression searched in the rows' names.
        budget_seconds: time for each measurement of each row.
        progress: called with every result as it comes.

    Returns:
        All results.
    """
    programs = Programs()
    optimizers = contestants()
    threads_before = torch.get_num_threads()
    try:
        for row in (*PROGRAMS, *PATHOLOGICAL):
            if re.search(rows, row.name) is None:
                continue
            for count in threads:
                torch.set_num_threads(count)
                result = _run_row(row, count, optimizers, budget_seconds)
                programs.results.append(result)
                if progress is not None:
                    progress(result)
    finally:
        torch.set_num_threads(threads_before)
    return programs


def _run_row(row: Row, threads: int, optimizers: dict[str, Optimizer], budget_seconds: float) -> RowResult:
    prepared = {name: prepare(optimizer, row.build) for name, optimizer in optimizers.items()}
    models = {name: contestant.model for name, contestant in prepared.items() if contestant.model is not None}
    inputs = row.build()[1]
    with torch.no_grad():
        forward = interleave(
            {name: _forward(model, inputs) for name, model in models.items()}, budget_seconds
        )
        direct = None if row.equation is None else interleave(_direct(row.equation, inputs), budget_seconds)
    backwards = {
        name: call
        for name, model in models.items()
        if (call := _forward_and_backward(model, inputs)) is not None
    }
    backward = interleave(backwards, budget_seconds) if backwards else None
    return RowResult(row, threads, prepared, forward, backward, direct)


def _forward(model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    return lambda: model(*inputs)


def _forward_and_backward(model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], object] | None:
    """A call that also differentiates with respect to parameters and inputs; None where there are none."""
    leaves = [leaf for leaf in (*model.parameters(), *inputs) if leaf.requires_grad]
    if not leaves:
        return None
    out = model(*inputs)
    cotangents = [torch.ones_like(value) for value in (out if isinstance(out, tuple) else (out,))]

    def call() -> object:
        result = model(*inputs)
        outputs = result if isinstance(result, tuple) else (result,)
        return torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True)

    return call


def _direct(equation: str, inputs: tuple[Tensor, ...]) -> dict[str, Callable[[], object]]:
    import einfx

    return {
        EAGER: lambda: torch.einsum(equation, *inputs),
        OURS: lambda: einfx.einsum(equation, *inputs),
    }
