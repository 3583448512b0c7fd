"""Contraction paths of larger networks: multiplications and planning time beside opt_einsum and cotengra."""

import math
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import networkx
import opt_einsum

import einfx
from einfx import equation, planning
from einfx.costs import cost

__all__ = ["Network", "PathQuality", "hyper", "multiplications", "regular", "run", "section"]

OPERANDS = (5, 8, 10, 15, 20, 40, 60, 80)
SEEDS = 4
LEAST_SECONDS = 0.05
"""Planning may always take this long; beyond, no longer than auto-hq."""

MOST_MULTIPLICATIONS = 1.1
"""How many times the multiplications of the best path that anyone finds count as met."""

MOST_OPERANDS_OF_DP = 14
"""opt_einsum's dp doesn't come back in time from larger networks with hyperedges."""

HYPER_SECONDS = 4.0
"""What cotengra's hyper-optimizer may take: it is there to say how good a path there is."""

OURS = ("einfx", "einfx multiplications")

Inputs = list[tuple[str, ...]]
Path = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Network:
    """A network of tensors.

    Attributes:
        inputs: the labels of each tensor.
        output: the labels of the result.
        sizes: of each label.
    """

    inputs: Inputs
    output: tuple[str, ...]
    sizes: dict[str, int]

    @property
    def equation(self) -> str:
        """As text."""
        return ",".join(map("".join, self.inputs)) + "->" + "".join(self.output)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the tensors."""
        return [tuple(self.sizes[x] for x in part) for part in self.inputs]


@dataclass
class PathQuality:
    """What every contestant found for the networks of one kind and number of operands.

    Attributes:
        kind: of the networks.
        operands: number of tensors in each.
        multiplications: of each contestant's path, one a network, as multiples of the best peer's.
        seconds: planning times, one a network.
        predicted: of each contestant's path, what einfx predicts for its time, as a multiple of the
            prediction for the path of fewest multiplications that anyone finds.
    """

    kind: str
    operands: int
    multiplications: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    predicted: dict[str, list[float]] = field(default_factory=dict)

    def over_limit(self, name: str) -> float:
        """The median of planning time over the larger of 50 ms and auto-hq's on the same network."""
        pairs = zip(self.seconds[name], self.seconds["auto-hq"], strict=True)
        return statistics.median(own / max(LEAST_SECONDS, theirs) for own, theirs in pairs)

    def misses_target(self, name: str = OURS[1]) -> bool:
        """Whether planning was too slow, or found a path with too many multiplications on some network.

        The search for the least time may take more of them where its path is predicted to be faster.
        """
        pairs = zip(self.multiplications[name], self.predicted[name], strict=True)
        faster = name == OURS[0]
        poor = [count for count, time in pairs if count > MOST_MULTIPLICATIONS and not (faster and time < 1)]
        return bool(poor) or self.over_limit(name) > 1.0


def regular(operands: int, seed: int) -> Network:
    """A random regular graph of degree 3 (4 where there is none) with bonds of 2 to 8, and no open legs."""
    graph = networkx.random_regular_graph(3 if operands % 2 == 0 else 4, operands, seed=seed)
    generator = random.Random(seed)
    inputs: list[list[str]] = [[] for _ in range(operands)]
    sizes = {}
    for number, (a, b) in enumerate(sorted(tuple(sorted(edge)) for edge in graph.edges)):
        label = opt_einsum.get_symbol(number)
        sizes[label] = generator.randint(2, 8)
        inputs[a].append(label)
        inputs[b].append(label)
    return Network([tuple(part) for part in inputs], (), sizes)


