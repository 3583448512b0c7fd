"""How long planning takes, how good its paths are, and how fast they run, beside opt_einsum's auto-hq."""

import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import opt_einsum
import torch

from .timing import Measurement, interleave

__all__ = ["EXAMPLE", "Planning", "run", "time_example"]

OPERANDS = (4, 6, 8, 10, 15, 20, 30, 40)
NETWORKS = 5
LEAST_SECONDS = 0.05
"""Planning may always take this long; beyond, no longer than auto-hq."""

NOISE = 1.1
"""Ratios up to this count as equal: each network is planned once, on a machine with other work."""

MOST_FLOPS = 2e9
MOST_ELEMENTS = 3e7
"""Networks beyond these are planned but not run."""

EXAMPLE = "jrl,ijr,ijrk,ijrl,ikmn->imn"
EXAMPLE_SHAPES = ((100, 3, 1024), (20, 100, 3), (20, 100, 3, 1024), (20, 100, 3, 1024), (20, 1024, 9, 9))
"""The example of opt-einsum-torch, with i = 20 for 500 and j = 100 for 1000."""

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Planning:
    """Random networks of one size; every figure is a median over them.

    Attributes:
        operands: number of tensors in each network.
        peer_seconds: time that auto-hq took to plan.
        seconds: time that einfx took to plan.
        over_limit: time that einfx took, over the larger of 50 ms and auto-hq's on the same network.
        multiplications: multiplications of einfx's path, as a multiple of those of auto-hq's path.
        execution: time that einfx's plan takes to run, as a multiple of that of auto-hq's path in opt_einsum;
            nan where the networks are too large to run.
    """

    operands: int
    peer_seconds: float
    seconds: float
    over_limit: float
    multiplications: float
    execution: float

    def misses_target(self) -> bool:
        """Whether planning took too long, or the paths run slower than auto-hq's."""
        return self.over_limit > NOISE or self.execution > NOISE


def run(operands: Sequence[int] = OPERANDS, networks: int = NETWORKS) -> list[Planning]:
    """Plan random networks with hyperedges, once each, and run those that are small enough."""
    import einfx

    results = []
    for count in operands:
        peer_times, times, over_limits, ratios, executions = [], [], [], [], []
        for seed in range(networks):
            equation, shapes = random_network(count, seed)
            start = time.perf_counter()
            path, info = opt_einsum.contract_path(equation, *shapes, shapes=True, optimize="auto-hq")
            middle = time.perf_counter()
            plan = einfx.contract_path(equation, *shapes)
            end = time.perf_counter()
            peer_times.append(middle - start)
            times.append(end - middle)
            over_limits.append((end - middle) / max(LEAST_SECONDS, middle - start))
            _, ours = opt_einsum.contract_path(equation, *shapes, shapes=True, optimize=list(plan.path))
            ratios.append(float(ours.opt_cost) / float(info.opt_cost))
            if all(
                one.opt_cost < MOST_FLOPS and one.largest_intermediate < MOST_ELEMENTS for one in (info, ours)
            ):
                executions.append(_execution_ratio(equation, shapes, path))
        results.append(
            Planning(
                count,
                statistics.median(peer_times),
                statistics.median(times),
                statistics.median(over_limits),
                statistics.median(ratios),
                statistics.median(executions) if executions else math.nan,
            )
        )
    return results


def random_network(operands: int, seed: int) -> tuple[str, Shapes]:
    """A connected network of mostly pairwise edges, some hyperedges and some open legs.

    Args:
        operands: number of tensors.
        seed: which network.

    Returns:
        The equation and the shapes of its operands.
    """
    choose = random.Random(1000 * operands + seed)
    symbols = map(opt_einsum.get_symbol, itertools.count())
    legs: list[list[str]] = [[] for _ in range(operands)]
    sizes: dict[str, int] = {}

    def connect(tensors: Sequence[int]) -> None:
        label = next(symbols)
        sizes[label] = choose.choice((2, 3, 4, 6))
        for tensor in tensors:
            legs[tensor].append(label)

    for tensor in range(1, operands):
        connect((choose.randrange(tensor), tensor))
    for _ in range(operands // 2):
        connect(choose.sample(range(operands), 2))
    for _ in range(operands // 5):
        connect(choose.sample(range(operands), 3))
    closed = len(sizes)
    for tensor in choose.sample(range(operands), 2):
        connect((tensor,))
    inputs = ",".join("".join(labels) for labels in legs)
    equation = f"{inputs}->{''.join(list(sizes)[closed:])}"
    return equation, tuple(tuple(sizes[label] for label in labels) for labels in legs)


def time_example(budget_seconds: float = 3.0) -> Measurement:
    """Time opt-einsum-torch's example, for which torch's own path search finds a bad path."""
    import einfx

    operands = _operands(EXAMPLE_SHAPES)
    expression = opt_einsum.contract_expression(EXAMPLE, *EXAMPLE_SHAPES, optimize="auto-hq")
    calls: dict[str, Callable[[], object]] = {
        "opt_einsum auto-hq": lambda: expression(*operands),
        "einfx.einsum": lambda: einfx.einsum(EXAMPLE, *operands),
    }
    return interleave(calls, budget_seconds, min_rounds=3)


def _execution_ratio(equation: str, shapes: Shapes, path: Sequence[tuple[int, ...]]) -> float:
    import einfx

    operands = _operands(shapes)
    peer = opt_einsum.contract_expression(equation, *shapes, optimize=path)
    calls: dict[str, Callable[[], object]] = {
        "peer": lambda: peer(*operands),
        "einfx": lambda: einfx.einsum(equation, *operands),
    }
    return interleave(calls, 0.1, min_rounds=5).ratio("einfx", "peer").median


def _operands(shapes: Shapes) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]