def hyper(operands: int, seed: int) -> Network:
    """A random equation of cotengra's: some labels on up to all tensors, one of them in the output."""
    from cotengra.utils import rand_equation

    made = rand_equation(
        operands,
        3,
        n_out=2,
        n_hyper_in=max(1, operands // 10),
        n_hyper_out=1,
        d_min=2,
        d_max=8 if operands <= 40 else 4,
        seed=seed,
    )
    return Network([tuple(part) for part in made.inputs], tuple(made.output), dict(made.size_dict))


KINDS: dict[str, Callable[[int, int], Network]] = {"regular": regular, "hyper": hyper}


def multiplications(network: Network, path: Path) -> int:
    """Of a path by positions in a list that shrinks: the product of all sizes of the labels of each step.

    Labels that one operand alone has are summed before, which takes none. A step of more than two operands
    goes from left to right.
    """
    alive = [set(part) for part in network.inputs]
    total = 0
    for step in path:
        taken = [alive.pop(position) for position in sorted(step, reverse=True)][::-1]
        made = taken[0]
        for number, other in enumerate(taken[1:], 2):
            rest = set(network.output).union(*alive, *taken[number:])
            labels = {x for x in made | other if x in rest or (x in made and x in other)}
            total += math.prod(network.sizes[x] for x in labels)
            made = labels & rest
        alive.append(made)
    return total


def run(
    operands: Sequence[int] = OPERANDS,
    seeds: int = SEEDS,
    hyper_seconds: float = HYPER_SECONDS,
    progress: Callable[[str], None] = print,
) -> list[PathQuality]:
    """Plan every network once with every contestant."""
    results = []
    for _, planner in _contestants(regular(5, 1000), 0.1):
        planner()  # what the first call of all loads is no part of planning
    for kind, make in KINDS.items():
        for count in operands:
            quality = PathQuality(kind, count)
            for seed in range(seeds):
                _measure(quality, make(count, seed), hyper_seconds, seed)
            results.append(quality)
            progress(f"{kind} {count}: {_summary(quality)}")
    return results


def _measure(quality: PathQuality, network: Network, hyper_seconds: float, turn: int) -> None:
    """Let every contestant plan a network, each time another one first."""
    paths: dict[str, Path] = {}
    planners = list(_contestants(network, hyper_seconds))
    for name, planner in planners[turn % len(planners) :] + planners[: turn % len(planners)]:
        _forget()
        start = time.perf_counter()
        paths[name] = planner()
        quality.seconds.setdefault(name, []).append(time.perf_counter() - start)
    found = {name: multiplications(network, path) for name, path in paths.items()}
    predicted = {name: _predicted(network, path) for name, path in paths.items()}
    best = min(count for name, count in found.items() if name not in OURS)
    reference = predicted[min(found, key=lambda name: (found[name], predicted[name]))]
    for name, _ in planners:
        quality.multiplications.setdefault(name, []).append(found[name] / best)
        quality.predicted.setdefault(name, []).append(predicted[name] / reference)


def _forget() -> None:
    """Leave einfx nothing of what it planned before: its searches share what they know of single steps."""
    for remembered in (cost._choose, planning._cached_plan, equation._parse):
        remembered.cache_clear()


def _predicted(network: Network, path: Path) -> float:
    """Seconds that einfx predicts for a path, with the labels of intermediates in the best order."""
    steps = [tuple(step) for step in path if len(step) > 1]
    found = einfx.contract_path(network.equation, *network.shapes, optimize=steps).seconds
    return float(found)


def _contestants(network: Network, hyper_seconds: float) -> Iterable[tuple[str, Callable[[], Path]]]:
    import cotengra

    def own(strategy: str) -> Callable[[], Path]:
        return lambda: einfx.contract_path(network.equation, *network.shapes, optimize=strategy).path

    def peer(strategy: str) -> Callable[[], Path]:
        return lambda: opt_einsum.contract_path(
            network.equation, *network.shapes, shapes=True, optimize=strategy
        )[0]

    def asked(optimizer: Callable[..., Path]) -> Callable[[], Path]:
        def plan() -> Path:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # which of its optional packages would speed it up
                return optimizer(network.inputs, network.output, network.sizes)

        return plan

    yield OURS[0], own("auto")
    yield OURS[1], own("multiplications")
    yield "greedy", peer("greedy")
    if len(network.inputs) <= MOST_OPERANDS_OF_DP:
        yield "dp", peer("dp")
    yield "auto", peer("auto")
    yield "auto-hq", peer("auto-hq")
    yield "cotengra auto", asked(cotengra.AutoOptimizer(cache=False))
    yield (
        "cotengra hyper",
        asked(
            cotengra.HyperOptimizer(
                max_time=hyper_seconds, max_repeats=1000, minimize="flops", reconf_opts={}, parallel=False
            )
        ),
    )


def _summary(quality: PathQuality) -> str:
    return ", ".join(
        f"{name} {_mean(counts):.2f} in {statistics.median(quality.seconds[name]) * 1e3:.0f} ms"
        for name, counts in quality.multiplications.items()
    )


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, ratios)))


def section(qualities: Sequence[PathQuality]) -> str:
    """The section of the results file about paths of larger networks."""
    from .results import table

    names = list(dict.fromkeys(name for quality in qualities for name in quality.multiplications))
    peers = [name for name in names if name not in OURS]
    header = ["network", "`auto`: multiplications", "predicted", "planning", "over limit", "target"]
    header += ["`multiplications`: these", "predicted", "planning", "over limit", "target", *peers]
    rows = []
    for quality in qualities:
        cells = [f"{quality.kind}, {quality.operands}"]
        for name in OURS:
            cells += [
                _ratios(quality.multiplications[name]),
                _ratios(quality.predicted[name]),
                f"{statistics.median(quality.seconds[name]) * 1e3:.0f} ms",
                f"{quality.over_limit(name):.2f}",
                "missed" if quality.misses_target(name) else "met",
            ]
        for name in peers:
            if name in quality.multiplications:
                planning_time = f"{statistics.median(quality.seconds[name]) * 1e3:.0f} ms"
                cells.append(f"{_mean(quality.multiplications[name]):.3g} ({planning_time})")
            else:
                cells.append("")
        rows.append(cells)
    return f"{_legend()}\n\n{table(header, rows)}"


def _legend() -> str:
    most, limit = MOST_MULTIPLICATIONS, f"{LEAST_SECONDS * 1e3:.0f} ms"
    return f"""\
{SEEDS} random networks each, planned once by everyone, from the text of the equation, with nothing
kept from before; another contestant begins each time. Everyone has one process and thread, but
cotengra's auto may start more.

First einfx, `optimize="auto"` (the least predicted time) and `optimize="multiplications"` (the
fewest). Multiplications: as multiples of those of the best path that any other contestant finds,
geometric mean and largest. Predicted: the time that einfx predicts for its path, as a multiple of
what it predicts for the path of fewest multiplications that anyone finds, mean and largest; below
1 the path is worth its multiplications. Planning: median. Over limit: that over the larger of
{limit} and auto-hq's on the same network, median. Target: within the limit, and at most {most} times
the best's multiplications on every network; `auto` may take more where its path is predicted to be
faster.

Then the others: multiplications (mean) and planning time (median). cotengra's hyper-optimizer
tries and reconfigures as many trees as it can in {HYPER_SECONDS:.0f} s; its default is 128, and no limit."""


def _ratios(ratios: Sequence[float]) -> str:
    return f"{_mean(ratios):.3g}, {max(ratios):.3g}"
